"""easyrlhf vllm_serve: `vllm serve`, told what an online run needs of it."""

import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from easyrlhf.config import OnlineConfig
from easyrlhf.data.tokenizer import load_tokenizer
from easyrlhf.engine.device import dtype_name, pick_device, pick_dtype
from easyrlhf.errors import InputError
from easyrlhf.models.load import positions_of
from easyrlhf.report.console import Console
from easyrlhf.rollout.vllm_sampler import for_device, lora_room
from easyrlhf.run.manifest import read_stage, require_whole
from easyrlhf.stages.recorded_parents import keep_parent
from easyrlhf.stages.samplers import check_model

ALLOWED = {"VLLM_SERVER_DEV_MODE": "1", "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}  # to change its weights


def vllm_serve(config: OnlineConfig) -> NoReturn:
    """Become vLLM's server for a run with these settings. Raises InputError when it cannot serve the model."""
    if find_spec("vllm") is None:
        raise InputError("vllm is not installed here; pip install 'easyrlhf[vllm]'")
    model = config.model or config.default_model()
    folder = Path(config.output_dir or f"outputs/{config.stage}")
    model = keep_parent(
        {True: folder, False: folder}, "model", model, config, bool(read_stage(folder)), Console("vllm_serve")
    )
    require_whole("--model", model, allow_incomplete=config.allow_incomplete)
    check_model(model, load_tokenizer(model, trust_remote_code=config.trust_remote_code), config.trust_remote_code)
    config = config.with_lengths(positions_of(model, trust_remote_code=config.trust_remote_code))
    os.execve(sys.executable, serve_command(config, model), os.environ | ALLOWED)


def serve_command(config: OnlineConfig, model: str) -> list[str]:
    """The command line of the server."""
    device = pick_device(None)
    options = {
        "host": config.vllm_host,
        "port": config.vllm_port,
        "dtype": dtype_name(pick_dtype(config.precision, device)),
        "max-model-len": config.max_prompt_length + config.completion_limit,
        "tensor-parallel-size": config.vllm_tensor_parallel_size,
        "gpu-memory-utilization": config.vllm_gpu_memory_utilization,
        "generation-config": "vllm",  # not the model's own, which may cut the distribution
        "logprobs-mode": "processed_logprobs",  # at the temperature of the draws
    }
    switches = [f"--{'' if on else 'no-'}{name.replace('_', '-')}" for name, on in for_device(device).items()]
    if config.trust_remote_code:
        switches.append("--trust-remote-code")
    if config.lora_r:
        switches.append("--enable-lora")
        options |= {"max-loras": 1, "max-lora-rank": lora_room(config.lora_r)}
    if config.vllm_weight_transfer == "nccl":
        options["weight-transfer-config"] = json.dumps({"backend": "nccl"})
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return [sys.executable, "-P", "-m", "vllm.entrypoints.cli.main", "serve", model, *words, *switches]
