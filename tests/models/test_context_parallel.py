"""Processes that share rows: the numbers and gradients of one process, however heads and prompts are shared."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from easyrlhf.launch import free_port
from easyrlhf.models.context_parallel import Cut
from easyrlhf.userfile import load_module

ROOT = Path(__file__).parents[2]
ForkServer = load_module(ROOT / "tests" / "forking" / "fork_server.py").ForkServer

# Each process reads all numbers off a model by itself, then together with the others: rank 0 says how far these are
# from those, and the sum of all processes' gradients from the own one. Nothing is a multiple of the processes. Where
# there is a kernel, a loop stands in for the one of GPUs.
SHARED = """
import json
from contextlib import ExitStack
from unittest.mock import patch

import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

from easyrlhf.engine import processes
from easyrlhf.models.logprobs import row_token_logprobs, token_logprobs, token_logprobs_and_entropies
from easyrlhf.models.prefix_sharing import enable_sharing
from easyrlhf.models.value_head import ScalarModel, new_head
from easyrlhf.userfile import load_module

Kernel = load_module("tests/models/test_packing.py").Kernel
CASES = [
    (LlamaConfig, 4, "on", False, False),
    (LlamaConfig, 2, "on", True, False),
    (LlamaConfig, 1, "off", False, False),
    (Qwen2Config, 2, "off", True, False),
    (Qwen2Config, 1, "on", True, False),
    (LlamaConfig, 2, "on", False, True),
]
torch.manual_seed(0)
ids = lambda count: torch.randint(1, 97, (count,)).tolist()
GROUPS = [(ids(37), [ids(5), ids(23), ids(11)]), (ids(8), [ids(40)]), (ids(21), [ids(1), ids(16)])]
ROWS, MASK = torch.tensor([ids(9), ids(9), ids(9)]), torch.zeros(3, 9, dtype=torch.long)
MASK[0, 2:], MASK[1, 1:4], MASK[2, 5:7] = 1, 1, 1


def make(family, key_heads, checkpointing):
    torch.manual_seed(0)
    heads = {"num_attention_heads": 4, "num_key_value_heads": key_heads, "num_hidden_layers": 2}
    sizes = {"hidden_size": 64, "intermediate_size": 128, "vocab_size": 97, "initializer_range": 0.2}
    config = family(**heads, **sizes, attn_implementation="sdpa")
    lm = AutoModelForCausalLM.from_config(config, dtype=torch.float32).train()
    assert enable_sharing(lm, 64)
    if checkpointing:
        lm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return ScalarModel(lm, new_head(lm)).requires_grad_(True)


def numbers(model, share):
    found = [token_logprobs(model.lm, GROUPS, share), model.completion_scores(GROUPS, share)]
    found += [model.completion_values(GROUPS, share), row_token_logprobs(model.lm, ROWS, MASK)]
    found += token_logprobs_and_entropies(model.lm, GROUPS, share)
    return torch.cat(found)


def gradients(model, found, weight):
    (weight * found[:210] @ torch.linspace(-1, 1.3, 210)).backward()
    taken = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    return taken


def relative(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


dist.init_process_group("gloo")
for case in CASES:
    family, key_heads, share, checkpointing, packs = case
    model = make(family, key_heads, checkpointing)
    expected = numbers(model, share)
    alone = gradients(model, expected, 1.0)
    model.lm.row_group = processes.row_group
    with processes.sharing_rows(dist.get_world_size()), ExitStack() as stack:
        if packs:
            stack.enter_context(patch("easyrlhf.models.prefix_sharing.packs_rows", lambda device, dtype: True))
            stack.enter_context(patch("easyrlhf.models.attention.varlen_attn", kernel := Kernel()))
        found = numbers(model, share)
        together = gradients(model, found, 1 / processes.sharers())
    for tensor in together.values():
        dist.all_reduce(tensor)
    assert not packs or len(kernel.ends) == 2 * (4 * 2 + 1)  # layers, passes of prompts and completions, of rows
    worst = max(relative(together[name], tensor) for name, tensor in alone.items())
    if dist.get_rank() == 0:
        print(json.dumps([relative(found, expected), worst, len(found)]), flush=True)
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def forks():
    """What runs files in processes that have imported the libraries."""
    server = ForkServer()
    yield server
    server.close()


@pytest.mark.parametrize("count", [2, 4])
def test_numbers_and_gradients_are_those_of_one_process(forks, count, tmp_path):
    (tmp_path / "shared.py").write_text(SHARED)
    met = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    said = tmp_path / "said"
    codes = forks.run([tmp_path / "shared.py"], ROOT, [met | {"RANK": str(n)} for n in range(count)], str(said))
    assert codes == [0] * count, said.read_text()
    cases = [json.loads(line) for line in said.read_text().splitlines() if line.startswith("[")]
    assert len(cases) == 6
    for numbers, gradients, read in cases:
        assert 0 < numbers <= 1e-6 and 0 < gradients <= 2e-6  # not 0: other sums
        assert read > 200


def cut(size: int, rank: int, tokens: int) -> Cut:
    """How one of so many processes cuts a row."""
    return Cut(SimpleNamespace(size=lambda: size, rank=lambda: rank), tokens)


def test_parts_of_a_row_are_equal_and_the_last_is_filled_up():
    row = torch.arange(10, 17)
    assert [cut(3, rank, 7).own(row).tolist() for rank in range(3)] == [[10, 11, 12], [13, 14, 15], [16, 0, 0]]
    assert cut(2, 1, 6).own(row[:6]).tolist() == [13, 14, 15]


@pytest.mark.parametrize(
    "size, heads, key_heads, times",
    [
        (2, 8, 8, 0),
        (2, 8, 2, 0),
        (4, 8, 2, 2),  # each of 4 processes has 2 of 8 query heads and 1 of 4 key heads
        (4, 4, 1, 4),
        (2, 6, 3, 2),  # 3 cannot be dealt out to 2: each has 3 of 6
        (4, 12, 3, 4),
        (3, 6, 2, 3),
    ],
)
def test_key_heads_are_repeated_until_every_process_gets_as_many(size, heads, key_heads, times):
    assert cut(size, 0, 1).repeats(heads, key_heads) == times
