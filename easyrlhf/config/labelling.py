"""Commands `easyrlhf label …`: what is labelled, what labels become, and whose names are forgotten."""

from dataclasses import MISSING, dataclass
from typing import ClassVar

from easyrlhf.config.base import DATA, RUN, SettingError, Settings, opt, restate
from easyrlhf.config.common_fields import BadRows, IncompleteModels, OutputFile, RowLayout, check_rows_file
from easyrlhf.config.lists import split_list
from easyrlhf.config.reward_models import ScoringConfig


@dataclass(kw_only=True, frozen=True)
class LabelFolder(Settings):
    """Where the labels are."""

    group: ClassVar[str] = DATA

    labels: str = opt("outputs/labels", "Folder of the labels: labels.db is in it.", metavar="DIR")


@dataclass(kw_only=True, frozen=True)
class RowsToLabel(Settings):
    """What is labelled, and how answers become items."""

    group: ClassVar[str] = DATA

    data: str = opt(
        MISSING,
        "Rows of any format with answers; or labels.jsonl of an export, which restores the folder. Given as the first "
        "words, they need no flag.",
        metavar="FILE[,…]",
        many=True,
    )
    kind: str | None = opt(
        None,
        "What an item is: pair, two answers to a prompt; ranking, three to nine of them; answer, one.",
        choices=("pair", "ranking", "answer"),
        shown="pair; ranking for rankings, answer for single answers with a label",
    )
    pick: str | None = opt(
        None,
        "Which two of several answers make a pair: spread, whose rewards are furthest apart; uncertain, nearest; top, "
        "the two best; random.",
        choices=("random", "spread", "uncertain", "top"),
        shown="spread where answers have rewards, else random",
    )
    random_share: float = opt(
        0.2,
        "Share of the prompts whose pair is drawn by chance all the same: only these give agreement and accuracy "
        "without bias.",
        low=0,
        high=1,
    )
    hide_labels: bool = opt(
        False, "Leave out what rows say of their answers; else it comes in as labels of the annotator import."
    )


@dataclass(kw_only=True, frozen=True)
class MixedIn(Settings):
    """What annotators get beside new items, without being told."""

    group: ClassVar[str] = DATA

    checks: str | None = opt(
        None, "Comparisons whose better answer is known, which are mixed in.", metavar="FILE[,…]", many=True
    )
    check_share: float | None = opt(
        None,
        "Share of what an annotator gets that is a check.",
        low=0,
        high=0.5,
        shown="0.05, or that of an earlier import",
    )
    repeat_share: float | None = opt(
        None,
        "Share that is a pair which the annotator has labelled before, with the sides changed.",
        low=0,
        high=0.5,
        shown="0.03, or that of an earlier import",
    )


@dataclass(kw_only=True, frozen=True)
class ItemSeed(Settings):
    """What the choices made by chance depend on."""

    group: ClassVar[str] = RUN

    seed: int = opt(42, "Seed of the pairs that are drawn by chance.", low=0, below=2**32)


@dataclass(kw_only=True, frozen=True)
class LabelImportConfig(ItemSeed, BadRows, MixedIn, RowLayout, RowsToLabel, LabelFolder):
    """Settings of `easyrlhf label import`: rows become items to label."""

    stage: ClassVar[str] = "label import"
    opening: ClassVar[str] = "reading {self.data} …"

    def _check(self) -> None:
        if self.pick and self.kind in ("ranking", "answer"):
            raise SettingError("pick", f"pick {self.pick}: chooses two answers; kind {self.kind} has none to choose")


@dataclass(kw_only=True, frozen=True)
class ChosenAnnotators(Settings):
    """Whose labels count."""

    group: ClassVar[str] = DATA

    annotators: str | None = opt(
        None,
        "Only the labels of these: names, or numbers as labels.jsonl and agreement.json have them.",
        metavar="NAME[,…]",
        many=True,
        shown="all",
    )
    exclude: str | None = opt(None, "Not the labels of these.", metavar="NAME[,…]", many=True)


@dataclass(kw_only=True, frozen=True)
class LabelsMerged(Settings):
    """How the labels of an item become one row."""

    group: ClassVar[str] = DATA

    merge: str = opt(
        "share",
        "How several labels become one: share, the part of them that prefers an answer; majority, what most prefer; "
        "reliability, how likely it is the better one given how reliable each annotator is. A referee's decision wins.",
        choices=("share", "majority", "reliability"),
    )
    ties: str = opt("half", "A tie: half counts for both answers; drop leaves the label out.", choices=("half", "drop"))
    drop_flag: str | None = opt(
        None, "Leave out items of which a label has one of these flags.", metavar="FLAG[,…]", many=True
    )
    min_labels: int = opt(1, "Leave out items with fewer labels, unless a referee has decided.", low=1)


@dataclass(kw_only=True, frozen=True)
class ExportedRows(Settings):
    """What is written, and where to."""

    group: ClassVar[str] = DATA

    write_as: str = opt(
        "probability",
        "What rows say: probability, comparisons with chosen_probability; margin, comparisons with how much better the "
        "chosen answer is; rankings; feedback, single answers liked or not; demonstrations, better answers that "
        "annotators wrote. In YAML its name is write_as.",
        choices=("probability", "margin", "rankings", "feedback", "demonstrations"),
        flag="as",
    )
    output: str | None = opt(
        None,
        "File for the rows.",
        metavar="FILE.jsonl",
        shown="comparisons.jsonl, rankings.jsonl, feedback.jsonl or demonstrations.jsonl in the folder of the labels",
    )
    notes: bool = opt(False, "Write the annotators' notes into labels.jsonl too; else they stay in the folder.")


@dataclass(kw_only=True, frozen=True)
class LabelExportConfig(OutputFile, ExportedRows, LabelsMerged, ChosenAnnotators, LabelFolder):
    """Settings of `easyrlhf label export`: labels become rows to train on."""

    stage: ClassVar[str] = "label export"

    overwrite: bool = restate(OutputFile, "overwrite", "Replace an output file that this command did not write.")

    @property
    def file(self) -> str:
        """Where the rows go."""
        names = {"probability": "comparisons", "margin": "comparisons"}
        return self.output or f"{self.labels}/{names.get(self.write_as, self.write_as)}.jsonl"

    def _check(self) -> None:
        check_rows_file("output", self.file)
        if self.write_as == "margin" and self.merge != "share":
            raise SettingError("merge", f"merge {self.merge}: a margin is the mean of all strengths; leave it out")
        check_annotators(self.annotators, self.exclude)


def check_annotators(annotators: str | None, exclude: str | None) -> None:
    """Raise SettingError for one that is asked for and left out at once."""
    if both := [name for name in split_list(annotators) if name in split_list(exclude)]:
        raise SettingError("exclude", f"exclude {both[0]}: is among annotators too; give one of the two")


@dataclass(kw_only=True, frozen=True)
class RewardBesideLabels(Settings):
    """A reward model that is held against the labels."""

    group: ClassVar[str] = DATA

    reward_model: str | None = opt(
        None,
        "Held against the labels: the folder of rm_train, or a sequence classifier with one label.",
        metavar="DIR",
        model=True,
    )


@dataclass(kw_only=True, frozen=True)
class LabelAgreeConfig(IncompleteModels, RewardBesideLabels, ChosenAnnotators, LabelFolder, ScoringConfig):
    """Settings of `easyrlhf label agree`: how far labels agree, alone and with a reward model."""

    stage: ClassVar[str] = "label agree"

    def _check(self) -> None:
        super()._check()
        check_annotators(self.annotators, self.exclude)


@dataclass(kw_only=True, frozen=True)
class ForgottenName(Settings):
    """Whose name is deleted."""

    group: ClassVar[str] = DATA

    name: str = opt(
        MISSING,
        "The annotator whose name and links are deleted; labels stay, under a number. Given as the first word, it "
        "needs no flag.",
        metavar="NAME",
    )


@dataclass(kw_only=True, frozen=True)
class LabelForgetConfig(ForgottenName, LabelFolder):
    """Settings of `easyrlhf label forget`: the name of an annotator is deleted, and nothing else."""

    stage: ClassVar[str] = "label forget"
