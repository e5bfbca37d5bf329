"""From one command to the processes of a run: how many, and where."""

import importlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any, TextIO

from easyrlhf.children import run_failure, send, signals_passed_on, watch
from easyrlhf.errors import InputError
from easyrlhf.glance import glance
from easyrlhf.report.opening import opening_of, say_at_once

LAUNCHED = "EASYRLHF_LAUNCHED"  # set in the processes that we start
LOGS, SETTINGS = "logs", "settings.yaml"
PORT = 29500  # where processes of several nodes meet, unless told otherwise
PR_SET_PDEATHSIG = 1  # of Linux' prctl
VISIBLE = "CUDA_VISIBLE_DEVICES"
DRIVERS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")  # NVIDIA's on Linux, Windows' under WSL2, AMD's
_only_gpu: str | None = None  # what CUDA calls the one GPU that take_one_gpu has left this program


@dataclass(frozen=True)
class LaunchPlan:
    """Processes on this node.

    count  how many
    gpus   what CUDA calls their GPUs, "" for the CPU
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
    if "RANK" not in os.environ:  # those of another launcher count themselves when they meet
        check_sharers(config.context_parallel_size, config.nnodes * plan.count)
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
    if devices == "mps":
        return LaunchPlan(1, "")
    gpus = [_only_gpu] if _only_gpu is not None else gpus_of(devices)
    return LaunchPlan(len(gpus), ",".join(gpus))


def take_one_gpu(devices: str | None) -> None:
    """Leave this program no other GPU than the one that --devices names, if it names one.

    That is number 0 to every library then, whichever way they count. For programs that do nothing else, before torch
    is imported. Raises InputError for a GPU that is not there.
    """
    global _only_gpu
    if devices is not None and devices.isdecimal() and has_driver() and "RANK" not in os.environ:
        (_only_gpu,) = gpus_of(devices)
        os.environ[VISIBLE] = _only_gpu


def gpu_index(devices: str | None) -> int:
    """The number, as torch counts, of this process's GPU: LOCAL_RANK among several, else the first of --devices."""
    if _only_gpu is not None:
        return 0
    return int(os.environ.get("LOCAL_RANK") or (devices or "0").split(",")[0])


def gpus_of(devices: str) -> list[str]:
    """What CUDA calls the GPUs of these numbers, which count those that are visible. Raises InputError."""
    wanted, named = devices.split(","), os.environ.get(VISIBLE)
    if len(wanted) == 1 and (named is None or not has_driver()):
        return wanted  # pick_device looks whether it is there: torch, which counts GPUs, is not imported for it
    visible = visible_gpus()
    missing = [number for number in wanted if int(number) >= len(visible)]
    if not missing:
        return [visible[int(number)] for number in wanted]
    if named is None:
        raise InputError(
            f"--devices {devices}: this machine has no GPU {', '.join(missing)} that can be used; give indices that "
            "nvidia-smi lists, or cpu:2 for two processes on the CPU"
        )
    raise InputError(
        f"--devices {devices}: {VISIBLE}={named} leaves {len(visible)} GPUs that can be used, and --devices counts "
        f"these from 0: there is no {', '.join(missing)}. Leave one of the two out, or give smaller numbers"
    )


def has_driver() -> bool:
    """Whether this machine has a GPU's driver, as far as that can be seen without torch."""
    return any(Path(driver).exists() for driver in DRIVERS)


def visible_gpus() -> list[str]:
    """What CUDA calls the GPUs that CUDA_VISIBLE_DEVICES leaves, or all, in the order in which --devices counts them.

    None without a driver, and then torch is not imported.
    """
    if not has_driver():
        return []
    named = os.environ.get(VISIBLE)
    if named is not None:
        names = (name.strip() for name in named.split(","))
        return list(takewhile(lambda name: name and not name.startswith("-"), names))  # CUDA reads no further either
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def check_sharers(sharers: int, count: int) -> None:
    """Raise InputError unless so many processes divide into groups of `sharers`."""
    if count % sharers:
        several = f"the {count} processes of this run do" if count > 1 else "this run is 1 process, which does"
        raise InputError(
            f"--context_parallel_size {sharers}: {several} not divide into groups of {sharers} that share a row; "
            f"give a divisor of the number of processes, or more --devices: {','.join(map(str, range(sharers)))}, or "
            f"cpu:{sharers} to try it out"
        )


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
    """Where the processes compute; they share the cores of the CPU, whose threads would wait for one another else."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, cores // plan.count)))}
    return threads | ({VISIBLE: plan.gpus} if plan.gpus else {"DS_ACCELERATOR": "cpu", VISIBLE: ""})


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

    Other systems than Linux cannot be told so; there the child watches (cli/worker_process.py).
    """
    if sys.platform != "linux":
        return
    import ctypes

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
