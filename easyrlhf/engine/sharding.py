"""Whether the processes of a run share its weights among them, as the settings say."""

from easyrlhf.engine import processes
from easyrlhf.engine.zero import read_zero_config
from easyrlhf.errors import InputError


def wants_group(config) -> bool:
    """Whether a process that is alone has to be a group of one, which DeepSpeed and a vLLM inside of it ask for."""
    rollout = getattr(config, "rollout", "hf"), getattr(config, "vllm_mode", None)
    return asks_for_zero(config) or rollout == ("vllm", "colocate")


def asks_for_zero(config) -> bool:
    """Whether the settings name a DeepSpeed configuration."""
    return config.deepspeed not in ("auto", "none")


def zero_config(config) -> dict | None:
    """DeepSpeed's configuration for a run: by default zero2 with several processes, and none alone.

    Adapters on a shared backbone are too small to be worth spreading. Raises InputError.
    """
    shared = getattr(config, "share_backbone", False)
    if shared and asks_for_zero(config):
        raise InputError(
            f"--deepspeed {config.deepspeed}: cannot be used with --share_backbone, where two models are trained on "
            "one backbone; use --deepspeed none, which also works on several devices"
        )
    chosen = config.deepspeed
    if chosen == "auto":
        chosen = "zero2" if processes.size() > 1 and not shared else "none"
    return None if chosen == "none" else read_zero_config(chosen)
