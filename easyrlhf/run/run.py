"""The life of one stage in its output folder: claimed, begun, checkpointed, stopped or completed."""

import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NoReturn

import torch

from easyrlhf.config import TrainConfig
from easyrlhf.engine import processes
from easyrlhf.engine.device import pick_dtype, pick_micro_batch_tokens, reuse_memory, take_device
from easyrlhf.engine.engine import Engine
from easyrlhf.engine.sharding import wants_group, zero_config
from easyrlhf.errors import NotFinite, RunError, RunStopped
from easyrlhf.run.advice import full_disk_explained, how_to_go_on, out_of_memory_explained, what_is_safe, with_note
from easyrlhf.run.branch import has_branched, origin_of, require_same_course
from easyrlhf.run.checkpoint import (
    Kept,
    find_checkpoint,
    load_checkpoint,
    load_kept,
    remove_checkpoints_after,
    restore_rng,
    rng_state,
    save_checkpoint,
)
from easyrlhf.run.claim import COMPLETE, READ_FIRST, entered
from easyrlhf.run.differences import edited
from easyrlhf.run.manifest import CHECKPOINTS, write_stage
from easyrlhf.run.resume import account_of, beginning_of, mark_begun, require_same
from easyrlhf.run.signals import StopRequest

EVERY = sys.maxsize  # checkpoints to keep


class Run:
    """One stage at work in one folder. Made by open_run.

    step         steps done; saved: those that a checkpoint holds
    kept         tensors that checkpoints hold beside weights and optimisers
    asked_to_keep  name → gives such tensors when a checkpoint is written, the same in every process; {} for none
    best         {"metric", "step", "value"} of the best evaluation by --keep_best so far; None without one
    asked        the settings as they were given; those of config name the models that are read
    zero         DeepSpeed's configuration; None without DeepSpeed
    passed_over  a line on every damaged checkpoint that is newer than the one to continue
    remarks      a line on whatever else the user should know of how the run goes on
    """

    def __init__(self, config: TrainConfig, folder: Path, stop: StopRequest, found: str, device: torch.device):
        self.config, self.folder, self.stop, self.found = config, folder, stop, found
        self.asked = config
        self.device = device
        if config.reuse_memory:
            reuse_memory(self.device)
        self.dtype = pick_dtype(config.precision, self.device)
        self.micro_batch_tokens = pick_micro_batch_tokens(config.micro_batch_tokens, self.device)
        self.started = time.monotonic()  # the clock may be set while a run goes on
        self.zero = zero_config(config)
        resume = "never" if config.overwrite or found == READ_FIRST else config.resume
        self.origin = origin_of(config)  # the folder of another run that this one branches from
        if self.origin and processes.on_main(lambda: has_branched(config)):
            self.origin, resume = None, "auto"  # it has branched already: the same command continues it
        self.checkpoint, self.passed_over = processes.on_main(lambda: find_checkpoint(self.home, resume))
        if self.origin:
            processes.on_main(lambda: require_same_course(self.origin, config))
        self.remarks = (
            processes.on_main(lambda: edited(self.home, config)) if self.checkpoint and not self.origin else []
        )
        self.step = self.saved = 0
        self.holder = self.checkpoint  # of the step that was saved last
        self.best: dict | None = None
        self.kept: Kept = {}
        self.asked_to_keep: dict[str, Callable[[], dict[str, torch.Tensor]]] = {}
        self.earlier_seconds = 0.0

    @property
    def home(self) -> Path:
        """Where the run belongs; a dry run works elsewhere and says what a run there would do."""
        return Path(self.config.output_dir)

    def beginning(self) -> str:
        """Where the run begins and what goes by that, for the start summary."""
        return beginning_of(self)

    @property
    def cache(self) -> Path:
        """Folder for tokenised data; gone when the run is complete."""
        return self.folder / "cache"

    @property
    def seconds(self) -> float:
        """Wall time of the run so far, earlier sittings included."""
        return self.earlier_seconds + time.monotonic() - self.started

    def recognise(self, info: dict) -> bool:
        """Compare what the run has found of its tokens and rows with the run in the folder, before a model is loaded.

        info     facts for stage.json: parents, data, tokenizer…
        returns  whether there is anything to do; not when an equal run is complete there
        Raises InputError when they are no longer those the run was started with.
        """
        self.info = account_of(self, info)
        complete = processes.any_of(self.found == READ_FIRST)  # and all have read what will be gone then
        processes.on_main(lambda: require_same(self))
        return not complete

    def begin(self, engines: dict[str, Engine]) -> dict:
        """Mark the run as started, and take back its newest checkpoint if it has one; recognise comes before.

        Returns the state saved with the checkpoint; {} for a fresh start.
        """
        processes.on_main(lambda: mark_begun(self))
        self.stop.holding, self.stop.at_stake = True, self.at_stake
        if processes.rank():
            torch.manual_seed(
                self.config.seed + processes.rank()
            )  # new weights were the same everywhere, dropout is not
        state = load_checkpoint(self.checkpoint, engines) if self.checkpoint else {}
        self.kept = load_kept(self.checkpoint) if self.checkpoint else {}
        self.step, self.earlier_seconds = state.get("step", 0), state.get("seconds", 0.0)
        self.saved = self.step
        self.best = None if self.origin else state.get("best")  # that of another run is in its folder
        processes.on_main(lambda: remove_checkpoints_after(self.folder, self.step))
        return state

    def save(self, engines: dict[str, Engine], *, keep: int | None = None, **state) -> Path:
        """Write a checkpoint of the present step, and remove the oldest beyond `keep`, by default save_total_limit.

        Raises RunError when the disk does not take it, or when its weights are not finite.
        """
        state = {**state, "seconds": self.seconds}
        if self.best:
            state["best"] = self.best
        for engine in engines.values():
            engine.check_finite()
        often = keep or self.config.save_total_limit
        given = {name: tensors for name, give in self.asked_to_keep.items() if (tensors := give())}
        self.holder = save_checkpoint(self.folder, self.step, engines, state, often, self.kept | given)
        self.saved = self.step
        return self.holder

    @contextmanager
    def unchanged_is_kept(self, engines: dict[str, Engine], **state) -> Iterator[None]:
        """When a step's update fails in here before it has changed any weights, save those of the step before.

        What was saved earlier stays, whatever save_total_limit says: nobody knows yet where the trouble began. Among
        several processes only numbers that are not finite are an error that all of them have.
        """
        changes, random = [engine.changes for engine in engines.values()], rng_state()
        try:
            yield
        except RunStopped:
            raise
        except Exception as error:
            unchanged = changes == [engine.changes for engine in engines.values()]
            common = processes.size() == 1 or isinstance(error, NotFinite)
            if unchanged and common and self.step > self.saved:
                restore_rng(random)
                with suppress(Exception):  # the error itself is the one to be told
                    self.save(engines, keep=EVERY, **state)
            raise

    def at_stake(self) -> str:
        """What an end at once would lose: whole steps, and the one under way."""
        lost = self.step - self.saved
        since = f"{self.holder} holds the rest" if self.holder else "no checkpoint was written yet"
        return f"{lost} step{'' if lost == 1 else 's'} and the one under way ({since})"

    @property
    def is_best(self) -> bool:
        """Whether the present step is the best so far."""
        return self.best is not None and self.best["step"] == self.step

    def checkpoint_of(self, step: int) -> Path:
        """Where the checkpoint of a step is, if it was saved."""
        return self.folder / CHECKPOINTS / f"step-{step}"

    def take_best(self, engines: dict[str, Engine]) -> bool:
        """Put the weights of the best step into the engines' models; False when there are no better ones."""
        if self.best is None or self.is_best:
            return False
        for name, engine in engines.items():
            engine.load(self.checkpoint_of(self.best["step"]) / name)
        return True

    def stop_if_requested(self, engines: dict[str, Engine], **state) -> None:
        """After a stop request: save, mark the run as stopped, and raise RunStopped."""
        if processes.any_of(self.stop.requested):
            self.halt("Stopped on request", f" {self.how_to_go_on} {self.how_to_end}", engines, state)

    def stop_on_alarm(self, alarms: list[str], engines: dict[str, Engine], **state) -> None:
        """With --stop_on_alarm, when there are alarms: save, mark the run as stopped, and raise RunStopped."""
        if not (self.config.stop_on_alarm and processes.any_of(bool(alarms))):
            return
        way_out = (
            f"{self.how_to_go_on} It goes on past this alarm, and with --no_stop_on_alarm past every other. "
            f"Other settings need another --output_dir, or --overwrite. {self.how_to_end}"
        )
        self.halt("Stopped by an alarm", "\n" + "\n".join([*alarms, way_out]), engines, state)

    def halt(self, why: str, more: str, engines: dict[str, Engine], state: dict) -> NoReturn:
        """Save, mark the run as stopped, and raise RunStopped: why and where, then more."""
        checkpoint = self.save(engines, **state)
        processes.on_main(lambda: write_stage(self.folder, {**self.info, "status": "stopped", "step": self.step}))
        raise RunStopped(f"{why} after step {self.step}; {checkpoint} holds it.{more}")

    @property
    def how_to_go_on(self) -> str:
        """The last sentence of a message about a run that did not finish."""
        return how_to_go_on(self.config)

    @property
    def how_to_end(self) -> str:
        """What to do with a run that is not to go on."""
        return f"easyrlhf finish {shlex.quote(str(self.folder))} ends it here, with a complete model."

    def complete(self, **results) -> None:
        """Mark the run as complete and drop its cache; what follows it may now read the folder."""
        shutil.rmtree(self.cache, ignore_errors=True)
        write_stage(
            self.folder,
            {
                **self.info,
                "status": "complete",
                "step": self.step,
                **({"best": self.best} if self.best else {}),
                **results,
                "wall_seconds": round(self.seconds, 1),
            },
        )


@contextmanager
def open_run(config: TrainConfig) -> Iterator[Run | None]:
    """Claim the output folder and yield the run, or None when an equal run is already complete there.

    One of several processes joins the others first; the main one does what concerns the folder.
    A dry run works in a temporary folder. Raises InputError when the folder holds another run or foreign files,
    or when another run works in it. Errors on the way out say what is safe.
    """
    torch.manual_seed(config.seed)
    device = take_device(config.devices)
    with StopRequest() as stop:
        try:
            with ExitStack() as stack:
                stack.enter_context(processes.join_group(device, config.ddp_timeout, alone=wants_group(config)))
                if not config.dry_run:  # which is one process that looks at what several would do
                    stack.enter_context(processes.sharing_rows(config.context_parallel_size))
                folder, found = processes.on_main(lambda: entered(stack, config))
                if found == COMPLETE:
                    yield None
                    return
                run = Run(config, folder, stop, found, device)
                with out_of_memory_explained(run), full_disk_explained(run):
                    yield run
        except RunError as error:
            raise with_note(error, what_is_safe(config, error)) from error
