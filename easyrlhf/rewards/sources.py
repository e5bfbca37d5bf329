"""Where scores come from: a trained reward model, python functions, or a weighted sum of several."""

import asyncio
import importlib.util
import inspect
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from easyrlhf.data.batches import micro_batches, pad_right
from easyrlhf.data.render import Renderer
from easyrlhf.errors import InputError, RunError
from easyrlhf.models.value_head import ScalarModel

Row = dict[str, Any]


class RewardError(RunError):
    """A reward source raised, or returned something that is not one finite number per completion."""


@dataclass(frozen=True)
class RewardModel:
    """Scores completions with a trained reward model.

    renderer  the reward model's own
    same      whether the policy writes exactly the reward model's tokens; else texts are rendered anew
    """

    model: ScalarModel
    renderer: Renderer
    policy_renderer: Renderer
    same: bool
    micro_batch_tokens: int
    name: str = "reward_model"

    @torch.no_grad()
    def __call__(self, rows: list[Row], completions: list[list[int]], finished: Tensor) -> list[float]:
        """Score of each completion, read at its end-of-turn token, or at its last token where it was cut off.

        rows         prompt rows
        completions  token ids through the end-of-turn token
        finished     [B]
        """
        device = self.model.head.weight.device
        ids = self.sequences(rows, completions, finished.tolist())
        scores = torch.zeros(len(ids))
        for group in micro_batches([len(row) for row in ids], self.micro_batch_tokens):
            batch = [ids[index] for index in group]
            lengths = torch.tensor([len(row) for row in batch], device=device)
            scores[group] = self.model.scores(pad_right(batch, self.renderer.pad_id).to(device), lengths).cpu()
        return scores.tolist()

    def sequences(self, rows: list[Row], completions: list[list[int]], finished: list[bool]) -> list[list[int]]:
        """Prompt + completion in the reward model's tokens."""
        if self.same:
            return [row["prompt_ids"] + ids for row, ids in zip(rows, completions, strict=True)]
        sequences = []
        for row, ids, ended in zip(rows, completions, finished, strict=True):
            prompt, text = json.loads(row["prompt"]), self.policy_renderer.decode(ids)
            answer = text if isinstance(prompt, str) else [{"role": "assistant", "content": text.strip()}]
            completion_ids = self.renderer.completion_ids(prompt, answer)
            sequences.append(self.renderer.prompt_ids(prompt) + (completion_ids if ended else completion_ids[:-1]))
        return sequences


@dataclass(frozen=True)
class RewardFunction:
    """Calls a python function with the signature of TRL's reward functions.

    function(prompts, completions, completion_ids, **columns) -> list of numbers, sync or async. Prompts and
    completions are strings, or message lists where the prompt is one; every column of the prompt rows is a keyword.
    """

    function: Callable[..., Any]
    renderer: Renderer
    name: str

    def __call__(self, rows: list[Row], completions: list[list[int]], finished: Tensor) -> list[float]:
        """What the function says of each completion. Raises RewardError when it raises."""
        prompts = [json.loads(row["prompt"]) for row in rows]
        texts = [self.renderer.decode(ids) for ids in completions]
        answers = [
            text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]
            for prompt, text in zip(prompts, texts, strict=True)
        ]
        columns = [json.loads(row["columns"]) for row in rows]
        names = sorted(set().union(*columns))
        keywords = {name: [column.get(name) for column in columns] for name in names}
        try:
            scores = self.function(prompts=prompts, completions=answers, completion_ids=completions, **keywords)
            return asyncio.run(scores) if inspect.isawaitable(scores) else scores
        except Exception as error:
            place = f"{type(error).__name__}: {error}"
            raise RewardError(f"reward function {self.name} raised {place}\n{first_sample(prompts, texts)}") from error


@dataclass(frozen=True)
class Rewards:
    """The weighted sum of several sources, clipped, less the penalty of completions that were cut off."""

    sources: list[RewardModel | RewardFunction]
    weights: list[float]
    clip: float | None
    missing_eos_penalty: float
    renderer: Renderer

    def __call__(
        self, rows: list[Row], completions: list[list[int]], finished: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Scores [B] of the completions, and the raw scores [B] of every source by name. Raises RewardError."""
        raw, scores = {}, torch.zeros(len(rows), device=finished.device)
        for weight, source, name in zip(self.weights, self.sources, self.names(), strict=True):
            given = source(rows, completions, finished)
            self.check(name, given, rows, completions)
            raw[name] = torch.tensor([float(score) for score in given], device=finished.device)
            scores = scores + weight * raw[name]
        if self.clip is not None:
            scores = scores.clamp(-self.clip, self.clip)
        return scores - self.missing_eos_penalty * (~finished).float(), raw

    def names(self) -> list[str]:
        """The sources' names; one that stands twice is numbered from its second time on."""
        names = [source.name for source in self.sources]
        earlier = [names[:place].count(name) for place, name in enumerate(names)]
        return [f"{name}_{count + 1}" if count else name for name, count in zip(names, earlier, strict=True)]

    def check(self, name: str, scores: Any, rows: list[Row], completions: list[list[int]]) -> None:
        """Raise RewardError, with the sample that did it, unless there is one finite number per completion."""
        count = len(scores) if isinstance(scores, list | tuple) else None
        if count != len(completions):
            found = f"{count} scores" if count is not None else f"a {type(scores).__name__}"
            raise RewardError(
                f"{name} returned {found} for {len(completions)} completions; it must give a list of one each"
            )
        for score, row, ids in zip(scores, rows, completions, strict=True):
            if not is_finite_number(score):
                sample = first_sample([json.loads(row["prompt"])], [self.renderer.decode(ids)])
                raise RewardError(
                    f"{name} returned {score!r}, which is not a finite number, for this sample:\n{sample}"
                )


def is_finite_number(score: Any) -> bool:
    """Whether a score can be used: int, float or a scalar tensor, and finite."""
    try:
        return math.isfinite(score)
    except (TypeError, ValueError, OverflowError):
        return False


def first_sample(prompts: list, texts: list[str]) -> str:
    """The first prompt and completion of a batch, for a message."""
    prompt = prompts[0] if isinstance(prompts[0], str) else prompts[0][-1]["content"]
    return f"  prompt: {prompt!r}\n  completion: {texts[0]!r}"


def load_reward_function(spec: str, renderer: Renderer) -> RewardFunction:
    """The function named by `file.py:fn`. Raises InputError when the file or the function is not there."""
    path, _, name = spec.rpartition(":")
    if not Path(path).is_file():
        raise InputError(f"--reward_funcs {spec}: there is no file {path}")
    try:
        module = load_module(path)
    except Exception as error:
        raise InputError(f"--reward_funcs {spec}: importing {path} raised {type(error).__name__}: {error}") from error
    function = getattr(module, name, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if inspect.isfunction(value)]
        raise InputError(f"--reward_funcs {spec}: {path} has no function {name}; it has {', '.join(known) or 'none'}")
    return RewardFunction(function, renderer, name)


def load_module(path: str | Path) -> ModuleType:
    """A python file as a module; whatever it raises goes through."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
