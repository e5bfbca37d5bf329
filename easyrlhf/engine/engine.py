"""The engine: one trained model, its optimiser and its schedule."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import get_scheduler

from easyrlhf.errors import InputError, RunError

MicroBatch = TypeVar("MicroBatch")
SCHEDULERS = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}


@dataclass(frozen=True)
class OptimiserSettings:
    """What the optimiser and its schedule need to know; the names are the settings'."""

    learning_rate: float
    lr_scheduler: str
    warmup_ratio: float
    weight_decay: float
    adam_eps: float
    max_grad_norm: float
    total_steps: int

    @classmethod
    def of(cls, config, total_steps: int, **changed) -> "OptimiserSettings":
        """Take the fields from a stage's settings, some of them changed."""
        names = [name for name in cls.__dataclass_fields__ if name != "total_steps"]
        return cls(**{name: getattr(config, name) for name in names} | changed, total_steps=total_steps)


class Engine:
    """Steps one model's trainable parameters with AdamW, a schedule and gradient clipping.

    Parameters of lower precision are optimised through float32 master copies, and their gradients
    are accumulated in float32, so that bf16 neither loses small updates nor small micro-batches.
    """

    def __init__(self, model: nn.Module, settings: OptimiserSettings):
        self.model, self.max_grad_norm = model, settings.max_grad_norm
        self.trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.masters = {name: master_of(p) for name, p in self.trained.items()}
        matrices = [p for p in self.masters.values() if p.ndim >= 2]
        vectors = [p for p in self.masters.values() if p.ndim < 2]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": settings.weight_decay},
                {"params": vectors, "weight_decay": 0.0},
            ],
            lr=settings.learning_rate,
            eps=settings.adam_eps,
        )
        self.scheduler = get_scheduler(
            SCHEDULERS[settings.lr_scheduler],
            self.optimizer,
            num_warmup_steps=math.floor(settings.warmup_ratio * settings.total_steps),
            num_training_steps=settings.total_steps,
        )

    def step(
        self,
        micro_batches: Iterable[MicroBatch],
        loss_sum: Callable[[MicroBatch], Tensor],
        count: float,
    ) -> dict[str, float]:
        """One optimiser step over micro-batches, as if they were one batch.

        loss_sum  gives the summed loss of a micro-batch
        count     what the sums are divided by: tokens or pairs of the whole optimiser batch
        returns   loss, grad_norm (before clipping), learning_rate
        Raises RunError before anything is changed when the loss or the gradient is not finite.
        """
        total = 0.0
        for micro_batch in micro_batches:
            loss = loss_sum(micro_batch) / count
            loss.backward()
            total += loss.item()
        grad_norm = nn.utils.clip_grad_norm_(self.masters.values(), self.max_grad_norm).item()
        if not (math.isfinite(total) and math.isfinite(grad_norm)):
            raise RunError(
                f"the loss is {total} with a gradient of norm {grad_norm}; the weights were not changed. "
                "Lower --learning_rate, or use --precision float32"
            )
        learning_rate = self.scheduler.get_last_lr()[0]
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for name, parameter in self.trained.items():
                if self.masters[name] is not parameter:
                    parameter.copy_(self.masters[name])
        return {"loss": total, "grad_norm": grad_norm, "learning_rate": learning_rate}

    def skip(self) -> None:
        """Let a step of the schedule pass without an update."""
        self.optimizer.step()  # without gradients it changes nothing, and the schedule expects it
        self.scheduler.step()

    def save(self, folder: Path) -> None:
        """Write what a resumed run needs: trained weights, optimiser, schedule."""
        folder.mkdir(parents=True)
        weights = {name: master.detach().cpu().contiguous() for name, master in self.masters.items()}
        save_file(weights, folder / "weights.safetensors")
        state = {"optimizer": self.optimizer.state_dict(), "scheduler": self.scheduler.state_dict()}
        torch.save(state, folder / "optimizer.pt")

    @torch.no_grad()
    def load(self, folder: Path) -> None:
        """Take back what save wrote. Raises InputError when it is of another model."""
        weights = load_file(folder / "weights.safetensors")
        theirs = {name: tensor.shape for name, tensor in weights.items()}
        ours = {name: master.shape for name, master in self.masters.items()}
        if different := sorted({name for name, _ in theirs.items() ^ ours.items()}):
            raise InputError(f"{folder}: not a checkpoint of this model; they differ in {', '.join(different[:3])}")
        for name, master in self.masters.items():
            master.copy_(weights[name])
            self.trained[name].copy_(weights[name])
        state = torch.load(folder / "optimizer.pt", weights_only=True, map_location="cpu")
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])


def master_of(parameter: nn.Parameter) -> nn.Parameter:
    """The float32 parameter to optimise: itself, or a copy that collects its gradients in float32."""
    if parameter.dtype == torch.float32:
        return parameter
    master = nn.Parameter(parameter.detach().float())
    parameter.register_post_accumulate_grad_hook(partial(move_grad, master))
    return master


def move_grad(master: nn.Parameter, parameter: nn.Parameter) -> None:
    """Add a parameter's fresh gradient to its master's and free it."""
    grad = parameter.grad.float()
    master.grad = grad if master.grad is None else master.grad.add_(grad)
    parameter.grad = None
