"""Which of the answers that `easyrlhf generate` draws become rows, and what such a row holds."""

import json
import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from easyrlhf.config import GenerateConfig
from easyrlhf.data.chat_template import with_answer
from easyrlhf.data.records import Messages
from easyrlhf.episodes.play import Episode
from easyrlhf.report.transcript import transcript

FAILED = "whose environment failed"
UNSCORED, EMPTY, UNFINISHED = "too long for the reward model", "empty", "cut off"
TIED = "comparisons whose rewards are equal or nearly so"
LOW = "below --min_reward"


@dataclass(frozen=True)
class GeneratedAnswer:
    """One sample; as a string it is its text.

    sample      its number among those of its prompt
    completion  a string or a message, as the prompt is; of an episode all messages since the prompt
    finished    whether it came to an end by itself, and was not cut off
    reward      None where it is not judged, or too long for the reward model
    episode     what became of it in an environment; None without one
    tools       what the policy was told of the tools of the episode
    """

    sample: int
    completion: Messages | str
    finished: bool
    reward: float | None = None
    judged: bool = False
    episode: Episode | None = None
    tools: list[dict[str, Any]] = field(default_factory=list)

    @property
    def text(self) -> str:
        """What was said; of an episode by both sides."""
        if self.episode:
            return transcript(self.completion)
        return self.completion if isinstance(self.completion, str) else self.completion[0]["content"]

    def __str__(self) -> str:
        return self.text


def kept(
    config: GenerateConfig, row: dict[str, Any], answers: list[GeneratedAnswer], tally: Counter
) -> list[dict[str, Any]]:
    """The rows that one prompt gives, and the account of what was left out."""
    prompt, columns = json.loads(row["prompt"]), json.loads(row["columns"])
    usable = [answer for answer in answers if not left_out(config, answer, tally)]
    tally["answers"] += len(answers)
    rewards = [answer.reward for answer in usable if answer.reward is not None]
    if rewards and answers[0].reward is not None:
        tally.update(compared=1, first=answers[0].reward, best=max(rewards))
    if config.to == "comparisons":
        picked = pairs(config, usable, tally)
        written = [answer for pair in picked for answer in pair]
        rows = [comparison_row(prompt, columns, *pair) for pair in picked]
    else:
        written = demonstrations(config, usable, tally)
        rows = [row_of(prompt, columns, answer) for answer in written]
    tally.update(
        kept_unfinished=sum(not answer.finished for answer in written),
        kept_empty=sum(not answer.text.strip() for answer in written),
        kept_unscored=sum(answer.judged and answer.reward is None for answer in written),
    )
    tally.update(rows=len(rows), without=not rows)
    return rows


def left_out(config: GenerateConfig, answer: GeneratedAnswer, tally: Counter) -> bool:
    """Whether an answer is out of question, whatever its reward; counted by reason."""
    reason = None
    if answer.episode and answer.episode.dropped:
        reason = FAILED
    elif config.only_finished and not answer.finished:
        reason = UNFINISHED
    elif config.selects and answer.reward is None:
        reason = UNSCORED
    elif config.selects and not answer.text.strip():
        reason = EMPTY
    if reason:
        tally[reason] += 1
    return bool(reason)


def demonstrations(config: GenerateConfig, answers: list[GeneratedAnswer], tally: Counter) -> list[GeneratedAnswer]:
    """All answers or the best one, as far as their reward is high enough. The first of equals is the best."""
    if config.best_of and answers:
        answers = [max(answers, key=lambda answer: answer.reward)]
    if config.min_reward is None:
        return answers
    good = [answer for answer in answers if answer.reward >= config.min_reward]
    tally[LOW] += len(answers) - len(good)
    return good


def pairs(
    config: GenerateConfig, answers: list[GeneratedAnswer], tally: Counter
) -> list[tuple[GeneratedAnswer, GeneratedAnswer]]:
    """The best answer and the worst, unless the two are too much alike."""
    if len(answers) < 2:
        return []
    best, worst = (pick(answers, key=lambda answer: answer.reward) for pick in (max, min))  # of equals, the same one
    if best.completion == worst.completion or best.reward - worst.reward < (config.min_margin or 0):
        tally[TIED] += 1
        return []
    return [(best, worst)]


def answered(prompt: Messages | str, answer: GeneratedAnswer) -> tuple[Messages | str, Messages | str]:
    """A prompt and its answer, as the data would have them; what an environment has added to the prompt is in it."""
    return (answer.episode.prompt, answer.completion) if answer.episode else with_answer(prompt, answer.text)


def row_of(prompt: Messages | str, columns: dict[str, Any], answer: GeneratedAnswer) -> dict[str, Any]:
    """A demonstration; of columns of one name, the new one stays. A turn that the prompt began is whole in it."""
    prompt, completion = answered(prompt, answer)
    row = {"prompt": prompt, "completion": completion, "sample": answer.sample, "finished": answer.finished}
    if answer.judged:
        row["reward"] = answer.reward
    if answer.episode:
        row |= {"turns": answer.episode.turns, "tool_errors": answer.episode.tool_errors}
    row |= {"tools": answer.tools} if answer.tools else {}
    return row | {name: value for name, value in columns.items() if name not in row}


def comparison_row(
    prompt: Messages | str, columns: dict[str, Any], best: GeneratedAnswer, worst: GeneratedAnswer
) -> dict[str, Any]:
    """A comparison; its rewards are no `margin`, which rm_train would learn from."""
    (asked, chosen), (_, rejected) = (answered(prompt, answer) for answer in (best, worst))
    row = {"prompt": asked, "chosen": chosen, "rejected": rejected}
    row |= {"chosen_reward": best.reward, "rejected_reward": worst.reward}
    row |= {"chosen_finished": best.finished, "rejected_finished": worst.finished}
    row |= {"tools": best.tools} if best.tools else {}
    return row | {name: value for name, value in columns.items() if name not in row}


def kl_bound(n: int) -> float:
    """log n − (n − 1)/n: the most that the best of n can be away from the model, in nats (Stiennon et al. 2020)."""
    return math.log(n) - (n - 1) / n
