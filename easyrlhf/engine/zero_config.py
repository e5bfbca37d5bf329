"""The DeepSpeed configuration of --deepspeed: read, checked, and filled in with what the settings decide."""

import copy
import json
from pathlib import Path
from typing import Any

from easyrlhf.errors import InputError

PRESETS = Path(__file__).parent / "deepspeed"
AUTO = "auto"
OURS = {  # keys that the settings decide
    "train_batch_size": "--batch_size decides it",
    "train_micro_batch_size_per_gpu": "--micro_batch_tokens decides it",
    "gradient_accumulation_steps": "it follows from --batch_size and --micro_batch_tokens",
    "gradient_clipping": "--max_grad_norm decides it",
    "optimizer": "the optimiser is AdamW with --learning_rate, --weight_decay and --adam_eps",
    "scheduler": "--lr_scheduler and --warmup_ratio decide it",
}

OUR_KINDS = {"optimizer": ("AdamW",), "scheduler": ("WarmupLR", "WarmupDecayLR")}  # whose values must all be "auto"


def preset_names() -> list[str]:
    """The configurations that come with the package."""
    return sorted(file.stem for file in PRESETS.glob("*.json"))


def read_zero_config(deepspeed: str) -> dict[str, Any]:
    """The DeepSpeed configuration of --deepspeed: a preset's name, or a file. Raises InputError; imports nothing.

    What the settings decide (batch sizes, precision, clipping, optimiser, schedule) must be "auto" or left out; AdamW
    and a warm-up with all values "auto" say just that.
    """
    file = PRESETS / f"{deepspeed}.json"
    if not file.exists():
        file = Path(deepspeed)
    if not file.is_file():
        raise InputError(
            f"--deepspeed {deepspeed}: is neither a file nor one of {', '.join(preset_names())}, none; give the path "
            "of a DeepSpeed configuration in JSON"
        )
    try:
        config = json.loads(file.read_text())
    except ValueError as error:
        raise InputError(f"--deepspeed {file}: is not JSON ({error})") from error
    zero = config.get("zero_optimization") if isinstance(config, dict) else None
    if not isinstance(zero, dict) or zero.get("stage") not in (1, 2, 3):
        raise InputError(
            f"--deepspeed {file}: key zero_optimization.stage must be 1, 2 or 3; without ZeRO use --deepspeed none"
        )
    for key, setting in OURS.items():
        if config.get(key, AUTO) != AUTO and not says_what_we_do(key, config[key]):
            raise InputError(
                f'--deepspeed {file}: key {key} is {json.dumps(config[key])}, but {setting}; write "auto", or leave it '
                "out"
            )
    for key in ("fp16", "bf16"):
        section = config.get(key, {})
        if not isinstance(section, dict):
            raise InputError(
                f'--deepspeed {file}: key {key} is {json.dumps(section)}, but must be {{"enabled": "auto"}}'
            )
        if section.get("enabled", AUTO) not in (AUTO, False):
            raise InputError(f'--deepspeed {file}: key {key}.enabled: --precision decides it; write "auto"')
    return config


def says_what_we_do(key: str, section: Any) -> bool:
    """Whether the block of an optimiser or a schedule asks for ours, and leaves every value to the settings."""
    return (
        isinstance(section, dict)
        and section.keys() <= {"type", "params"}
        and section.get("type") in OUR_KINDS.get(key, ())
        and isinstance(params := section.get("params", {}), dict)
        and all(value == AUTO for value in params.values())
    )


def fill_zero_config(config: dict[str, Any], *, bf16: bool, max_grad_norm: float | None) -> dict[str, Any]:
    """The configuration with what the settings decide, as DeepSpeed wants it; max_grad_norm is None for a frozen model.

    DeepSpeed's own accumulation is not used: a step has as many micro-batches as its tokens ask for.
    """
    config = copy.deepcopy({key: value for key, value in config.items() if key not in OURS})
    config |= {"train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 1}
    config |= {"bf16": {"enabled": bf16}, "fp16": {"enabled": False}, "zero_allow_untested_optimizer": True}
    if max_grad_norm is not None:
        config["gradient_clipping"] = max_grad_norm
    zero = config["zero_optimization"]
    if max_grad_norm is None:
        zero.pop("offload_optimizer", None)
    config["zero_optimization"] = {key: value for key, value in zero.items() if value != AUTO}
    if bf16:
        config.setdefault("data_types", {}).setdefault("grad_accum_dtype", "fp32")
    return config
