"""MLflow, through its client: a run that the calling program has open is left alone."""

import os
import re
import time

from easyrlhf.report.trackers.tracker import PROJECT, TrackedRun, Tracker, as_markdown

PARAMS_AT_ONCE, LONGEST_PARAM = 100, 6000  # what MLflow takes
NOT_IN_NAMES = re.compile(r"[^\w./ :-]", re.ASCII)  # a reward function may call its numbers anything
# By default a server that is gone holds up each call for minutes, and the training with it.
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}


class MLflow(Tracker):
    """One run of MLflow a folder, in the experiment and at the server that MLflow's own variables name."""

    packages = ("mlflow", "mlflow-skinny")

    @classmethod
    def check(cls) -> None:
        _client().search_experiments(max_results=1)

    def __init__(self, run: TrackedRun):
        self._client = _client()
        self._id = run.known("mlflow")
        if self._id:
            self._client.update_run(self._id, status="RUNNING")
        else:
            self._id = self._new(run)
        self.where = f"mlflow: run {run.folder.name} ({self._id}) at {self._client.tracking_uri}"

    def _new(self, run: TrackedRun) -> str:
        from mlflow.entities import Param

        number = self._client.create_run(_experiment(self._client), run_name=run.folder.name).info.run_id
        run.keep("mlflow", number)
        params = [Param(name, str(value)[:LONGEST_PARAM]) for name, value in run.given.items()]
        for first in range(0, len(params), PARAMS_AT_ONCE):
            self._client.log_batch(number, params=params[first : first + PARAMS_AT_ONCE])
        return number

    def scalars(self, step: int, row: dict[str, float]) -> None:
        from mlflow.entities import Metric

        now = round(time.time() * 1000)
        metrics = [Metric(NOT_IN_NAMES.sub("_", name), value, now, step) for name, value in row.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def samples(self, step: int, rows: list[dict]) -> None:
        self._client.log_text(self._id, as_markdown(rows), f"samples/step-{step:08}.md")

    def close(self, complete: bool) -> None:
        self._client.set_terminated(self._id, "FINISHED" if complete else "KILLED")


def _client():
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    return MlflowClient()


def _experiment(client) -> str:
    """Id of the experiment that MLFLOW_EXPERIMENT_ID or MLFLOW_EXPERIMENT_NAME means, made when it is not there."""
    if number := os.environ.get("MLFLOW_EXPERIMENT_ID"):
        return number
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
    known = client.get_experiment_by_name(name)
    return known.experiment_id if known else client.create_experiment(name)
