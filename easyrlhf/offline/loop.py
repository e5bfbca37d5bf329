"""The loop of the offline stages: what they learn from is fixed before they start."""

import itertools
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sized
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from datasets import Dataset
from torch import Tensor

from easyrlhf.config import TrainConfig
from easyrlhf.data.batches import optimiser_batches
from easyrlhf.engine import processes
from easyrlhf.engine.engine import Engine, weighted_sums
from easyrlhf.engine.micro_batches import micro_batches
from easyrlhf.models.prefix_sharing import PromptGroup
from easyrlhf.offline.evaluations import Evaluations, planned_evaluations
from easyrlhf.report.console import Console
from easyrlhf.report.log import MetricsLog
from easyrlhf.run.run import Run
from easyrlhf.run.step_end import Advance, StepEnd, ignore

Row = dict[str, Any]


def pair_group(row: Row) -> PromptGroup:
    """A comparison's prompt with its chosen and its rejected completion."""
    return row["prompt_ids"], [row["chosen_ids"], row["rejected_ids"]]


@dataclass(frozen=True)
class Task:
    """What a stage plugs into the loop.

    units     what one row adds to the denominator of the loss: its label tokens, or 1 for a pair
    tokens    tokens of one row in a forward pass, padding apart
    loss      rows of a micro-batch → (summed loss [], sums of metrics that are reported per unit)
    evaluate  (held-out rows, function that is told how many more of them are done) → metrics
    prepare   rows of an optimiser batch → the same rows with what they need to know of one another
    conclude  metrics a unit, of a step or of held-out rows → those that are logged
    """

    units: Callable[[Row], int]
    tokens: Callable[[Row], int]
    loss: Callable[[list[Row]], tuple[Tensor, dict[str, Tensor]]]
    evaluate: Callable[[Dataset, Advance], dict[str, float]]
    prepare: Callable[[list[Row]], list[Row]] = lambda rows: rows
    conclude: Callable[[dict[str, float]], dict[str, float]] = lambda means: means


def planned_steps(config: TrainConfig, rows: int) -> int:
    """Optimiser steps of a run over this many rows."""
    steps = config.epochs * math.ceil(rows / config.batch_size)
    return min(steps, config.max_steps or steps)


def planned_batches(config: TrainConfig, rows: int) -> Iterator[np.ndarray]:
    """Row numbers of every optimiser batch of a run over this many rows."""
    batches = optimiser_batches(rows, config.batch_size, config.seed, config.epochs)
    return itertools.islice(batches, planned_steps(config, rows))


def planned_rows(config: TrainConfig, rows: int) -> np.ndarray:
    """Numbers of the rows that a run over this many will read, in order."""
    return np.unique(np.concatenate(list(planned_batches(config, rows))))


def offline_evaluations(config: TrainConfig, rows: int, valid: Sized | None) -> Evaluations | None:
    """When a run over this many rows evaluates on the held-out ones; None without any."""
    if valid is None:
        return None
    steps = planned_steps(config, rows)
    return planned_evaluations(config, steps, min(steps * config.batch_size, config.epochs * rows), len(valid))


def train_steps(
    run: Run,
    engine: Engine,
    task: Task,
    train: Dataset,
    valid: Dataset | None,
    log: MetricsLog,
    console: Console,
):
    """Train from the run's step to the last one; evaluate, checkpoint and stop where the settings say.

    Returns the metrics of the step whose weights the model has in the end.
    """
    config, total = run.config, planned_steps(run.config, len(train))
    # Batches follow from seed and epoch alone, so a resumed run skips those it has seen, and reads none of them.
    batches, evaluations = planned_batches(config, len(train)), offline_evaluations(config, len(train), valid)
    course = StepEnd(run, {"model": engine}, total, log, console, evaluations)
    looked_at = evaluations and evaluations.chosen(valid)

    def evaluated() -> dict[str, float]:
        return course.evaluated(lambda advance: task.evaluate(looked_at, advance))

    with course.shown():
        # Before the first step, so that the curve begins with the model that was given.
        if run.step == 0 and valid is not None and config.eval_at_start:
            course.begin(evaluated())
        for batch in itertools.islice(batches, run.step, None):
            # 1. Learn. A step that cannot be taken leaves the weights, and the run is saved as it stood.
            started = time.perf_counter()
            with run.unchanged_is_kept(course.engines):
                metrics = train_step(engine, task, [train[int(i)] for i in batch], run)
            run.step += 1
            metrics |= {
                "epoch": run.step * config.batch_size / len(train),
                "time/step": time.perf_counter() - started,
            }
            # 2. Look, on held-out rows.
            if course.evaluates:
                metrics |= evaluated()
            # 3. Log, save, stop.
            course.end_step(metrics)
    if run.take_best(course.engines):
        task.evaluate(looked_at, ignore)  # files that describe the evaluation are of these weights too
    return course.metrics()


def train_step(engine: Engine, task: Task, rows: list[Row], run: Run) -> dict[str, float]:
    """One optimiser step on these rows, in micro-batches of all processes; returns the step's metrics."""
    started = time.perf_counter()
    # What a loss compares over the batch (KTO's KL, AOT's ranks) is known before the batch is cut into micro-batches.
    rows = task.prepare(rows)
    lengths, count = list(map(task.tokens, rows)), sum(map(task.units, rows))
    work = [
        (partial(task.loss, [rows[index] for index in group]), weight)
        for group, weight in micro_batches(lengths, run.micro_batch_tokens)
    ]
    metrics, sums = engine.step(work, count)
    metrics |= task.conclude({name: total / count for name, total in sums.items()})
    metrics |= {"length/mean": sum(lengths) / len(rows), "length/max": max(lengths)}
    return metrics | {"tokens_per_second": sum(lengths) / (time.perf_counter() - started)}


def mean_metrics(task: Task, rows: Dataset, batch_size: int, budget: int, advance: Advance) -> dict[str, float]:
    """The loss and the metrics of rows, per unit, in batches that are prepared like the optimiser's."""
    sums, count = Counter(), 0.0
    # Batches as large as the optimiser's: losses that compare within a batch are else of another size.
    for start in range(0, len(rows), batch_size):
        measured = []
        batch = task.prepare([rows[i] for i in range(start, min(start + batch_size, len(rows)))])
        for group, weight in micro_batches([task.tokens(row) for row in batch], budget):
            loss, extra = task.loss([batch[index] for index in group])
            measured.append((weight, {"loss": loss.detach(), **extra}))
        sums.update(weighted_sums(measured))
        count += sum(map(task.units, batch))
        advance(len(batch))
    return task.conclude({name: total / count for name, total in processes.all_reduce_numbers(sums).items()})
