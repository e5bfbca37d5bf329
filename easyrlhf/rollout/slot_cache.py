"""A KV cache whose rows come and go while the others are decoded."""

from functools import partial

from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from easyrlhf.models.flat_rows import sent

CHUNK = 32  # columns that the cache grows by, and from which on it drops those that no row uses any more


class SlotLayer(DynamicLayer):
    """Keys and values of one layer, [slots, heads, room, size] each, of which the first `columns` columns are in use.

    transformers' own layer copies all it holds at every step; this one has room, and writes in place.
    """

    def __init__(self, columns: int):
        super().__init__()
        self.columns = columns

    def get_seq_length(self) -> int:
        """Columns in use."""
        return self.columns

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """Give each of the first n slots new columns; returns all columns of these slots."""
        n, end = len(key_states), self.columns + key_states.shape[2]
        self.make_room(n, end, key_states, value_states)
        self.keys[:n, :, self.columns : end] = key_states
        self.values[:n, :, self.columns : end] = value_states
        self.columns = end
        return self.keys[:n, :, :end], self.values[:n, :, :end]

    def make_room(self, slots: int, columns: int, keys: Tensor, values: Tensor) -> None:
        """Have so many slots and columns, or more, of these tensors' kind; larger tensors keep the first slots only."""
        if self.is_initialized and len(self.keys) >= slots and self.keys.shape[2] >= columns:
            return
        held = (self.keys, self.values) if self.is_initialized else (keys[:0], values[:0])
        self.keys, self.values = (self._enlarged(tensor, slots, columns + CHUNK) for tensor in held)
        self.is_initialized = True

    def _enlarged(self, tensor: Tensor, slots: int, room: int) -> Tensor:
        """A copy with more room: zeros, as even what attention masks must be finite."""
        larger = tensor.new_zeros(slots, tensor.shape[1], room, tensor.shape[3])
        kept = min(slots, len(tensor))
        larger[:kept, :, : self.columns] = tensor[:kept, :, : self.columns]
        return larger

    def put(self, slot: int, keys: Tensor, values: Tensor) -> None:
        """Copy a row's keys and values [heads, length, size] to a slot, so that they end in the last column in use."""
        start = self.columns - keys.shape[1]
        self.keys[slot, :, start : self.columns] = keys
        self.values[slot, :, start : self.columns] = values

    def move(self, sources: Tensor, targets: Tensor) -> None:
        """Copy slots over others."""
        for tensor in (self.keys, self.values):
            tensor[targets, :, : self.columns] = tensor[sources, :, : self.columns]

    def add_columns(self, count: int) -> None:
        """Put so many columns before all others, for rows that are longer than those there are."""
        if self.is_initialized:
            self.keys, self.values = (self._shifted(tensor, count) for tensor in (self.keys, self.values))
        self.columns += count

    def _shifted(self, tensor: Tensor, count: int) -> Tensor:
        """A copy whose columns stand so many places later; zeros before them, as in _enlarged."""
        slots, heads, _, size = tensor.shape
        moved = tensor.new_zeros(slots, heads, self.columns + count + CHUNK, size)
        moved[:, :, count : self.columns + count] = tensor[:, :, : self.columns]
        return moved

    def drop_columns(self, count: int) -> None:
        """Forget the first columns of all slots."""
        for tensor in (self.keys, self.values):
            tensor[:, :, : self.columns - count] = tensor[:, :, count : self.columns].clone()
        self.columns -= count


class SlotCache(Cache):
    """The cache of rows that begin in different columns and all end in the last one, as if they were left-padded.

    columns  in use before the first row is there: as many as the longest of the first rows has
    """

    def __init__(self, columns: int):
        super().__init__(layer_class_to_replicate=partial(SlotLayer, columns))

    def put(self, first: int, filled: list[tuple[Cache, int, int]]) -> None:
        """Fill slots, from the first one on, with rows of other caches: (cache, row, length of its beginning)."""
        for slot, (cache, row, length) in enumerate(filled, first):
            if not length:
                continue
            while len(self.layers) < len(cache.layers):
                self.layers.append(self.layer_class_to_replicate())
            for layer, source in zip(self.layers, cache.layers, strict=True):
                layer.make_room(first + len(filled), layer.columns, source.keys, source.values)
                layer.put(slot, source.keys[row, :, :length], source.values[row, :, :length])

    def move(self, sources: Tensor, targets: Tensor) -> None:
        """Copy slots over others."""
        for layer in self.layers:
            layer.move(sent(sources, layer.keys.device), sent(targets, layer.keys.device))

    def add_columns(self, count: int) -> None:
        """Put so many columns before all others."""
        for layer in self.layers:
            layer.add_columns(count)

    def drop_columns(self, count: int) -> None:
        """Forget the first columns of all slots."""
        for layer in self.layers:
            layer.drop_columns(count)
