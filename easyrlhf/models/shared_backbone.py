"""One language model in memory for several parts: each part is an adapter of it, or the model without any."""

from contextlib import AbstractContextManager
from copy import copy
from pathlib import Path

from torch import nn
from transformers import PreTrainedModel

from easyrlhf.models.adapters import quietly
from easyrlhf.models.lora import with_adapter

POLICY, REWARD, VALUE = "default", "reward", "value"


class SharedBackbone:
    """A LoRA model and its adapters; the adapter of the part that spoke last is the active one."""

    def __init__(self, lora_lm: nn.Module):
        self.lora_lm = lora_lm
        self.trained: list[nn.Parameter] = []

    def view(self, adapter: str, *, trained: bool) -> "AdapterView":
        """The model with this adapter, which must have been added or loaded."""
        view = AdapterView(self, adapter)
        if trained:
            self.trained += view.own.values()
        self.activate(adapter)
        return view

    def load(self, folder: str | Path, adapter: str) -> None:
        """Load an adapter folder under a new name."""
        with quietly():
            self.lora_lm.load_adapter(str(folder), adapter_name=adapter, is_trainable=True)

    def add_like(self, adapter: str, other: str) -> None:
        """Add a fresh adapter of the same shape as another one."""
        with quietly():
            self.lora_lm.add_adapter(adapter, copy(self.lora_lm.peft_config[other]))

    def activate(self, adapter: str) -> None:
        """Let this adapter, and no other, take part in the next forward pass."""
        if self.lora_lm.active_adapter != adapter:
            self.lora_lm.set_adapter(adapter)
        for parameter in self.trained:  # peft freezes those of adapters that are not active
            parameter.requires_grad_(True)


class AdapterView(nn.Module):
    """One adapter of a shared backbone, used as if it were a language model of its own.

    Its parameters are the adapter's alone; the backbone is nobody's submodule.
    """

    def __init__(self, backbone: SharedBackbone, adapter: str):
        super().__init__()
        self._backbone = (backbone,)  # in a tuple, so that its modules are not registered here
        self.adapter = adapter
        named = backbone.lora_lm.named_parameters()
        own = {name.replace(".", "/"): p for name, p in named if f".{adapter}." in name}
        self.own = nn.ParameterDict(own)

    @property
    def lora_lm(self) -> nn.Module:
        """The shared LoRA model with this adapter active."""
        backbone = self._backbone[0]
        backbone.activate(self.adapter)
        return backbone.lora_lm

    def forward(self, *args, **kwargs):
        """As the language model's."""
        return self.lora_lm(*args, **kwargs)

    def get_base_model(self) -> PreTrainedModel:
        """The language model with this adapter active."""
        return self.lora_lm.get_base_model()

    def get_output_embeddings(self) -> nn.Module:
        """As the language model's."""
        return self.get_base_model().get_output_embeddings()

    def disable_adapter(self) -> AbstractContextManager:
        """For a while, the language model without any adapter."""
        return self.lora_lm.disable_adapter()

    def train(self, mode: bool = True) -> "AdapterView":
        """Set the mode of the whole backbone: its parts take turns."""
        self._backbone[0].lora_lm.train(mode)
        return super().train(mode)


def standalone(view: AdapterView, lm: PreTrainedModel) -> nn.Module:
    """The view's adapter on a fresh copy of the language model below it, apart from the shared one."""
    return with_adapter(view.lora_lm, view.adapter, lm)
