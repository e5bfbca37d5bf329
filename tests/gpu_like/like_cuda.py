"""Tensors on the CPU that say they are on cuda:0, and a watch that refuses what CUDA refuses and counts waits.

What runs under the watch computes on the CPU. A tensor "on the GPU" is a LikeCuda; a CPU tensor beside one, numpy of
one, a CPU generator for one and the like are refused as CUDA would. Each copy, and each time that Python waits for the
GPU, is counted under the line of the package that asked for it. Recomputing (gradient checkpointing) cannot be watched:
tensors that autograd saves lose their class.
"""

import itertools
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")
SENT = "sent without waiting"
WAITS_BY_NAME = {
    *("item", "tolist", "__bool__", "__int__", "__float__", "__index__", "is_nonzero", "nonzero", "masked_select"),
    *("equal", "allclose", "unique", "__contains__"),
}
# What asks nothing of where the other tensors are: shapes, hooks, and copies, which are looked at by themselves.
ANYWHERE = {
    *("size", "dim", "numel", "stride", "nelement", "element_size", "__len__", "untyped_storage", "storage", "set_"),
    *("storage_offset", "data_ptr", "is_floating_point", "is_complex", "is_contiguous", "is_shared", "is_same_size"),
    *("is_inference", "type", "requires_grad_", "register_hook", "register_post_accumulate_grad_hook", "copy_"),
    *("_foreach_copy_", "swap_tensors", "__repr__", "__hash__", "__format__", "__deepcopy__", "__reduce_ex__"),
    *("_has_compatible_shallow_copy_type", "_is_zerotensor", "has_names"),
}
INDEXING = {"__getitem__", "__setitem__", "index_put_", "index_put"}
NO_NUMBER_FROM_ELSEWHERE = {  # where even a CPU tensor of one number is refused
    *("cat", "stack", "gather", "index_select", "index_add", "scatter_add", "embedding", "cross_entropy", "linear"),
}
DRAWING = {"bernoulli", "multinomial", "rand_like", "randn_like", "uniform_", "normal_", "bernoulli_"}


class RefusedError(Exception):
    """What CUDA would not do; no RuntimeError, which is taken for a model that cannot do something."""


class LikeCuda(Tensor):
    """A tensor that passes for one on cuda:0."""


def like(tensor: Tensor) -> Tensor:
    """The tensor as one on the GPU."""
    with torch._C.DisableTorchFunction():
        return tensor.as_subclass(LikeCuda)


def plain(tensor: Tensor) -> Tensor:
    """The tensor as one on the CPU."""
    with torch._C.DisableTorchFunction():
        return tensor.as_subclass(Tensor)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors of nested arguments."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for one in value:
            yield from tensors_in(one)
    elif isinstance(value, dict):
        yield from tensors_in(list(value.values()))


def changed(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The nested value with its tensors changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(changed(one, change) for one in value))
    return type(value)(changed(one, change) for one in value) if isinstance(value, list | tuple) else value


def is_gpu(device: Any) -> bool:
    """Whether this names a GPU, as a number does too."""
    return isinstance(device, int) or (device is not None and torch.device(device).type == "cuda")


def named(function: Callable) -> str:
    """The line of the package that called, for messages and counts."""
    frames = [f for f in traceback.extract_stack() if "/easyrlhf/" in f.filename and "/tests/" not in f.filename]
    if not frames:
        return "a test"
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno} {frames[-1].line}"


class Watch(TorchFunctionMode):
    """Refuses and counts, while it is entered.

    counts  (what, where) → how often
    passes  backward passes
    """

    def __init__(self):
        super().__init__()
        self.counts: Counter[tuple[str, str]] = Counter()
        self.passes = 0

    @property
    def waits(self) -> int:
        """How often Python waited for the GPU."""
        return sum(count for (what, _), count in self.counts.items() if what != SENT)

    def note(self, what: str) -> None:
        """Count something."""
        self.counts[what, named(self.note)] += 1

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """What torch calls in place of each of its functions."""
        kwargs, name = dict(kwargs or {}), getattr(func, "__name__", str(func))
        if name in ("__get__", "__set__"):
            return attribute(func, name, args, kwargs)
        there = [one for one in tensors_in((args, kwargs)) if isinstance(one, LikeCuda)]
        own = getattr(self, f"do_{name.strip('_')}", None)
        if own is not None and (there or name in ("to", "cuda")):
            return own(func, args, kwargs)
        if kwargs.get("device") is not None:
            return self.made(func, name, args, kwargs)
        if there and name not in ANYWHERE:
            self.look(name, args, kwargs)
        found = func(*args, **kwargs)
        if not there or name in ("item", "tolist"):
            return found
        return changed(found, lambda one: one if isinstance(one, LikeCuda) else like(one))

    # --- what copies

    def do_numpy(self, func: Callable, args: tuple, kwargs: dict) -> Any:
        """Refused."""
        raise RefusedError("numpy of a tensor on cuda:0")

    do_array = do_numpy

    def do_cpu(self, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        """A copy that is waited for."""
        self.note("copied to the CPU")
        return plain(args[0].clone())

    def do_cuda(self, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        """As to."""
        return self.do_to(func, (args[0], GPU), kwargs)

    def do_to(self, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        """A copy from device to device, of another type perhaps."""
        tensor, rest, device = args[0], [], kwargs.pop("device", None)
        for one in args[1:]:
            if isinstance(one, Tensor):
                device = GPU if isinstance(one, LikeCuda) else CPU
                rest.append(one.dtype)
            elif isinstance(one, torch.dtype):
                rest.append(one)
            elif one is not None and not isinstance(one, bool):
                device = one
        waits = not kwargs.pop("non_blocking", False)
        was, now = isinstance(tensor, LikeCuda), isinstance(tensor, LikeCuda) if device is None else is_gpu(device)
        base = plain(tensor)
        found = base.to(*rest, **kwargs) if rest or kwargs else base
        if was == now:
            return tensor if found is base else (like(found) if now else found)
        if not now:
            self.note("copied to the CPU")
        else:
            self.note("copied to the GPU, waiting" if waits else SENT)
        found = found.clone() if found is base else found
        return like(found) if now else found

    def do_copy(self, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        """copy_, which may go between devices."""
        if isinstance(args[0], LikeCuda) != isinstance(args[1], LikeCuda):
            self.note("copied between devices, waiting")
        return func(*args, **kwargs)

    def do_backward(self, func: Callable, args: tuple, kwargs: dict) -> None:
        """A backward pass, whose steps are not looked at: they are torch's."""
        self.passes += 1
        with self:
            torch.autograd.backward(plain(args[0]))

    def do_get_device(self, func: Callable, args: tuple, kwargs: dict) -> int:
        """The number of the GPU."""
        return 0

    # --- what is made, and what is computed

    def made(self, func: Callable, name: str, args: tuple, kwargs: dict) -> Any:
        """A tensor on the device that is named."""
        if not is_gpu(kwargs["device"]):
            found = func(*args, **kwargs)
            return found if name == "load" else changed(found, plain)
        generator = kwargs.get("generator")
        if generator is not None and generator.device.type != "cuda":
            raise RefusedError(f"{name}: a generator of the CPU for a tensor on cuda:0")
        if name in ("tensor", "as_tensor", "new_tensor"):
            self.note("copied to the GPU, waiting")
        return changed(func(*changed(args, plain), **kwargs | {"device": CPU}), like)

    def look(self, name: str, args: tuple, kwargs: dict) -> None:
        """Refuse what CUDA would, and count what Python waits for."""
        if name in INDEXING:
            self.look_at_index(name, args)
        else:
            look_at_neighbours(name, args, kwargs)
        if name in WAITS_BY_NAME or (name == "where" and len(args) == 1):
            self.note(f"waited for {name}")
        lengths = any(isinstance(one, Tensor) for one in args[1:])
        if name == "repeat_interleave" and lengths and kwargs.get("output_size") is None:
            self.note("waited for the size of repeat_interleave")

    def look_at_index(self, name: str, args: tuple) -> None:
        """Refuse an index, or values, from elsewhere; count masks, whose number is waited for."""
        if not isinstance(args[0], LikeCuda):
            raise RefusedError(f"{name}: a tensor of the CPU, and an index or values on cuda:0")
        index = list(tensors_in(args[1]))
        if name != "__getitem__" and isinstance(args[2], Tensor) and not isinstance(args[2], LikeCuda):
            if args[2].dim() and index:
                raise RefusedError(f"{name}: values of the CPU for a tensor on cuda:0")
            self.note("copied to the GPU, waiting")
        for one in index:
            if not isinstance(one, LikeCuda):
                self.note("copied to the GPU, waiting")
            if one.dtype in (torch.bool, torch.uint8):
                self.note("waited for the size of a mask")


def attribute(func: Callable, name: str, args: tuple, kwargs: dict) -> Any:
    """An attribute of a tensor, whose device is what it passes for."""
    attr = getattr(getattr(func, "__self__", None), "__name__", "")
    if isinstance(args[0], LikeCuda) and name == "__get__":
        told = {"device": GPU, "is_cuda": True, "is_cpu": False}
        if attr in told:
            return told[attr]
        return changed(func(*args, **kwargs), like)
    return func(*args, **kwargs)


def look_at_neighbours(name: str, args: tuple, kwargs: dict) -> None:
    """Refuse tensors of the CPU beside those of a GPU, but for single numbers where CUDA takes them."""
    elsewhere = [one for one in tensors_in((args, kwargs)) if not isinstance(one, LikeCuda)]
    if wide := [one for one in elsewhere if one.dim()]:
        raise RefusedError(f"{name}: a tensor of the CPU {tuple(wide[0].shape)} beside tensors on cuda:0")
    if elsewhere and name in NO_NUMBER_FROM_ELSEWHERE:
        raise RefusedError(f"{name}: a number of the CPU beside tensors on cuda:0")
    generator = kwargs.get("generator")
    if name in DRAWING and generator is not None and generator.device.type != "cuda":
        raise RefusedError(f"{name}: a generator of the CPU for a tensor on cuda:0")


def varlen(query, key, value, cu_q, cu_k, max_q, max_k, *, scale=None, window_size=(-1, -1), enable_gqa=False):
    """What torch's kernel for rows of various lengths takes, and what it gives."""
    if not all(isinstance(one, LikeCuda) for one in (query, key, value, cu_q, cu_k)):
        raise RefusedError("varlen_attn: a tensor of the CPU")
    if not (cu_q.dtype == cu_k.dtype == torch.int32 and isinstance(max_q, int) and isinstance(max_k, int)):
        raise RefusedError("varlen_attn: ends are int32, lengths are Python's")
    if query.dtype not in (torch.bfloat16, torch.float16) or query.shape[-1] % 8 or query.stride(-1) != 1:
        raise RefusedError(f"varlen_attn: {query.dtype}, heads of {query.shape[-1]}, stride {query.stride(-1)}")
    if window_size != (-1, 0) or (query.shape[1] != key.shape[1] and not enable_gqa):
        raise RefusedError("varlen_attn: not causal, or fewer heads of keys without enable_gqa")
    bounds = zip(*(itertools.pairwise(plain(ends).tolist()) for ends in (cu_q, cu_k)), strict=True)
    found = []
    for (a, b), (c, d) in bounds:
        rows = (tensor.transpose(0, 1)[None] for tensor in (query[a:b], key[c:d], value[c:d]))
        mask = like(torch.ones(b - a, d - c, dtype=torch.bool).tril(d - c - b + a))
        states = F.scaled_dot_product_attention(*rows, attn_mask=mask, scale=scale, enable_gqa=enable_gqa)
        found.append(states[0].transpose(0, 1))
    return torch.cat(found)
