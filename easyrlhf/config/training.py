"""What every training stage can be told, and supervised fine-tuning."""

import re
from dataclasses import MISSING, dataclass, replace
from typing import ClassVar, Self

from easyrlhf.config.base import DATA, FILES, FREE, MODEL, ROWS, Settings, opt, restate
from easyrlhf.config.common_fields import (
    DEFAULT_LENGTH,
    DEFAULT_MODEL,
    STANDARD_INPUT,
    RemoteCode,
    RowLayout,
    filled_lengths,
)
from easyrlhf.config.lists import split_list
from easyrlhf.config.optimisation import LoRA, Optimisation
from easyrlhf.config.rendering import ChatRendering, LearnedAnswers, template_kwargs
from easyrlhf.config.reporting import Hub, TrackerNames, check_hub, check_report_to
from easyrlhf.config.run_settings import Devices, DryRun, RunSettings
from easyrlhf.errors import SettingError

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
class TrainConfig(
    DryRun,
    Hub,
    TrackerNames,
    RemoteCode,
    RunSettings,
    Devices,
    LoRA,
    Optimisation,
    RowLimits,
    ChatRendering,
    RowLayout,
    ModelAndData,
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
        ChatRendering,
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
        self._check_lengths()
        self._check_held_out()
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
        self._check_sharding()
        self._check_long_rows()
        if self.node_rank >= self.nnodes:
            raise SettingError(
                "node_rank",
                f"node_rank {self.node_rank}: with nnodes {self.nnodes} it must be below {self.nnodes}; give nnodes "
                "the number of machines",
            )

    def _check_lengths(self) -> None:
        longest = self.max_length or DEFAULT_LENGTH
        if (self.max_prompt_length or 1) >= longest:
            raise SettingError(
                "max_prompt_length",
                f"max_prompt_length {self.max_prompt_length}: must be less than max_length "
                f"{longest}, or no completion fits; lower it or raise max_length",
            )

    def _check_held_out(self) -> None:
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

    def _check_long_rows(self) -> None:
        if self.context_parallel_size > 1 and self.attn_implementation not in (None, "sdpa"):
            raise SettingError(
                "context_parallel_size",
                f"context_parallel_size {self.context_parallel_size}: processes share rows in sdpa attention alone, "
                f"but attn_implementation is {self.attn_implementation}; give sdpa, or leave it out",
            )
        if self.offload_activations and not self.gradient_checkpointing:
            raise SettingError(
                "offload_activations",
                "offload_activations true: is for what gradient_checkpointing keeps, which is off, and everything a "
                "layer keeps without it takes longer to move than to compute; give gradient_checkpointing as well",
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

    def _check_sharding(self) -> None:
        if self.sharding == "none":
            return
        chosen = f"sharding {self.sharding}"
        if self.deepspeed not in ("auto", "none"):
            raise SettingError("sharding", f"{chosen}: deepspeed {self.deepspeed} spreads the models too; give one")
        if self.share_backbone:
            raise SettingError(
                "sharding",
                f"{chosen}: cannot be used with share_backbone, where two models are trained on one backbone; leave it "
                "out, which also works on several devices",
            )
        if self.load_in_4bit:
            raise SettingError(
                "sharding",
                f"{chosen}: cuts weights into parts and loses the scales of load_in_4bit; use deepspeed zero2, or "
                "leave one of the two out",
            )
        if self.devices == "mps":
            raise SettingError(
                "sharding", f"{chosen}: devices mps is one GPU, over which nothing is spread; leave it out"
            )

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
