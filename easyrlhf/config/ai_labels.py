"""`easyrlhf label ai`: a judge is one more annotator."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from easyrlhf.config.ai_feedback import MarkedTogether
from easyrlhf.config.base import REWARDS, SettingError, Settings, opt, restate
from easyrlhf.config.common_fields import IncompleteModels
from easyrlhf.config.judging import (
    JudgeBudget,
    JudgeSeed,
    JudgingFunction,
    JudgingModel,
    Principles,
    check_judge_settings,
)
from easyrlhf.config.labelling import LabelFolder
from easyrlhf.config.lists import split_list
from easyrlhf.config.reward_models import ScoringConfig

AFTER_THOUGHTS = (0.4, 0.6)


@dataclass(kw_only=True, frozen=True)
class AskedPairs(Settings):
    """How a judge is asked, and what is made of what it says."""

    group: ClassVar[str] = REWARDS

    judge_name: str | None = opt(
        None,
        "The annotator's name among the labels.",
        metavar="NAME",
        shown="judge_model, the function's name, or that of judge_dir",
    )
    average: str = opt(
        "prob",
        "How the verdicts of both orders become one: prob is the mean of probabilities; logit that of log-odds, which "
        "cancels what a judge adds for a place.",
        choices=("prob", "logit"),
    )
    votes: int | None = opt(
        None,
        "So many letters per order, drawn at temperature 1, whose share counts in place of log-probabilities.",
        low=1,
        shown="log-probabilities, or one letter where the judge gives none",
    )
    thoughts: bool = opt(
        False, "Have the judge think first: what speaks for and against each answer, then, asked again, the letter."
    )
    clamp: str | None = opt(
        None,
        "Limits of a verdict's probability, as a judge that has thought is too sure; 0,1 for none.",
        metavar="LOW,HIGH",
        many=True,
        shown="0.4,0.6 with thoughts, else none",
    )
    principles: str = opt(
        "one",
        "Which principles of the constitution an item is judged by: one that is drawn for it, or all, averaged.",
        choices=("one", "all"),
    )


@dataclass(kw_only=True, frozen=True)
class LabelAIConfig(
    IncompleteModels,
    MarkedTogether,
    JudgeBudget,
    JudgeSeed,
    AskedPairs,
    JudgingModel,
    JudgingFunction,
    Principles,
    LabelFolder,
    ScoringConfig,
):
    """Settings of `easyrlhf label ai`: pairs and rankings are labelled by a judge."""

    stage: ClassVar[str] = "label ai"
    opening: ClassVar[str] = "reading {self.labels} …"

    batch_size: int = restate(MarkedTogether, "batch_size", "Questions that judge_dir answers together.")

    @property
    def annotator(self) -> str:
        """The annotator's name."""
        function = (self.judge or "").rpartition(":")[2]
        return self.judge_name or self.judge_model or function or Path(self.judge_dir).name

    @property
    def limits(self) -> tuple[float, float] | None:
        """The limits of a verdict's probability."""
        if self.clamp is None:
            return AFTER_THOUGHTS if self.thoughts else None
        low, high = map(float, split_list(self.clamp))
        return low, high

    def _check(self) -> None:
        super()._check()
        check_judge_settings(self, needed=("judge_url", "judge_dir", "judge"))
        if self.clamp is not None and not _are_limits(self.clamp):
            raise SettingError("clamp", f"clamp {self.clamp}: takes two numbers from 0 to 1, the lower first: 0.4,0.6")
        alone = f"judge {self.judge} is a python function, which gives its verdict as it is; leave it out"
        rules = (
            ("principles", self.principles == "all" and not self.constitution, "needs constitution, which holds them"),
            ("votes", self.judge and self.votes, alone),
            ("thoughts", self.judge and self.thoughts, alone),
            ("constitution", self.judge and self.constitution, alone),
        )
        for name, broken, rule in rules:
            if broken:
                raise SettingError(name, f"{name} {getattr(self, name)}: {rule}")


def _are_limits(clamp: str) -> bool:
    try:
        low, high = map(float, split_list(clamp))
    except ValueError:
        return False
    return 0 <= low < high <= 1
