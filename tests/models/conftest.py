"""A stand-in language model whose hidden states can be read off its input, for values worked out by hand."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn


class EchoLM(nn.Module):
    """A causal language model of hidden size 1 whose last hidden state at each position is the token's id.

    Its output embedding has two tokens with weights 0 and ln 3 per unit of hidden state.
    """

    def __init__(self):
        super().__init__()
        self.embedding, self.output = nn.Embedding(100, 1), nn.Linear(1, 2, bias=False)
        self.output.weight.data = torch.tensor([[0.0], [3.0]]).clamp(min=1).log()
        self.config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(hidden_size=1))
        self.device, self.dtype = torch.device("cpu"), torch.float32

    @property
    def base_model(self):
        return lambda input_ids, use_cache: SimpleNamespace(last_hidden_state=input_ids.float().unsqueeze(-1))

    def get_input_embeddings(self):
        return self.embedding

    def get_output_embeddings(self):
        return self.output


@pytest.fixture
def echo_lm() -> EchoLM:
    """A model whose hidden state at each position is the id of the token there."""
    return EchoLM()
