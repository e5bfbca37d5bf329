"""Commands that use a reward model: served, examined, scoring rows and texts."""

import re
from dataclasses import MISSING, dataclass
from typing import ClassVar

from easyrlhf.config.base import DATA, RUN, Settings, opt, restate
from easyrlhf.config.common_fields import (
    BadRows,
    Examination,
    IncompleteModels,
    OutputFile,
    RemoteCode,
    RowLayout,
    check_rows_file,
)
from easyrlhf.config.rendering import TemplateVariables, template_kwargs
from easyrlhf.errors import SettingError


def check_one_device(devices: str | None) -> None:
    """Raise SettingError unless it names one device at most."""
    if devices is not None and not re.fullmatch(r"cpu|mps|\d+", devices):
        raise SettingError("devices", f"devices {devices}: must be cpu or one GPU index such as 0, or mps")


@dataclass(kw_only=True, frozen=True)
class OneDevice(Settings):
    """Where a model runs that is not trained, and how."""

    group: ClassVar[str] = RUN

    devices: str | None = opt(
        None,
        "Where to run: one GPU index such as 0, cpu, or mps, an Apple GPU.",
        metavar="N|cpu|mps",
        shown="the first GPU, else cpu",
    )
    precision: str = opt(
        "auto",
        "Number format of the forward pass: auto is bf16 on a GPU and float32 on CPU.",
        choices=("auto", "float32", "bf16"),
    )
    micro_batch_tokens: int | None = opt(
        None,
        "Tokens in one forward pass. Lower it when memory runs out: the scores stay the same.",
        low=1,
        shown="8192 on a GPU, 2048 on CPU",
    )
    attn_implementation: str | None = opt(
        None,
        "Attention kernel as transformers names it: eager, sdpa, flash_attention_2…",
        metavar="NAME",
        shown="transformers' choice",
    )


@dataclass(kw_only=True, frozen=True)
class ScoringConfig(RemoteCode, OneDevice):
    """What every command that scores with a reward model, and trains nothing, can be told."""

    def _check(self) -> None:
        check_one_device(self.devices)


@dataclass(kw_only=True, frozen=True)
class NeededRewardModel(Settings):
    """The reward model of a command that cannot do without one."""

    group: ClassVar[str] = DATA

    reward_model: str = opt(
        MISSING,
        "The model that scores: the folder of rm_train, or a sequence classifier with one label.",
        metavar="DIR",
        model=True,
    )


@dataclass(kw_only=True, frozen=True)
class Listening(Settings):
    """Where a server is reached."""

    group: ClassVar[str] = RUN

    host: str = opt(
        "127.0.0.1",
        "Address to listen on; 0.0.0.0 lets other machines in. There is no password: only inside a network you trust.",
        metavar="ADDRESS",
    )
    port: int = opt(8000, "Port to listen on; 0 for any free one.", low=0, high=65535)


@dataclass(kw_only=True, frozen=True)
class ServeRewardConfig(IncompleteModels, Listening, NeededRewardModel, ScoringConfig):
    """Settings of `easyrlhf serve_reward`: a trained reward model behind HTTP."""

    stage: ClassVar[str] = "serve_reward"
    opening: ClassVar[str] = "loading {self.reward_model} …"

    reward_model: str = restate(
        NeededRewardModel,
        "reward_model",
        "The model to serve: the folder of rm_train, or a sequence classifier with one label.",
    )
    allow_incomplete: bool = restate(
        IncompleteModels, "allow_incomplete", "Serve a model whose own run did not finish."
    )


@dataclass(kw_only=True, frozen=True)
class HeldOutPairs(Settings):
    """What a reward model is examined on, and where the findings go."""

    group: ClassVar[str] = DATA

    valid_data: str = opt(
        MISSING,
        "Comparisons that the model was not trained on; the accuracy of each file or folder is shown apart.",
        metavar="FILE[,…]",
        many=True,
    )
    output_dir: str = opt("outputs/doctor", "Folder for doctor.json and doctor.html.", metavar="DIR")


@dataclass(kw_only=True, frozen=True)
class CeilingOfLabels(Settings):
    """Labels that say how high the accuracy can be."""

    group: ClassVar[str] = DATA

    labels: str | None = opt(
        None,
        "Folder of easyrlhf label: how far annotators agree limits the accuracy, and this ceiling is drawn beside it.",
        metavar="DIR",
        shown="no ceiling is drawn",
    )


@dataclass(kw_only=True, frozen=True)
class ExaminedRows(Settings):
    """Which rows are too long."""

    group: ClassVar[str] = DATA

    max_length: int | None = opt(
        None,
        "Longest sequence in tokens, prompt and completion together.",
        low=2,
        shown="that of its training, else 1024",
    )
    max_prompt_length: int | None = opt(
        None,
        "Longest prompt in tokens; must leave room below max_length.",
        low=1,
        shown="that of its training, else what max_length leaves",
    )
    overlength: str | None = opt(
        None,
        "Rows longer than that: drop counts them and writes them to bad_rows.jsonl, however many there are; truncate "
        "cuts prompts from the left.",
        choices=("drop", "truncate"),
        shown="as in its training, else drop, and stop when it is more than 10 % of the rows",
    )


@dataclass(kw_only=True, frozen=True)
class DoctorConfig(
    IncompleteModels,
    BadRows,
    Examination,
    ExaminedRows,
    RowLayout,
    CeilingOfLabels,
    HeldOutPairs,
    NeededRewardModel,
    ScoringConfig,
):
    """Settings of `easyrlhf doctor`: a reward model is examined on held-out comparisons."""

    stage: ClassVar[str] = "doctor"
    opening: ClassVar[str] = "loading {self.reward_model} …"

    reward_model: str = restate(
        NeededRewardModel,
        "reward_model",
        "The model to examine: the folder of rm_train, or a sequence classifier with one label.",
    )
    examine_rows: int = restate(
        Examination,
        "examine_rows",
        "Held-out pairs, spread over valid_data, that probes and invariance are measured on; accuracy is, on all.",
        low=1,
    )
    allow_incomplete: bool = restate(
        IncompleteModels, "allow_incomplete", "Examine a model whose own run did not finish."
    )


@dataclass(kw_only=True, frozen=True)
class ScoredLength(Settings):
    """How long a text may be that is scored."""

    group: ClassVar[str] = DATA

    max_length: int | None = opt(
        None,
        "Longest sequence in tokens, prompt and answer together; longer ones get the score null and a note.",
        low=2,
        shown="what the model was made for",
    )


@dataclass(kw_only=True, frozen=True)
class RewardModelConfig(IncompleteModels, ScoredLength, TemplateVariables, NeededRewardModel, ScoringConfig):
    """What everything that scores texts with a reward model can be told."""

    whose: ClassVar[str] = "the reward model"

    allow_incomplete: bool = restate(
        IncompleteModels, "allow_incomplete", "Score with a model whose own run did not finish."
    )

    def _check(self) -> None:
        super()._check()
        template_kwargs(self)


@dataclass(kw_only=True, frozen=True)
class Scored(Settings):
    """What is scored, and where the scores go."""

    group: ClassVar[str] = DATA

    data: str | None = opt(
        None,
        "Rows to score: answers, comparisons or rankings in any format (easyrlhf docs formats), or rows with a 'text'; "
        "- for JSON on standard input.",
        metavar="FILE[,…]",
        many=True,
    )
    output: str | None = opt(
        None,
        "File for the rows with their scores. The same command goes on where it was stopped. - prints them.",
        metavar="FILE.jsonl|-",
    )
    text: str | None = opt(None, "One text to score as it is, without a chat template.", metavar="TEXT")
    prompt: str | None = opt(None, "One prompt; completion is scored as the answer to it.", metavar="TEXT")
    completion: str | None = opt(None, "The answer to prompt.", metavar="TEXT")
    column: str = opt(
        "score",
        "Name of the new columns: score, chosen_score… Another name keeps the scores of several models apart.",
        metavar="NAME",
    )


@dataclass(kw_only=True, frozen=True)
class ScoreConfig(OutputFile, BadRows, RowLayout, Scored, RewardModelConfig):
    """Settings of `easyrlhf score`: scores of a reward model for the rows of a file, or for one text."""

    stage: ClassVar[str] = "score"
    opening: ClassVar[str] = "loading {self.reward_model} …"

    def _check(self) -> None:
        super()._check()
        if self.prompt is not None and self.completion is None:
            raise SettingError("prompt", "prompt: give completion too, the answer to be scored")
        if self.completion is not None and self.prompt is None:
            raise SettingError("completion", "completion: give prompt too, or text for a text that stands alone")
        given = [name for name in ("data", "text", "prompt") if getattr(self, name) is not None]
        if len(given) != 1:
            name, found = (given or ["data"])[-1], " and ".join(given) or "nothing"
            raise SettingError(name, f"{name}: give either data, or text, or prompt with completion; {found} was given")
        if self.data and not self.output:
            raise SettingError("output", "output: give the file for the scores of data, such as scores.jsonl, or -")
        if self.output and not self.data:
            raise SettingError("output", f"output {self.output}: belongs to data; the score of one text is printed")
        if self.output and self.output != "-":
            check_rows_file("output", self.output)
