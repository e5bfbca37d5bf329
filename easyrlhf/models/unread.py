"""Models whose weights are still in their files: each process reads its own part of them once the model is spread."""

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import init_empty_weights
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping

from easyrlhf.data.hub import hub_file
from easyrlhf.models.adapters import is_adapter, quietly
from easyrlhf.models.parts import plain_lm

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"


class ReadWholeError(Exception):
    """Why the weights of a model cannot be read part by part."""


@dataclass(frozen=True)
class StoredWeight:
    """A tensor in a safetensors file."""

    file: Path
    name: str

    def rows(self, first: int, count: int) -> Tensor:
        """So many of its rows, and no others, are read."""
        with safe_open(self.file, "pt") as tensors:
            return tensors.get_slice(self.name)[first : first + count].clone()

    def shape(self) -> tuple[int, ...]:
        """Its shape, of the file's header."""
        with safe_open(self.file, "pt") as tensors:
            return tuple(tensors.get_slice(self.name).get_shape())


@dataclass
class Unread:
    """What has to happen when a model is spread.

    places  parameter, which has a shape and no memory yet → where its weights are
    checks  what could not be looked at without weights; they raise InputError
    whole   why there are no places: the model was read whole; "" where there are
    """

    places: dict[nn.Parameter, StoredWeight] = field(default_factory=dict)
    checks: list[Callable[[], object]] = field(default_factory=list)
    whole: str = ""


def unread_lm(path: str, config: PreTrainedConfig, tokens: int, device: torch.device, **how) -> PreTrainedModel:
    """The causal language model of a folder or hub id, with weights that have a shape and take no memory.

    config  its configuration
    tokens  of the tokenizer: embeddings with fewer rows would have to grow
    device  where its weights will be
    how     keywords of AutoModelForCausalLM.from_config
    Raises ReadWholeError where the weights cannot be read part by part, or are not all there: loading says more then.
    """
    files = stored_files(path)
    # With the weights on no device nothing is drawn; what a family draws all the same must not move later draws.
    with torch.random.fork_rng(devices=[]), init_empty_weights(include_buffers=False):
        lm = AutoModelForCausalLM.from_config(config, **how)
    lm.tie_weights()  # again: while weights are put on no device, each gets a parameter of its own
    check_plain(lm, tokens)
    stored = {name: StoredWeight(file, name) for file in files for name in names_in(file)}
    places = {}
    for parameter, names in aliases(lm).items():
        places[parameter] = found_place(lm, names, tuple(parameter.shape), stored)
    read_buffers(lm, stored)
    lm.unread = Unread({without_memory(lm, old, device): place for old, place in places.items()})
    lm.to(device)
    with quietly(), suppress(OSError, ValueError, TypeError):
        lm.generation_config = GenerationConfig.from_pretrained(path)
    return lm.eval()


def stored_files(path: str) -> list[Path]:
    """The safetensors files of a model. Raises ReadWholeError when it has none, or is an adapter."""
    if is_adapter(path):
        raise ReadWholeError("an adapter is merged into its base")
    folder = Path(path).expanduser()
    if folder.is_dir():
        index, single = folder / INDEX, folder / SINGLE
    else:
        index, single = (Path(file) if (file := hub_file(path, name)) else None for name in (INDEX, SINGLE))
    if index and index.is_file():
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):  # loading says what is wrong with it
            shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
            there = [folder / name if folder.is_dir() else hub_file(path, name) for name in shards]
            return [Path(file) for file in there]
    if single and single.is_file():
        return [single]
    raise ReadWholeError("it has no safetensors files")


def names_in(file: Path) -> list[str]:
    """Names of a file's tensors. Raises ReadWholeError for one that cannot be read."""
    try:
        with safe_open(file, "pt") as tensors:
            return list(tensors.keys())
    except (OSError, SafetensorError) as error:
        raise ReadWholeError(f"{file} cannot be read") from error


def check_plain(lm: PreTrainedModel, tokens: int) -> None:
    """Raise ReadWholeError for a model that loading changes: its rows, its names, its numbers."""
    if tokens > lm.get_input_embeddings().num_embeddings:
        raise ReadWholeError("its embeddings grow by the tokenizer's new tokens")
    if getattr(lm.config, "quantization_config", None):
        raise ReadWholeError("its weights are quantized")
    if get_model_conversion_mapping(lm, add_legacy=False):
        raise ReadWholeError("its family keeps weights in another form in files than in memory")
    if getattr(lm, "_keep_in_fp32_modules_strict", None) and lm.dtype != torch.float32:
        raise ReadWholeError("its family keeps some weights in float32")


def aliases(lm: nn.Module) -> dict[nn.Parameter, list[str]]:
    """Every parameter and its names, of which a tied one has several."""
    found: dict[nn.Parameter, list[str]] = {}
    for name, parameter in lm.named_parameters(remove_duplicate=False):
        found.setdefault(parameter, []).append(name)
    return found


def found_place(
    lm: PreTrainedModel, names: list[str], shape: tuple[int, ...], stored: dict[str, StoredWeight]
) -> StoredWeight:
    """Where a parameter's weights are. Raises ReadWholeError unless they are there once, in this shape."""
    found = [stored[key] for name in names for key in spellings(lm, name) if key in stored]
    if len(found) != 1:
        raise ReadWholeError(f"{names[0]} is {len(found)} times in its files")
    if found[0].shape() != shape:
        raise ReadWholeError(f"{names[0]} has the shape {list(found[0].shape())} in its files")
    return found[0]


def spellings(lm: PreTrainedModel, name: str) -> list[str]:
    """How a file may spell a weight: as the model does, or without the name of the outer module."""
    prefix = f"{lm.base_model_prefix}."
    return [name, name.removeprefix(prefix)] if name.startswith(prefix) else [name]


def read_buffers(lm: PreTrainedModel, stored: dict[str, StoredWeight]) -> None:
    """Read the buffers that a file has; they are small. Raises ReadWholeError where one is missing."""
    parameters = dict(lm.named_parameters(remove_duplicate=False))
    for name, buffer in lm.state_dict(keep_vars=True).items():
        if name not in parameters:
            place = found_place(lm, [name], tuple(buffer.shape), stored)
            with safe_open(place.file, "pt") as tensors:
                buffer.data.copy_(tensors.get_tensor(place.name))


def without_memory(lm: nn.Module, parameter: nn.Parameter, device: torch.device) -> nn.Parameter:
    """Put a parameter of the same shape in a parameter's place, wherever that is, which takes one number of memory.

    It is no meta tensor: what is made to fit it, such as an adapter, is to be real, and on its device.
    """
    number = torch.zeros((), dtype=parameter.dtype, device=device)
    return exchanged(lm, parameter, nn.Parameter(number.expand(parameter.shape), parameter.requires_grad))


def exchanged(model: nn.Module, old: nn.Parameter, new: nn.Parameter) -> nn.Parameter:
    """The new parameter, now in every place where the model had the old one."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is old:
                module._parameters[name] = new
    return new


def read_now(lm: PreTrainedModel, why: str) -> None:
    """Read the weights of an unread model whole after all, into the memory of the CPU."""
    for parameter, place in lm.unread.places.items():
        rows = place.rows(0, parameter.shape[0]).to(parameter.dtype)
        exchanged(lm, parameter, nn.Parameter(rows, parameter.requires_grad))
    lm.unread.places, lm.unread.whole = {}, why


def once_read(lm: nn.Module, check: Callable[[], object]) -> None:
    """Do what needs a model's weights: at once, or when it is spread if they are unread until then."""
    unread: Unread | None = getattr(plain_lm(lm), "unread", None)
    if unread is None:
        check()
    else:
        unread.checks.append(check)


def taken_unread(lm: nn.Module) -> Unread:
    """What an unread model waits for; it is unread no more."""
    plain = plain_lm(lm)
    unread = getattr(plain, "unread", None) or Unread()
    plain.__dict__.pop("unread", None)
    return unread
