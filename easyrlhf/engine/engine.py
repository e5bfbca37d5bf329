"""The engine: one trained model, its optimiser and its schedule."""

import json
import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from easyrlhf.config import TrainConfig
from easyrlhf.engine import processes
from easyrlhf.engine.proof import BETAS, MASTER, MOMENTS, Mark, stuck, weight_marks
from easyrlhf.engine.schedule import share_of_rate
from easyrlhf.errors import NotFinite, RunError
from easyrlhf.files import written_to
from easyrlhf.run.trained_weights import stored_tensors

STATE_FILE = "engine.json"

# A micro-batch, as a function that gives its summed loss and sums of metrics; and what they weigh in this process.
Work = tuple[Callable[[], tuple[Tensor, dict[str, Tensor | float]]], float]
FUSED = ("cpu", "cuda")  # devices on which AdamW updates all parameters at once


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
    def of(cls, config: TrainConfig, total_steps: int, **changed) -> "OptimiserSettings":
        """Take the fields from a stage's settings, some of them changed."""
        names = [name for name in cls.__dataclass_fields__ if name != "total_steps"]
        return cls(**{name: config.value(name) for name in names} | changed, total_steps=total_steps)


def weighted_sums(measured: list[tuple[float, dict[str, Tensor | float]]]) -> Counter:
    """Sums by name of what micro-batches measured, each by what it weighs.

    What lies on a device is read once, in float64: to read each number as it is measured would keep a GPU waiting.
    """
    tensors = [value for _, found in measured for value in found.values() if isinstance(value, Tensor)]
    numbers: Iterator[float] = iter(())
    if tensors:
        device = tensors[0].device
        dtype = torch.float32 if device.type == "mps" else torch.float64  # which holds every float32 as it is
        numbers = iter(torch.stack([tensor.detach().to(device, dtype) for tensor in tensors]).tolist())
    sums = Counter()
    for weight, found in measured:
        read = {name: next(numbers) if isinstance(value, Tensor) else value for name, value in found.items()}
        sums.update({name: weight * value if weight else 0.0 for name, value in read.items()})
    return sums


class Engine(ABC):
    """Steps one model's trainable parameters with AdamW, a schedule and gradient clipping.

    With several processes all of them call the same methods in the same order; a step is that of all their
    micro-batches together. What is saved can be loaded by any engine with any number of processes.

    trained  name → parameter
    changes  times that the weights were changed, or may have been
    """

    def __init__(self, model: nn.Module, settings: OptimiserSettings):
        self.model, self.settings = model, settings
        self.trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.proven = False  # whether a step was seen to change what it should
        self.changes = 0

    def make_optimiser(self, parameters: dict[str, nn.Parameter]) -> Optimizer:
        """AdamW that decays matrices and leaves vectors alone."""
        settings, groups = self.settings, []
        # Biases and gains of norms set scales: pulling them to 0 regularises nothing, and drifts what was pretrained.
        fused = all(parameter.device.type in FUSED for parameter in parameters.values())
        for decay, wanted in ((settings.weight_decay, True), (0.0, False)):
            chosen = [p for name, p in parameters.items() if (self.trained[name].ndim >= 2) == wanted]
            groups.append({"params": chosen, "weight_decay": decay})
        return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=BETAS, eps=settings.adam_eps, fused=fused)

    def make_scheduler(self, optimizer: Optimizer) -> LambdaLR:
        """The schedule of the learning rate."""
        settings = self.settings
        warmup_steps = math.floor(settings.warmup_ratio * settings.total_steps)
        kind, total = settings.lr_scheduler, settings.total_steps
        share = partial(share_of_rate, schedule=kind, warmup_steps=warmup_steps, total_steps=total)
        return LambdaLR(optimizer, share)

    def step(self, work: list[Work], count: float) -> tuple[dict[str, float], dict[str, float]]:
        """One optimiser step over the micro-batches of all processes, as if they were one batch.

        work     this process's micro-batches
        count    what the losses are divided by: tokens or pairs of the whole optimiser batch
        returns  loss, grad_norm (before clipping) and learning_rate; the metrics, summed over all micro-batches
        Raises RunError when the loss or the gradient is not finite, or when the first step leaves weights as they were.
        """
        # 1. Gradients. Sums are divided by the count of the whole batch, not of the micro-batch: it is the gradient of
        # one batch however it is cut, and whoever computes it.
        measured = []
        for number, (loss_of_micro_batch, weight) in enumerate(work, 1):
            loss_sum, extra = loss_of_micro_batch()
            loss = loss_sum / count
            # One that weighs nothing goes backward all the same: ZeRO waits for every process in every pass.
            self.backward(weight * loss, last=number == len(work))
            measured.append((weight, {**extra, "loss": loss.detach()}))  # nothing of its graph outlives a micro-batch
        # 2. What all processes measured. They then judge the same loss, so that all take the step or none does.
        sums = processes.all_reduce_numbers(weighted_sums(measured))
        done = {"loss": sums.pop("loss"), "learning_rate": self.scheduler.get_last_lr()[0]}
        looked = not self.proven and done["learning_rate"] > 0  # a warm-up begins with a step of rate 0
        before, asked = (weight_marks(self), self.with_gradient()) if looked else ({}, set())
        # 3. The step, after clipping by the norm over all weights. The engine itself refuses one that is not finite,
        # since only it knows whether the weights can still be left alone.
        done["grad_norm"] = self.update(done["loss"])
        # 4. The first step proves itself: frozen weights that pass for trained ones look like a run that learns slowly.
        if looked:
            self.prove_step(before, asked, done["learning_rate"])
        self.scheduler.step()
        return done, sums

    def prove_step(self, before: dict[str, Mark], asked: set[str], learning_rate: float) -> None:
        """Raise RunError when the step that was just taken has left weights as they were; arguments as stuck's."""
        if names := stuck(self, before, asked, learning_rate):
            raise RunError(
                f"the first step had a gradient for {len(names)} of {len(before)} trained tensors and left them as "
                f"they were: {', '.join(names[:3])}. Nothing was saved; try --deepspeed none, and report the model's "
                "family"
            )
        self.proven = True

    def with_gradient(self) -> set[str]:
        """The trained weights that this process has a gradient for; DeepSpeed lets none see it but Adam."""
        return set()

    def not_finite(self, loss: float, grad_norm: float | None = None) -> NotFinite:
        """The error of a step that is not taken."""
        found = "" if grad_norm is None else f" with a gradient of norm {grad_norm}"
        return NotFinite(f"the loss is {loss}{found}; the weights were not changed. {self.remedy}")

    @property
    def remedy(self) -> str:
        """What may keep numbers finite that are not."""
        rounded = any(parameter.dtype != torch.float32 for parameter in self.trained.values())
        return f"Lower --learning_rate{', or use --precision float32' * rounded}"

    def check_finite(self) -> None:
        """Raise NotFinite when a trained weight is NaN or infinite; every process looks at what it has of them."""
        broken = [name for name, weights in self.held().items() if not bool(weights.isfinite().all())]
        if processes.any_of(bool(broken)):
            which = f": {', '.join(broken[:3])}" if broken else ""
            raise NotFinite(f"trained weights have become NaN or infinite{which}. {self.remedy}")

    def save(self, folder: Path) -> None:
        """Write what a resumed run needs: trained weights, optimiser, schedule; each process a part of it.

        Raises RunError when the disk does not take it.
        """
        mine: dict[str, Tensor] = {}
        # One tensor is whole at a time, and each process keeps the share of them that it writes.
        for number, name in enumerate(self.trained):
            found = self.gathered(name)
            if number % processes.size() == processes.rank():
                mine |= {f"{part}/{name}": tensor.detach().cpu().contiguous() for part, tensor in found.items()}
        steps = self.adam_steps()

        # A full disk of one process is told to all: else the others would wait for it in the next step.
        def write() -> None:
            with written_to(folder):
                folder.mkdir(parents=True, exist_ok=True)
                save_file(mine, folder / f"part-{processes.rank() + 1}-of-{processes.size()}.safetensors")
                if processes.is_main():
                    state = {"steps": steps, "scheduler": self.scheduler.state_dict()}
                    (folder / STATE_FILE).write_text(json.dumps(state))

        processes.gather_results(write)

    @torch.no_grad()
    def load(self, folder: Path) -> None:
        """Take back what save wrote. Raises InputError when it is of another model."""
        with stored_tensors(folder, self.shapes()) as places:
            state = json.loads((folder / STATE_FILE).read_text())
            # By name, not by place: another number of processes has cut the state into other parts.
            for name in self.trained:
                keys = {part: f"{part}/{name}" for part in (MASTER, *MOMENTS)}
                found = {part: places[key].get_tensor(key) for part, key in keys.items() if key in places}
                self.restore(name, found, state["steps"].get(name, 0))
        self.restore_schedule(state["scheduler"])

    def restore_schedule(self, saved: dict) -> None:
        """Go on in the schedule where it was, with the learning rates and the length of our own settings."""
        # A branched run may have another rate or another length, and both count from the next step on.
        ours = {"base_lrs": self.scheduler.base_lrs}
        self.scheduler.load_state_dict(saved | ours)
        step = self.scheduler.last_epoch
        rates = [base * f(step) for base, f in zip(self.scheduler.base_lrs, self.scheduler.lr_lambdas, strict=True)]
        self.scheduler._last_lr = rates
        for group, rate in zip(self.scheduler.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate

    def held(self) -> dict[str, Tensor]:
        """The trained weights that this process has, by name."""
        return dict(self.trained)

    def shapes(self) -> dict[str, torch.Size]:
        """Shape of every trained parameter, by name."""
        return {name: parameter.shape for name, parameter in self.trained.items()}

    @abstractmethod
    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add the gradient of a micro-batch's share of the loss; the last one ends the step."""

    @abstractmethod
    def update(self, loss: float) -> float:
        """Clip, step and forget the gradients; returns their norm before. Raises RunError when it is not finite."""

    @abstractmethod
    def skip(self) -> None:
        """Let a step of the schedule pass without an update."""

    @abstractmethod
    def gathered(self, name: str) -> dict[str, Tensor]:
        """Float32 weights of a parameter and, once there are any, its moments, whole on every process."""

    @abstractmethod
    def restore(self, name: str, found: dict[str, Tensor], step: int) -> None:
        """Take back what gathered gave, and the number of Adam's steps."""

    @abstractmethod
    def adam_steps(self) -> dict[str, int]:
        """Steps that Adam has taken, by the name of the parameter."""

    @contextmanager
    def full_weights(self) -> Iterator[nn.Module]:
        """The model with all of its weights on every process, to sample with or to save."""
        yield self.model
