"""Where scores come from: a trained reward model, python functions, servers, or a weighted sum of several."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import torch
from torch import Tensor

from easyrlhf.data.render import Renderer
from easyrlhf.engine import processes
from easyrlhf.engine.faults import named
from easyrlhf.rewards.asides import Logged
from easyrlhf.rewards.async_source import AsyncSource, Pending
from easyrlhf.rewards.batch import RewardBatch, RewardError, Row, TrainerState, as_number, score_list
from easyrlhf.rewards.environment import EnvironmentReward
from easyrlhf.rewards.stream import OfAllPrompts, RewardStream
from easyrlhf.rewards.workers import Workers

Source = AsyncSource | Callable[[list[Row], list[list[int]], Tensor], list]  # the latter with a name


@dataclass(frozen=True)
class Rewards:
    """The weighted sum of several sources, clipped, less the penalty of completions that were cut off.

    Used inside of `with`: worker processes, if any, live no longer than that.

    streams whether functions and servers are asked while others are sampled
    state   how far the training is, for functions that ask; the loop moves it along
    logged  numbers that functions have logged since they were last taken
    extra   what functions have logged of each completion of the last call
    """

    sources: list[Source]
    weights: list[float]
    clip: float | None
    missing_eos_penalty: float
    renderer: Renderer
    workers: Workers | None = None
    streams: bool = False
    state: TrainerState = field(default_factory=TrainerState)
    logged: dict[str, list[float]] = field(default_factory=dict)
    extra: list[dict[str, Any]] = field(default_factory=list)

    def __enter__(self) -> "Rewards":
        if self.workers:
            self.workers.__enter__()
        return self

    def __exit__(self, *what) -> None:
        if self.workers:
            self.workers.__exit__(*what)

    def stream(self, rows: list[Row]) -> AbstractContextManager[RewardStream | None]:
        """What asks functions and servers about the answers to prompt rows while these are sampled, where it is to."""
        if not self.streams:
            return nullcontext()
        sources = {place: source for place, source in enumerate(self.sources) if isinstance(source, AsyncSource)}
        return RewardStream(sources, rows, self.renderer, self.state)

    def __call__(
        self, rows: list[Row], completions: list[list[int]], finished: Tensor, stream: RewardStream | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Scores [B] of the completions, and the raw scores [B] of every source by name. Raises RewardError.

        A raw score is nan where its source does not apply; the sum is over those that do, and nan where there is none.
        Behind the sources stand the parts of which their rewards are made, as `source/part`: the sum has them already.
        Among several processes, functions and servers are asked by each about a share of the prompts.

        stream  of these rows, which has asked already
        """
        everything = RewardBatch.of(rows, completions, finished.tolist(), self.renderer, self.state)
        own = everything.share(processes.size(), processes.rank())
        batch = everything.part(own.start, own.stop)
        begun = self._begin(batch) if stream is None else stream.begun(completions, finished.tolist())
        # Models first: a process whose function fails must not leave the others alone with their forward passes.
        models = {
            place: self._said_by_model(source, rows, completions, finished, everything)[own]
            for place, source in enumerate(self.sources)
            if not isinstance(source, AsyncSource)
        }
        nothing = {name: [] for name in self.names()}, Logged()
        everyone = processes.gather_results(lambda: self._finish(batch, begun, models) if len(batch) else nothing)
        parts = self._keep([logged for _, logged in everyone])
        for source in self.sources:
            parts |= source.parts(rows) if isinstance(source, EnvironmentReward) else {}
        raw = {
            name: torch.tensor([score for part, _ in everyone for score in part[name]], device=finished.device)
            for name in self.names()
        }
        scores = self._weighted_sum(raw, everything)
        if self.clip is not None:
            scores = scores.clamp(-self.clip, self.clip)
        scores = scores - self.missing_eos_penalty * (~finished).float()
        raw |= {name: as_scores(values, finished.device) for name, values in parts.items()}
        return scores.masked_fill(failed_episodes(rows).to(scores.device), math.nan), raw

    def _begin(self, batch: RewardBatch) -> dict[int, Pending]:
        """Ask what may overlap about this process's completions, by the number of the source."""
        return {
            place: source.start(batch)
            for place, source in enumerate(self.sources)
            if isinstance(source, AsyncSource) and source.overlaps and len(batch)
        }

    def _said_by_model(
        self, source: Source, rows: list[Row], completions: list[list[int]], finished: Tensor, batch: RewardBatch
    ) -> list:
        """What a source that is no function says of all completions."""
        with named(source.name, batch.longest_sample):
            given = source(rows, completions, finished)
        return score_list(given, source.name, batch)

    def _finish(
        self, batch: RewardBatch, begun: dict[int, Pending | OfAllPrompts], models: dict[int, list]
    ) -> tuple[dict[str, list[float]], Logged]:
        """The raw scores of this process's completions by source, and what was logged of them.

        begun   requests that are under way, by the number of their source
        models  what models said, likewise; whoever is in neither is asked now
        """
        raw, logged = {}, Logged(len(batch))
        for place, (source, name) in enumerate(zip(self.sources, self.names(), strict=True)):
            given = models.get(place)
            if given is None:
                pending = begun.get(place) or source.start(batch)
                given = pending.scores()
                logged.take(name, pending.logged)
            raw[name] = numbers(name, given, batch)
        return raw, logged

    def _keep(self, said: list[Logged]) -> dict[str, list[float | None]]:
        """Keep what the functions of all processes have logged; returns the parts of rewards by name."""
        logged = Logged()
        for one in said:
            logged.append(one)
        for name, value in logged.numbers:
            self.logged.setdefault(name, []).append(value)
        self.extra[:] = logged.rows()
        return logged.parts

    def _weighted_sum(self, raw: dict[str, Tensor], everything: RewardBatch) -> Tensor:
        """The sum [B] over the sources that apply, nan where none does. Raises RewardError where that is everywhere."""
        none = torch.stack(list(raw.values())).isnan().all(0)
        if none.all():
            raise RewardError(
                f"{' and '.join(raw)} returned None for all {len(none)} completions, so that none has a score; at "
                f"least one must apply to some. The first of them:\n{everything.sample()}"
            )
        scores = torch.zeros(len(none), device=none.device)
        for weight, name in zip(self.weights, raw, strict=True):
            scores = scores + weight * raw[name].nan_to_num()
        return scores.masked_fill(none, math.nan)

    def take_logged(self) -> dict[str, float]:
        """Means of what functions have logged since the last call, under `<source>/<name>`."""
        means = {name: sum(values) / len(values) for name, values in self.logged.items()}
        self.logged.clear()
        return means

    def names(self) -> list[str]:
        """The sources' names; one that stands twice is numbered from its second time on, as no source is named."""
        return distinct_names([source.name for source in self.sources])


def as_scores(values: list[float | None], device: torch.device) -> Tensor:
    """Numbers as scores, nan for None.  [B]"""
    return torch.tensor([math.nan if value is None else value for value in values], device=device)


def failed_episodes(rows: list[Row]) -> Tensor:
    """Which rows are episodes whose environment failed: no source says anything of those.  [B]"""
    return torch.tensor(["episode" in row and row["episode"].dropped for row in rows])


def numbers(name: str, scores: list, batch: RewardBatch) -> list[float]:
    """Scores as floats, nan for None. Raises RewardError, with the sample that did it, for any other than a number."""
    found = [as_number(score) for score in score_list(scores, name, batch)]
    if None in found:
        place = found.index(None)
        said = repr(scores[place])[:200]
        raise RewardError(
            f"{name} returned {said}, which is not a finite number, for this sample:\n{batch.sample(place)}"
        )
    return found


def distinct_names(names: list[str]) -> list[str]:
    """The names, each that stood before with the first number from 2 on that makes it new."""
    found: list[str] = []
    for name in names:
        numbered = (f"{name}_{number}" for number in count(2))
        free = (new for new in numbered if new not in names and new not in found)
        found.append(next(free) if name in found else name)
    return found
