"""Weights & Biases."""

import os
import uuid

from easyrlhf.report.trackers.tracker import PROJECT, TrackedRun, Tracker


class Wandb(Tracker):
    """One run of wandb a folder, in the project that WANDB_PROJECT names; where it lies it says itself."""

    packages = ("wandb",)

    @classmethod
    def check(cls) -> None:
        import wandb

        if wandb.setup().settings.mode in (None, "online", "shared"):  # else no account is needed
            wandb.login()

    def __init__(self, run: TrackedRun):
        import wandb

        name = run.known("wandb") or uuid.uuid4().hex[:8]
        run.keep("wandb", name)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=os.environ.get("WANDB_NAME", run.folder.name),
            id=name,
            resume="allow",
            dir=str(run.folder / "runs"),
            config=run.given,
        )
        # wandb drops rows whose step does not grow, and a continued run repeats some: use our axis
        self._run.define_metric("*", step_metric="step")

    def scalars(self, step: int, row: dict[str, float]) -> None:
        self._run.log({"step": step} | row)

    def samples(self, step: int, rows: list[dict]) -> None:
        from wandb import Table

        plain = [{k: v for k, v in row.items() if v is None or isinstance(v, str | int | float)} for row in rows]
        columns = list(dict.fromkeys(name for row in plain for name in row))
        table = Table(columns=columns, data=[[row.get(name) for name in columns] for row in plain])
        self._run.log({"step": step, "samples": table})

    def close(self, complete: bool) -> None:
        self._run.finish(exit_code=0 if complete else 1)
