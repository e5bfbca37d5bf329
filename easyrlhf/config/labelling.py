"""Commands `easyrlhf label …`: what is labelled, what labels become, and whose names are forgotten."""

from dataclasses import MISSING, dataclass
from typing import ClassVar

from easyrlhf.config.base import DATA, Settings, opt


@dataclass(kw_only=True, frozen=True)
class LabelFolder(Settings):
    """Where the labels are."""

    group: ClassVar[str] = DATA

    labels: str = opt("outputs/labels", "Folder of the labels: labels.db is in it.", metavar="DIR")


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
