"""Model folders of models that FSDP2 has spread: written by all processes, of which none ever holds a whole model."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from easyrlhf.engine import processes
from easyrlhf.engine.fsdp import Spread, spread_of
from easyrlhf.files import drafted_in, written_to
from easyrlhf.models.folder import save_adapter
from easyrlhf.models.parents import ADAPTER
from easyrlhf.models.parts import plain_lm
from easyrlhf.models.unread import INDEX, SINGLE
from easyrlhf.models.value_head import save_head

MOST, LEAST = 4 * 2**30, 2**26  # bytes of a weights file
PARTS = ".final-parts"  # where files are written before all of them are there


@dataclass(frozen=True)
class FolderWeight:
    """A tensor of a model folder.

    key   its name there
    size  its bytes
    whole gives it, when all processes call it
    """

    key: str
    size: int
    whole: Callable[[], Tensor]


def writes_parts(model: nn.Module) -> bool:
    """Whether all processes write a model's folder together: it is spread, and its files hold what its parts are.

    They do not in families whose weights have another form there, nor with layers that an adapter replaces.
    """
    if (spread := spread_of(model)) is None:
        return False
    lm = getattr(spread.empty, "lm", spread.empty)
    plain = plain_lm(lm)
    if getattr(plain, "_weight_conversions", None):
        return False
    return lm is plain or not replaces_layers(plain)


def replaces_layers(lm: PreTrainedModel) -> bool:
    """Whether an adapter in a language model trains modules or rows whole, or changes the embeddings."""
    from peft.tuners.lora import LoraLayer
    from peft.utils import AuxiliaryTrainingWrapper

    ends = (lm.get_input_embeddings(), lm.get_output_embeddings())
    trained = any(isinstance(module, AuxiliaryTrainingWrapper) for module in lm.modules())
    return trained or any(isinstance(end, LoraLayer) for end in ends)


def save_parts(folder: Path, model: nn.Module, tokenizer) -> None:
    """Write the folder that save_lm would, each process a part of the weights; a value head goes with them.

    Raises RunError when the disk does not take it.
    """
    parts = folder / PARTS

    def begin() -> None:
        with written_to(folder):
            shutil.rmtree(parts, ignore_errors=True)
            parts.mkdir(parents=True)

    processes.on_main(begin)
    weights = folder_weights(spread_of(model))
    places = write_weights(parts, weights)
    index = {"metadata": {"total_size": sum(weight.size for weight in weights)}, "weight_map": places}
    with small_weights(spread_of(model)) as lm:
        processes.on_main(lambda: finish_folder(folder, lm, tokenizer, index))


def folder_weights(spread: Spread) -> list[FolderWeight]:
    """The tensors of a spread model's folder, adapters merged into what they are on."""
    names = {id(parameter): name for name, parameter in spread.empty.named_parameters()}
    plain = plain_lm(getattr(spread.empty, "lm", spread.empty))
    found: dict[int, FolderWeight] = {}
    for key, tensor in plain.state_dict(keep_vars=True).items():
        if ".lora_" in key or id(tensor) in found:  # tied ones are written once
            continue
        if id(tensor) not in names:
            found[id(tensor)] = FolderWeight(key, tensor.nbytes, partial(torch.clone, tensor.detach()))
            continue
        name = names[id(tensor)]
        size = spread.parameters[name].numel() * spread.dtypes[name].itemsize
        layer = plain.get_submodule(key.rpartition(".base_layer.")[0]) if key.endswith(".base_layer.weight") else None
        adapter = {} if layer is None else {names[id(p)]: p for p in layer.parameters() if ".lora_" in names[id(p)]}
        whole = partial(merged_weight, spread, name, layer, adapter)
        found[id(tensor)] = FolderWeight(key.replace(".base_layer.", "."), size, whole)
    return list(found.values())


def merged_weight(spread: Spread, name: str, layer: nn.Module | None, adapter: dict[str, nn.Parameter]) -> Tensor:
    """A weight put together, and what the adapter of its layer adds to it, if there is one.

    adapter  name → parameter of the layer's adapter in the empty copy
    """
    whole = spread.whole(name)
    if not adapter:
        return whole
    with filled(spread, adapter), torch.no_grad():
        return whole.add_(layer.get_delta_weight("default"))


@contextmanager
def filled(spread: Spread, parameters: dict[str, nn.Parameter]) -> Iterator[None]:
    """Parameters of the empty copy with their weights, for a while."""
    for name, parameter in parameters.items():
        parameter.data = spread.whole(name)
    try:
        yield
    finally:
        for parameter in parameters.values():
            parameter.data = parameter.data.new_empty(0)


@contextmanager
def small_weights(spread: Spread) -> Iterator[nn.Module]:
    """The empty copy, for a while with its adapter and its value head."""
    named = spread.empty.named_parameters()
    with filled(spread, {name: p for name, p in named if ".lora_" in name or name.startswith("head.")}):
        yield spread.empty


def write_weights(folder: Path, weights: list[FolderWeight]) -> dict[str, str]:
    """Write the tensors as safetensors files, dealt out among the processes; returns key → file.

    Each process holds one tensor at a time, and those of a file that it writes. Raises RunError.
    """
    shards, places, outcomes = cut(weights), {}, []
    for number, shard in enumerate(shards):
        name = SINGLE if len(shards) == 1 else f"model-{number + 1:05}-of-{len(shards):05}.safetensors"
        mine, own = {}, number % processes.size() == processes.rank()
        for weight in shard:
            tensor = weight.whole()
            places[weight.key] = name
            if own:
                mine[weight.key] = tensor.cpu().contiguous()
        if own:
            outcomes.append(processes.outcome_of(partial(write_file, mine, folder / name)))
    # A full disk of one process is told to all, once none waits for it to put a weight together.
    processes.gather_results(lambda: [processes.result_of(outcome, processes.rank()) for outcome in outcomes])
    return places


def write_file(tensors: dict[str, Tensor], file: Path) -> None:
    """Write a weights file. Raises RunError when the disk does not take it."""
    with written_to(file.parent.parent):
        save_file(tensors, file, metadata={"format": "pt"})


def cut(weights: list[FolderWeight]) -> list[list[FolderWeight]]:
    """The tensors of each file: no more bytes than a process has of the model, but for small models."""
    room = max(LEAST, min(MOST, sum(weight.size for weight in weights) // processes.size()))
    shards: list[list[FolderWeight]] = [[]]
    for weight in weights:
        if shards[-1] and sum(other.size for other in shards[-1]) + weight.size > room:
            shards.append([])
        shards[-1].append(weight)
    return shards


def finish_folder(folder: Path, model: nn.Module, tokenizer, index: dict[str, Any]) -> None:
    """Put the weights files in their place, with all that belongs to them.

    model   a copy without weights but for its adapter and its value head
    index   of the weights files, which is written where there are several
    """
    lm, head = getattr(model, "lm", model), getattr(model, "head", None)
    plain = plain_lm(lm)
    with drafted_in(folder, ".final", replaced=("model*.safetensors", INDEX)) as draft:
        draft.mkdir()
        if hasattr(lm, "get_base_model"):
            save_adapter(draft / ADAPTER, lm, tokenizer, head)
        if plain.device.type == "cpu":
            os.environ.setdefault("DS_ACCELERATOR", "cpu")  # transformers imports DeepSpeed to save, which warns else
        plain.save_pretrained(draft, state_dict={})
        tokenizer.save_pretrained(draft)
        if head is not None:
            save_head(head, draft)
        # After save_pretrained, which removes weights files that it has not written.
        for file in (folder / PARTS).iterdir():
            file.replace(draft / file.name)
        if len(set(index["weight_map"].values())) > 1:
            (draft / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
    shutil.rmtree(folder / PARTS, ignore_errors=True)
