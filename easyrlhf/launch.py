"""From one command to the processes of a run: how many, where, and what becomes of the others when one ends."""

import importlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from easyrlhf.errors import EasyRLHFError, InputError, RunError, RunStopped

LAUNCHED = "EASYRLHF_LAUNCHED"  # set in the processes that we start
LOGS = "logs"
GRACE = 30.0  # seconds for the others to end by themselves after one failed or a stop was asked for
POLL = 0.1
SHOWN_LINES = 30
PR_SET_PDEATHSIG = 1  # of Linux' prctl


@dataclass(frozen=True)
class Plan:
    """Processes on this node.

    count  how many
    gpus   their GPUs, "" for the CPU
    """

    count: int
    gpus: str


def start(target: str, config: Any) -> Path:
    """Run a stage, `module:function`, with its settings: here, or in as many processes as they ask for.

    Returns the output folder. Raises what the stage raises; a process that ended otherwise is a RunError.
    """
    module, function = target.split(":")
    plan = plan_of(config)
    if plan.count == 1 and config.nnodes == 1:
        return getattr(importlib.import_module(module), function)(config)
    return run_processes(target, config, plan)


def plan_of(config: Any) -> Plan:
    """How many processes this command is to start: one where another launcher has started us already."""
    if "WORLD_SIZE" in os.environ and "RANK" in os.environ:
        return Plan(1, "")
    if config.dry_run:
        return Plan(1, "")
    devices = config.devices
    if devices is None:
        gpus = visible_gpus()
        return Plan(max(1, len(gpus)), ",".join(gpus))
    if devices.startswith("cpu"):
        return Plan(int(devices.partition(":")[2] or 1), "")
    wanted = devices.split(",")
    if len(wanted) > 1 and (missing := sorted(set(wanted) - set(visible_gpus()))):
        raise InputError(
            f"--devices {devices}: this machine has no GPU {', '.join(missing)} that can be used; give indices that "
            "nvidia-smi lists, or cpu:2 for two processes on the CPU"
        )
    return Plan(len(wanted), devices)


def visible_gpus() -> list[str]:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves, or all; none without a driver, and then torch is not imported."""
    if not (Path("/dev/nvidiactl").exists() or Path("/dev/kfd").exists()):
        return []
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",") if named else [str(number) for number in range(torch.cuda.device_count())]


def run_processes(target: str, config: Any, plan: Plan) -> Path:
    """Start this node's processes, wait for them, and end them all when one fails."""
    config = config.resolved()
    if config.nnodes > 1 and not config.master_addr:
        raise InputError(
            f"--nnodes {config.nnodes}: needs --master_addr, the name or address of the node of --node_rank 0, "
            "the same on every node"
        )
    logs = Path(config.output_dir) / LOGS
    try:
        logs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output_dir {config.output_dir}: cannot be written ({error.strerror})") from error
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        settings = folder / "settings.yaml"
        settings.write_text(
            replace(config, nnodes=1, node_rank=0).to_yaml()
        )  # placed by their environment, not by these
        command = [sys.executable, "-m", "easyrlhf.launched", target, type(config).__name__, str(settings)]
        first = config.node_rank * plan.count
        port = config.master_port or (free_port() if config.nnodes == 1 else 29500)
        shared = {
            "WORLD_SIZE": str(config.nnodes * plan.count),
            "LOCAL_WORLD_SIZE": str(plan.count),
            "MASTER_ADDR": config.master_addr or "127.0.0.1",
            "MASTER_PORT": str(port),
            LAUNCHED: "1",
        }
        if plan.gpus:
            shared["CUDA_VISIBLE_DEVICES"] = plan.gpus
        else:
            shared |= {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
            shared.setdefault("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", str(threads_each(plan.count))))
        children = []
        for local in range(plan.count):
            own = {"RANK": str(first + local), "LOCAL_RANK": str(local)}
            output = None  # the main process speaks to the user
            if first + local:
                output = stack.enter_context((logs / f"rank-{first + local}.log").open("a"))
            children.append(
                subprocess.Popen(
                    command,
                    env=os.environ | shared | own,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,  # Ctrl-C reaches us alone, and we pass it on
                    preexec_fn=die_with_parent,
                )
            )
        number, code = watch(children)
    if code:
        raise failure(first + number, code, logs)
    return Path(config.output_dir)


def threads_each(count: int) -> int:
    """CPU threads for each of so many processes on this machine."""
    return max(1, len(os.sched_getaffinity(0)) // count)


def die_with_parent() -> None:
    """In a fresh child: be killed when the launcher ends, however it does."""
    import ctypes

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def watch(children: list[subprocess.Popen]) -> tuple[int, int]:
    """Wait for all; returns number and exit code of the first that failed, or (0, 0).

    SIGTERM and SIGINT are passed on. After a failure the others get a while to end by themselves, then are killed.
    """
    ending: float | None = None
    failed: tuple[int, int] | None = None

    def pass_on(number: int, _frame: Any) -> None:
        for child in children:
            if child.poll() is None:
                child.send_signal(number)

    previous = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        while any(child.poll() is None for child in children):
            codes = [child.poll() for child in children]
            ended = [(number, code) for number, code in enumerate(codes) if code]
            # Who was killed is the cause; who failed in the same moment has lost it.
            found = min(ended, key=lambda one: one[1]) if ended else None
            if failed is None and found is not None:
                failed, ending = found, time.monotonic()
            if ending is not None and time.monotonic() - ending > GRACE:
                pass_on(signal.SIGKILL, None)
            time.sleep(POLL)
    finally:
        for child in children:
            if child.poll() is None:
                child.kill()
                child.wait()
        for number, handler in previous.items():
            signal.signal(number, handler)
    ended = [(number, child.returncode) for number, child in enumerate(children) if child.returncode]
    return failed or (min(ended, key=lambda one: one[1]) if ended else (0, 0))


def failure(rank: int, code: int, logs: Path) -> EasyRLHFError:
    """The error to raise for the process that was first to fail; what it said itself is shown, or has been."""
    kind = {InputError.exit_code: InputError, RunStopped.exit_code: RunStopped}.get(code, RunError)
    if code < 0:
        found: EasyRLHFError = RunError(
            f"process {rank} was ended by {signal.Signals(-code).name}, so the others were too. The same command goes "
            f"on from the newest checkpoint, if one was written. Logs of the others: {logs}"
        )
    elif rank == 0:
        found = kind("")
        found.shown_by = None
    else:
        log = logs / f"rank-{rank}.log"
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        errors = [place for place, line in enumerate(lines) if line.startswith("error: ")]
        told = "\n".join(lines[errors[-1] :] if errors else lines[-SHOWN_LINES:]).removeprefix("error: ")
        found = kind(f"{told}\n(said by process {rank}; {log} has all of it)")
    return found


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
