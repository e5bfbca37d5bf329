"""`easyrlhf label serve`: the page on which people label, and live conversations that they label as they go."""

import re
from dataclasses import dataclass, fields
from typing import ClassVar
from urllib.parse import urlsplit

from easyrlhf.config.answering import AnswerLength, Sampling, check_room
from easyrlhf.config.base import DATA, RUN, Settings, opt, restate
from easyrlhf.config.common_fields import IncompleteModels
from easyrlhf.config.labelling import LabelFolder
from easyrlhf.config.lists import split_list
from easyrlhf.config.rendering import ChatRendering, template_kwargs
from easyrlhf.config.reward_models import Listening, ScoringConfig
from easyrlhf.config.serving import AllowedHosts, ServeConfig
from easyrlhf.errors import SettingError

FLAG_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
ORGANISER = "organiser"  # the name of whoever decides


def wrong_flag(flag: str) -> str | None:
    """What is wrong with the name of a flag."""
    return None if FLAG_NAME.fullmatch(flag) else "must be of small letters, digits and _, and begin with a letter"


@dataclass(kw_only=True, frozen=True)
class LabelTask(Settings):
    """What people are asked, and how many of them."""

    group: ClassVar[str] = DATA

    annotators: str = opt("me", "Names of those who label; each gets a link.", metavar="NAME[,…]", many=True)
    overlap: int = opt(1, "People who label each item; what they agree on is worth more.", low=1)
    scale: str = opt(
        "7",
        "Of two answers: 7 from A is much better to B is much better, 8 the same without a tie, 3 A, tie or B, 2 "
        "without a tie. likert: single answers on 1 to 7, where the others are liked or not.",
        choices=("7", "8", "3", "2", "likert"),
    )
    flags: str | None = opt(
        "harmful,wrong,both_bad,cut_off,private",
        "What may be said of an item beside its label; none for nothing.",
        metavar="NAME[,…]",
        many=True,
        wrong=wrong_flag,
    )
    guidelines: str | None = opt(None, "A text that is one key away, shown as it is.", metavar="FILE")
    reveal: bool = opt(False, "Tell where the answers come from, and their rewards, once the label is given.")
    until: int | None = opt(
        None,
        "End when so many labels of people are there, or when all is labelled or skipped. Ctrl-C before that leaves "
        "with exit code 3.",
        low=1,
    )


@dataclass(kw_only=True, frozen=True)
class LabelChat(Settings):
    """Models that answer in live conversations."""

    group: ClassVar[str] = DATA

    chat: str | None = opt(
        None,
        "Live conversations in place of the items: this model answers each message twice, and the answer that is "
        "preferred becomes history.",
        metavar="DIR|HUB_ID",
        model=True,
    )
    chat_against: str | None = opt(
        None, "The model that gives the other answer.", metavar="DIR|HUB_ID", model=True, shown="that of --chat"
    )


@dataclass(kw_only=True, frozen=True)
class PublicAddress(Settings):
    """How browsers elsewhere reach the page."""

    group: ClassVar[str] = RUN

    public_url: str | None = opt(
        None,
        "Where browsers reach the page by a proxy that speaks https: links begin with it, and cookies go no other way.",
        metavar="https://NAME",
    )


@dataclass(kw_only=True, frozen=True)
class LabelServeConfig(
    IncompleteModels,
    PublicAddress,
    AllowedHosts,
    Listening,
    Sampling,
    AnswerLength,
    ChatRendering,
    LabelChat,
    LabelTask,
    LabelFolder,
    ScoringConfig,
):
    """Settings of `easyrlhf label serve`: a page on which people label."""

    stage: ClassVar[str] = "label serve"
    whose: ClassVar[str] = "each model"

    host: str = restate(
        Listening,
        "host",
        "Address to listen on; 0.0.0.0 lets other machines in, over plain HTTP, which can be read on its way. From "
        "elsewhere ssh -L 8000:127.0.0.1:8000 MACHINE is safer, or a proxy and --public_url; neither needs --host.",
    )
    max_new_tokens: int = restate(Sampling, "max_new_tokens", "Longest answer of --chat, in tokens.", default=256)

    @property
    def people(self) -> tuple[str, ...]:
        """Who labels."""
        return split_list(self.annotators)

    @property
    def models(self) -> tuple[str, ...]:
        """What answers in live conversations."""
        return tuple(dict.fromkeys(filter(None, (self.chat, self.chat_against))))

    @property
    def public_origin(self) -> str | None:
        """How browsers elsewhere write the beginning of the page's address."""
        return self.public_url and self.public_url.rstrip("/")

    def serving(self) -> ServeConfig:
        """These settings as far as they concern the models that answer."""
        shared = {f.name for f in fields(ServeConfig)} & {f.name for f in fields(self)}
        return ServeConfig(**{name: getattr(self, name) for name in shared} | {"model": ",".join(self.models)})

    def _check(self) -> None:
        super()._check()
        template_kwargs(self)
        check_room(self.max_length, self.max_new_tokens)
        check_people(self.people)
        if self.chat_against and not self.chat:
            raise SettingError("chat_against", "chat_against: is the other model of a conversation; give --chat too")
        if self.chat and self.temperature == 0 and len(self.models) == 1:
            raise SettingError(
                "temperature",
                "temperature 0: one model gives the same answer twice; leave it out, or give --chat_against MODEL",
            )
        if self.public_url is not None:
            check_public_url(self.public_url)


def check_people(names: tuple[str, ...]) -> None:
    """Raise SettingError for names that nobody can be told apart by."""
    if not names:
        raise SettingError("annotators", "annotators: names nobody; give the names of those who label")
    if twice := next((name for i, name in enumerate(names) if name in names[:i]), None):
        raise SettingError("annotators", f"annotators {twice}: is there twice; give each person a name")
    if ORGANISER in names:
        raise SettingError("annotators", f"annotators {ORGANISER}: is the name of who decides; give another name")


def check_public_url(url: str) -> None:
    """Raise SettingError for an address that is not the beginning of a link by https."""
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise SettingError("public_url", f"public_url {url}: must be https:// and a name, and perhaps a port")
