"""vLLM in this process, on the device that the run trains on; it sleeps while the run trains."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from easyrlhf.engine import processes
from easyrlhf.engine.device import dtype_name
from easyrlhf.errors import InputError
from easyrlhf.rollout.vllm_sampler import Completion, Drawing, for_device, lora_room
from easyrlhf.rollout.vllm_weights import named_weights, write_adapter

SETTINGS = {
    # one engine in this process, which the run's own processes drive in step
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # the threads are the run's
    "VLLM_LOGGING_LEVEL": "ERROR",
}


@dataclass(frozen=True)
class HeldModel:
    """What vLLM holds beside the training, and with how much of the device.

    model       folder or hub id that vLLM reads at the start; the weights to sample with come by load
    max_length  tokens of the longest prompt with its completion
    lora_r      rank of the adapter that is trained; 0 when all weights are
    ranks       processes that share a copy of the model, by tensor parallelism
    memory      share of the device's
    """

    model: str
    max_length: int
    lora_r: int
    ranks: int
    memory: float
    trust_remote_code: bool


class Colocated:
    """A Backend in every process of the run. Raises InputError when vLLM cannot hold the model."""

    at_once = False

    def __init__(self, held: HeldModel, drawing: Drawing, device: torch.device, dtype: torch.dtype):
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        try:
            from vllm import LLM
        except ImportError as error:
            raise InputError(f"--rollout vllm: vllm cannot be used here: {error}; use --rollout hf") from error

        self.ranks, self.lora_r, self.sleeps = held.ranks, held.lora_r, device.type == "cuda"  # on a CPU it cannot
        self.drawing = drawing.settings()
        self.drawing["detokenize"] = bool(drawing.ending.texts)
        if drawing.spare:
            self.drawing["logit_bias"] = {int(i): bias for i, bias in self.drawing["logit_bias"].items()}
        self.adapter: Any = None
        adapters = {"enable_lora": True, "max_loras": 1, "max_lora_rank": lora_room(held.lora_r)} if held.lora_r else {}
        try:
            self.llm = LLM(
                held.model,
                dtype=dtype_name(dtype),
                distributed_executor_backend="external_launcher",
                tensor_parallel_size=held.ranks,
                gpu_memory_utilization=held.memory,
                max_model_len=held.max_length,
                enable_sleep_mode=self.sleeps,
                **for_device(device),
                generation_config="vllm",
                logprobs_mode="processed_logprobs",
                skip_tokenizer_init=not drawing.ending.texts,  # a text is found in what it decodes
                disable_log_stats=True,
                trust_remote_code=held.trust_remote_code,
                **adapters,
            )
        except (ValueError, RuntimeError, NotImplementedError, AssertionError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(f"--rollout vllm: vLLM cannot hold {held.model}: {reason}; use --rollout hf") from error
        processes.hand_over()
        self.rest()

    def rest(self) -> None:
        """Leave the device to the training."""
        if self.sleeps:
            self.llm.sleep(level=1)

    def load(self, lm: nn.Module) -> None:
        """As Backend says."""
        if self.sleeps:
            self.llm.wake_up(["weights"])
        if self.lora_r:
            self.load_adapter(lm)
        else:
            self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": named_weights(lm)})
        self.llm.reset_prefix_cache()

    def load_adapter(self, lm: nn.Module) -> None:
        """Take the model's adapter in place of the one before."""
        from vllm.lora.request import LoRARequest

        number = 1
        if self.adapter is not None:
            number += self.adapter.lora_int_id
            self.llm.llm_engine.remove_lora(self.adapter.lora_int_id)
        with TemporaryDirectory() as folder:
            write_adapter(lm, Path(folder))
            self.adapter = LoRARequest("policy", number, folder)
            self.llm.llm_engine.add_lora(self.adapter)

    @contextmanager
    def session(self) -> Iterator[None]:
        """As Backend says: awake all the time, so that what was read of a conversation is not read again."""
        if self.sleeps:
            self.llm.wake_up()
        try:
            yield
        finally:
            self.rest()

    def complete(self, prompts: list[list[int]], seeds: list[int], limits: list[int] | None = None) -> list[Completion]:
        """As Backend says."""
        from vllm import SamplingParams, TokensPrompt

        asked = [TokensPrompt(prompt_token_ids=prompt) for prompt in prompts]
        own = [{}] * len(seeds) if limits is None else [{"max_tokens": most} for most in limits]
        how = [SamplingParams(**self.drawing | more, seed=seed) for seed, more in zip(seeds, own, strict=True)]
        outputs = [
            output.outputs[0] for output in self.llm.generate(asked, how, use_tqdm=False, lora_request=self.adapter)
        ]
        return [
            Completion(
                list(output.token_ids),
                [choices[token].logprob for choices, token in zip(output.logprobs, output.token_ids, strict=True)],
            )
            for output in outputs
        ]

    def wait(self) -> None:
        """As Backend says; what is in this process is there."""

    def close(self) -> None:
        """As Backend says; vLLM ends with the process."""
