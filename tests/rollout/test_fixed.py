"""Decoding in a fixed cache, with steps that are repeated as a graph, against the loop that it must equal."""

import numpy as np
import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from easyrlhf.models.lora import LoraSettings, add_lora
from easyrlhf.rollout import fixed_decode
from easyrlhf.rollout.ending import Ending
from easyrlhf.rollout.fixed_decode import FixedBatch, Slots, decodes_fixed, fixed_steps, same_as_whole
from easyrlhf.rollout.sampler import HFSampler

PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14], [15, 16], [17, 18, 19, 20, 21, 22, 23, 24], [5, 6, 7], [26, 27, 28]]
PROMPTS += [[30, 31], [9, 10, 11, 12, 13, 14], [32]]
KEYS = [(0, number) for number in range(len(PROMPTS))]
WIDTH, END, NEVER = 21, 30, 10_000
FAMILIES = ["llama", "qwen2", "gpt2", "gpt-neox", "cohere"]


def recorded(step):
    """What a CUDA graph does, on a CPU: the operations that the step came to, again and again on the same tensors."""
    state = [*step.__self__.slots, *step.__self__.seen]
    before = [tensor.clone() for tensor in state]
    step.__self__.seen.turn.zero_()
    with torch.no_grad():
        graph = make_fx(lambda _: step(), tracing_mode="real")(torch.zeros(1))  # refuses a step that looks at a number
        for tensor, held in zip(state, before, strict=True):  # to capture is not to take the step
            tensor.copy_(held)
    return lambda: graph(torch.zeros(1))


class Fixed(HFSampler):
    """HFSampler as it decodes on a GPU."""

    capture = staticmethod(recorded)

    def _steps(self, prompts, keys, limits=None):
        uniforms = torch.tensor(np.stack([np.random.default_rng(key).random(self.max_new_tokens) for key in keys]))
        most = torch.tensor(limits or [self.max_new_tokens] * len(prompts))
        slots = Slots.empty(min(self.batch_size, len(prompts)), self.max_new_tokens, torch.device("cpu"))
        batch = FixedBatch(self.lm, slots, self.ending.ids, self.temperature, self.capture)
        return fixed_steps(batch, prompts, uniforms, most, self.ending)


ENDING = Ending((END,))


def both(lm, ending=ENDING, temperature=1.0, batch_size=4, limits=None):
    return [
        kind(lm, 0, ending, WIDTH, temperature, batch_size).generate(PROMPTS, KEYS, limits)
        for kind in (HFSampler, Fixed)
    ]


def same(samples, others, within=1e-12):
    assert others.completion_ids.tolist() == samples.completion_ids.tolist()
    assert others.completion_mask.tolist() == samples.completion_mask.tolist()
    assert others.finished.tolist() == samples.finished.tolist()
    torch.testing.assert_close(others.logprobs, samples.logprobs, rtol=0, atol=within)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_the_same_keys_draw_the_same_tokens_as_without_a_graph(tiny_lm, family, temperature):
    lm = tiny_lm(family, dtype=torch.float64, eos_token_id=None)
    samples, others = both(lm, temperature=temperature)
    assert len(set(samples.completion_mask.sum(1).tolist())) > (2 if temperature else 0)  # they come and go
    same(samples, others, 1e-9)


@pytest.mark.parametrize("batch_size", [1, 3, 10])
@pytest.mark.parametrize("look, room", [(1, 1), (3, 5), (8, 256)])
def test_however_often_the_host_looks_and_whatever_fits(tiny_lm, batch_size, look, room, monkeypatch):
    monkeypatch.setattr(fixed_decode, "LOOK", look)
    monkeypatch.setattr(fixed_decode, "ROOM", room)
    same(*both(tiny_lm(dtype=torch.float64), batch_size=batch_size), 1e-9)


def test_each_sample_has_its_own_limit_and_texts_end_it_within_a_look(tiny_lm):
    lm = tiny_lm(dtype=torch.float64)
    limits = [1 + number % 5 * 4 for number in range(len(PROMPTS))]
    same(*both(lm, Ending((NEVER,)), limits=limits), 1e-9)
    texts = Ending((END,), ("7", "19"), True, lambda ids: " ".join(map(str, ids)))
    samples, others = both(lm, texts)
    same(samples, others, 1e-9)
    assert (samples.completion_mask.sum(1) % 8 != 0).any() and 0 < samples.finished.sum() < len(PROMPTS)


@pytest.mark.parametrize("kind", [HFSampler, Fixed])
@pytest.mark.parametrize("texts", [(), ("7", "19")])
def test_each_completion_is_told_once_it_is_there(tiny_lm, kind, texts):
    told, limits = [], [1 + number % 5 * 4 for number in range(len(PROMPTS))]
    ending = Ending((END,), texts, True, lambda ids: " ".join(map(str, ids)))
    sampler = kind(tiny_lm(dtype=torch.float64), 0, ending, WIDTH, 1.0, 4)
    samples = sampler.generate(PROMPTS, KEYS, limits, lambda *ended: told.append(ended))
    assert [row for row, *_ in told] != list(range(len(PROMPTS)))  # not all at the end
    rows = zip(samples.completion_ids.tolist(), samples.completion_mask.sum(1).long().tolist(), strict=True)
    wanted = zip([ids[:length] for ids, length in rows], samples.finished.tolist(), strict=True)
    assert sorted(told) == [(number, *one) for number, one in enumerate(wanted)]


def test_an_adapter_and_ids_that_no_token_has_are_in_the_graph(tiny_lm):
    lm = tiny_lm(dtype=torch.float64)
    lm.spare_ids = torch.tensor([33, 34])
    adapted = add_lora(lm, LoraSettings(r=2, alpha=4, dropout=0.0, target="all-linear")).double()
    with torch.no_grad():
        for name, weights in adapted.named_parameters():
            if "lora_B" in name:
                weights.normal_(generator=torch.Generator().manual_seed(1))
    samples, others = both(adapted)
    same(samples, others, 1e-9)
    assert not {33, 34} & set(others.completion_ids.flatten().tolist())


def test_a_graph_is_made_after_the_first_steps_and_again_when_sizes_change(tiny_lm, monkeypatch):
    monkeypatch.setattr(fixed_decode, "ROOM", 16)
    made, lm = [], tiny_lm(dtype=torch.float64)

    class Counting(Fixed):
        @staticmethod
        def capture(step):
            made.append(step)
            return recorded(step)

    Counting(lm, 0, Ending((NEVER,)), WIDTH, 1.0, 10).generate(PROMPTS, KEYS)
    assert len(made) == 2  # 16 columns, then 32: the longest prompt has 8 tokens, its answer 21


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_models_are_decoded_so_whose_numbers_are_the_same(tiny_lm, dtype):
    assert decodes_fixed(tiny_lm(dtype=dtype), 1000)


def test_models_are_not_that_look_back_a_window_or_know_places_from_a_mask(tiny_lm):
    assert not decodes_fixed(tiny_lm("mistral", sliding_window=29), 30)
    assert decodes_fixed(tiny_lm("mistral", sliding_window=30), 30)
    with pytest.warns(UserWarning, match="decoding as on a CPU, which takes longer: too many values"):
        assert not same_as_whole(tiny_lm("bloom"))


def test_a_step_that_no_graph_can_hold_is_taken_as_it_is_and_said(monkeypatch):
    class Refusing:
        def __enter__(self):
            raise RuntimeError("operation not permitted when stream is capturing")

        def __exit__(self, *error):
            raise AssertionError

    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: None)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph: Refusing())
    taken = []
    with pytest.warns(UserWarning, match="without a CUDA graph, which takes longer: operation not permitted"):
        fixed_decode.cuda_graph(lambda: taken.append(1))()
    assert taken == [1]
