"""A collected rollout against every model asked about every row alone."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import tensor as T

from easyrlhf.engine.micro_batches import Passes
from easyrlhf.errors import ServiceError
from easyrlhf.models.lora import LoraSettings, add_lora
from easyrlhf.models.prefix_sharing import enable_sharing
from easyrlhf.models.value_head import ScalarModel, new_head
from easyrlhf.online.collect import collect
from easyrlhf.online.state import Models, Online
from easyrlhf.rewards.async_source import RewardFunction
from easyrlhf.rewards.combined import Rewards
from easyrlhf.rollout.ending import Ending
from easyrlhf.rollout.sampler import HFSampler
from easyrlhf.run.timer import Timer

RUN = SimpleNamespace(step=5)
PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14], [15, 16]]
SCORES = [1.0, -2.0, 0.5, 3.0]
END = 12  # a token these models do say, so that completions differ in length
KEYS = [(0, number) for number in range(4)]
NAMES = ("sampler_logprobs", "old_logprobs", "ref_logprobs", "entropies", "values")


@pytest.fixture
def gather(prompt_row, says, chatml_renderer):
    """gather(models, temperature, micro_batch_tokens) -> a rollout of four completions of at most 8 tokens."""

    def run(models, temperature=1.0, micro_batch_tokens=30):
        sampler = HFSampler(models.policy, 0, Ending((END,)), 8, temperature, 3)
        rewards = Rewards([says(SCORES)], [1.0], None, 0.0, chatml_renderer)
        rows = [prompt_row(prompt) for prompt in PROMPTS]
        models = replace(models, passes=Passes(micro_batch_tokens))
        return collect(RUN, plugged(models, sampler, rewards), rows, KEYS, Timer())

    return run


def plugged(models, sampler, rewards) -> Online:
    """What collect needs of a stage."""
    return Online(models, {}, sampler, rewards, *[None] * 3)


def cast(tiny_lm, **how) -> Models:
    """Three different models of 20 tokens."""
    torch.manual_seed(0)
    policy, reference, lm = (tiny_lm(seed=seed, vocab=20, **how) for seed in (0, 1, 2))
    return Models(policy, reference, ScalarModel(lm, new_head(lm)), Passes(30))


@torch.no_grad()
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("budget", [1, 30, 10_000])
def test_every_number_stands_beside_its_token(tiny_lm, gather, temperature, budget):
    models = cast(tiny_lm, dtype=torch.float64)
    rollout = gather(models, temperature, budget)
    lengths = rollout.lengths.tolist()
    assert len(set(lengths)) > 2
    for row, prompt in enumerate(PROMPTS):
        tokens, n, p = rollout.completions()[row], lengths[row], len(PROMPTS[row])
        ids = T([prompt + tokens])
        expected = {}
        for name, lm in (("old_logprobs", models.policy), ("ref_logprobs", models.reference)):
            table = (lm(input_ids=ids, use_cache=False).logits[0] / temperature).log_softmax(-1)[p - 1 : -1]
            expected[name] = table.gather(1, T(tokens)[:, None]).squeeze(1)
            if name == "old_logprobs":
                expected["entropies"] = -(table.exp() * table).sum(-1)
        hidden = models.value.lm(input_ids=ids, output_hidden_states=True).hidden_states[-1][0, p - 1 : -1]
        expected["values"] = hidden @ models.value.head.weight[0].double()  # read before the token is there
        expected["sampler_logprobs"] = expected["old_logprobs"]
        for name in NAMES:
            found = getattr(rollout, name)[row].double()
            torch.testing.assert_close(found[:n], expected[name], rtol=0, atol=2e-5, msg=f"{name} of row {row}")
            assert found[n:].abs().sum().item() == 0.0
    assert rollout.scores.tolist() == SCORES
    assert rollout.source_scores["says"].tolist() == SCORES
    assert not any(getattr(rollout, name).requires_grad for name in NAMES)


def test_the_kl_to_an_equal_reference_is_exactly_zero(tiny_lm, gather):
    lm = tiny_lm(seed=2, vocab=20)
    models = Models(tiny_lm(seed=0, vocab=20), tiny_lm(seed=0, vocab=20), ScalarModel(lm, new_head(lm)), Passes(30))
    rollout = gather(models)
    assert torch.equal(rollout.old_logprobs, rollout.ref_logprobs)
    assert rollout.old_logprobs.abs().max().item() > 0.1


def lora_models(tiny_lm, dropout: float, b_std: float) -> Models:
    """A LoRA policy that is its own reference."""
    torch.manual_seed(0)
    policy = add_lora(tiny_lm(vocab=20), LoraSettings(r=4, alpha=8, dropout=dropout, target="all-linear")).train()
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=b_std)
    lm = tiny_lm(seed=2, vocab=20)
    return Models(policy, None, ScalarModel(lm, new_head(lm)), Passes(30))


def test_the_reference_of_a_lora_policy_is_its_base(tiny_lm, gather):
    fresh = gather(lora_models(tiny_lm, dropout=0.0, b_std=0.0))
    assert torch.equal(fresh.old_logprobs, fresh.ref_logprobs)

    rollout = gather(lora_models(tiny_lm, dropout=0.0, b_std=0.2))
    assert (rollout.old_logprobs - rollout.ref_logprobs).abs().max().item() > 0.05
    base = tiny_lm(vocab=20)
    for row, prompt in enumerate(PROMPTS):
        tokens = rollout.completions()[row]
        with torch.no_grad():
            table = base(input_ids=T([prompt + tokens]), use_cache=False).logits[0].log_softmax(-1)
        expected = table[len(prompt) - 1 : -1].gather(1, T(tokens)[:, None]).squeeze(1)
        torch.testing.assert_close(rollout.ref_logprobs[row, : len(tokens)], expected, rtol=0, atol=2e-5)


def test_the_dropout_of_an_adapter_does_not_reach_what_is_collected(tiny_lm, gather):
    rollout = gather(lora_models(tiny_lm, dropout=0.5, b_std=0.2))
    torch.testing.assert_close(rollout.old_logprobs, rollout.sampler_logprobs, rtol=0, atol=2e-5)


def test_rewards_know_the_step_and_sampling_and_scoring_are_timed_apart(tiny_lm, prompt_row, says, chatml_renderer):
    models, timer = cast(tiny_lm), Timer()
    rewards = Rewards([says([0.0])], [1.0], None, 0.0, chatml_renderer)
    sampler = HFSampler(models.policy, 0, Ending((2,)), 4, 1.0, 3)
    collect(RUN, plugged(models, sampler, rewards), [prompt_row([5, 6])], [(0, 0)], timer)
    assert rewards.state.global_step == 5
    assert set(timer.seconds) == {"rollout", "score"}
    assert min(timer.seconds.values()) > 0


def test_what_is_collected_is_the_same_with_prompts_shared(tiny_lm, says, prompt_row, chatml_renderer):
    rows = [prompt_row(prompt) for prompt in ([5, 6, 7, 8, 9], [8], [9, 10]) for _ in range(4)]
    rewards = Rewards([says([1.0] * 12)], [1.0], None, 0.0, chatml_renderer)
    found = {}
    for share in ("on", "off"):
        policy, reference = tiny_lm(seed=0, vocab=20), tiny_lm(seed=1, vocab=20)
        if share == "on":
            assert enable_sharing(policy, 64) and enable_sharing(reference, 64)
        sampler = HFSampler(policy, 0, Ending((12,)), 6, 1.0, 12)
        value = ScalarModel(tiny_lm(seed=2, vocab=20), new_head(policy))
        torch.nn.init.ones_(value.head.weight)
        assert share == "off" or enable_sharing(value.lm, 64)
        models = Models(policy, reference, value, Passes(40, share))
        found[share] = collect(RUN, plugged(models, sampler, rewards), rows, [(1, n) for n in range(12)], Timer())
    assert torch.equal(found["on"].completion_ids, found["off"].completion_ids)
    for name in ("old_logprobs", "ref_logprobs", "entropies", "values"):
        ours, theirs = (getattr(found[share], name) for share in ("on", "off"))
        torch.testing.assert_close(ours, theirs, rtol=0, atol=5e-6)
        assert theirs.abs().max() > 0.5


def test_a_reference_that_is_not_wanted_is_not_asked(tiny_lm, prompt_row, says, chatml_renderer):
    models = replace(cast(tiny_lm), reference=None)  # would be the policy with its adapter off, and there is none
    rewards = Rewards([says([1.0, 2.0])], [1.0], None, 0.0, chatml_renderer)
    sampler = HFSampler(models.policy, 0, Ending((2,)), 4, 1.0, 3)
    rows, keys = [prompt_row([5, 6]), prompt_row([7])], [(0, 0), (0, 1)]
    with pytest.raises(ServiceError, match=r"the reference raised AttributeError: .*disable_adapter"):
        collect(RUN, plugged(models, sampler, rewards), rows, keys, Timer())
    rollout = collect(RUN, plugged(models, sampler, rewards), rows, keys, Timer(), with_reference=False)
    assert rollout.ref_logprobs is None and rollout.log_ratios is None
    torch.testing.assert_close(rollout.old_logprobs, rollout.sampler_logprobs, rtol=0, atol=2e-5)
    assert rollout.values.abs().max() > 0


def test_what_functions_log_of_completions_goes_with_them(tiny_lm, prompt_row, chatml_renderer):
    def spell(completion_ids, log_extra, **_):
        log_extra("first", [ids[0] for ids in completion_ids])
        return [0.0] * len(completion_ids)

    models = cast(tiny_lm)
    sampler = HFSampler(models.policy, 0, Ending((2,)), 4, 1.0, 3)
    rewards = Rewards([RewardFunction(spell, "spell")], [1.0], None, 0.0, chatml_renderer)
    rows, keys = [prompt_row([5, 6]), prompt_row([7])], [(0, 0), (0, 1)]
    rollout = collect(RUN, plugged(models, sampler, rewards), rows, keys, Timer(), with_reference=False)
    first = rollout.completion_ids[:, 0].tolist()
    collect(RUN, plugged(models, sampler, rewards), rows[:1], keys[:1], Timer(), with_reference=False)
    assert rollout.extra == [{"spell/first": first[0]}, {"spell/first": first[1]}]
    assert rollout.take([1]).extra == [{"spell/first": first[1]}]
