"""Episodes without a model: a sampler that says what a script has for it, and players of environments."""

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import trl

from easyrlhf.callables import HANDED, name_of
from easyrlhf.data.batches import pad_right
from easyrlhf.data.chat_template import Rendering
from easyrlhf.data.render import Renderer
from easyrlhf.episodes.chat import EpisodeLimits
from easyrlhf.episodes.environments import environment_tools, load_environment
from easyrlhf.episodes.play import Player
from easyrlhf.episodes.tools import enable_parsing
from easyrlhf.rollout.sampler import Samples

END = 2  # the end-of-turn token of the tests' tokenizer
ASKED = [{"role": "user", "content": "Name a colour."}]


@dataclass
class Scripted:
    """Samples what `say` gives: (number of the row, number of the turn) → ids; cut to the limit as a model's are.

    asked  of each generation: the prompts, keys and limits
    ends   tokens with which a turn is finished
    """

    say: Callable[[int, int], list[int]]
    asked: list[tuple[list[list[int]], list[tuple[int, ...]], list[int]]] = field(default_factory=list)
    ends: tuple[int, ...] = (END,)
    pad_id: int = 0
    temperature: float = 1.0
    lm: Any = field(default_factory=lambda: SimpleNamespace(device=torch.device("cpu")))

    def generate(self, prompts, keys, limits) -> Samples:
        """The script's turns; the logprob of a token is -id / 8."""
        self.asked.append(([*map(list, prompts)], list(keys), list(limits)))
        said = [
            self.say(key[2], key[3] if len(key) > 3 else 0)[:limit] for key, limit in zip(keys, limits, strict=True)
        ]
        return Samples(
            pad_right(said),
            pad_right([[1] * len(ids) for ids in said]).float(),
            pad_right([[-token / 8 for token in ids] for ids in said], 0.0),
            torch.tensor([ids[-1] in self.ends for ids in said]),
        )


@pytest.fixture
def with_template(tokenizer):
    """with_template(name, **kwargs) -> a renderer with one of the templates that trl ships."""
    templates = Path(trl.__file__).parent / "chat_templates"

    def make(name: str, **kwargs) -> Renderer:
        own = copy.deepcopy(tokenizer)
        own.chat_template = (templates / f"{name}.jinja").read_text()
        return Renderer(own, rendering=Rendering(template_kwargs=kwargs))

    return make


@pytest.fixture
def sampler(tokenizer):
    """sampler(say) -> a Scripted one; `say` gives texts, ended, or ids as they are. A list is said turn by turn."""

    def make(say) -> Scripted:
        def ids(number: int, turn: int) -> list[int]:
            said = say[turn] if isinstance(say, list) else say(number, turn)
            return tokenizer(said)["input_ids"] + [END] if isinstance(said, str) else list(said)

        return Scripted(ids)

    return make


@pytest.fixture
def player(chatml_renderer):
    """player(environment, tools=(), renderer=, generations=, timeout=, workers=, drop=, **EpisodeLimits) -> Player."""
    handed = []

    def make(environment, *tools, renderer: Renderer = chatml_renderer, **changed) -> Player:
        names = [name_of(one) for one in (environment, *tools) if one is not None]
        handed.extend(names)
        spec = names.pop(0) if environment is not None else None
        found = load_environment(spec, names)
        if renderer is not chatml_renderer:
            enable_parsing(renderer)
        limits = {"turns": 8, "tokens": 400, "turn": 400, "prompt": 2000}
        limits |= {name: changed.pop(name) for name in limits if name in changed}
        settings = {"generations": 1, "timeout": 5.0, "workers": 4, "drop": False} | changed
        described = environment_tools(found, found.looked_at, "--environment")
        return Player(found, renderer, EpisodeLimits(**limits), described, **settings)

    yield make
    for name in handed:
        HANDED.pop(name, None)


@pytest.fixture
def rows(chatml_renderer):
    """rows(*columns, prompt=…) -> a prompt row for each, as load_tokens gives it."""

    def make(*columns: dict, prompt=ASKED) -> list[dict]:
        ids = chatml_renderer.prompt_ids(prompt)
        return [
            {"prompt_ids": ids, "prompt": json.dumps(prompt), "columns": json.dumps(one), "length": len(ids)}
            for one in columns
        ]

    return make


@pytest.fixture
def play(rows):
    """play(player, sampler, *columns, prompt=) -> Samples of an episode for each, keys (7, 0, number)."""

    def run(player: Player, sampler: Scripted, *columns: dict, prompt=ASKED) -> Samples:
        columns = columns or ({},)
        keys = [(7, 0, number) for number in range(len(columns))]
        return player.play(sampler, rows(*columns, prompt=prompt), keys)

    return run


def random_ids(number: int, turn: int) -> list[int]:
    """1 to 6 ids that no text has to be encoded as, and the end of turn."""
    draw = np.random.default_rng((number, turn))
    return [*draw.integers(3, 280, draw.integers(1, 7)).tolist(), END]


@pytest.fixture
def nonsense() -> Callable[[int, int], list[int]]:
    """nonsense(number, turn) -> ids as random_ids gives them."""
    return random_ids
