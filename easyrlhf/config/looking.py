"""Commands that look at data through the eyes of a stage: easyrlhf data check and easyrlhf data preview."""

from dataclasses import MISSING, dataclass, replace
from typing import ClassVar, Self

from easyrlhf.config.base import DATA, RUN, Settings, opt
from easyrlhf.config.common_fields import RemoteCode, RowLayout, filled_lengths
from easyrlhf.config.rendering import ChatRendering, FinalTurn, LearnedAnswers, template_kwargs
from easyrlhf.stage_table import STAGES


@dataclass(kw_only=True, frozen=True)
class LookedAt(Settings):
    """Which rows are looked at, and whose tokenizer sees them."""

    group: ClassVar[str] = DATA

    train_data: str = opt(
        MISSING,
        "The rows to look at: .jsonl, .json, .csv, .tsv, .parquet, .arrow, a folder (folder@split) or a hub dataset "
        "id; several separated by commas; - for JSON on standard input. Given as the first words, it needs no flag.",
        metavar="FILE[,…]",
        many=True,
    )
    model: str | None = opt(
        None,
        "Folder or hub id whose tokenizer and chat template the stage will use; its weights are not read.",
        metavar="DIR|HUB_ID",
        model=True,
        shown="lengths in characters",
    )


@dataclass(kw_only=True, frozen=True)
class LengthLimits(Settings):
    """Which rows are too long."""

    group: ClassVar[str] = DATA

    max_length: int | None = opt(
        None,
        "Longest sequence in tokens that the stage will accept.",
        low=2,
        shown="1024, less where the model was made for less",
    )
    max_prompt_length: int | None = opt(
        None,
        "Longest prompt in tokens that the stage will accept.",
        low=1,
        shown="half of max_length",
    )


@dataclass(kw_only=True, frozen=True)
class LookConfig(RemoteCode, LengthLimits, LearnedAnswers, FinalTurn, ChatRendering, RowLayout, LookedAt):
    """What every command that looks at data through the eyes of a stage can be told."""

    opening: ClassVar[str] = "reading {self.train_data} …"
    group: ClassVar[str] = DATA

    stage: str = opt(
        MISSING,
        "The stage that is to learn from the rows; it decides which records they must give.",
        choices=tuple(STAGES),
    )

    def _check(self) -> None:
        template_kwargs(self)

    def with_lengths(self, places: int | None) -> Self:
        """A copy with the lengths that were not given filled in; places as filled_lengths takes it."""
        return replace(self, **filled_lengths(self, places))


@dataclass(kw_only=True, frozen=True)
class CheckedToo(LookConfig):
    """What is checked beside the training rows, and how strictly."""

    group: ClassVar[str] = DATA

    valid_data: str | None = opt(
        None,
        "Held-out rows: checked as well, and searched for rows and prompts of the training data.",
        metavar="FILE[,…]",
        many=True,
    )
    on_bad_row: str = opt(
        "stop",
        "What the stage will be told about malformed rows. With stop they are errors, with skip warnings; the check "
        "itself reads on.",
        choices=("stop", "skip"),
    )


@dataclass(kw_only=True, frozen=True)
class CheckConfig(CheckedToo):
    """Settings of `easyrlhf data check`: every row is read, and everything odd is counted."""

    group: ClassVar[str] = RUN

    report: str | None = opt(None, "Write the findings as a page with pictures.", metavar="FILE.html")


@dataclass(kw_only=True, frozen=True)
class ShownRows(LookConfig):
    """Which rows are shown."""

    group: ClassVar[str] = RUN

    rows: int = opt(3, "How many rows to show.", low=1)
    row: int = opt(1, "The first row to show, counted from 1 over all files.", low=1)


@dataclass(kw_only=True, frozen=True)
class PreviewConfig(ShownRows):
    """Settings of `easyrlhf data preview`: rows as the model sees them."""

    model: str = opt(
        MISSING,
        "Folder or hub id whose tokenizer and chat template the stage will use; its weights are not read.",
        metavar="DIR|HUB_ID",
        model=True,
    )
