"""What an online stage samples with: checked before a model is loaded, made when the policy is there."""

from importlib.util import find_spec

from torch import nn

from easyrlhf.config import OnlineConfig
from easyrlhf.data.render import Renderer
from easyrlhf.engine import processes
from easyrlhf.engine.device import memory_of, pick_device
from easyrlhf.engine.engine import Engine
from easyrlhf.errors import InputError
from easyrlhf.models.adapters import is_adapter
from easyrlhf.models.load import load_config
from easyrlhf.models.parts import plain_lm
from easyrlhf.models.vocabulary import spare_ids
from easyrlhf.report.console import Console
from easyrlhf.rollout.ending import Ending
from easyrlhf.rollout.room import bytes_of_completion, decoded_together
from easyrlhf.rollout.sampler import HFSampler
from easyrlhf.rollout.sharded import ShardedSampler
from easyrlhf.rollout.vllm_sampler import Backend, Drawing, VLLMSampler, lora_room
from easyrlhf.rollout.vllm_server import VLLMServer, Waiting, WeightTransfer
from easyrlhf.run.checkpoint import random_kept
from easyrlhf.run.run import Run


def check_rollout(config: OnlineConfig, renderer: Renderer) -> None:
    """Raise InputError when the settings ask for a vLLM that cannot be had, or that cannot read the policy."""
    if config.rollout == "hf":
        return
    check_model(config.model, renderer.tokenizer, config.trust_remote_code)
    if config.lora_r:
        lora_room(config.lora_r)
    if config.vllm_mode == "colocate":
        check_colocated(config)
    if config.vllm_weight_transfer == "nccl":
        check_nccl(config)


def check_model(model: str, tokenizer, trust_remote_code: bool) -> None:
    """Raise InputError when vLLM cannot start from a policy's folder or hub id."""
    way_out = f"easyrlhf export {model} --to full --output_dir FOLDER makes a folder it takes; or use --rollout hf"
    if is_adapter(model):
        raise InputError(f"--model {model}: is an adapter alone, which vLLM does not start from; {way_out}")
    rows = output_rows(model, trust_remote_code)
    if len(tokenizer) > rows:
        raise InputError(
            f"--model {model}: its tokenizer has {len(tokenizer)} tokens and its weights {rows} embeddings, which "
            f"vLLM does not take; {way_out}"
        )


def output_rows(model: str, trust_remote_code: bool) -> int:
    """Ids that a model's output has a row for; reads no weights."""
    return load_config(model, trust_remote_code=trust_remote_code).get_text_config().vocab_size


def check_colocated(config: OnlineConfig) -> None:
    """Raise InputError when vLLM is not installed, or cannot be cut over the run's processes as asked."""
    if find_spec("vllm") is None:
        raise InputError(
            "--rollout vllm: vllm is not installed here; pip install 'easyrlhf[vllm]', or use --vllm_mode server with "
            "a server elsewhere, or --rollout hf"
        )
    if processes.size() % config.vllm_tensor_parallel_size:
        raise InputError(
            f"--vllm_tensor_parallel_size {config.vllm_tensor_parallel_size}: does not divide the {processes.size()} "
            "processes of this run; use a divisor, or --vllm_mode server"
        )


def check_nccl(config: OnlineConfig) -> None:
    """Raise InputError when the run has not what it takes to send weights by NCCL."""
    if find_spec("vllm") is None:
        raise InputError(
            "--vllm_weight_transfer nccl: vllm is not installed here, which sends the weights; pip install "
            "'easyrlhf[vllm]', or use --vllm_weight_transfer files"
        )
    if (device := pick_device(config.devices)).type != "cuda":
        raise InputError(
            f"--vllm_weight_transfer nccl: sends from GPU to GPU, but the run is on the {device.type.upper()}; use "
            "--vllm_weight_transfer files"
        )


def make_backend(run: Run, renderer: Renderer, console: Console) -> Backend | None:
    """The vLLM that the settings ask for, or None. Raises InputError when it cannot hold the policy."""
    config = run.config
    if config.rollout == "hf":
        return None
    drawing = Drawing(
        config.completion_limit,
        Ending.of(renderer, config.stop_finishes),
        spare_ids(renderer.tokenizer, output_rows(config.model, config.trust_remote_code)),
        config.temperature,
    )
    max_length = config.max_prompt_length + config.completion_limit
    if config.vllm_mode == "server":
        nccl = run.device if config.vllm_weight_transfer == "nccl" else None
        transfer = WeightTransfer(run.cache / "vllm", config.lora_r, nccl)
        waiting = Waiting(config.vllm_timeout, console.warn, lambda: run.stop.requested)
        server = VLLMServer(config.vllm_host, config.vllm_port, drawing, transfer, waiting)
        processes.on_main(lambda: server.check(max_length))
        return server
    from easyrlhf.rollout.vllm_colocated import Colocated, HeldModel

    held = HeldModel(
        config.model,
        max_length,
        lora_r=config.lora_r,
        ranks=config.vllm_tensor_parallel_size,
        memory=config.vllm_gpu_memory_utilization,
        trust_remote_code=config.trust_remote_code,
    )
    with random_kept():  # vLLM seeds all generators of our process
        return Colocated(held, drawing, run.device, run.dtype)


def decoded_at_once(config: OnlineConfig, lm: nn.Module) -> int:
    """Completions of a policy that its device decodes together; `fit` counts with the same number."""
    lm = plain_lm(lm)
    tokens = config.max_prompt_length + config.completion_limit
    each = bytes_of_completion(lm.config.get_text_config(), lm.dtype, tokens)
    memory = memory_of(lm.device) if lm.device.type == "cuda" else 0
    return decoded_together(config.local_rollout_forward_batch_size, lm.device.type, memory, each)


def make_sampler(config: OnlineConfig, renderer: Renderer, policy: Engine, backend: Backend | None):
    """The sampler of the policy's completions: its own loop, or the vLLM that make_backend gave."""
    ending = Ending.of(renderer, config.stop_finishes)
    if backend is not None:
        return VLLMSampler(
            policy,
            backend,
            pad_id=renderer.pad_id,
            ending=ending,
            temperature=config.temperature,
            sync_interval=config.vllm_sync_interval,
            ahead=max(1, config.rollout_ahead),
        )
    hf = HFSampler(
        policy.model,
        renderer.pad_id,
        ending,
        max_new_tokens=config.completion_limit,
        temperature=config.temperature,
        batch_size=decoded_at_once(config, policy.model),
    )
    return ShardedSampler(policy, hf)
