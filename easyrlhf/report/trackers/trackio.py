"""Trackio."""

import contextlib
import io
import os
import uuid

from easyrlhf.report.trackers.tracker import PROJECT, TrackedRun, Tracker, as_markdown


class Trackio(Tracker):
    """One run of Trackio a folder, in the project that TRACKIO_PROJECT names; a run is known by its name there."""

    packages = ("trackio",)

    def __init__(self, run: TrackedRun):
        import trackio

        project = os.environ.get("TRACKIO_PROJECT", PROJECT)
        name = run.known("trackio") or f"{run.folder.name}-{uuid.uuid4().hex[:8]}"
        run.keep("trackio", name)
        with contextlib.redirect_stdout(io.StringIO()):
            self._run = trackio.init(
                project=project, name=name, resume="allow", config=run.given, embed=False, auto_log_cpu=False
            )
        self.where = f"trackio: run {name}; trackio show --project {project}"

    def scalars(self, step: int, row: dict[str, float]) -> None:
        self._run.log(row, step=step)

    def samples(self, step: int, rows: list[dict]) -> None:
        from trackio import Markdown

        self._run.log({"samples": Markdown(as_markdown(rows))}, step=step)

    def close(self, complete: bool) -> None:
        import trackio

        with contextlib.redirect_stdout(io.StringIO()):
            trackio.finish()  # not the run's own method: Trackio would finish it again, and say so, when Python ends
