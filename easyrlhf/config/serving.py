"""`easyrlhf serve`: language models behind an OpenAI-compatible server."""

import re
from dataclasses import MISSING, dataclass, fields
from typing import ClassVar

from easyrlhf.config.answering import AnswerLength, Sampling, check_room
from easyrlhf.config.base import DATA, RUN, Settings, opt, restate
from easyrlhf.config.common_fields import IncompleteModels
from easyrlhf.config.inference import PolicyConfig
from easyrlhf.config.lists import split_list
from easyrlhf.config.rendering import ChatRendering, template_kwargs
from easyrlhf.config.reward_models import Listening, ScoringConfig
from easyrlhf.errors import SettingError
from easyrlhf.paths import split_paths

KEY = re.compile(r"[A-Za-z0-9._~-]+")  # what stands in a link and in a header as it is
HOST_NAME = re.compile(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]")


@dataclass(kw_only=True, frozen=True)
class ServedModels(Settings):
    """What answers, and what scores the answers."""

    group: ClassVar[str] = DATA

    model: str = opt(
        MISSING,
        "The language models: folders of stages, adapter folders, any Hugging Face checkpoints or hub ids. Given as "
        "the first words, they need no flag and no commas. Adapters of one base model share its weights. Clients name "
        "a model by the last part of its path.",
        metavar="DIR|HUB_ID[,…]",
        model=True,
        many=True,
    )
    reward_model: str | None = opt(
        None,
        "Scores answers at POST /api/score and on the page: the folder of rm_train, or a sequence classifier with one "
        "label.",
        metavar="DIR",
        model=True,
    )


@dataclass(kw_only=True, frozen=True)
class AllowedHosts(Settings):
    """By which names a server is called."""

    group: ClassVar[str] = RUN

    allow_hosts: str | None = opt(
        None,
        "Further names by which clients reach this server, such as a proxy's; others are refused.",
        metavar="NAME[,…]",
        many=True,
        shown="those of --host",
    )

    def _check(self) -> None:
        super()._check()
        for name in split_list(self.allow_hosts):
            if not HOST_NAME.fullmatch(name):
                raise SettingError("allow_hosts", f"allow_hosts {name}: must be a name or an address, without a port")


@dataclass(kw_only=True, frozen=True)
class Clients(AllowedHosts):
    """Who may ask."""

    group: ClassVar[str] = RUN

    api_key: str | None = opt(
        None,
        "The key that clients must give. Other users of this machine can read flags: the environment variable "
        "EASYRLHF_API_KEY does the same.",
        metavar="KEY",
        shown="EASYRLHF_API_KEY, else a new one",
    )


@dataclass(kw_only=True, frozen=True)
class Queue(Settings):
    """How many answers are written at once, and how many wait."""

    group: ClassVar[str] = RUN

    batch_size: int = opt(16, "Answers of a model decoded together; others wait.", low=1)
    max_waiting: int = opt(
        128, "Answers that may wait for their turn; further requests are told to come again (503).", low=1
    )


@dataclass(kw_only=True, frozen=True)
class ServeConfig(
    IncompleteModels,
    Queue,
    Clients,
    Listening,
    Sampling,
    AnswerLength,
    ChatRendering,
    ServedModels,
    ScoringConfig,
):
    """Settings of `easyrlhf serve`: models behind an OpenAI-compatible server, with a page to talk to them."""

    stage: ClassVar[str] = "serve"
    opening: ClassVar[str] = "loading {self.model} …"
    whose: ClassVar[str] = "each model"

    chat_template: str | None = restate(
        ChatRendering, "chat_template", "Template for those models that have none: chatml, hh, llama3 or a Jinja file."
    )
    max_new_tokens: int = restate(
        Sampling, "max_new_tokens", "Longest answer, in tokens, where a request gives no max_tokens.", default=512
    )
    temperature: float = restate(
        Sampling, "temperature", "Softmax temperature where a request gives none; 0 takes the likeliest token, always."
    )
    top_p: float = restate(
        Sampling,
        "top_p",
        "Where a request gives no top_p: draw from the likeliest tokens that have this probability together.",
    )
    top_k: int = restate(
        Sampling, "top_k", "Where a request gives no top_k: draw from so many of the likeliest tokens; 0 from all."
    )
    repetition_penalty: float = restate(
        Sampling,
        "repetition_penalty",
        "Where a request gives no repetition_penalty: make tokens that prompt or answer hold already less likely.",
    )
    host: str = restate(
        Listening,
        "host",
        "Address to listen on; 0.0.0.0 lets other machines in, over plain HTTP, which can be read on its way. From "
        "elsewhere ssh -L 8000:127.0.0.1:8000 MACHINE is safer, and needs no --host.",
    )

    @property
    def paths(self) -> tuple[str, ...]:
        """The models."""
        return split_paths(self.model)

    def policy(self, path: str) -> PolicyConfig:
        """These settings as far as they concern one of the models."""
        shared = {f.name for f in fields(PolicyConfig)} & {f.name for f in fields(self)}
        given = {name: getattr(self, name) for name in shared} | {"model": path, "reward_model": None}
        return PolicyConfig(**given, continue_final_message=True)

    def _check(self) -> None:
        super()._check()
        template_kwargs(self)
        paths = self.paths
        if twice := next((path for i, path in enumerate(paths) if path in paths[:i]), None):
            raise SettingError("model", f"model {self.model}: {twice} is there twice; give it once")
        check_room(self.max_length, self.max_new_tokens)
        if self.api_key is not None and not KEY.fullmatch(self.api_key):
            raise SettingError(  # the key is not repeated
                "api_key", "api_key: must be of letters, digits and . _ ~ - alone, as it stands in a link and a header"
            )
