"""An environment on the toy world: who answers wrong may try again, three times in all; the sooner right, the better.

    grpo_train --config configs/recipes/toy_episodes.yaml --model outputs/sft

It needs nothing but Python, and shows what an environment is: reset, respond, get_reward.
"""

from judge import score

TRIES = 3


class Attempts:
    """One request, and up to three answers to it."""

    def reset(self, prompt: list[dict], **columns) -> None:
        """Begin with the request of this row."""
        self.prompt, self.tries, self.reward = prompt, 0, 0.0

    def respond(self, text: str) -> str | None:
        """What is said to an answer; None ends the episode."""
        self.tries += 1
        if score(self.prompt, text)["correct"]:
            self.reward = 1 / self.tries
            return None
        return "That is not right. Try again." if self.tries < TRIES else None

    def get_reward(self) -> float:
        """1 for a right first answer, 1/2 for a right second one, 1/3 for a right third one, else 0."""
        return self.reward
