"""The engine without DeepSpeed: every process holds the whole model, and gradients are summed over the processes."""

import math
from functools import partial

import torch
from torch import Tensor, nn
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors

from easyrlhf.engine import processes
from easyrlhf.engine.engine import Engine, OptimiserSettings
from easyrlhf.engine.proof import MASTER, MOMENTS

BUCKET = 2**26  # bytes of gradients that are summed over the processes at once


class PlainEngine(Engine):
    """Each process holds all of the model and of the optimiser; gradients are summed over the processes.

    Parameters of lower precision are optimised through float32 master copies, and their gradients are accumulated in
    float32, so that bf16 neither loses small updates nor small micro-batches.
    """

    def __init__(self, model: nn.Module, settings: OptimiserSettings):
        super().__init__(model, settings)
        self.masters = {name: master_of(p) for name, p in self.trained.items()}
        self.optimizer = self.make_optimiser(self.masters)
        self.scheduler = self.make_scheduler(self.optimizer)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """As Engine says."""
        loss.backward()

    def update(self, loss: float) -> float:
        """As Engine says; nothing is changed when it raises."""
        if processes.size() > 1:
            sum_gradients(list(self.masters.values()))
        # Of the sum over processes: clipping each one's own gradient would clip another vector.
        grad_norm = nn.utils.clip_grad_norm_(self.masters.values(), self.settings.max_grad_norm).item()
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            raise self.not_finite(loss, grad_norm)
        # From here on weights may be half changed, and a failure must not keep them.
        self.changes += 1
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        rounded = [name for name, parameter in self.trained.items() if self.masters[name] is not parameter]
        if rounded:  # what the model computes with is the master, rounded; all at once, as a GPU likes it
            with torch.no_grad():
                torch._foreach_copy_([self.trained[name] for name in rounded], [self.masters[name] for name in rounded])
        return grad_norm

    def with_gradient(self) -> set[str]:
        """As Engine says."""
        return {name for name, master in self.masters.items() if master.grad is not None and bool(master.grad.any())}

    def skip(self) -> None:
        """As Engine says."""
        self.optimizer.step()  # without gradients it changes nothing, and the schedule expects it
        self.scheduler.step()

    def gathered(self, name: str) -> dict[str, Tensor]:
        """As Engine says."""
        state = self.optimizer.state.get(self.masters[name], {})
        return {MASTER: self.masters[name]} | {part: state[part] for part in MOMENTS if part in state}

    def restore(self, name: str, found: dict[str, Tensor], step: int) -> None:
        """As Engine says."""
        master = self.masters[name]
        master.copy_(found.pop(MASTER))
        self.trained[name].copy_(master)
        self.optimizer.state.pop(master, None)
        if found:
            moments = {part: moment.to(master.device) for part, moment in found.items()}
            self.optimizer.state[master] = {"step": torch.tensor(float(step), device=master.device)} | moments

    def adam_steps(self) -> dict[str, int]:
        """As Engine says."""
        known = self.optimizer.state
        return {name: int(known[master]["step"]) for name, master in self.masters.items() if master in known}


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


def sum_gradients(parameters: list[nn.Parameter]) -> None:
    """Replace every gradient by the sum of all processes'; one that is missing here counts as 0."""
    bucket: list[Tensor] = []
    for place, parameter in enumerate(parameters, 1):
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        bucket.append(parameter.grad)
        if place == len(parameters) or sum(grad.nbytes for grad in bucket) >= BUCKET:
            total = processes.all_reduce_sum(_flatten_dense_tensors(bucket))
            for grad, whole in zip(bucket, _unflatten_dense_tensors(total, bucket), strict=True):
                grad.copy_(whole)
            bucket = []
