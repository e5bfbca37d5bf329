"""The loop of the offline stages: what they learn from is fixed before they start."""

import itertools
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset
from torch import Tensor

from easyrlhf.data.batches import micro_batches, optimiser_batches
from easyrlhf.engine.engine import Engine
from easyrlhf.engine.run import Run
from easyrlhf.report.console import Console
from easyrlhf.report.diagnostics import Watch, alarms
from easyrlhf.report.log import MetricsLog
from easyrlhf.report.metrics import is_better

Row = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """What a stage plugs into the loop.

    units     what one row adds to the denominator of the loss: its label tokens, or 1 for a pair
    tokens    tokens of one row in a forward pass, padding apart
    loss      rows of a micro-batch → (summed loss [], sums of metrics that are reported per unit)
    evaluate  held-out rows → metrics
    prepare   rows of an optimiser batch → the same rows with what they need to know of one another
    """

    units: Callable[[Row], int]
    tokens: Callable[[Row], int]
    loss: Callable[[list[Row]], tuple[Tensor, dict[str, Tensor]]]
    evaluate: Callable[[Dataset], dict[str, float]]
    prepare: Callable[[list[Row]], list[Row]] = lambda rows: rows


def planned_steps(config, rows: int) -> int:
    """Optimiser steps of a run over this many rows."""
    steps = config.epochs * math.ceil(rows / config.batch_size)
    return min(steps, config.max_steps or steps)


def planned_batches(config, rows: int) -> Iterator[np.ndarray]:
    """Row numbers of every optimiser batch of a run over this many rows."""
    batches = optimiser_batches(rows, config.batch_size, config.seed, config.epochs)
    return itertools.islice(batches, planned_steps(config, rows))


def planned_rows(config, rows: int) -> np.ndarray:
    """Numbers of the rows that a run over this many will read, in order."""
    return np.unique(np.concatenate(list(planned_batches(config, rows))))


def fit(
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
    batches = planned_batches(config, len(train))
    watch = Watch(config.stage, log.rows())
    with console.progress(total, run.step) as progress:
        for batch in itertools.islice(batches, run.step, None):
            started = time.time()
            metrics = train_step(engine, task, [train[int(i)] for i in batch], run)
            run.step += 1
            metrics |= {
                "epoch": run.step * config.batch_size / len(train),
                "time/step": time.time() - started,
            }
            if valid is not None and (run.step == total or is_due(run.step, config.eval_steps, total)):
                metrics |= task.evaluate(valid)
            note_best(run, metrics)
            log.log(run.step, metrics)
            found = watch.add({"step": run.step} | metrics)
            progress.advance(metrics)
            if run.step % config.log_steps == 0 or run.step == total:
                console.row(run.step, metrics)
            console.verdicts(found, run.step)
            run.stop_on_alarm(alarms(found), {"model": engine})
            run.stop_if_requested({"model": engine})
            if run.step == total or run.is_best or is_due(run.step, config.save_steps, total):
                run.save({"model": engine})
    if run.take_best({"model": engine}):
        task.evaluate(valid)  # files that describe the evaluation are of these weights too
    return metrics_of(run, log)


def note_best(run: Run, metrics: dict[str, float]) -> None:
    """Remember this step as the best when it was evaluated and is better than all before, by --keep_best."""
    name = run.config.keep_best
    if name not in metrics or not math.isfinite(metrics[name]):
        return
    if run.best is None or is_better(name, metrics[name], run.best["value"]):
        run.best = {"metric": name, "step": run.step, "value": metrics[name]}


def metrics_of(run: Run, log: MetricsLog) -> dict[str, float]:
    """What was logged at the best step, or without --keep_best at the last."""
    step = run.best["step"] if run.best else run.step
    return {name: value for row in log.rows() if row["step"] == step for name, value in row.items() if name != "step"}


def is_due(step: int, every: int | None, total: int) -> bool:
    """Whether something done `every` so many steps (None: every tenth of the run; 0: never) is due at this step."""
    every = max(1, total // 10) if every is None else every
    return every > 0 and step % every == 0


def train_step(engine: Engine, task: Task, rows: list[Row], run: Run) -> dict[str, float]:
    """One optimiser step on these rows, in micro-batches; returns the step's metrics."""
    started = time.time()
    rows = task.prepare(rows)
    groups = micro_batches([task.tokens(row) for row in rows], run.micro_batch_tokens)
    count, sums = sum(map(task.units, rows)), Counter()

    def loss_sum(group: list[int]) -> Tensor:
        loss, extra = task.loss([rows[index] for index in group])
        sums.update({name: value.item() for name, value in extra.items()})
        return loss

    metrics = engine.step(groups, loss_sum, count)
    metrics |= {name: total / count for name, total in sums.items()}
    lengths = list(map(task.tokens, rows))
    metrics |= {"length/mean": sum(lengths) / len(rows), "length/max": max(lengths)}
    return metrics | {"tokens_per_second": sum(lengths) / (time.time() - started)}


def mean_metrics(task: Task, rows: Dataset, batch_size: int, budget: int) -> dict[str, float]:
    """The loss and the metrics of rows, per unit, in batches that are prepared like the optimiser's."""
    sums, count = Counter(), 0.0
    for start in range(0, len(rows), batch_size):
        batch = task.prepare([rows[i] for i in range(start, min(start + batch_size, len(rows)))])
        for group in micro_batches([task.tokens(row) for row in batch], budget):
            loss, extra = task.loss([batch[index] for index in group])
            sums.update({"loss": loss.item()} | {name: value.item() for name, value in extra.items()})
        count += sum(map(task.units, batch))
    return {name: total / count for name, total in sums.items()}
