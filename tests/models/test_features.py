"""Features of completions: which layers, which tokens, and that company and padding change nothing."""

import pytest
import torch
from torch.nn.functional import normalize

from easyrlhf.models.features import completion_features, layers_at

ROWS = [([1, 2, 3], [4, 5, 6]), ([7], [8, 9, 10, 11]), ([3, 3, 3, 3], [6, 2, 9, 9])]


def by_hand(lm, prompt, completion, layers, pooling):
    with torch.no_grad():
        states = lm(input_ids=torch.tensor([prompt + completion]), output_hidden_states=True).hidden_states
    own = [states[layer][0, len(prompt) :] for layer in layers]
    return normalize(torch.cat([one[-1] if pooling == "last" else one.mean(0) for one in own]), dim=0)


@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("family, how", [("llama", "sdpa"), ("llama", "eager"), ("qwen2", "sdpa")])
def test_states_of_the_completion_at_each_layer_as_one_vector(tiny_lm, family, how, pooling):
    lm = tiny_lm(family, num_hidden_layers=4, attn_implementation=how, dtype=torch.float64)
    layers = layers_at(lm, (0.25, 0.5, 0.75))
    assert layers == [1, 2, 3]
    found = completion_features(lm, ROWS, layers, pooling)
    expected = torch.stack([by_hand(lm, *row, layers, pooling) for row in ROWS])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    assert (found[0] - found[1]).abs().max() > 1e-3
    assert found.dtype == torch.float64


def test_the_embedding_is_no_layer(tiny_lm):
    assert layers_at(tiny_lm(num_hidden_layers=2), (0.25, 0.5, 0.75)) == [1, 1, 1]
    assert layers_at(tiny_lm(num_hidden_layers=2), (1.0,)) == [2]


def test_half_precision_is_pooled_in_full(tiny_lm):
    lm = tiny_lm(dtype=torch.bfloat16)
    assert completion_features(lm, ROWS, [1], "mean").dtype == torch.float32
