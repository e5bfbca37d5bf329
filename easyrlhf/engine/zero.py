"""DeepSpeed ZeRO under the engine: optimiser, gradients and, at stage 3, weights lie in parts on the processes."""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from easyrlhf.engine import processes
from easyrlhf.engine.engine import Engine, OptimiserSettings
from easyrlhf.engine.one_pass import OnePass, emptied
from easyrlhf.engine.proof import MASTER, MOMENTS
from easyrlhf.engine.zero_config import fill_zero_config
from easyrlhf.errors import NotFinite
from easyrlhf.models.parts import plain_lm


class ZeroEngine(Engine):
    """As Engine, through DeepSpeed. config is what read_zero_config gives."""

    def __init__(self, model: nn.Module, settings: OptimiserSettings, config: dict[str, Any], dtype: torch.dtype):
        super().__init__(model, settings)
        self.stage = config["zero_optimization"]["stage"]
        self.empty = emptied(model) if self.stage == 3 else None
        config = fill_zero_config(config, bf16=dtype == torch.bfloat16, max_grad_norm=settings.max_grad_norm)
        self.shape = {name: parameter.shape for name, parameter in self.trained.items()}
        optimiser = self.make_optimiser(self.trained)
        self.deepspeed = initialised(model, config, optimiser)
        self.zero = self.deepspeed.optimizer
        self.begin_moments()
        self.scheduler = self.make_scheduler(self.zero.optimizer)

    def begin_moments(self) -> None:
        """Give Adam its state before its first step, which is when DeepSpeed can already save and load it."""
        for flat in self.flats:
            moments = {part: torch.zeros_like(flat) for part in MOMENTS}
            self.zero.optimizer.state[flat] = {"step": torch.tensor(0.0, device=flat.device)} | moments
        if self.stage < 3:
            self.zero._lazy_init_hp_params_optimizer_state()

    @property
    def flats(self) -> list[Tensor]:
        """The float32 parts that this process's optimiser steps."""
        if self.stage == 3:
            return list(self.zero.fp32_partitioned_groups_flat)
        return [flat for group in self.zero.optimizer.param_groups for flat in group["params"]]

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """As Engine says. DeepSpeed takes the mean over the processes, where we want the sum."""
        self.deepspeed.set_gradient_accumulation_boundary(last)
        self.deepspeed.backward(loss * processes.size())

    def update(self, loss: float) -> float:
        """As Engine says; when the gradient is not finite, the weights in memory are no longer good."""
        if not math.isfinite(loss):
            raise self.not_finite(loss)
        self.changes += 1
        self.deepspeed.step()
        grad_norm = float(self.deepspeed.get_global_grad_norm())
        if not math.isfinite(grad_norm):
            raise NotFinite(
                f"the gradient has norm {grad_norm} at a loss of {loss}; the weights in memory are lost, those on disk "
                f"are not. {self.remedy}"
            )
        return grad_norm

    def skip(self) -> None:
        """As Engine says."""
        with warnings.catch_warnings():  # torch expects an optimiser's step before, which would exchange gradients
            warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
            self.scheduler.step()

    def held(self) -> dict[str, Tensor]:
        """As Engine says; below stage 3 they are parts without names of their own."""
        from deepspeed.utils import safe_get_local_fp32_param

        if self.stage < 3:
            return {f"part {number} of this process": flat for number, flat in enumerate(self.flats)}
        # Equal parts go beyond the end of the last one: DeepSpeed leaves there what was in memory.
        return {
            name: safe_get_local_fp32_param(parameter)[: max(0, self.shape[name].numel() - self.own_start(parameter))]
            for name, parameter in self.trained.items()
        }

    def shapes(self) -> dict[str, torch.Size]:
        """As Engine says; at stage 3 the parameters themselves are empty."""
        return self.shape

    def gathered(self, name: str) -> dict[str, Tensor]:
        """As Engine says."""
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        parameter = self.trained[name]
        found = {part: safe_get_full_optimizer_state(parameter, part) for part in MOMENTS}
        return {MASTER: safe_get_full_fp32_param(parameter)} | found

    def load(self, folder: Path) -> None:
        """As Engine says."""
        self.drop_prefetched()
        super().load(folder)

    def drop_prefetched(self) -> None:
        """Let weights arrive that DeepSpeed has begun to fetch ahead: it gathers none that are on their way."""
        if self.stage == 3:
            self.deepspeed.empty_partition_cache()

    def restore(self, name: str, found: dict[str, Tensor], step: int) -> None:
        """As Engine says."""
        import deepspeed
        from deepspeed.utils import (
            safe_set_full_fp32_param,
            safe_set_full_optimizer_state,
            safe_set_local_fp32_param,
            safe_set_local_optimizer_state,
        )

        parameter = self.trained[name]
        whole = {part: torch.zeros(self.shape[name]) for part in MOMENTS} | found
        if self.stage == 3:
            own = {part: self.own_part(parameter, tensor) for part, tensor in whole.items()}
            safe_set_local_fp32_param(parameter, own[MASTER])
            for part in MOMENTS:
                safe_set_local_optimizer_state(parameter, own[part], part)
            with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
                parameter.data.copy_(whole[MASTER])
        else:
            safe_set_full_fp32_param(parameter, whole[MASTER].to(parameter.device))
            for part in MOMENTS:
                safe_set_full_optimizer_state(parameter, whole[part].to(parameter.device), part)
            parameter.copy_(whole[MASTER])
        for flat in self.flats:
            self.zero.optimizer.state[flat]["step"].fill_(float(step))

    @staticmethod
    def own_start(parameter: nn.Parameter) -> int:
        """The place in a whole tensor at which this process's part begins."""
        return parameter.ds_tensor.ds_numel * processes.rank()

    @classmethod
    def own_part(cls, parameter: nn.Parameter, whole: Tensor) -> Tensor:
        """What of a whole tensor lies on this process; the last part is filled up with zeros."""
        start, width = cls.own_start(parameter), parameter.ds_tensor.ds_numel
        padded = nn.functional.pad(whole.flatten(), (0, width * processes.size() - whole.numel()))
        return padded[start : start + width].to(parameter.device)

    def adam_steps(self) -> dict[str, int]:
        """As Engine says."""
        step = int(self.zero.optimizer.state[self.flats[0]]["step"])
        return dict.fromkeys(self.trained, step)

    @contextmanager
    def full_weights(self) -> Iterator[nn.Module]:
        """As Engine says. At stage 3 the weights are put together here, once, in a model without DeepSpeed's hooks.

        So processes may go through as many forward passes as each of them likes.
        """
        if self.stage < 3:
            yield self.model
            return
        import deepspeed

        self.drop_prefetched()
        own = dict(self.model.named_parameters())
        for name, parameter in self.empty.named_parameters():
            with deepspeed.zero.GatheredParameters([own[name]]):
                parameter.data = own[name].data.clone()
        self.empty.train(self.model.training)
        try:
            yield self.empty
        finally:
            for parameter in self.empty.parameters():
                parameter.data = parameter.data.new_empty(0)


def spread_frozen(model: nn.Module, config: dict[str, Any], dtype: torch.dtype) -> nn.Module:
    """Spread the weights of a model that is not trained over the processes, where ZeRO stage 3 is asked for."""
    if config["zero_optimization"]["stage"] == 3:
        initialised(model, fill_zero_config(config, bf16=dtype == torch.bfloat16, max_grad_norm=None), None)
    return model


def initialised(model: nn.Module, config: dict[str, Any], optimiser: torch.optim.Optimizer | None):
    """DeepSpeed's engine of a model, whose passes from now on go through it."""
    import deepspeed

    # On a CPU it would compile an operator first, which needs a compiler and half a minute, for inference alone.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    # DeepSpeed calls what torch has renamed, and torch says so for every call.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    deepspeed.init_distributed(dist_init_required=False)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    engine, *_ = deepspeed.initialize(
        model=OnePass(model), optimizer=optimiser, config=config, dist_init_required=False
    )
    for name, buffer in model.named_buffers():  # DeepSpeed rounds those of float32 as well, such as rotary frequencies
        buffer.data = buffers[name].to(buffer.device)
    if config["zero_optimization"]["stage"] == 3:
        # Processes cut their logits into different numbers of chunks: heads are put together once for all of them.
        heads = plain_lm(getattr(model, "lm", model)).get_output_embeddings(), getattr(model, "head", None)
        for parameter in (parameter for head in heads if head is not None for parameter in head.parameters()):
            deepspeed.zero.register_external_parameter(engine.module, parameter)
    model.one_pass = lambda function: engine(function)
    return engine
