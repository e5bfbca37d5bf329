"""Texts continued from many places in one pass: the numbers and gradients of every beginning behind its own copy."""

import pytest
import torch
from torch import tensor as T
from torch.nn.functional import normalize

from easyrlhf.engine.micro_batches import Passes
from easyrlhf.models.features import completion_features
from easyrlhf.models.load import disable_dropout
from easyrlhf.models.logprobs import logprobs_of, token_logprobs
from easyrlhf.models.prefix_sharing import TREES, completion_states, enable_sharing, states_in_trees
from easyrlhf.models.prefix_tree import plant_trees, relatives

NOISE = torch.Generator().manual_seed(1)
TEXT, OTHER = (torch.randint(3, 50, (length,), generator=NOISE).tolist() for length in (40, 17))


def drawn(length: int) -> list[int]:
    return torch.randint(3, 50, (length,), generator=NOISE).tolist()


BLOCKS = [  # two texts from every fourth token on, two completions each, some of which end early
    (text[:start], [drawn(6), drawn(6 - start % 3)])
    for text, last in ((TEXT, 33), (OTHER, 12))
    for start in range(4, last, 4)
]
ROWS = [(prompt, ids) for prompt, own in BLOCKS for ids in own]


def alone(lm, prompt: list[int], completion: list[int]) -> torch.Tensor:
    """Of each token of a completion, from transformers' own logits of this one row."""
    logits = lm(input_ids=T([prompt + completion]), use_cache=False).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(1, T(completion)[:, None])[:, 0]


@torch.no_grad()
@pytest.mark.parametrize("how", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_one_masked_pass_is_as_many_as_there_are_blocks(tiny_lm, family, how):
    lm = tiny_lm(family, attn_implementation=how)
    states = states_in_trees(lm, BLOCKS)
    found = logprobs_of(lm, states.hidden[states.before], states.targets)
    torch.testing.assert_close(found, torch.cat([alone(lm, *row) for row in ROWS]), rtol=0, atol=1e-5)
    last = [lm.base_model(input_ids=T([prompt + ids])).last_hidden_state[0, -1] for prompt, ids in ROWS]
    torch.testing.assert_close(states.hidden[states.last], torch.stack(last), rtol=0, atol=1e-5)
    assert found.std() > 0.5


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt-neox", "gpt2"])
def test_gradients_are_those_of_every_block_alone(tiny_lm, family):
    lm = tiny_lm(family, dtype=torch.float64)
    disable_dropout(lm)
    assert enable_sharing(lm, max_length=64)
    weights = torch.linspace(-1, 2, sum(len(ids) for _, ids in ROWS), dtype=torch.float64)
    gradients = []
    for found in (token_logprobs(lm, BLOCKS, TREES), torch.cat([alone(lm, *row) for row in ROWS])):
        lm.zero_grad()
        (weights * found).sum().backward()
        gradients.append({name: p.grad.clone() for name, p in lm.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, grad in gradients[1].items():
        torch.testing.assert_close(gradients[0][name], grad, rtol=0, atol=1e-6 * grad.abs().max().item() + 1e-12)


@torch.no_grad()
@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_features_are_those_of_every_block_alone(tiny_lm, family, pooling):
    lm = tiny_lm(family, num_hidden_layers=4, dtype=torch.float64)
    assert enable_sharing(lm, max_length=64)
    read = []
    lm.base_model.register_forward_pre_hook(lambda _, __, kwargs: read.append(kwargs["input_ids"]), with_kwargs=True)
    found = completion_features(lm, ROWS, [1, 3], pooling, TREES)
    assert [ids.shape[0] for ids in read] == [2]  # a row a text
    expected = []
    for prompt, ids in ROWS:
        states = lm(input_ids=T([prompt + ids]), output_hidden_states=True).hidden_states
        own = [states[layer][0, len(prompt) :] for layer in (1, 3)]
        expected.append(normalize(torch.cat([one[-1] if pooling == "last" else one.mean(0) for one in own]), dim=0))
    torch.testing.assert_close(found, torch.stack(expected), rtol=0, atol=1e-7)  # norms and rotations are in float32


def test_each_token_sees_what_it_would_see_alone():
    trees = plant_trees([[5, 6], [5], [5, 6]], [[7, 8], [9], [4]], torch.device("cpu"))
    assert trees.ids.tolist() == [[5, 6, 7, 8, 9, 4]]
    assert trees.positions.tolist() == [[0, 1, 2, 3, 1, 2]]
    assert (trees.before, trees.firsts) == ([1, 0, 1], [2, 4, 5])
    assert trees.mask[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 0, 0, 0, 1, 0],
        [1, 1, 0, 0, 0, 1],
    ]


def test_beginnings_of_a_text_go_together_as_far_as_the_budget_allows():
    prompts = [[1, 2, 3], [1], [2], [1, 2, 4], [1, 2], [1, 2, 3]]
    assert relatives(prompts, [2] * 6) == [[2], [3], [0, 5, 4, 1]]
    assert relatives(prompts, [2] * 6, 7) == [[2], [3], [0, 5], [4, 1]]
    assert relatives([[1, 2], [1]], [9, 9], 5) == [[0], [1]]  # longer ones go alone
    groups = [sorted(group) for group, _ in Passes(12, TREES).over(prompts, [2] * 6)]
    assert sorted(groups) == [[0, 1, 4, 5], [2, 3]]


@torch.no_grad()
def test_a_model_that_cannot_share_reads_every_block_alone(tiny_lm):
    lm = tiny_lm("mistral")  # with a window of four tokens
    assert not enable_sharing(lm, max_length=64)
    states = completion_states(lm, BLOCKS, TREES)
    assert states.hidden.shape[0] == len(ROWS) * max(len(prompt) + len(ids) for prompt, ids in ROWS)
    found = logprobs_of(lm, states.hidden[states.before], states.targets)
    torch.testing.assert_close(found, torch.cat([alone(lm, *row) for row in ROWS]), rtol=0, atol=1e-5)
