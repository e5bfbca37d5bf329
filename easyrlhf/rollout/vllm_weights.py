"""A policy's weights on their way to vLLM."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.core_model_loading import revert_weight_conversion

from easyrlhf.models.adapters import quietly
from easyrlhf.models.parts import plain_lm

SHARD = 4 * 2**30  # bytes of a file


def named_weights(lm: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """All weights of a language model under the names that its folder would have.

    A head that is tied to the embeddings is among them: vLLM may keep a copy of it in another layout.
    """
    lm = plain_lm(lm)
    yield from revert_weight_conversion(lm, lm.state_dict()).items()


def write_weights(lm: nn.Module, folder: Path) -> None:
    """Write all weights as safetensors files into an empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shard: dict[str, Tensor] = {}
    for name, tensor in named_weights(lm):
        if shard and sum(kept.nbytes for kept in shard.values()) + tensor.nbytes > SHARD:
            save_file(shard, folder / f"model-{name}.safetensors")
            shard = {}
        shard[name] = tensor.detach().to("cpu", copy=True).contiguous()  # copied: tied ones share memory
    save_file(shard, folder / "model.safetensors")


def write_adapter(lm: nn.Module, folder: Path) -> None:
    """Write the adapter of a LoRA policy alone, in a folder of peft."""
    lm = getattr(lm, "lora_lm", lm)  # the view of a shared backbone
    with quietly():
        lm.save_pretrained(folder, selected_adapters=["default"], save_embedding_layers=False)
