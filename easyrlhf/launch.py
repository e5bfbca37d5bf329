"""From one command to the processes of a run: how many, where, and what becomes of the others when one ends."""

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from easyrlhf.errors import EasyRLHFError, InputError, RunError, RunStopped
from easyrlhf.glance import glance
from easyrlhf.report.opening import opening_of, say_at_once
from easyrlhf.stopping import insisting, stop_signals

LAUNCHED = "EASYRLHF_LAUNCHED"  # set in the processes that we start
LOGS, SETTINGS = "logs", "settings.yaml"
GRACE = 30.0  # seconds for the others to end by themselves after one failed or a stop was asked for twice
POLL = 0.1
PORT = 29500  # where processes of several nodes meet, unless told otherwise
SHOWN_LINES = 30
PR_SET_PDEATHSIG = 1  # of Linux' prctl


@dataclass(frozen=True)
class LaunchPlan:
    """Processes on this node.

    count  how many
    gpus   their GPUs, "" for the CPU
    """

    count: int
    gpus: str


def start(target: str, config: Any) -> Path:
    """Run a stage, `module:function`, with its settings: here, or in as many processes as they ask for.

    A dry run is one process, after the same checks.
    Returns the output folder. Raises what the stage raises; a process that ended otherwise is a RunError.
    """
    say_at_once(opening_of(config), sys.stdout)
    module, function = target.split(":")
    glance(config)
    plan = launch_plan(config)
    several = plan.count > 1 or config.nnodes > 1
    if several:
        check_several(config)
    if config.dry_run or not several:
        return getattr(importlib.import_module(module), function)(config)
    return run_processes(target, config, plan)


def launch_plan(config: Any) -> LaunchPlan:
    """How many processes this command is to start: one where another launcher has started us already."""
    if "WORLD_SIZE" in os.environ and "RANK" in os.environ:
        return LaunchPlan(1, "")
    devices = config.devices
    if devices is None:
        gpus = visible_gpus()
        return LaunchPlan(max(1, len(gpus)), ",".join(gpus))
    if devices.startswith("cpu"):
        return LaunchPlan(int(devices.partition(":")[2] or 1), "")
    wanted = devices.split(",")
    if len(wanted) > 1 and (missing := sorted(set(wanted) - set(visible_gpus()))):
        raise InputError(
            f"--devices {devices}: this machine has no GPU {', '.join(missing)} that can be used; give indices that "
            "nvidia-smi lists, or cpu:2 for two processes on the CPU"
        )
    return LaunchPlan(len(wanted), devices)


def visible_gpus() -> list[str]:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves, or all; none without a driver, and then torch is not imported."""
    if not (Path("/dev/nvidiactl").exists() or Path("/dev/kfd").exists()):
        return []
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",") if named else [str(number) for number in range(torch.cuda.device_count())]


def check_several(config: Any) -> None:
    """Raise InputError where several processes cannot be started, or cannot meet."""
    if sys.platform == "win32":
        raise InputError("--devices: a run in several processes needs Linux or macOS; give one device, such as 0")
    if config.nnodes > 1 and not config.master_addr:
        raise InputError(
            f"--nnodes {config.nnodes}: needs --master_addr, the name or address of the node of --node_rank 0, "
            "the same on every node"
        )


def run_processes(target: str, config: Any, plan: LaunchPlan) -> Path:
    """Start this node's processes, wait for them, and end them all when one fails."""
    config = config.resolved()
    logs = Path(config.output_dir) / LOGS
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        first = config.node_rank * plan.count
        outputs = open_logs(stack, logs, range(first, first + plan.count))
        placed = replace(config, nnodes=1, node_rank=0)  # by their environment, not by these
        (folder / SETTINGS).write_text(placed.to_yaml())
        command = [
            sys.executable,
            "-P",
            "-m",
            "easyrlhf.cli.worker_process",
            target,
            type(config).__name__,
            str(folder),
        ]
        environment = os.environ | meeting(config, plan) | placement(plan)
        children: list[subprocess.Popen] = []
        asked = stack.enter_context(signals_passed_on(children))
        for local, (rank, output) in enumerate(outputs.items()):
            one = subprocess.Popen(
                command,
                env=environment | {"RANK": str(rank), "LOCAL_RANK": str(local)},
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C reaches us alone, and we pass it on
                preexec_fn=partial(die_with, os.getpid()),
            )
            children.append(one)
        for number in list(asked):  # they came while some were not there yet
            send(children, number)
        ended = watch(children, asked)
        if ended.code:
            raise run_failure(ended, first, folder, logs)
    return Path(config.output_dir)


def meeting(config: Any, plan: LaunchPlan) -> dict[str, str]:
    """What the processes must know of one another, in the variables that torch and other launchers use."""
    port = config.master_port or (free_port() if config.nnodes == 1 else PORT)
    return {
        "WORLD_SIZE": str(config.nnodes * plan.count),
        "LOCAL_WORLD_SIZE": str(plan.count),
        "MASTER_ADDR": config.master_addr or "127.0.0.1",
        "MASTER_PORT": str(port),
        LAUNCHED: "1",
    }


def placement(plan: LaunchPlan) -> dict[str, str]:
    """Where the processes compute; those on the CPU share its cores."""
    if plan.gpus:
        return {"CUDA_VISIBLE_DEVICES": plan.gpus}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = max(1, cores // plan.count)
    on_cpu = {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    return on_cpu | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads))}


def open_logs(stack: ExitStack, logs: Path, ranks: range) -> dict[int, TextIO | None]:
    """Where each process writes what it says, as long as the stack lasts; the main one has the terminal, hence None.

    Raises InputError when the folder cannot be written.
    """
    try:
        logs.mkdir(parents=True, exist_ok=True)
        return {rank: stack.enter_context((logs / f"rank-{rank}.log").open("a")) if rank else None for rank in ranks}
    except OSError as error:
        place = logs.parent
        raise InputError(f"--output_dir {place}: cannot be written ({error.strerror}); give another folder") from error


def die_with(parent: int) -> None:
    """In a fresh child: be killed when the launcher ends, however it does, and be it already.

    Other systems than Linux cannot be told so; there the child watches (launched.py).
    """
    if sys.platform != "linux":
        return
    import ctypes

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Ended:
    """How the processes of this node ended.

    number  of the first that failed, from 0 on this node
    codes   exit codes, negative for a signal
    asked   signals that we were sent, and passed on
    """

    number: int
    codes: tuple[int, ...]
    asked: tuple[int, ...]

    @property
    def code(self) -> int:
        """Exit code of the first that failed; 0 when none did."""
        return self.codes[self.number]


@contextmanager
def signals_passed_on(children: list[subprocess.Popen]) -> Iterator[list[int]]:
    """Pass SIGTERM, SIGINT and SIGHUP on to the children for a while; yields the list of those that came."""
    asked: list[int] = []

    def pass_on(number: int, _frame: Any) -> None:
        asked.append(number)
        send(children, number)

    ours = threading.current_thread() is threading.main_thread()  # the only thread that may set handlers
    caught = stop_signals() if ours else ()
    previous = {number: signal.signal(number, pass_on) for number in caught}
    try:
        yield asked
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def send(children: list[subprocess.Popen], number: int) -> None:
    """Send a signal to those that still run."""
    for child in children:
        if child.poll() is None:
            child.send_signal(number)


def watch(children: list[subprocess.Popen], asked: list[int]) -> Ended:
    """Wait for all; returns how they ended.

    After a failure, or a second signal, those that are left get a while to end by themselves, then are killed.

    asked  the signals that were passed on; it grows
    """
    ending: float | None = None
    failed: int | None = None
    try:
        while any(child.poll() is None for child in children):
            failed = first_failed(children) if failed is None else failed
            if ending is None and (failed is not None or len(insisting(asked)) > 1):
                ending = time.monotonic()
            if ending is not None and time.monotonic() - ending > GRACE:
                send(children, signal.SIGKILL)
            time.sleep(POLL)
    finally:
        for child in children:
            if child.poll() is None:
                child.kill()
                child.wait()
    failed = first_failed(children) if failed is None else failed
    return Ended(failed or 0, tuple(child.returncode for child in children), tuple(asked))


def first_failed(children: list[subprocess.Popen]) -> int | None:
    """Number of the one that failed: who was killed is the cause, who failed in the same moment has lost it."""
    codes = {number: child.poll() for number, child in enumerate(children) if child.poll()}
    return min(codes, key=codes.__getitem__, default=None)


def write_error_note(folder: Path, error: EasyRLHFError) -> None:
    """In a process of a run, leave the launcher a note of the error it ends with; the launcher shows it."""
    rank = int(os.environ["RANK"])
    note = {"message": str(error), "code": error.exit_code, "shown_by": error.shown_by}
    (folder / f"{rank}.json").write_text(json.dumps(note))


def run_failure(ended: Ended, first: int, folder: Path, logs: Path) -> EasyRLHFError:
    """The one error to raise for a run that failed, from what its processes of this node say.

    first   rank of this node's first process
    folder  with the notes that `tell` left
    """
    rank = first + ended.number
    if ended.code < 0 and -ended.code in ended.asked:
        return RunStopped(
            f"{signal.Signals(-ended.code).name} received while nothing was trained; nothing was lost. The same "
            "command starts or continues the run"
        )
    if ended.code < 0:
        return RunError(
            f"process {rank} was ended by {signal.Signals(-ended.code).name}, so the others were too. The same command "
            f"goes on from the newest checkpoint, if one was written. Logs of the others: {logs}"
        )
    notes = {int(file.stem): json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))}
    without = [first + number for number, code in enumerate(ended.codes) if code > 0 and first + number not in notes]
    # Its own error comes before one that it heard of, and that before the loss of the others.
    ranks = sorted(notes, key=lambda one: (notes[one]["shown_by"] is None, notes[one]["shown_by"] != one, one != rank))
    if without and (not ranks or notes[ranks[0]]["shown_by"] is None):
        return unexpected(without[0], ended.codes[without[0] - first], logs)
    note = notes[ranks[0]]
    return {InputError.exit_code: InputError, RunStopped.exit_code: RunStopped}.get(note["code"], RunError)(
        note["message"]
    )


def unexpected(rank: int, code: int, logs: Path) -> EasyRLHFError:
    """The error of a process that ended without a note: what it said last, which of the main one has been seen."""
    found = EasyRLHFError("")
    found.shown_by = None
    if rank:
        log = logs / f"rank-{rank}.log"
        lines = log.read_text(errors="replace").splitlines()[-SHOWN_LINES:]
        found = EasyRLHFError("\n".join([f"process {rank} failed; the end of {log}:", *lines]))
    found.exit_code = code
    return found


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
