"""Control tokens that a model's vocabulary holds and its training never met, as Llama 3's base models have them."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from easyrlhf.models.adapters import is_adapter
from easyrlhf.models.lora import embedding_names

SAMPLE = 2048  # rows that tell what a row is like
NEAR = 0.05  # of the median row's distance: a row that was trained is twenty times as far away
EXCHANGE = [
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Hello"},
]


def untrained_tokens(path: str, tokenizer, lm) -> list[int]:
    """Ids of the control tokens that the chat template writes and whose rows of a folder's embeddings say nothing.

    Such a row is 0, or the mean of all, as it was when the vocabulary was made: no adapter of other layers can tell one
    from another. Rows are read from the safetensors files, a sample of them; of a folder without, of a hub id or an
    adapter nothing is known, and none is named.

    lm  the model, with or without its weights
    """
    folder = Path(path).expanduser()
    if not folder.is_dir() or is_adapter(path) or not (written := control_tokens(tokenizer)):
        return []
    names = [f"{name}.weight" for name in embedding_names(lm)]
    found = {i for matrix in stored_slices(folder, names) for i in empty_rows(matrix, written)}
    return sorted(found)


def control_tokens(tokenizer) -> list[int]:
    """Ids of the special tokens that the chat template writes around questions and answers."""
    if not tokenizer.chat_template:
        return []
    ids = tokenizer.apply_chat_template(EXCHANGE, add_generation_prompt=True, return_dict=False)
    return sorted({i for i in ids if i in tokenizer.added_tokens_decoder})


def stored_slices(folder: Path, names: list[str]) -> Iterator:
    """Slices of the matrices of these names, which may be written without the name of the outer module."""
    for file in sorted(folder.glob("*.safetensors")):
        with suppress(Exception), safe_open(file, "pt") as tensors:  # loading says what is wrong with it
            for key in tensors.keys():  # noqa: SIM118 - a file of tensors is no dict
                if any(key == name or name.endswith(f".{key}") for name in names):
                    yield tensors.get_slice(key)


def empty_rows(matrix, ids: list[int]) -> list[int]:
    """Those of the ids whose rows are as good as 0, or as the mean of all rows."""
    count = matrix.get_shape()[0]
    asked = [i for i in ids if i < count]
    if not asked:
        return []
    places = np.unique(np.linspace(0, count - 1, min(count, SAMPLE)).astype(int)).tolist()
    rows, own = float_rows(matrix, places), float_rows(matrix, asked)
    near = torch.zeros(len(asked), dtype=torch.bool)
    for middle in (torch.zeros_like(rows[0]), rows.mean(0)):
        near |= (own - middle).norm(dim=1) <= NEAR * (rows - middle).norm(dim=1).median()
    return [i for i, one in zip(asked, near.tolist(), strict=True) if one]


def float_rows(matrix, places: list[int]) -> Tensor:
    """Rows of a slice, in float32.  [len(places), H]"""
    return torch.cat([matrix[place : place + 1].float() for place in places])
