"""The course of an offline stage, from its settings to its finished folder; sft and rm differ by what they plug in."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from easyrlhf.config import TrainConfig
from easyrlhf.data.render import Renderer
from easyrlhf.engine.choice import make_engine
from easyrlhf.engine.engine import OptimiserSettings
from easyrlhf.offline.loop import Task, offline_evaluations, planned_rows, planned_steps, train_steps
from easyrlhf.report.console import Console
from easyrlhf.run.run import Run, open_run
from easyrlhf.stages import lifecycle
from easyrlhf.stages.models import saved, spread_first
from easyrlhf.stages.plan import RunPlan, print_plan
from easyrlhf.stages.recorded_parents import with_parents
from easyrlhf.stages.rows import read_sets


@dataclass(frozen=True)
class OfflineStage:
    """What an offline stage is made of.

    title   heading of the start summary
    kind    of the rows it learns from: demonstration or comparison
    model   (run, renderer) → the module whose parameters are trained
    task    (model, run) → its part of the loop
    save    (run, model, renderer) → writes the model into the run's folder; returns entries for stage.json. The main
            process alone calls it, or all where each has a part of the model
    check   (settings, renderer, data, console) → raises InputError for data that the method cannot use
    join    (run, renderer, model, rows, numbers, console) → the rows, with what must be computed once of those that the
            run will read
    """

    title: str
    kind: str
    model: Callable[[Run, Renderer], nn.Module]
    task: Callable[[Any, Run], Task]
    save: Callable[[Run, Any, Renderer], dict]
    check: Callable[[TrainConfig, Renderer, dict, Console], None] = lambda *_: None
    join: Callable[..., Any] = lambda run, renderer, model, rows, numbers, console: rows


def train_offline(config: TrainConfig, stage: OfflineStage) -> Path:
    """Run an offline stage and leave the result in `output_dir`.

    Returns the folder. Raises InputError for bad input before a model is loaded, RunError when training fails,
    RunStopped when it was asked to stop.
    """
    config = lifecycle.settled(config)
    console = Console(config.stage)
    with open_run(config) as run:
        if run is None:
            return lifecycle.already_complete(config, console)
        config = with_parents(run, console)
        renderer = lifecycle.prepare(run, console)
        with console.reading():
            data = read_sets(run, renderer, stage.kind)
        train, valid = data["train"].rows, data["valid"] and data["valid"].rows
        steps, parents = planned_steps(config, len(train)), lifecycle.parents_of(config)
        if not run.recognise(lifecycle.stage_info(run, renderer, data, parents)):
            return lifecycle.already_complete(config, console)
        evaluations = offline_evaluations(config, len(train), valid)
        print_plan(run, console, RunPlan(stage.title, steps, data, parents, evaluations=evaluations))
        stage.check(config, renderer, data, console)
        if config.dry_run:
            return Path(config.output_dir)

        console.note("loading the model …")
        model = spread_first(run, stage.model(run, renderer), config.model)
        train = stage.join(run, renderer, model, train, planned_rows(config, len(train)), console)
        valid = valid and stage.join(run, renderer, model, valid, np.array(evaluations.numbers), console)
        engine = make_engine(model, OptimiserSettings.of(config, steps), run.zero, run.dtype)
        run.begin({"model": engine})
        with lifecycle.open_log(run, console) as log:
            metrics = train_steps(run, engine, stage.task(model, run), train, valid, log, console)
        results = saved(engine, lambda whole: stage.save(run, whole, renderer))
        return lifecycle.end_run(run, console, metrics, **results)
