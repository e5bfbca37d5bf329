"""Whether the processes of a run share its weights among them, as the settings say."""

from importlib.util import find_spec

from easyrlhf.config import TrainConfig
from easyrlhf.engine import processes
from easyrlhf.engine.zero_config import read_zero_config
from easyrlhf.errors import InputError


def wants_group(config: TrainConfig) -> bool:
    """Whether a process that is alone has to be a group of one, which sharding and a vLLM inside of it ask for."""
    return asks_for_zero(config) or spreads_by_fsdp(config) or config.colocates_vllm


def spreads_by_fsdp(config: TrainConfig) -> bool:
    """Whether torch's FSDP2 spreads the models."""
    return config.sharding == "fsdp2"


def asks_for_zero(config: TrainConfig) -> bool:
    """Whether the settings name a DeepSpeed configuration."""
    return config.deepspeed not in ("auto", "none")


def zero_config(config: TrainConfig) -> dict | None:
    """DeepSpeed's configuration for a run: by default zero2 with several processes, where it is installed, else none.

    Adapters on a shared backbone are too small to be worth spreading. Raises InputError.
    """
    if spreads_by_fsdp(config):
        return None
    if config.share_backbone and asks_for_zero(config):
        raise InputError(
            f"--deepspeed {config.deepspeed}: cannot be used with --share_backbone, where two models are trained on "
            "one backbone; use --deepspeed none, which also works on several devices"
        )
    chosen, there = config.deepspeed, find_spec("deepspeed") is not None
    if asks_for_zero(config) and not there:
        raise InputError(
            f"--deepspeed {chosen}: DeepSpeed is not installed here, and has no packages but for Linux; use --sharding "
            "fsdp2, or --deepspeed none"
        )
    if chosen == "auto":
        chosen = "zero2" if processes.size() > 1 and there and not config.share_backbone else "none"
    return None if chosen == "none" else read_zero_config(chosen)
