"""Torch's FSDP2 (fully_shard) under the engine: weights, gradients and optimiser lie in parts on the processes."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map

from easyrlhf.engine import processes
from easyrlhf.engine.engine import Engine, OptimiserSettings
from easyrlhf.engine.one_pass import OnePass, emptied
from easyrlhf.engine.proof import MASTER, MOMENTS
from easyrlhf.errors import InputError
from easyrlhf.models.parts import plain_lm
from easyrlhf.models.unread import StoredWeight, aliases, exchanged, taken_unread


@dataclass(frozen=True)
class Spread:
    """A model of which every process has a part.

    root        what a forward pass goes through
    parameters  name → the part of it that is here, while no pass needs it whole
    dtypes      name → the type that the whole weight has
    empty       a copy of the model without FSDP, which has no weights
    """

    root: nn.Module
    parameters: dict[str, nn.Parameter]
    dtypes: dict[str, torch.dtype]
    empty: nn.Module

    def one_pass(self, function: Callable[[], Any]) -> Any:
        """One forward pass, during which weights are put together layer by layer."""
        try:
            return self.root(lambda: owned(function()))
        finally:
            # With a gradient the backward pass needs the outermost weights; without one they would be kept, and be
            # those of before when the parts are changed.
            if not torch.is_grad_enabled():
                self.root.reshard()

    def whole(self, name: str) -> Tensor:
        """A weight put together, on every process, in its own type."""
        return put_together(self.parameters[name].detach(), self.dtypes[name])


def put_together(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor that may lie in parts on the processes, on every one of them, then in this type."""
    return tensor.full_tensor().to(dtype) if isinstance(tensor, DTensor) else tensor


def owned(results: Any) -> Any:
    """What a pass gives, without views: a change of one in place would pass FSDP's backward pass by."""
    return tree_map(lambda one: one.clone() if isinstance(one, Tensor) and one._is_view() else one, results)


def spread_of(model: nn.Module) -> Spread | None:
    """How a model is spread; None for one that is not, or not by FSDP2."""
    return getattr(model, "spread", None)


def spread(model: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Spread the weights of a model over the processes, reading those that are unread, and look at what it waits for.

    Its passes go through FSDP2 from now on. What is trained is kept in float32, the rest in its own type; passes
    compute in `dtype`.
    Raises InputError as the checks do that wait for the weights.
    """
    unread = taken_unread(getattr(model, "lm", model))
    dtypes = {name: parameter.dtype for name, parameter in model.named_parameters()}
    empty = emptied(model)
    places = prepared(model, unread.places)
    policy = MixedPrecisionPolicy(None if dtype == torch.float32 else dtype, torch.float32)
    mesh = init_device_mesh(device.type, (processes.size(),))
    for part in parts_apart(model):
        fully_shard(part, mesh=mesh, mp_policy=policy)
    root = fully_shard(OnePass(model), mesh=mesh, mp_policy=policy)
    fill(root, {f"model.{name}": place for name, place in places.items()}, dtypes, mesh)
    model.spread = Spread(root, dict(model.named_parameters()), dtypes, empty)
    look_at(model, unread.checks)
    return model


def prepared(model: nn.Module, places: dict[nn.Parameter, StoredWeight]) -> dict[str, StoredWeight]:
    """Give every trained weight float32, and every unread one no device; returns where those are, by all names."""
    found = {}
    for parameter, names in aliases(model).items():
        dtype = torch.float32 if parameter.requires_grad else parameter.dtype
        if parameter in places:
            unread = nn.Parameter(torch.empty(parameter.shape, dtype=dtype, device="meta"), parameter.requires_grad)
            exchanged(model, parameter, unread)
            found |= dict.fromkeys(names, places[parameter])
        elif parameter.dtype != dtype:
            parameter.data = parameter.data.to(dtype)
    return found


def parts_apart(model: nn.Module) -> list[nn.Module]:
    """What is put together for itself in a pass: layers as the family names them, and embeddings of their own.

    Embeddings that are also the head are there all the time, as heads are. Raises InputError for a family that does not
    name its layers.
    """
    lm = plain_lm(getattr(model, "lm", model))
    names = set(lm.base_model._no_split_modules or ())
    layers = [module for module in lm.base_model.modules() if type(module).__name__ in names]
    if not layers:
        raise InputError(
            f"--sharding fsdp2: {type(lm).__name__} does not say which modules are its layers; use --deepspeed zero3"
        )
    first, last = lm.get_input_embeddings(), lm.get_output_embeddings()
    alone = type(first) is nn.Embedding and first.weight is not getattr(last, "weight", None)
    return [*layers, first] if alone else layers


@torch.no_grad()
def fill(root: nn.Module, places: dict[str, StoredWeight], dtypes: dict[str, torch.dtype], mesh: DeviceMesh) -> None:
    """Read this process's rows of the weights that are still in their files, and nothing else of them."""
    parts: dict[str, nn.Parameter] = {}
    made: dict[nn.Parameter, nn.Parameter] = {}
    for name, parameter in root.named_parameters(remove_duplicate=False):
        if name in places:
            if parameter not in made:
                dtype = dtypes[name.removeprefix("model.")]
                made[parameter] = nn.Parameter(own_rows(parameter, places[name], dtype, mesh), parameter.requires_grad)
            parts[name] = made[parameter]
    root.load_state_dict(parts, assign=True, strict=False)


def own_rows(parameter: DTensor, place: StoredWeight, dtype: torch.dtype, mesh: DeviceMesh) -> DTensor:
    """This process's rows of a stored weight, rounded to the type that the whole has, as the parameter keeps them."""
    width = math.ceil(parameter.shape[0] / mesh.size())  # as torch.chunk cuts
    first = min(processes.rank() * width, parameter.shape[0])
    rows = place.rows(first, parameter.to_local().shape[0])
    rows = rows.to(mesh.device_type, dtype).to(parameter.dtype)
    like = {"shape": parameter.shape, "stride": parameter.stride()}
    return DTensor.from_local(rows, mesh, parameter.placements, run_check=False, **like)


@torch.no_grad()
def look_at(model: nn.Module, checks: list[Callable[[], object]]) -> None:
    """What waited for the weights, in one forward pass: none of it begins one of its own."""
    model.one_pass = lambda function: function()
    if checks:
        spread_of(model).one_pass(lambda: [check() for check in checks])
    model.one_pass = spread_of(model).one_pass


class FsdpEngine(Engine):
    """As Engine, for a model that `spread` has spread. Weights that are trained are the float32 masters themselves."""

    def __init__(self, model: nn.Module, settings: OptimiserSettings):
        super().__init__(model, settings)
        self.spread = spread_of(model)
        self.optimizer = self.make_optimiser(self.trained)
        self.scheduler = self.make_scheduler(self.optimizer)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """As Engine says. FSDP takes the mean over the processes, where we want the sum.

        Every micro-batch's gradient is cut up at once: to wait for the last one would keep whole ones until then.
        """
        (loss * processes.size()).backward()

    def update(self, loss: float) -> float:
        """As Engine says; nothing is changed when it raises."""
        norm = nn.utils.clip_grad_norm_(self.trained.values(), self.settings.max_grad_norm)
        grad_norm = (norm.full_tensor() if isinstance(norm, DTensor) else norm).item()
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            raise self.not_finite(loss, grad_norm)
        self.changes += 1
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return grad_norm

    def with_gradient(self) -> set[str]:
        """As Engine says."""
        grads = {name: parameter.grad for name, parameter in self.trained.items() if parameter.grad is not None}
        return {name for name, grad in grads.items() if bool(grad.to_local().any())}

    def skip(self) -> None:
        """As Engine says."""
        self.optimizer.step()  # without gradients it changes nothing, and the schedule expects it
        self.scheduler.step()

    def held(self) -> dict[str, Tensor]:
        """As Engine says."""
        return {name: parameter.detach().to_local() for name, parameter in self.trained.items()}

    def gathered(self, name: str) -> dict[str, Tensor]:
        """As Engine says."""
        parameter = self.trained[name]
        state = self.optimizer.state.get(parameter, {})
        found = {MASTER: parameter.detach()} | {part: state[part] for part in MOMENTS if part in state}
        return {part: tensor.full_tensor() for part, tensor in found.items()}

    def restore(self, name: str, found: dict[str, Tensor], step: int) -> None:
        """As Engine says."""
        parameter = self.trained[name]

        def part(whole: Tensor) -> DTensor:
            return distribute_tensor(
                whole.to(parameter.device), parameter.device_mesh, parameter.placements, src_data_rank=None
            )

        parameter.copy_(part(found.pop(MASTER)))
        self.optimizer.state.pop(parameter, None)
        if found:
            steps = torch.tensor(float(step), device=parameter.device)
            self.optimizer.state[parameter] = {"step": steps} | {name: part(one) for name, one in found.items()}

    def adam_steps(self) -> dict[str, int]:
        """As Engine says."""
        known = self.optimizer.state
        return {name: int(known[p]["step"]) for name, p in self.trained.items() if p in known}

    @contextmanager
    def full_weights(self) -> Iterator[nn.Module]:
        """As Engine says; they are put together here, once, in a model without FSDP.

        So processes may go through as many forward passes as each of them likes.
        """
        empty = self.spread.empty
        for name, parameter in empty.named_parameters():
            parameter.data = self.spread.whole(name)
        empty.train(self.model.training)
        try:
            yield empty
        finally:
            for parameter in empty.parameters():
                parameter.data = parameter.data.new_empty(0)
