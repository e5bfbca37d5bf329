"""vLLM in the process of the run: the same answers as our own decode loop, also with new weights."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from easyrlhf.engine import processes
from easyrlhf.rollout.ending import Ending
from easyrlhf.rollout.sampler import HFSampler
from easyrlhf.rollout.vllm_sampler import Drawing, seed_of

PAD, END, LIMIT, T = 0, 2, 24, 0.7
PROMPTS = [[5, 6, 7], [8, 9, 10, 11, 12, 13], [14], [5, 6, 7]]


@pytest.fixture(scope="module")
def lm(tmp_path_factory) -> LlamaForCausalLM:
    """A random model that vLLM's kernels take (heads of 32), written to its `folder`."""
    torch.manual_seed(0)
    lm = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=64,
            initializer_range=0.3,
            tie_word_embeddings=True,
            eos_token_id=END,
        )
    )
    lm.folder = str(tmp_path_factory.mktemp("lm"))
    lm.save_pretrained(lm.folder)
    return lm


@pytest.fixture(scope="module")
def vllm(lm):
    """The colocated engine of the model, with its first weights."""
    from easyrlhf.rollout.vllm_colocated import Colocated, HeldModel

    held = HeldModel(lm.folder, max_length=64, lora_r=0, ranks=1, memory=0.3, trust_remote_code=False)
    drawing = Drawing(LIMIT, Ending((END,)), spare=[], temperature=T)
    with processes.join_group(torch.device("cpu"), 60, alone=True):
        colocated = Colocated(held, drawing, torch.device("cpu"), torch.float32)
        colocated.load(lm)
        with colocated.session():
            yield colocated


def greedy(lm) -> list[list[int]]:
    """What our own loop takes to be likeliest."""
    samples = HFSampler(lm, PAD, Ending((END,)), LIMIT, 0, 4).generate(PROMPTS, [(n,) for n in range(len(PROMPTS))])
    lengths = samples.completion_mask.sum(1).long().tolist()
    return [row[:length] for row, length in zip(samples.completion_ids.tolist(), lengths, strict=True)]


@pytest.mark.parametrize("scale", [1.0, 0.8, 1.2])
def test_the_likeliest_tokens_are_those_of_our_own_loop_with_any_weights(lm, vllm, scale, monkeypatch):
    with torch.no_grad():
        for parameter in lm.parameters():
            parameter.mul_(scale)
    vllm.load(lm)
    monkeypatch.setitem(vllm.drawing, "temperature", 0.0)
    assert [completion.ids for completion in vllm.complete(PROMPTS, [0] * 4)] == greedy(lm)


def test_tokens_are_drawn_with_the_models_own_probabilities(lm, vllm):
    vllm.load(lm)
    completions = vllm.complete(PROMPTS * 8, list(range(32)))
    for prompt, completion in zip(PROMPTS * 8, completions, strict=True):
        ids = torch.tensor([prompt + completion.ids])
        with torch.no_grad():
            logprobs = (lm(ids).logits[0, :-1] / T).log_softmax(-1)
        expected = logprobs.gather(1, ids[0, 1:, None])[len(prompt) - 1 :, 0]
        # each program rounds in float32 in its own way: 2.4e-5 apart on a processor with AVX2, less with AVX512
        torch.testing.assert_close(torch.tensor(completion.logprobs), expected, rtol=0, atol=5e-5)
        assert len(completion.ids) == LIMIT or completion.ids[-1] == END
        assert END not in completion.ids[:-1]


def test_first_tokens_are_distributed_as_the_model_says(lm, vllm, monkeypatch):
    vllm.load(lm)
    monkeypatch.setitem(vllm.drawing, "max_tokens", 1)
    draws = 4000
    drawn = [one.ids[0] for one in vllm.complete([PROMPTS[0]] * draws, [seed_of((7, n)) for n in range(draws)])]
    with torch.no_grad():
        expected = draws * (lm(torch.tensor([PROMPTS[0]])).logits[0, -1].double() / T).softmax(-1)
    counts = torch.bincount(torch.tensor(drawn), minlength=64).double()
    often = expected >= 5
    cells = (
        torch.cat([counts[often], counts[~often].sum()[None]]),
        torch.cat([expected[often], expected[~often].sum()[None]]),
    )
    chi_square = ((cells[0] - cells[1]) ** 2 / cells[1].clamp(min=1e-9)).sum().item()
    degrees = len(cells[0]) - 1
    assert chi_square < degrees + 4 * (2 * degrees) ** 0.5  # four standard deviations of chi-square


def test_a_sample_depends_on_its_seed_and_not_on_its_company(vllm, lm):
    vllm.load(lm)
    together = vllm.complete(PROMPTS, [1, 2, 3, 4])
    alone = [vllm.complete([prompt], [seed])[0] for prompt, seed in zip(PROMPTS, [1, 2, 3, 4], strict=True)]
    assert [one.ids for one in together] == [one.ids for one in alone]
    assert together[0].ids != together[3].ids  # the same prompt, other seeds


def test_more_prompt_tokens_than_are_read_at_once(vllm, lm):
    vllm.load(lm)
    prompts = [[5 + (row * 7 + place * place) % 50 for place in range(39)] for row in range(300)]
    completions = vllm.complete(prompts, list(range(300)))
    assert completions[-1] == vllm.complete(prompts[-1:], [299])[0]
