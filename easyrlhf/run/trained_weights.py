"""The trained weights that an engine has saved, whatever number of processes wrote them, as any model may take them."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from easyrlhf.engine.proof import MASTER
from easyrlhf.errors import InputError


@contextmanager
def stored_tensors(folder: Path, shapes: Mapping[str, torch.Size]) -> Iterator[dict[str, Any]]:
    """What an engine has saved in a folder: key → the open file that holds it.

    shapes  of the trained parameters of the model that takes it, by name
    Raises InputError when it is of another model.
    """
    with ExitStack() as stack:
        files = [stack.enter_context(safe_open(file, "pt")) for file in sorted(folder.glob("part-*.safetensors"))]
        places = {key: file for file in files for key in file.keys()}  # noqa: SIM118
        theirs = {
            key.removeprefix(f"{MASTER}/"): tuple(file.get_slice(key).get_shape())
            for key, file in places.items()
            if key.startswith(f"{MASTER}/")
        }
        ours = {name: tuple(shape) for name, shape in shapes.items()}
        if different := sorted({name for name, _ in theirs.items() ^ ours.items()}):
            raise InputError(f"{folder}: not a checkpoint of this model; they differ in {', '.join(different[:3])}")
        yield places


@torch.no_grad()
def load_trained(folder: Path, model: nn.Module) -> None:
    """Put saved weights into a model that is built as it was trained; needs no optimiser.

    Raises InputError when they are of another model.
    """
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    with stored_tensors(folder, {name: parameter.shape for name, parameter in trained.items()}) as places:
        for name, parameter in trained.items():
            key = f"{MASTER}/{name}"
            parameter.copy_(places[key].get_tensor(key))
