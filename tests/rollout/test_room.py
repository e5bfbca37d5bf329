"""How many completions are decoded together, and how much of their prompts is read in a pass, by the device."""

import pytest
import torch
from transformers import GPT2Config, LlamaConfig

from easyrlhf.config import GRPOConfig
from easyrlhf.rollout.decode_batch import prefill_tokens
from easyrlhf.rollout.room import bytes_of_completion, decoded_together
from easyrlhf.tools.fitting.memory import Machine
from easyrlhf.tools.fitting.stage_memory import decoded_at_once

GIB = 2**30
# Qwen2.5-0.5B: 24 layers, 2 key heads of 64, in bf16: 12 KiB a token; its logits 16 bytes for each of 151,936
QWEN = {"num_hidden_layers": 24, "hidden_size": 896, "num_attention_heads": 14, "num_key_value_heads": 2}
QWEN |= {"vocab_size": 151_936}


def test_a_completion_takes_its_keys_values_and_logits():
    found = bytes_of_completion(LlamaConfig(**QWEN), torch.bfloat16, 1024)
    assert found == 1024 * 24 * 2 * 2 * 64 * 2 + 16 * 151_936
    gpt2 = GPT2Config(n_layer=3, n_embd=32, n_head=4, vocab_size=10)
    assert bytes_of_completion(gpt2, torch.float32, 5) == 5 * 3 * 2 * 32 * 4 + 16 * 10


@pytest.mark.parametrize(
    ("setting", "kind", "memory", "count"),
    [
        (None, "cpu", 80 * GIB, 64),
        (None, "mps", 80 * GIB, 64),
        (None, "cuda", 80 * GIB, 100),  # an eighth is 10 GiB
        (None, "cuda", 0.5 * GIB, 1),
        (7, "cuda", 80 * GIB, 7),
        (7, "cpu", 80 * GIB, 7),
    ],
)
def test_a_gpu_decodes_what_an_eighth_of_its_memory_holds(setting, kind, memory, count):
    assert decoded_together(setting, kind, memory, GIB / 10) == count


def test_fit_counts_with_the_same_number(tmp_path):
    LlamaConfig(**QWEN).save_pretrained(tmp_path)
    config = GRPOConfig(
        model=str(tmp_path), train_data="a", max_prompt_length=512, max_completion_length=512, max_length=1024
    )
    each = 1024 * 12 * 1024 + 16 * 151_936
    assert decoded_at_once(config, Machine("cuda", 1, 24 * GIB)) == 3 * GIB // each == 214
    assert decoded_at_once(config, Machine("cpu", 1, 24 * GIB)) == 64


def test_a_gpu_reads_more_of_the_prompts_in_a_pass():
    assert (prefill_tokens("cpu"), prefill_tokens("mps"), prefill_tokens("cuda")) == (1024, 1024, 16_384)
