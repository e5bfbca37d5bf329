"""The update against gradients written out here, row by row."""

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import tensor as T

from easyrlhf.data.batches import epoch_order
from easyrlhf.engine.engine import OptimiserSettings
from easyrlhf.engine.micro_batches import Passes
from easyrlhf.engine.plain import PlainEngine
from easyrlhf.models.prefix_sharing import enable_sharing
from easyrlhf.models.value_head import ScalarModel, new_head
from easyrlhf.online.collect import collect
from easyrlhf.online.metrics import importance_metrics
from easyrlhf.online.ppo import PPO, estimate_ppo
from easyrlhf.online.ptx import PtxBatches
from easyrlhf.online.state import Models, Online
from easyrlhf.online.update import (
    PolicyLearner,
    Update,
    ValueLearner,
    averages,
    mini_batches,
    policy_metrics,
)
from easyrlhf.rewards.combined import Rewards
from easyrlhf.rollout.ending import Ending
from easyrlhf.rollout.sampler import HFSampler
from easyrlhf.run.timer import Timer

END = 12  # a token these models do say, so that completions differ in length
PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14], [15, 16]]
CLOSE = {"rtol": 1e-4, "atol": 2e-6}
RUN = SimpleNamespace(step=5)
SETTINGS = OptimiserSettings(1e-3, "constant", 0.0, 0.0, 1e-5, 1e9, 10)


class Bench:
    """A policy, a value model and one rollout of them."""

    def __init__(self, tiny_lm, rewards, prompt_row, config, prompts=PROMPTS):
        torch.manual_seed(0)
        self.policy, reference, lm = (tiny_lm(seed=seed, vocab=20) for seed in (0, 1, 2))
        self.value, self.config = ScalarModel(lm, new_head(lm)), config
        models = Models(self.policy, reference, self.value, Passes(40))
        sampler = HFSampler(self.policy, 0, Ending((END,)), 6, config.temperature, 4)
        rows = [prompt_row(prompt) for prompt in prompts]
        online = Online(models, {}, sampler, rewards, *[None] * 3)
        rollout = collect(RUN, online, rows, [(1, n) for n in range(len(rows))], Timer())
        self.rollout = estimate_ppo(rollout, config, config.kl_coef)
        assert len(set(self.rollout.lengths.tolist())) > 2
        self.taken: dict[str, list[dict]] = {"policy": [], "value": []}

    def update(self, micro_batch_tokens=40, ptx=None, share="off", **changed) -> Update:
        """An update whose optimiser steps' gradients are kept in `taken`."""
        engines = {"policy": PlainEngine(self.policy, SETTINGS), "value": PlainEngine(self.value, SETTINGS)}
        for name, engine in engines.items():
            engine.optimizer.register_step_pre_hook(lambda *_, name=name, engine=engine: self.keep(name, engine))
        config, passes = replace(self.config, **changed), Passes(micro_batch_tokens, share)
        first_step = config.value_warmup_steps * config.epochs_per_rollout * config.num_mini_batches
        policy = PolicyLearner(engines["policy"], PPO, config, passes, first_step, ptx)
        return Update([policy, ValueLearner(engines["value"], config, passes)], config)

    def keep(self, name, engine):
        grads = {key: p.grad.detach().clone() for key, p in engine.model.named_parameters() if p.grad is not None}
        self.taken[name].append(grads)

    def grads(self, model, loss) -> dict[str, torch.Tensor]:
        """Gradient of a loss by autograd alone."""
        model.zero_grad()
        loss.backward()
        found = {key: p.grad.detach().clone() for key, p in model.named_parameters() if p.grad is not None}
        model.zero_grad()
        return found

    def full_logprobs(self, ids: list[int], start: int) -> torch.Tensor:
        """Log-probabilities of ids[start:] from all the logits of this row alone."""
        logits = self.policy(input_ids=T([ids]), use_cache=False).logits[0] / self.config.temperature
        return logits.log_softmax(-1)[start - 1 : -1].gather(1, T(ids[start:])[:, None]).squeeze(1)


@pytest.fixture
def bench(tiny_lm, prompt_row, says, chatml_renderer, ppo_config) -> Bench:
    config = ppo_config(batch_size=4, temperature=0.8, vf_coef=0.3, cliprange_value=0.05)
    rewards = Rewards([says([1.0, -1.0, 0.5, 2.0])], [1.0], None, 0.0, chatml_renderer)
    return Bench(tiny_lm, rewards, prompt_row, config)


def assert_same(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for name, grad in expected.items():
        torch.testing.assert_close(found[name], grad, **CLOSE, msg=lambda m, name=name: f"{name}: {m}")
    assert max(grad.abs().max().item() for grad in expected.values()) > 1e-3


def test_the_first_step_is_the_policy_gradient_of_the_whole_rollout(bench):
    rollout, tokens = bench.rollout, bench.rollout.completion_mask.sum().item()
    loss = 0.0
    for row, prompt in enumerate(PROMPTS):
        ids = rollout.completions()[row]
        logprobs = bench.full_logprobs(prompt + ids, len(prompt))
        loss = loss - (rollout.advantages[row, : len(ids)] * logprobs).sum() / tokens  # ratio 1: ∇ratio = ∇logprob
    expected = bench.grads(bench.policy, loss)
    metrics = bench.update()(rollout, step=0)
    assert_same(bench.taken["policy"][0], expected)
    assert metrics["policy/approxkl_avg"] == pytest.approx(0.0, abs=1e-8)
    assert metrics["policy/clipfrac_avg"] == 0.0
    assert metrics["val/ratio"] == pytest.approx(1.0, abs=1e-5)
    assert metrics["val/ratio_var"] == pytest.approx(0.0, abs=1e-6)
    assert metrics["loss/policy_avg"] == pytest.approx(0.0, abs=1e-5)  # minus the mean of standardised advantages
    norm = sum((grad**2).sum().item() for grad in expected.values()) ** 0.5
    assert metrics["policy/grad_norm"] == pytest.approx(norm, rel=1e-4)
    assert metrics["policy/learning_rate"] == 1e-3


def test_the_first_value_step_is_the_gradient_of_half_the_squared_error(bench):
    rollout, tokens = bench.rollout, bench.rollout.completion_mask.sum().item()
    error = 0.0
    for row, prompt in enumerate(PROMPTS):
        ids = rollout.completions()[row]
        hidden = bench.value.lm(input_ids=T([prompt + ids]), output_hidden_states=True).hidden_states[-1][0]
        values = hidden[len(prompt) - 1 : -1] @ bench.value.head.weight[0] + bench.value.head.bias
        error = error + (0.5 * (values - rollout.returns[row, : len(ids)]) ** 2).sum() / tokens
    mean_error = error.item()
    expected = bench.grads(bench.value, 0.3 * error)
    metrics = bench.update()(rollout, step=0)
    assert_same(bench.taken["value"][0], expected)
    assert metrics["loss/value_avg"] == pytest.approx(mean_error, rel=1e-4)
    assert metrics["val/clipfrac_avg"] == 0.0


def test_ppo_learns_nothing_from_a_completion_without_a_score(bench):
    """Neither model does: the gradients are those of the others alone."""
    states = [{key: t.clone() for key, t in model.state_dict().items()} for model in (bench.policy, bench.value)]
    scores = bench.rollout.scores.index_fill(0, T([2]), torch.nan)
    some = estimate_ppo(replace(bench.rollout, scores=scores), bench.config, bench.config.kl_coef)
    others = estimate_ppo(bench.rollout.take([0, 1, 3]), bench.config, bench.config.kl_coef)
    assert not some.advantages[2].any() and not some.rewards[2].any() and not some.learned[2].any()
    for rollout in (some, others):
        for model, state in zip((bench.policy, bench.value), states, strict=True):
            model.load_state_dict(state)
        bench.update()(rollout, step=0)
    for name in ("policy", "value"):
        assert_same(*bench.taken[name])


@pytest.mark.parametrize("mini_batches", [1, 2])
def test_gradients_do_not_depend_on_the_micro_batches(bench, mini_batches):
    states = [{key: t.clone() for key, t in model.state_dict().items()} for model in (bench.policy, bench.value)]
    runs = []
    for micro_batch_tokens in (10_000, 12, 1):
        bench.policy.load_state_dict(states[0])
        bench.value.load_state_dict(states[1])
        bench.taken = {"policy": [], "value": []}
        metrics = bench.update(micro_batch_tokens, num_mini_batches=mini_batches)(bench.rollout, step=0)
        runs.append((metrics, bench.taken))
    for metrics, taken in runs[1:]:
        assert metrics == pytest.approx(runs[0][0], rel=1e-3, abs=1e-5)
        for name in ("policy", "value"):
            assert_same(taken[name][0], runs[0][1][name][0])


@pytest.mark.parametrize("mini_batches", [1, 3])
def test_gradients_do_not_depend_on_whether_prompts_are_shared(
    tiny_lm, prompt_row, says, chatml_renderer, ppo_config, mini_batches
):
    """Six completions of two prompts: computed apart, and each prompt once for its own."""
    prompts, scores = [[5, 6, 7, 8, 9]] * 3 + [[8]] * 3, [1.0, -1.0, 0.5, 2.0, 0.0, -2.0]
    config = ppo_config(batch_size=6, num_generations=3, num_mini_batches=mini_batches)
    found = {}
    for share in ("off", "on"):
        rewards = Rewards([says(scores)], [1.0], None, 0.0, chatml_renderer)
        bench = Bench(tiny_lm, rewards, prompt_row, config, prompts)
        assert share == "off" or (enable_sharing(bench.policy, 64) and enable_sharing(bench.value.lm, 64))
        metrics = bench.update(share=share)(bench.rollout, step=0)
        found[share] = metrics, bench.taken
    assert found["on"][0] == pytest.approx(found["off"][0], rel=1e-3, abs=1e-5)
    for name in ("policy", "value"):
        assert_same(found["on"][1][name][0], found["off"][1][name][0])


def test_every_row_is_in_one_minibatch_of_every_epoch(bench):
    seen = []

    def spy(batch, tokens_per_step, optimiser_step):
        seen.append((optimiser_step, [tuple(row["prompt_ids"]) for row in batch.rows]))
        assert tokens_per_step == bench.rollout.completion_mask.sum() / 2
        return {}

    config = replace(bench.config, num_ppo_epochs=3, num_mini_batches=2)
    Update([spy], config)(bench.rollout, step=5)
    assert [number for number, _ in seen] == [30, 31, 32, 33, 34, 35]  # (5 · 3 + epoch) · 2 + minibatch
    prompts = sorted(map(tuple, PROMPTS))
    epochs = [seen[i][1] + seen[i + 1][1] for i in (0, 2, 4)]
    assert [sorted(rows) for rows in epochs] == [prompts] * 3
    assert len({tuple(rows) for rows in epochs}) > 1


def test_completions_of_a_prompt_stay_together_in_a_minibatch(ppo_config):
    config = ppo_config(batch_size=12, num_generations=3, num_mini_batches=2)
    seen = set()
    for epoch in range(8):
        parts = mini_batches(config, 12, step=1, epoch=epoch)
        assert [len(rows) for rows in parts] == [6, 6]
        families = [tuple(rows[start : start + 3]) for rows in parts for start in (0, 3)]
        assert sorted(families) == [(0, 1, 2), (3, 4, 5), (6, 7, 8), (9, 10, 11)]
        seen.add(tuple(families))
    assert len(seen) > 4  # each epoch has an order of its own


def test_prompts_that_cannot_be_split_evenly_are_split_by_their_completions(ppo_config):
    parts = mini_batches(ppo_config(batch_size=12, num_generations=4, num_mini_batches=2), 12, step=0, epoch=0)
    assert [len(rows) for rows in parts] == [6, 6]
    assert sorted(parts[0] + parts[1]) == list(range(12))


def test_later_epochs_move_the_ratio_and_are_clipped(bench):
    metrics = bench.update(num_ppo_epochs=6, cliprange=0.01)(bench.rollout, step=0)
    assert metrics["val/ratio_var"] > 1e-6
    assert metrics["policy/approxkl_avg"] > 1e-6
    assert 0 < metrics["policy/clipfrac_avg"] < 1
    assert 0 < metrics["val/clipfrac_avg"] < 1  # the value model moves away from what it said, too
    assert len(bench.taken["policy"]) == len(bench.taken["value"]) == 6


def test_the_policys_loss_compares_with_the_policy_that_sampled(hand_rollout, ppo_config):
    rollout = replace(hand_rollout, advantages=T([[1.0, -1.0, 2.0], [1.0, -2.0, 9.0]]))
    # log-ratios .5 −.5 0 | −.5 .5: ratios 1.6487 .6065 1 | .6065 1.6487, clipped at .8 and 1.2
    logprobs = T([-0.5, -2.5, -3.0, -1.5, -0.5])
    found = PPO.loss(rollout, logprobs, ppo_config(cliprange=0.2))
    assert found.tolist() == pytest.approx([-1.2, 0.8, -2.0, -0.6065, 3.2974], abs=1e-4)


def test_the_value_models_loss_is_clipped_around_what_it_said_when_sampling(bench):
    rollout, tokens = bench.rollout, bench.rollout.completion_mask.sum().item()
    values, returns = rollout.values, rollout.returns
    moved = replace(rollout, values=values + 10.0)  # as if the model had said 10 more than it says now
    mask = rollout.completion_mask
    clipped = values + 10.0 - 0.05
    worse = torch.maximum((values - returns) ** 2, (clipped - returns) ** 2)
    metrics = bench.update()(moved, step=0)
    assert metrics["loss/value_avg"] == pytest.approx((0.5 * worse * mask).sum().item() / tokens, rel=1e-4)
    assert metrics["val/clipfrac_avg"] == 1.0


def test_value_warm_up_leaves_the_policy_alone(bench):
    policy = {name: p.clone() for name, p in bench.policy.named_parameters()}
    value = {name: p.clone() for name, p in bench.value.named_parameters()}
    update = bench.update(value_warmup_steps=2)
    for step in (0, 1):
        metrics = update(bench.rollout, step)
        assert all(torch.equal(p, policy[name]) for name, p in bench.policy.named_parameters())
        assert not any(name.startswith("policy/") or name == "loss/policy_avg" for name in metrics)
        assert metrics["loss/value_avg"] > 0
    assert any(not torch.equal(p, value[name]) for name, p in bench.value.named_parameters())
    update(bench.rollout, 2)
    assert any(not torch.equal(p, policy[name]) for name, p in bench.policy.named_parameters())


# --- samples of another policy

VLLM = {"rollout": "vllm", "importance_cap": 1.3}


def sampled_by_another(bench):
    """The rollout as if its sampler had said a little else of every token."""
    torch.manual_seed(4)
    noise = 0.4 * torch.randn_like(bench.rollout.old_logprobs) * bench.rollout.completion_mask
    return replace(bench.rollout, sampler_logprobs=bench.rollout.old_logprobs - noise)


@pytest.mark.parametrize("level", ["token", "sequence", "off"])
def test_tokens_are_weighted_by_how_likely_they_are_to_the_policy(bench, level):
    rollout = sampled_by_another(bench)
    tokens, loss, seen = rollout.completion_mask.sum().item(), 0.0, []
    for row, prompt in enumerate(PROMPTS):
        ids = rollout.completions()[row]
        logprobs = bench.full_logprobs(prompt + ids, len(prompt))
        ratios = (rollout.old_logprobs - rollout.sampler_logprobs)[row, : len(ids)].exp()
        ratios = {"token": ratios, "sequence": ratios.prod().expand(len(ids)), "off": torch.ones(len(ids))}[level]
        seen += ratios.tolist()
        loss = loss - (ratios.clamp(max=1.3) * rollout.advantages[row, : len(ids)] * logprobs).sum() / tokens
    assert level == "off" or min(seen) < 0.9 < 1.3 < max(seen)
    expected = bench.grads(bench.policy, loss)
    bench.update(importance_correction=level, **VLLM)(rollout, step=0)
    assert_same(bench.taken["policy"][0], expected)


def test_samples_of_the_own_loop_are_not_weighted(bench):
    for rollout in (bench.rollout, sampled_by_another(bench)):
        state = {key: t.clone() for key, t in bench.policy.state_dict().items()}
        bench.update()(rollout, step=0)
        bench.policy.load_state_dict(state)
    first, second = bench.taken["policy"]
    assert_same(second, first)


@pytest.mark.parametrize("micro_batch_tokens", [1, 1000])
def test_what_the_policy_has_left_behind_is_not_avoided_any_further(bench, micro_batch_tokens):
    # completions 0 and 2 have fallen by a nat a token since they were sampled, 1 and 3 by nothing
    signs = torch.arange(4)[:, None] + torch.arange(bench.rollout.advantages.shape[1])
    advantages = torch.where(signs % 2 == 0, -1.5, 0.7) * bench.rollout.completion_mask
    fallen = T([1.0, 0.0, 1.0, 0.0])[:, None] * bench.rollout.completion_mask
    sampled = bench.rollout.old_logprobs + fallen
    rollout = replace(bench.rollout, sampler_logprobs=sampled, advantages=advantages)
    tokens, loss, left_out = rollout.completion_mask.sum().item(), 0.0, 0
    for row, prompt in enumerate(PROMPTS):
        ids = rollout.completions()[row]
        own = advantages[row, : len(ids)]
        kept = (own >= 0) | (row % 2 == 1)
        left_out += (~kept).sum().item()
        logprobs = bench.full_logprobs(prompt + ids, len(prompt))
        loss = loss - (kept * own * logprobs).sum() / tokens
    assert 0 < left_out < tokens
    expected = bench.grads(bench.policy, loss)
    changed = {"off_policy_mask_threshold": 0.5, "importance_correction": "off", "rollout": "vllm"}
    metrics = bench.update(micro_batch_tokens, **changed)(rollout, step=0)
    assert_same(bench.taken["policy"][0], expected)
    assert metrics["policy/off_policy_masked"] == pytest.approx(left_out / tokens, rel=1e-6)


def test_the_weights_of_a_rollout_are_told(hand_rollout, ppo_config):
    # ratios 1, e^0.1, 1 | e^0.2, 1, cut at 1.2: (3 + 1.105171 + 1.2) / 5
    found = importance_metrics(hand_rollout, ppo_config(rollout="vllm", importance_cap=1.2))
    assert found == pytest.approx({"health/importance_mean": 1.061034, "health/importance_capped": 0.2}, abs=1e-6)
    # the whole completions': e^0.1 three times, e^0.2 twice
    whole = ppo_config(rollout="vllm", importance_correction="sequence", importance_cap=3.0)
    found = importance_metrics(hand_rollout, whole)
    mean = (3 * 1.105171 + 2 * 1.221403) / 5
    assert found == pytest.approx({"health/importance_mean": mean, "health/importance_capped": 0.0}, abs=1e-6)
    assert importance_metrics(hand_rollout, ppo_config()) == {}
    assert importance_metrics(hand_rollout, ppo_config(rollout="vllm", importance_correction="off")) == {}


# --- demonstrations mixed in

DEMOS = [([5, 9, 10, 11], [0, 0, 1, 1]), ([6, 7], [0, 1]), ([8, 12, 13, 14, 15], [0, 1, 1, 0, 1])]


def ptx_batches(bench, micro_batch_tokens, **settings) -> PtxBatches:
    """Three demonstrations a step, as many as it has completions."""
    rows = [{"input_ids": ids, "loss_mask": mask, "length": len(ids)} for ids, mask in DEMOS]
    return PtxBatches(bench.policy, rows, replace(bench.config, batch_size=3, **settings), micro_batch_tokens)


def mean_nll(bench) -> torch.Tensor:
    """Mean negative log-likelihood of the six counted tokens, at temperature 1."""
    total = 0.0
    for ids, mask in DEMOS:
        table = bench.policy(input_ids=T([ids]), use_cache=False).logits[0].log_softmax(-1)
        total = total - sum(table[t - 1, ids[t]] for t in range(len(ids)) if mask[t])
    return total / 6


@pytest.mark.parametrize("micro_batch_tokens", [1, 8, 1000])
def test_demonstrations_add_ptx_coef_times_their_mean_gradient(bench, micro_batch_tokens):
    nll = mean_nll(bench)
    expected_loss, demo_grads = nll.item(), bench.grads(bench.policy, nll)
    state = {key: tensor.clone() for key, tensor in bench.policy.state_dict().items()}
    bench.update().learners[0](bench.rollout, 0.0, 0)
    bench.policy.load_state_dict(state)
    settings = {"ptx_coef": 0.7, "ptx_data": "d.jsonl"}
    update = bench.update(ptx=ptx_batches(bench, micro_batch_tokens, **settings), **settings)
    metrics = averages(Counter(update.learners[0](bench.rollout, 0.0, 0)))
    without, mixed = bench.taken["policy"]
    assert_same(mixed, {name: grad + 0.7 * demo_grads[name] for name, grad in without.items()})
    assert metrics["loss/ptx_avg"] == pytest.approx(expected_loss, rel=1e-5)
    assert metrics["loss/policy_avg"] == pytest.approx(0.0, abs=1e-5)  # of the rollout alone


def test_every_demonstration_is_drawn_once_an_epoch(bench):
    rows = [{"input_ids": [3, n], "loss_mask": [0, 1], "length": 2} for n in range(5)]
    drawn = []

    class Spy(PtxBatches):
        def loss(self, rows, tokens):
            drawn.extend(row["input_ids"][1] for row in rows)

    config = replace(bench.config, batch_size=2, num_mini_batches=1, seed=9, ptx_data="d.jsonl", ptx_coef=1.0)
    batches = Spy(bench.policy, rows, config, 100)
    for optimiser_step in range(5):  # ten rows: two epochs of five
        for closure, _ in batches(optimiser_step):
            closure()
    assert sorted(drawn[:5]) == sorted(drawn[5:]) == [0, 1, 2, 3, 4]
    assert drawn[:4] == [int(i) for i in epoch_order(5, 9, 0)][:4]


# --- sums


def test_averages_divide_each_sum_by_its_own_count():
    sums = Counter(
        {
            "policy_tokens": 4,
            "value_tokens": 5,
            "policy_steps": 2,
            "value_steps": 2,
            "val/ratio": 4.4,
            "ratio_squared": 5.0,
            "policy/approxkl_avg": 0.2,
            "policy/clipfrac_avg": 1,
            "loss/policy_avg": -2.0,
            "loss/value_avg": 10.0,
            "val/clipfrac_avg": 2,
            "policy/grad_norm": 3.0,
            "value/grad_norm": 1.0,
            "policy/learning_rate": 0.2,
            "value/learning_rate": 0.4,
        }
    )
    assert averages(sums) == pytest.approx(
        {
            "val/ratio": 1.1,
            "val/ratio_var": 0.04,  # 5/4 - 1.1²
            "policy/approxkl_avg": 0.05,
            "policy/clipfrac_avg": 0.25,
            "loss/policy_avg": -1.0,
            "loss/value_avg": 2.0,
            "val/clipfrac_avg": 0.4,
            "policy/grad_norm": 1.5,
            "value/grad_norm": 0.5,
            "policy/learning_rate": 0.1,
            "value/learning_rate": 0.2,
        }
    )


def test_policy_metrics_are_sums_over_tokens():
    # ratios 1.5, 1.1, 0.5: two of them further than 0.2 from 1
    log_ratio = T([1.5, 1.1, 0.5]).log()
    found = policy_metrics(log_ratio, 0.2, 0.2)
    assert found["policy/clipfrac_avg"] == 2
    assert found["val/ratio"] == pytest.approx(3.1)
    assert found["ratio_squared"] == pytest.approx(2.25 + 1.21 + 0.25)
    # ½ (.405465² + .095310² + .693147²) = ½ (.164402 + .009084 + .480453)
    assert found["policy/approxkl_avg"] == pytest.approx(0.326969, abs=1e-5)
    assert found["policy_tokens"] == 3
