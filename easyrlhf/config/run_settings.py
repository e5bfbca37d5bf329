"""Where a training stage runs, what it prints, measures and keeps, and how it begins."""

from dataclasses import dataclass
from typing import ClassVar

from easyrlhf.config.base import FREE, FREE_BUT_FOR_BEST, RUN, Settings, opt


@dataclass(kw_only=True, frozen=True)
class Devices(Settings):
    """Where a stage runs."""

    group: ClassVar[str] = RUN

    devices: str | None = opt(
        None,
        "Where to run: GPU indices such as 0,1,2,3, with a process each; cpu, or cpu:2 for two processes on the CPU; "
        "or mps, an Apple GPU. The result is that of one device but for rounding.",
        metavar="N[,…]|cpu[:N]|mps",
        many=True,
        shown="all GPUs, else cpu",
        on_resume=FREE,
    )
    deepspeed: str = opt(
        "auto",
        "How several devices share the work: zero2 spreads optimiser and gradients over them, zero3 the weights too, "
        "zero2_offload and zero3_offload keep what they can in CPU memory; none: every device holds all of it; or a "
        "DeepSpeed configuration of your own. Every trained and frozen model uses the same.",
        metavar="NAME|FILE",
        shown="zero2 on several devices, else none",
        on_resume=FREE,
    )
    sharding: str = opt(
        "none",
        "fsdp2 spreads weights, gradients and optimiser over the devices by torch itself, in place of DeepSpeed: each "
        "reads and writes only its own part of the models, of which none ever holds a whole one but to sample.",
        choices=("none", "fsdp2"),
        on_resume=FREE,
    )
    context_parallel_size: int = opt(
        1,
        "Neighbouring processes that share every row: each computes a part of its tokens, so that the activations of "
        "rows too long for one device are spread over several. It divides the processes and the attention heads of "
        "every model; weights are spread as --deepspeed or --sharding says.",
        low=1,
        on_resume=FREE,
    )
    nnodes: int = opt(
        1,
        "Machines that take part; run the same command on each, with a --node_rank of its own, and output_dir and data "
        "on a disk that all of them see.",
        low=1,
        on_resume=FREE,
    )
    node_rank: int = opt(0, "Number of this machine, from 0.", low=0, on_resume=FREE)
    master_addr: str | None = opt(
        None,
        "Name or address of the machine with node_rank 0.",
        metavar="HOST",
        shown="this machine",
        on_resume=FREE,
    )
    master_port: int | None = opt(
        None,
        "A free port on that machine, the same on all.",
        metavar="PORT",
        low=1,
        below=2**16,
        shown="any free one, 29500 with several machines",
        on_resume=FREE,
    )
    ddp_timeout: int = opt(
        1800,
        "Seconds after which a process that takes no part in an exchange with the others is given up and the run ends.",
        low=1,
        on_resume=FREE,
    )
    reuse_memory: bool = opt(
        True,
        "On a CPU, keep freed memory for the next step instead of giving it back to the system each time. With glibc "
        "alone, and not where MALLOC_* or GLIBC_TUNABLES is set.",
        on_resume=FREE,
    )


@dataclass(kw_only=True, frozen=True)
class RunSettings(Settings):
    """What a run prints, measures and keeps, and how it begins."""

    group: ClassVar[str] = RUN

    seed: int = opt(
        42,
        "Seed of everything random: data order, new weights, dropout, sampling.",
        low=0,
        below=2**32,
    )
    log_steps: int = opt(
        10,
        "Print a line of the table every so many steps. Every step is in metrics.jsonl.",
        low=1,
        on_resume=FREE,
    )
    eval_steps: int | None = opt(
        None,
        "Evaluate on valid_data every so many steps, and at the end; 0 for the end alone. By default 10 times or more, "
        "or as often as a fifth of the training's work allows, at most on a sample; with keep_best on all rows.",
        low=0,
        shown="within a fifth of the training",
        on_resume=FREE_BUT_FOR_BEST,
    )
    eval_at_start: bool = opt(
        False,
        "Evaluate on valid_data before the first step too, as step 0; keep_best may then keep the start.",
        on_resume=FREE,
    )
    save_steps: int | None = opt(
        None,
        "Save a checkpoint every so many steps, and at the end; 0 for the end alone. The same "
        "command goes on from the newest one.",
        low=0,
        shown="10 times a run",
        on_resume=FREE,
    )
    save_total_limit: int = opt(2, "Checkpoints to keep; older ones are deleted.", low=1, on_resume=FREE)
    keep_best: str | None = opt(
        None,
        "Leave the weights of the step where this metric of the evaluations was best, instead of the last step's: "
        "eval/loss, eval/rewards/accuracies, eval/scores… (easyrlhf docs metrics). The checkpoint of that step is kept "
        "beside those of save_total_limit.",
        metavar="METRIC",
        shown="the last step's",
    )
    stop_on_alarm: bool = opt(
        False,
        "Save and stop (exit code 3) when a check (easyrlhf docs metrics) gives its first alarm. A check stops a run "
        "once: the same command goes on past its alarm, and with --no_stop_on_alarm past every other.",
        on_resume=FREE,
    )
    resume: str = opt(
        "auto",
        "auto continues the unfinished run in output_dir, never begins anew and drops its checkpoints, a path "
        "continues that checkpoint; in another output_dir it branches off, where other settings are allowed.",
        metavar="auto|never|DIR",
        on_resume=FREE,
    )
    overwrite: bool = opt(False, "Replace what is in output_dir.", on_resume=FREE)
    allow_incomplete: bool = opt(False, "Accept an input folder whose own run did not finish.", on_resume=FREE)


@dataclass(kw_only=True, frozen=True)
class DryRun(Settings):
    """A look at what a run would do."""

    group: ClassVar[str] = RUN

    dry_run: bool = opt(
        False,
        "Print the resolved settings, what the data holds and the plan of steps; train nothing.",
        on_resume=FREE,
    )
