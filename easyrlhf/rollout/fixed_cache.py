"""A KV cache of a fixed size, in which every slot writes at a place of its own: what a captured graph can work on."""

from functools import partial

import torch.nn.functional as F
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer


class FixedLayer(DynamicLayer):
    """Keys and values of one layer, [slots, heads, room, size] each, which stay where they are in memory.

    owner  the cache, which says how large they are and where each slot writes
    """

    def __init__(self, owner: "FixedCache"):
        super().__init__()
        self.owner = owner

    def get_seq_length(self) -> int:
        """All columns, used or not: who attends has a mask for each slot."""
        return self.owner.room

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """Write a column of every slot at its place; returns all columns."""
        self.begin(key_states)
        places = self.owner.places[:, None, None, None].expand_as(key_states)
        self.keys.scatter_(2, places, key_states)
        self.values.scatter_(2, places, value_states)
        return self.keys, self.values

    def begin(self, kind: Tensor) -> None:
        """Have tensors of this one's heads, size and type, of zeros: even what attention masks must be finite."""
        if not self.is_initialized:
            shape = len(self.owner.places), kind.shape[1], self.owner.room, kind.shape[3]
            self.keys, self.values = kind.new_zeros(shape), kind.new_zeros(shape)
            self.is_initialized = True


class FixedCache(Cache):
    """The cache of slots whose rows all begin in the first column.

    room    columns
    places  [slots]  the column that each slot writes next; changed in place by whoever decodes
    """

    def __init__(self, room: int, places: Tensor):
        self.room, self.places = room, places
        super().__init__(layer_class_to_replicate=partial(FixedLayer, self))

    def put(self, slots: Tensor, source: Cache, rows: Tensor, length: int) -> None:
        """Let rows of another cache be the beginnings of slots: so many columns, of which each has its own number.

        slots, rows  [n]
        """
        while len(self.layers) < len(source.layers):
            self.layers.append(self.layer_class_to_replicate())
        for layer, filled in zip(self.layers, source.layers, strict=True):
            layer.begin(filled.keys)
            targets, sources = slots.to(filled.keys.device), rows.to(filled.keys.device)
            layer.keys[targets, :, :length] = filled.keys[sources, :, :length]
            layer.values[targets, :, :length] = filled.values[sources, :, :length]

    def resize(self, slots: Tensor, room: int, places: Tensor) -> None:
        """Keep these slots, in this order, with so many columns; `places` is theirs from now on."""
        for layer in self.layers:
            if layer.is_initialized:
                chosen, more = slots.to(layer.keys.device), (0, 0, 0, room - self.room)
                layer.keys, layer.values = (F.pad(kept[chosen], more) for kept in (layer.keys, layer.values))
        self.room, self.places = room, places
