"""When a run evaluates, and on how many held-out rows: as the settings say, or within a fifth of its work."""

import random
from dataclasses import dataclass
from typing import Any

from easyrlhf.config import OnlineConfig, TrainConfig

SHARE = 5  # by default the evaluations cost at most one part in so many of the training
FEWEST = 100  # rows; below that the training is a trial, and what it says of fewer rows is noise
# Held-out rows that cost as much as one row of training: its backward pass is two forward passes, and a sampled answer
# is scored and then learned from in several passes.
OFFLINE_COST, ONLINE_COST = 3, 2


@dataclass(frozen=True)
class Evaluations:
    """The evaluations of a run; made by planned_evaluations.

    every    steps between two of them; there is one at the end in any case
    times    how many there are, the one before the first step included
    rows     held-out rows that each looks at
    of       held-out rows there are
    trained  the training in rows of evaluation
    steps    optimiser steps of the run
    """

    every: int
    times: int
    rows: int
    of: int
    trained: int
    steps: int

    @property
    def share(self) -> float:
        """The part of the run's work that is evaluation."""
        return self.times * self.rows / (self.times * self.rows + self.trained)

    @property
    def in_steps(self) -> float:
        """What one evaluation costs, in steps."""
        return self.rows / self.trained * self.steps

    def line(self) -> str:
        """For the start summary: `evaluating 4 times on 252 rows: about 18 % of the run`."""
        times = "once" if self.times == 1 else f"{self.times:,} times"
        rows = f"{self.rows:,} rows" if self.rows == self.of else f"{self.rows:,} of {self.of:,} rows"
        return f"evaluating {times} on {rows}: about {100 * self.share:.0f} % of the run"

    def chosen(self, rows: Any) -> Any:
        """The rows to look at: all, or some, the same in every evaluation."""
        return rows if self.rows == self.of else Chosen(rows, self.numbers)

    @property
    def numbers(self) -> list[int]:
        """Numbers of the rows to look at, in order; of some rows the same in every run, whatever its seed.

        At random: liked and disliked answers, or languages, may take turns in a file.
        """
        return sorted(random.Random(0).sample(range(self.of), self.rows))


class Chosen:
    """Some rows of a set, by their numbers; they are read as the whole set is."""

    def __init__(self, rows: Any, numbers: list[int]):
        self.rows, self.numbers = rows, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, key: int | str) -> Any:
        """A row, or a whole column."""
        if isinstance(key, str):
            column = self.rows[key]
            return [column[number] for number in self.numbers]
        return self.rows[self.numbers[key]]


def planned_evaluations(config: TrainConfig, steps: int, trained: int, held_out: int) -> Evaluations:
    """The evaluations of a run: a function of the settings and of counts, so that a resumed run has the same.

    By default there are ten to twenty on all rows, or as many as cost a fifth of the training; where even those that
    must be cost more, they look at a sample. --eval_steps is followed, and --keep_best, which chooses among the
    evaluations, has all of them.

    steps     optimiser steps of the whole run
    trained   rows that it trains on in all, every pass counted; online, completions
    held_out  rows to evaluate on
    """
    cost = ONLINE_COST if isinstance(config, OnlineConfig) else OFFLINE_COST
    work = trained * cost
    at_start = int(type(config).eval_at_start)  # the stage's own: a run may be continued without it, on the same plan
    every, rows = every_so_many(config.eval_steps, steps), held_out
    if config.eval_steps is None and not config.keep_best:
        affordable = max(1, work // SHARE // held_out - at_start)
        every = max(every, -(-steps // affordable))
        rows = min(held_out, max(FEWEST, work // SHARE // (times_after(0, every, steps) + at_start)))
    times = times_after(0, every, steps) + config.eval_at_start
    return Evaluations(every, times, rows, held_out, work, steps)


def every_so_many(every: int | None, total: int) -> int:
    """What a setting such as save_steps means: every tenth of the run where it is not given, 0 for the end alone."""
    return max(1, total // 10) if every is None else every


def times_after(step: int, every: int, total: int) -> int:
    """How often something done `every` so many steps (0: never), and at the end, is still to come after a step."""
    if step >= total:
        return 0
    return total // every + (total % every > 0) - step // every if every else 1
