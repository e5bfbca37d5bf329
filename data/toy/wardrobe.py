"""An environment with a tool on the toy world: who has what in which colour is known to `look_up` alone.

    grpo_train --config configs/recipes/toy_tools_grpo.yaml --model outputs/tools/sft

A guess is right one time in six. Every episode has colours of its own, drawn from its seed, so that nothing is left to
be known by heart: the policy has to ask for the right thing of the right person, and to say what it was told.
"""

import random
import re

from judge import COLOURS, NAMES, OBJECTS, words_of

QUESTION = re.compile(r"What colour is (\w+)'s (\w+)\?")


class Wardrobe:
    """One question about the colour of somebody's thing."""

    def reset(self, prompt: list[dict], seed: int) -> None:
        """Give everybody's things their colours."""
        self.owner, self.thing = QUESTION.search(prompt[-1]["content"]).groups()
        rng = random.Random(seed)
        self.colours = {(owner, thing): rng.choice(COLOURS) for owner in NAMES for thing in OBJECTS}
        self.reward = 0.0

    def look_up(self, owner: str, thing: str) -> str:
        """Find the colour of a thing.

        Args:
            owner: Whose it is.
            thing: What it is.
        """
        if (owner, thing) not in self.colours:
            raise ValueError(f"{owner} has no {thing}")
        return self.colours[owner, thing]

    def respond(self, text: str) -> None:
        """An answer without a call is the last one: it must name the right colour and no other."""
        named = [word for word in words_of(text) if word in COLOURS]
        self.reward = float(named == [self.colours[self.owner, self.thing]])

    def get_reward(self) -> float:
        """1 for the right colour, else 0."""
        return self.reward
