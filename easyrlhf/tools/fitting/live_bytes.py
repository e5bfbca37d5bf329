"""Counts the bytes of tensors while they live, also of those that have shapes but no numbers."""

import weakref
from collections import Counter

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from easyrlhf.tools.fitting.memory import ACTIVATIONS, LOGITS


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of live tensors by kind, beyond those of `held`, and remembers the peak of every section.

    A mask, whose numbers are not known, is taken to count all of its entries: rows of one length have no padding.
    """

    def __init__(self, held: list[Tensor], vocabulary: int):
        super().__init__()
        self.vocabulary = vocabulary
        self.seen = {tensor.untyped_storage()._cdata for tensor in held}
        self.now, self.peaks = Counter(), [Counter()]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Run the operation and note the storages of what it gives."""
        if func is torch.ops.prim.device.default:
            return func(*args)
        if func is torch.ops.aten._local_scalar_dense.default:
            return False if args[0].dtype == torch.bool else 1.0
        if func is torch.ops.aten.index.Tensor:
            args = (args[0], [place for index in args[1] for place in indices_of(index)])
        result = func(*args, **(kwargs or {}))
        for item in tree_iter(result):
            if isinstance(item, Tensor):
                self.note(item)
        return result

    def note(self, tensor: Tensor) -> None:
        """Count the tensor's storage once, until it is freed."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self.seen or not size:
            return
        kind = LOGITS if tensor.ndim and tensor.shape[-1] == self.vocabulary else ACTIVATIONS
        self.seen.add(key)
        self.now[kind] += size
        if self.now.total() > self.peaks[-1].total():
            self.peaks[-1] = Counter(self.now)
        weakref.finalize(storage, self.forget, key, kind, size)

    def forget(self, key: int, kind: str, size: int) -> None:
        """Take a freed storage off the count."""
        self.seen.discard(key)
        self.now[kind] -= size

    def begin(self) -> None:
        """Begin a new section, whose peak is its own."""
        self.peaks.append(Counter(self.now))


def indices_of(index: Tensor | None) -> list[Tensor | None]:
    """The index itself; in place of a mask, the places of all of its entries."""
    if index is None or index.dtype != torch.bool:
        return [index]
    return [torch.empty(index.numel(), dtype=torch.long) for _ in range(index.ndim)]
