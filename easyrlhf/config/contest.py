"""`easyrlhf compare`: several models answer the same prompts, and their answers are judged."""

from dataclasses import MISSING, dataclass
from typing import ClassVar

from easyrlhf.config.answering import AnswerLength, AnswerSeed, DecodedTogether, PromptLength, check_room
from easyrlhf.config.base import DATA, REWARDS, SAMPLING, Settings, opt, restate
from easyrlhf.config.common_fields import (
    BadRows,
    IncompleteModels,
    OutputFile,
    RowLayout,
    wrong_reward_function,
)
from easyrlhf.config.judging import JudgingFunction, JudgingModel, check_judge_settings
from easyrlhf.config.rendering import ChatRendering, FinalTurn, template_kwargs
from easyrlhf.config.reward_models import ScoringConfig
from easyrlhf.errors import SettingError
from easyrlhf.paths import split_paths


@dataclass(kw_only=True, frozen=True)
class Contenders(Settings):
    """Which models answer what, and where the findings go."""

    group: ClassVar[str] = DATA

    models: str = opt(
        MISSING,
        "The language models, the first of which the others are compared with. Given as the first words, they need no "
        "flag and no commas.",
        metavar="DIR,DIR[,…]",
        model=True,
        many=True,
    )
    prompts: str = opt(
        MISSING,
        "Prompts that no model was trained on: rows of any format; answers that they hold are left aside.",
        metavar="FILE[,…]",
        many=True,
    )
    output_dir: str = opt(
        "outputs/compare",
        "Folder for compare.html, compare.json, answers.jsonl and judgements.jsonl. The same command goes on where it "
        "was stopped.",
        metavar="DIR",
    )


@dataclass(kw_only=True, frozen=True)
class Scorers(Settings):
    """What scores every answer."""

    group: ClassVar[str] = REWARDS

    reward_model: str | None = opt(
        None,
        "Scores every answer; the higher score wins: the folder of rm_train, or a sequence classifier with one label.",
        metavar="DIR",
        model=True,
    )
    reward_funcs: str | None = opt(
        None,
        "Python reward functions, each of which is a judge of its own: fn(prompts, completions, **columns) returns one "
        "number per completion, or None where it does not apply, as in TRL; trl:NAME is one of TRL's own, such as "
        "trl:think_format_reward.",
        metavar="FILE.py:FN[,…]",
        many=True,
        functions=True,
        wrong=wrong_reward_function,
    )
    reward_timeout: float = opt(
        600.0,
        "Seconds that a reward function may take over batch_size completions.",
        above=0,
        high=1e6,
    )


@dataclass(kw_only=True, frozen=True)
class ComparedAnswers(Settings):
    """How the answers are drawn."""

    group: ClassVar[str] = SAMPLING

    samples: int = opt(1, "Answers of each model to each prompt.", low=1)
    max_new_tokens: int = opt(128, "Longest answer, in tokens.", low=1)
    temperature: float = opt(
        1.0,
        "Softmax temperature; 0 takes the likeliest token, always, and leaves no KL to measure.",
        low=0,
        high=100,
    )


@dataclass(kw_only=True, frozen=True)
class CompareConfig(
    IncompleteModels,
    OutputFile,
    DecodedTogether,
    AnswerSeed,
    ComparedAnswers,
    JudgingModel,
    JudgingFunction,
    Scorers,
    BadRows,
    PromptLength,
    AnswerLength,
    FinalTurn,
    ChatRendering,
    RowLayout,
    Contenders,
    ScoringConfig,
):
    """Settings of `easyrlhf compare`: several models answer the same prompts, and their answers are judged."""

    stage: ClassVar[str] = "compare"
    opening: ClassVar[str] = "reading {self.prompts} …"
    whose: ClassVar[str] = "each model"

    format: str | None = restate(RowLayout, "format", "Row format of the prompts, when recognising it is not wanted.")
    chat_template: str | None = opt(
        None,
        "Template for those models that have none: chatml, hh, llama3 or a Jinja file.",
        metavar="NAME|FILE",
    )
    max_prompt_length: int | None = restate(
        PromptLength,
        "max_prompt_length",
        "Longest prompt in tokens; longer ones are dropped for all models and counted.",
    )
    overwrite: bool = restate(
        OutputFile, "overwrite", "Replace what this command wrote into output_dir, and begin anew."
    )

    @property
    def paths(self) -> tuple[str, ...]:
        """The models, the first one first."""
        return split_paths(self.models)

    def _check(self) -> None:
        super()._check()
        template_kwargs(self)
        paths, judges = self.paths, (self.reward_model, self.reward_funcs, self.judge, self.judge_url, self.judge_dir)
        twice = next((path for i, path in enumerate(paths) if path in paths[:i]), None)
        rules = (
            ("models", len(paths) < 2, "a comparison needs two models or more"),
            ("models", twice, f"{twice} is there twice; its answers would be the same both times"),
            ("samples", self.samples > 1 and not self.temperature, "temperature 0 draws the same answer every time"),
        )
        for name, broken, rule in rules:
            if broken:
                raise SettingError(name, f"{name} {getattr(self, name)}: {rule}")
        if not any(judges):
            raise SettingError(
                "judge", "judge: nothing judges; give reward_model, reward_funcs, judge, judge_url or judge_dir"
            )
        check_judge_settings(self)
        check_room(self.max_length, self.max_new_tokens)
