"""Feedback from judges: answers marked behind HTTP, and answers revised by principles."""

from dataclasses import MISSING, dataclass, fields
from typing import ClassVar

from easyrlhf.config.answering import AnswerLength, AnswerSeed, DecodedTogether, PromptLength, Sampling, check_room
from easyrlhf.config.base import DATA, REWARDS, RUN, SAMPLING, Settings, opt, restate
from easyrlhf.config.common_fields import BadRows, IncompleteModels, OutputFile, RowLayout, check_rows_file
from easyrlhf.config.inference import PolicyConfig
from easyrlhf.config.judging import JudgeBudget, JudgingModel, Principles, check_judge_settings
from easyrlhf.config.rendering import ChatRendering, template_kwargs
from easyrlhf.config.reward_models import Listening, ScoringConfig


@dataclass(kw_only=True, frozen=True)
class Marking(Settings):
    """How answers are marked."""

    group: ClassVar[str] = REWARDS

    rubric: str | None = opt(
        None,
        "A text that says what makes an answer good, in place of ours: the judge marks by it, from 1 to 9.",
        metavar="FILE",
        shown="correct, to the point, complete, harmless, clear",
    )


@dataclass(kw_only=True, frozen=True)
class MarkedTogether(Settings):
    """How many answers are marked at once."""

    group: ClassVar[str] = RUN

    batch_size: int = opt(16, "Answers that judge_dir marks together.", low=1)


@dataclass(kw_only=True, frozen=True)
class ServeJudgeConfig(IncompleteModels, MarkedTogether, Listening, Marking, JudgingModel, ScoringConfig):
    """Settings of `easyrlhf serve_judge`: a judge's marks as rewards behind HTTP."""

    stage: ClassVar[str] = "serve_judge"
    opening: ClassVar[str] = "looking for the judge …"

    judge_url: str | None = restate(
        JudgingModel,
        "judge_url",
        "An OpenAI-compatible server whose model marks answers, by POST URL/v1/chat/completions. Needs judge_model.",
    )
    judge_dir: str | None = restate(
        JudgingModel,
        "judge_dir",
        "A language model that marks answers in this process, with its own chat template: a folder or a hub id. Marks "
        "are read from its log-probabilities.",
    )
    port: int = restate(Listening, "port", default=8001)

    def _check(self) -> None:
        super()._check()
        check_judge_settings(self, needed=("judge_url", "judge_dir"))


@dataclass(kw_only=True, frozen=True)
class RevisedPrompts(Settings):
    """Who answers which prompts, and where the revised answers go."""

    group: ClassVar[str] = DATA

    model: str | None = opt(
        None,
        "The language model that gives the first answers, and without a judge_url or judge_dir criticises and revises "
        "them too: the folder of a stage, an adapter folder, any Hugging Face checkpoint or a hub id.",
        metavar="DIR|HUB_ID",
        model=True,
        shown="the judge answers first, too",
    )
    prompts: str = opt(
        MISSING,
        "Prompts, as ppo_train reads them: rows of any format; answers that they hold are left aside.",
        metavar="FILE[,…]",
        many=True,
    )
    output: str = opt(
        MISSING,
        "File for the rows. The same command goes on where it was stopped.",
        metavar="FILE.jsonl",
    )


@dataclass(kw_only=True, frozen=True)
class Revising(Settings):
    """How often answers are revised, and what becomes of that."""

    group: ClassVar[str] = SAMPLING

    revisions: int = opt(2, "Critiques and revisions of an answer, each by a principle that is drawn anew.", low=1)
    to: str = opt(
        "demonstrations",
        "What a row is: the last revision as a demonstration, for sft_train; or the last revision preferred to the "
        "first answer, for rm_train and dpo_train.",
        choices=("demonstrations", "comparisons"),
    )


@dataclass(kw_only=True, frozen=True)
class ReviseConfig(
    IncompleteModels,
    OutputFile,
    JudgeBudget,
    DecodedTogether,
    AnswerSeed,
    Revising,
    Sampling,
    JudgingModel,
    BadRows,
    PromptLength,
    AnswerLength,
    ChatRendering,
    RowLayout,
    Principles,
    RevisedPrompts,
    ScoringConfig,
):
    """Settings of `easyrlhf revise`: answers that are criticised and revised by principles."""

    stage: ClassVar[str] = "revise"
    opening: ClassVar[str] = "reading {self.prompts} …"

    constitution: str = restate(Principles, "constitution", default=MISSING)
    format: str | None = restate(RowLayout, "format", "Row format of the prompts, when recognising it is not wanted.")
    judge_url: str | None = restate(
        JudgingModel,
        "judge_url",
        "An OpenAI-compatible server whose model criticises and revises, by POST URL/v1/chat/completions. Needs "
        "judge_model.",
    )
    judge_model: str | None = restate(JudgingModel, "judge_model", "Name of the model, as judge_url knows it.")
    judge_dir: str | None = restate(
        JudgingModel,
        "judge_dir",
        "A language model that criticises and revises in this process, in place of model: a folder or a hub id.",
    )
    judge_temperature: float | None = restate(
        JudgingModel,
        "judge_temperature",
        "Temperature of critiques and revisions; none leaves it out of requests, for models that take no other than "
        "their own.",
        default=0.7,
    )
    max_new_tokens: int = restate(Sampling, "max_new_tokens", "Longest answer and critique, in tokens.", default=256)
    seed: int = restate(AnswerSeed, "seed", "Seed of the answers, and of the principles that are drawn.")

    @property
    def policy(self) -> PolicyConfig:
        """The settings of the model that answers first."""
        shared = {f.name for f in fields(PolicyConfig)} & {f.name for f in fields(self)}
        return PolicyConfig(**{name: getattr(self, name) for name in shared})

    def _check(self) -> None:
        super()._check()
        template_kwargs(self)
        check_judge_settings(self, needed=("model", "judge_url", "judge_dir"))
        check_room(self.max_length, self.max_new_tokens)
        check_rows_file("output", self.output)
