"""What every training stage can be told, and supervised fine-tuning."""

import re
from dataclasses import MISSING, dataclass, replace
from typing import ClassVar, Self

from easyrlhf.config.base import (
    DATA,
    FILES,
    FREE,
    FREE_BUT_FOR_BEST,
    LORA,
    MODEL,
    OPTIMISATION,
    ROWS,
    RUN,
    SettingError,
    Settings,
    opt,
    restate,
    split_list,
)
from easyrlhf.config.common_fields import (
    DEFAULT_LENGTH,
    DEFAULT_MODEL,
    STANDARD_INPUT,
    RemoteCode,
    RowLayout,
    filled_lengths,
)
from easyrlhf.config.rendering import LearnedAnswers, Rendering, template_kwargs
from easyrlhf.config.reporting import Hub, Trackers, check_hub, check_report_to

READ_AGAIN = ("train_data", "valid_data", "ptx_data")
DEVICES = re.compile(r"cpu(:\d+)?|mps|\d+(,\d+)*")


@dataclass(kw_only=True, frozen=True)
class ModelAndData(Settings):
    """What a stage starts from, and where its result goes."""

    group: ClassVar[str] = DATA

    model: str | None = opt(
        None,
        "Where to start: a folder (easyrlhf init, an earlier stage, any Hugging Face checkpoint) or a hub id.",
        metavar="DIR|HUB_ID",
        model=True,
        shown=DEFAULT_MODEL,
        on_resume=MODEL,
    )
    train_data: str = opt(
        MISSING,
        "Rows to train on: .jsonl, .json, .csv, .tsv, .parquet, .arrow, a folder (folder@split) or a hub dataset id; "
        "several separated by commas, each perhaps with a weight: path=0.3 uses 30 % of its rows. easyrlhf docs "
        "formats shows every row format.",
        metavar="FILE[,…]",
        many=True,
        on_resume=ROWS,
    )
    valid_data: str | None = opt(
        None,
        "Held-out rows of the same kind. Without it nothing is evaluated, and over-fitting goes unseen.",
        metavar="FILE[,…]",
        many=True,
        on_resume=ROWS,
    )
    valid_split: float | None = opt(
        None,
        "Share of the training rows to hold out in place of valid_data, such as 0.05: whole prompts, chosen by seed.",
        above=0,
        below=1,
    )
    output_dir: str | None = opt(
        None,
        "Folder for the result: an ordinary Hugging Face checkpoint with metrics, plots and report.html beside it.",
        metavar="DIR",
        shown="outputs/{cls.stage}",
        on_resume=FREE,
    )

    @property
    def validates(self) -> bool:
        """Whether there are held-out rows."""
        return bool(self.valid_data or self.valid_split)

    @property
    def valid_name(self) -> str:
        """What the held-out rows are, for a reader."""
        return self.valid_data or f"{self.valid_split:g} of {self.train_data}"


@dataclass(kw_only=True, frozen=True)
class RowLimits(Settings):
    """Which rows are too long, or no rows at all."""

    group: ClassVar[str] = DATA
    less_for_completions: ClassVar[str] = ""  # how the default of max_prompt_length goes on in --help

    max_length: int | None = opt(
        None,
        "Longest sequence in tokens, prompt and completion together. Memory grows with it.",
        low=2,
        shown="1024, less where the model was made for less",
    )
    max_prompt_length: int | None = opt(
        None,
        "Longest prompt in tokens; must leave room below max_length.",
        low=1,
        shown="half of max_length{cls.less_for_completions}",
    )
    overlength: str | None = opt(
        None,
        "Rows longer than that: drop counts them and writes them to bad_rows.jsonl, however many there are; truncate "
        "cuts prompts from the left. Completions of a comparison are never cut.",
        choices=("drop", "truncate"),
        shown="drop, and stop when it is more than 10 % of the rows",
    )
    on_bad_row: str = opt(
        "stop",
        "A malformed row (not JSON, missing key): stop names file and line; skip counts it and "
        "writes it to bad_rows.jsonl.",
        choices=("stop", "skip"),
        on_resume=ROWS,
    )


@dataclass(kw_only=True, frozen=True)
class Optimisation(Settings):
    """How weights are learned."""

    group: ClassVar[str] = OPTIMISATION

    epochs: int = opt(
        1,
        "Passes over train_data. More than 3 usually over-fits.",
        low=1,
        otherwise="for a part of a pass give max_steps, the number of optimiser steps: rows of that part / batch_size",
    )
    max_steps: int | None = opt(
        None,
        "Stop after this many optimiser steps even when the epochs are not over; for short trials.",
        low=1,
        shown="all epochs",
    )
    batch_size: int = opt(
        64,
        "Examples per optimiser step, over all devices. It shapes learning, not memory: "
        "accumulation follows from micro_batch_tokens.",
        low=1,
    )
    micro_batch_tokens: int | None = opt(
        None,
        "Tokens per device in one forward pass. Lower it when memory runs out: the result stays the same.",
        low=1,
        shown="8192 on a GPU, 2048 on CPU",
        on_resume=FREE,
    )
    learning_rate: float | None = opt(
        None,
        "Peak learning rate of AdamW. The default suits pretrained models; tiny ones trained "
        "from scratch need 1e-4 to 2e-3.",
        above=0,
        shown="{cls.learning_rate_full:g}, with LoRA {cls.learning_rate_lora:g}",
    )
    lr_scheduler: str = opt(
        "linear",
        "Learning rate after warm-up: linear or cosine decay to 0, or constant.",
        choices=("linear", "cosine", "constant"),
    )
    warmup_ratio: float = opt(
        0.03,
        "Share of all steps over which the learning rate rises from 0.",
        low=0,
        below=1,
    )
    weight_decay: float = opt(0.0, "AdamW's decoupled weight decay; 0 to 0.1.", low=0)
    adam_eps: float = opt(1e-8, "Epsilon in AdamW's denominator.", above=0)
    max_grad_norm: float = opt(
        1.0,
        "Gradients are scaled down when their joint norm is above this.",
        above=0,
    )
    precision: str = opt(
        "auto",
        "Number format of the forward pass: auto is bf16 on a GPU and float32 on CPU. float32 "
        "repeats bit for bit on CPU.",
        choices=("auto", "float32", "bf16"),
    )
    attn_implementation: str | None = opt(
        None,
        "Attention kernel as transformers names it: eager, sdpa, flash_attention_2…",
        metavar="NAME",
        shown="transformers' choice",
        on_resume=FREE,
    )
    gradient_checkpointing: bool = opt(
        False,
        "Recompute activations in the backward pass: about a third slower, far less memory on long sequences.",
        on_resume=FREE,
    )


@dataclass(kw_only=True, frozen=True)
class LoRA(Settings):
    """Adapters in place of all weights."""

    group: ClassVar[str] = LORA

    lora_r: int = opt(
        0,
        "Rank of LoRA adapters; 0 trains all weights, 8 to 64 is usual. The result holds merged "
        "weights and the adapter.",
        low=0,
    )
    lora_alpha: float = opt(32.0, "Adapter updates are scaled by lora_alpha / lora_r.", above=0)
    lora_dropout: float = opt(0.0, "Dropout on the adapters' input; 0 to 0.1.", low=0, below=1)
    lora_target: str = opt(
        "all-linear",
        "Layers that get an adapter: all-linear, or names such as q_proj,v_proj.",
        metavar="NAME[,…]",
        many=True,
    )
    modules_to_save: str | None = opt(
        None,
        "Modules that LoRA trains whole beside its adapters, by the end of their names, such as embed_tokens,lm_head. "
        "Tokens that chat_template brings are trained without it.",
        metavar="NAME[,…]",
        many=True,
    )

    load_in_4bit: bool = opt(
        False,
        "Keep the base below the adapters in 4 bits (QLoRA: NF4, scales in 8 bits): a third of the memory of bf16, "
        "and somewhat slower. The result is in full precision. Needs bitsandbytes (pip install "
        "'easyrlhf[quantization]').",
    )


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
class Run(Settings):
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


@dataclass(kw_only=True, frozen=True)
class TrainConfig(
    DryRun, Hub, Trackers, RemoteCode, Run, Devices, LoRA, Optimisation, RowLimits, Rendering, RowLayout, ModelAndData
):
    """What every training stage can be told; the stages below add their own settings."""

    opening: ClassVar[str] = "reading {self.train_data} …"

    learning_rate_full: ClassVar[float]
    learning_rate_lora: ClassVar[float]
    taken_length: ClassVar[int] = 0  # tokens of max_length that no prompt can have
    ptx_data: ClassVar[str | None] = None  # a setting of PPO
    ref_model: ClassVar[str | None] = None  # of the stages that compare the policy with a reference
    share_backbone: ClassVar[bool] = False  # of those that learn from their own samples
    uses_vllm: ClassVar[bool] = False  # whether vLLM samples
    colocates_vllm: ClassVar[bool] = False  # whether it does so inside the run's own processes

    format: str | None = restate(
        RowLayout,
        "format",
        "Row format, when it is not to be recognised from the first rows: hh, alpaca, chatml.intel… (easyrlhf docs "
        "formats).",
    )
    chat_template: str | None = restate(
        Rendering,
        "chat_template",
        "Template for a base model that has none: chatml, hh, llama3 or a Jinja file. Set it at "
        "SFT; later stages find it in the checkpoint.",
        on_resume=FILES,
    )

    def _check(self) -> None:
        template_kwargs(self)
        self._check_rows()
        check_report_to(self.report_to)
        check_hub(self.push_to_hub, self.hub_private)
        longest = self.max_length or DEFAULT_LENGTH
        if (self.max_prompt_length or 1) >= longest:
            raise SettingError(
                "max_prompt_length",
                f"max_prompt_length {self.max_prompt_length}: must be less than max_length "
                f"{longest}, or no completion fits; lower it or raise max_length",
            )
        if self.valid_split and self.valid_data:
            raise SettingError(
                "valid_split",
                f"valid_split {self.valid_split:g}: valid_data is given as well; leave one of the two out",
            )
        if self.eval_steps and not self.validates:
            raise SettingError(
                "eval_steps",
                f"eval_steps {self.eval_steps}: needs valid_data or valid_split, the rows to evaluate on",
            )
        if self.keep_best and not self.validates:
            raise SettingError(
                "keep_best", f"keep_best {self.keep_best}: needs valid_data or valid_split, the rows to evaluate on"
            )
        if self.modules_to_save and not self.lora_r:
            raise SettingError(
                "modules_to_save",
                f"modules_to_save {self.modules_to_save}: belongs to LoRA, and lora_r 0 trains all modules; give "
                "lora_r, such as 16, or leave it out",
            )
        self._check_four_bit()
        if self.eval_at_start and not (self.validates or type(self).eval_at_start):
            raise SettingError(
                "eval_at_start", "eval_at_start: needs valid_data or valid_split, the rows to evaluate on"
            )
        self._check_devices()
        if self.node_rank >= self.nnodes:
            raise SettingError(
                "node_rank",
                f"node_rank {self.node_rank}: with nnodes {self.nnodes} it must be below {self.nnodes}; give nnodes "
                "the number of machines",
            )

    def _check_four_bit(self) -> None:
        if not self.load_in_4bit:
            return
        if not self.lora_r:
            raise SettingError(
                "load_in_4bit",
                "load_in_4bit true: belongs to LoRA, and lora_r 0 trains all weights, which 4 bits cannot hold; give "
                "lora_r, such as 16, or leave it out",
            )
        if self.deepspeed in ("zero3", "zero3_offload"):
            raise SettingError(
                "load_in_4bit",
                f"load_in_4bit true: deepspeed {self.deepspeed} cuts weights into parts and loses the scales of 4-bit "
                "ones; use deepspeed zero2, or leave it out",
            )

    def _check_rows(self) -> None:
        for name in READ_AGAIN:
            if piped := [one for one in split_list(getattr(self, name, None)) if one in STANDARD_INPUT]:
                raise SettingError(
                    name,
                    f"{name} {piped[0]}: a run reads its rows again when it continues, and in each of its processes; "
                    "save standard input to a file, such as rows.jsonl, and give that",
                )

    def _check_devices(self) -> None:
        if self.devices is None:
            return
        devices = self.devices.replace(" ", "")
        if not DEVICES.fullmatch(devices):
            raise SettingError(
                "devices",
                f"devices {self.devices}: must be GPU indices such as 0 or 0,1,2,3; cpu; or cpu:2 for two processes; "
                "or mps",
            )
        if devices == "mps" and self.nnodes > 1:
            raise SettingError("devices", f"devices mps: is one process, but nnodes is {self.nnodes}; leave that at 1")
        twice = len(set(devices.split(","))) < devices.count(",") + 1
        if twice or devices == "cpu:0":
            raise SettingError("devices", f"devices {self.devices}: each GPU once, and at least one process")
        object.__setattr__(self, "devices", "cpu" if devices == "cpu:1" else devices)

    def default_model(self) -> str:
        """The model a stage starts from when none is given; ValueError when there is none."""
        return DEFAULT_MODEL

    def with_lengths(self, places: int | None) -> Self:
        """A copy with the lengths that follow from others filled in; places as filled_lengths takes it."""
        return replace(self, **filled_lengths(self, places, self.taken_length))

    def resolved(self) -> Self:
        """A copy with every default filled in that depends on other settings or on folders, but for the lengths."""
        learning_rate = self.learning_rate_lora if self.lora_r else self.learning_rate_full
        return replace(
            self,
            model=self.model or self.default_model(),
            output_dir=self.output_dir or f"outputs/{self.stage}",
            learning_rate=learning_rate if self.learning_rate is None else self.learning_rate,
        )


@dataclass(kw_only=True, frozen=True)
class SFTConfig(LearnedAnswers, TrainConfig):
    """Settings of supervised fine-tuning."""

    stage: ClassVar[str] = "sft"
    learning_rate_full: ClassVar[float] = 2e-5
    learning_rate_lora: ClassVar[float] = 2e-4
