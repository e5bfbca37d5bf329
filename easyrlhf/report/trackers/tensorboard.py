"""TensorBoard: event files in the run's own folder."""

from easyrlhf.report.trackers.tracker import TrackedRun, Tracker, as_markdown


class TensorBoard(Tracker):
    """Event files in folder/runs; events of steps that a continued run repeats are purged."""

    packages = ("tensorboard",)

    def __init__(self, run: TrackedRun):
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        purge_step = run.last_step + 1 if run.last_step else 0
        self._writer = SummaryWriter(str(run.folder / "runs"), purge_step=purge_step)
        # not add_hparams: it writes into a folder of its own, beside the curves that it is to be compared by
        for summary in hparams(run.given, dict.fromkeys(run.results)):
            self._writer.file_writer.add_summary(summary)

    def scalars(self, step: int, row: dict[str, float]) -> None:
        for name, value in row.items():
            self._writer.add_scalar(name, value, step)

    def samples(self, step: int, rows: list[dict]) -> None:
        self._writer.add_text("samples", as_markdown(rows), step)

    def close(self, complete: bool) -> None:
        self._writer.close()
