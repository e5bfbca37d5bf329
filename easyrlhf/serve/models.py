"""The models that are served: their names, and adapters of one base model over its weights."""

import copy
import re
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from torch import nn

from easyrlhf.config import PolicyConfig, ServeConfig
from easyrlhf.data.records import Messages
from easyrlhf.data.render import Renderer
from easyrlhf.models.adapters import adapter_shapes, is_adapter, put_on
from easyrlhf.models.load import load_config
from easyrlhf.models.parents import base_of
from easyrlhf.serve.text import TokenTexts
from easyrlhf.tools.policy import load_policy_lm, read_renderer
from easyrlhf.tools.scoring import longest

LORA_WEIGHT = re.compile(r"\.lora_[AB]\.weight$")


@dataclass(frozen=True, eq=False)
class Served:
    """One model that clients may name.

    id         what they call it
    title      what the user called it
    lm         the model, or a base model with several adapters
    adapter    name of its adapter in lm; None where lm has none, or it is the base model
    renderer   of its prompts; asked by one thread at a time
    decoder    of its answers, with a tokenizer of its own: the decoding thread never waits for a prompt to be read
    positions  tokens of prompt and answer together; None: no limit
    """

    id: str
    title: str
    lm: nn.Module
    adapter: str | None
    renderer: Renderer
    positions: int | None
    decoder: Renderer = field(init=False)
    texts: TokenTexts = field(init=False)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self):
        own = copy.deepcopy(self.renderer.tokenizer)
        object.__setattr__(self, "decoder", Renderer(own, self.renderer.ends))
        object.__setattr__(self, "texts", TokenTexts(own))

    def prompt_ids(self, prompt: Messages | str, arguments: dict | None) -> list[int]:
        """Token ids of a prompt. Raises InputError for what the chat template refuses."""
        with self.lock:
            return self.renderer.prompt_ids(prompt, arguments)

    def use(self) -> None:
        """Let lm compute as this model."""
        if not hasattr(self.lm, "peft_config"):
            return
        if self.adapter is None:
            self.lm.base_model.disable_adapter_layers()
        else:
            self.lm.base_model.enable_adapter_layers()
            self.lm.set_adapter(self.adapter, inference_mode=True)


class Member(NamedTuple):
    """A model of the settings, before its weights are loaded."""

    number: int
    policy: PolicyConfig
    renderer: Renderer
    positions: int | None


def read_models(config: ServeConfig) -> list[Member]:
    """The models of the settings, in their order. Raises InputError; loads no weights."""
    policies = [config.policy(path) for path in config.paths]
    strict = len(policies) == 1
    return [
        Member(number, one, read_renderer(one, strict=strict), longest("--model", one.model, one))
        for number, one in enumerate(policies)
    ]


def load_served(members: list[Member]) -> list[Served]:
    """The models, in their order. Raises InputError."""
    paths = [one.policy.model for one in members]
    loaded: dict[int, tuple[nn.Module, str | None]] = {}
    for numbers in families(paths):
        loaded |= load_family([members[number] for number in numbers])
    return [
        Served(name, one.policy.model, *loaded[one.number], one.renderer, one.positions)
        for name, one in zip(model_ids(paths), members, strict=True)
    ]


def model_ids(paths: list[str]) -> list[str]:
    """The last part of each path; where that is another's too, as many parts as tell them apart."""
    parts = [[part for part in path.replace("\\", "/").split("/") if part not in ("", ".")] for path in paths]
    sizes = [1] * len(paths)

    def names() -> list[str]:
        return ["/".join(own[-size:]) for own, size in zip(parts, sizes, strict=True)]

    while doubled := [i for i, name in enumerate(names()) if Counter(names())[name] > 1 and sizes[i] < len(parts[i])]:
        for number in doubled:
            sizes[number] += 1
    return names()


def families(paths: list[str]) -> Iterator[list[int]]:
    """Numbers of the models that may share weights: a base model and adapters that were trained on it, or one alone."""
    found: dict[str, list[int]] = {}
    for number, path in enumerate(paths):
        base = base_of(path)
        folder = Path(base).expanduser()
        found.setdefault(str(folder.resolve()) if folder.exists() else base, []).append(number)
    yield from found.values()


def load_family(members: list[Member]) -> dict[int, tuple[nn.Module, str | None]]:
    """Number → the model, and the name of its adapter in it, of models that have one base. Raises InputError."""
    first = next((one for one in members if not is_adapter(one.policy.model)), members[0])
    shared = [one for one in members if not is_adapter(one.policy.model) or over_the_same(one, first)]
    if len(shared) == 1:
        shared = []
    apart = {one.number: (load_policy_lm(one.policy, one.renderer), None) for one in members if one not in shared}
    return apart | (load_shared_base(shared, first) if shared else {})


def load_shared_base(members: list[Member], first: Member) -> dict[int, tuple[nn.Module, str | None]]:
    """What load_family gives, of a base model and adapters over it; `first` has the tokenizer."""
    base = base_of(first.policy.model)
    lm = load_policy_lm(replace(first.policy, model=base), first.renderer)
    names = {one.number: f"model{one.number}" if is_adapter(one.policy.model) else None for one in members}
    for one in members:
        if names[one.number]:
            lm = put_on(lm, one.policy.model, names[one.number], name=f"its base model {base}")
    return {number: (lm, name) for number, name in names.items()}


def over_the_same(one: Member, first: Member) -> bool:
    """Whether a model is an adapter of linear layers alone, with the vocabulary of the first and of the base model."""
    path = one.policy.model
    if not is_adapter(path) or not all(LORA_WEIGHT.search(name) for name in adapter_shapes(path)):
        return False
    config = load_config(base_of(path), trust_remote_code=one.policy.trust_remote_code).get_text_config()
    own = one.renderer.tokenizer
    return len(own) <= config.vocab_size and own.get_vocab() == first.renderer.tokenizer.get_vocab()
