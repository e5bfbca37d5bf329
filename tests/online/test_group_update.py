"""The policy's update in groups: the same whatever the micro-batches, and none where nothing can be learned."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from easyrlhf.engine.engine import OptimiserSettings
from easyrlhf.engine.micro_batches import Passes
from easyrlhf.engine.plain import PlainEngine
from easyrlhf.models.prefix_sharing import enable_sharing
from easyrlhf.online.collect import collect
from easyrlhf.online.methods import method_of
from easyrlhf.online.state import Models, Online
from easyrlhf.online.update import PolicyLearner, Update
from easyrlhf.rewards.combined import Rewards
from easyrlhf.rollout.ending import Ending
from easyrlhf.rollout.sampler import HFSampler
from easyrlhf.run.timer import Timer

END = 12  # a token these models do say, so that completions differ in length
RUN = SimpleNamespace(step=5)
SETTINGS = OptimiserSettings(1e-3, "linear", 0.0, 0.0, 1e-5, 1e9, 10)


@pytest.fixture
def group_rollout(tiny_lm, says, prompt_row, chatml_renderer):
    """(policy, rollout of three prompts with four completions each)."""
    policy, reference = tiny_lm(seed=0, vocab=20), tiny_lm(seed=1, vocab=20)
    rewards = Rewards([says([1.0, -1.0, 0.5, 2.0] * 2 + [3.0] * 4)], [1.0], None, 0.0, chatml_renderer)
    rows = [prompt_row(prompt) for prompt in ([5, 6, 7], [8], [9, 10]) for _ in range(4)]
    sampler = HFSampler(policy, 0, Ending((END,)), 6, 1.0, 12)
    online = Online(Models(policy, reference, None, Passes(40)), {}, sampler, rewards, *[None] * 3)
    rollout = collect(RUN, online, rows, [(1, n) for n in range(12)], Timer())
    assert 0 < rollout.finished.sum() < 12
    return policy, rollout


def stepped(policy, rollout, config, budget: int, share: str = "off") -> tuple[dict, list[dict]]:
    """Metrics and the gradients of every optimiser step, from the policy as it is."""
    state = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    engine, taken, method = PlainEngine(policy, SETTINGS), [], method_of(config)
    names = {id(p): name for name, p in engine.trained.items()}

    def keep(optimizer, *_):
        grads = {names[id(p)]: p.grad for group in optimizer.param_groups for p in group["params"]}
        taken.append({name: grad.clone() for name, grad in grads.items() if grad is not None})

    engine.optimizer.register_step_pre_hook(keep)
    update = Update([PolicyLearner(engine, method, config, Passes(budget, share))], config)
    metrics = update(method.estimate(rollout, config, config.beta), 0)
    policy.load_state_dict(state)
    return metrics | {"rate": engine.scheduler.get_last_lr()[0]}, taken


@pytest.mark.parametrize(
    "settings",
    [
        {"loss_type": "dapo"},
        {"loss_type": "grpo", "mask_truncated_completions": True},
        {"loss_type": "dr_grpo"},
        {"loss_type": "bnpo"},
        {"advantage": "rloo"},
        {"advantage": "reinforce++"},
    ],
)
def test_gradients_do_not_depend_on_the_micro_batches(group_rollout, grpo_config, settings):
    policy, rollout = group_rollout
    known = {"batch_size": 12, "num_generations": 4, "beta": 0.2, "max_completion_length": 6, "num_mini_batches": 2}
    config = grpo_config(**known | settings)
    whole, first = stepped(policy, rollout, config, 10_000)
    parts, second = stepped(policy, rollout, config, 1)
    assert len(first) == len(second) == 2
    assert parts == pytest.approx(whole, rel=1e-3, abs=1e-5)
    for name, grad in first[0].items():
        torch.testing.assert_close(second[0][name], grad, rtol=1e-4, atol=2e-6, msg=lambda m, n=name: f"{n}: {m}")
    assert max(grad.abs().max() for grad in first[0].values()) > 1e-3


@pytest.mark.parametrize("budget", [10_000, 25])
def test_gradients_are_the_same_with_prompts_computed_once(group_rollout, grpo_config, budget):
    policy, rollout = group_rollout
    known = {"batch_size": 12, "num_generations": 4, "beta": 0.2, "max_completion_length": 6, "num_mini_batches": 2}
    config = grpo_config(**known)
    apart, first = stepped(policy, rollout, config, budget)
    assert enable_sharing(policy, 64)
    together, second = stepped(policy, rollout, config, budget, "on")
    assert together == pytest.approx(apart, rel=1e-3, abs=1e-5)
    for name, grad in first[0].items():
        torch.testing.assert_close(second[0][name], grad, rtol=1e-4, atol=2e-6, msg=lambda m, n=name: f"{n}: {m}")


def test_a_step_without_advantages_is_left_out_and_counted_while_the_schedule_goes_on(group_rollout, grpo_config):
    policy, rollout = group_rollout
    dull = replace(rollout, scores=torch.ones(12))
    config = grpo_config(batch_size=12, num_generations=4, max_completion_length=6, num_iterations=3)
    metrics, taken = stepped(policy, dull, config, 100)
    assert metrics == {"policy/skipped_steps": 3, "rate": pytest.approx(1e-3 * 0.7)}
    assert taken == [{}, {}, {}]  # the optimiser was called without gradients, and so changed nothing


def test_a_kl_in_the_loss_is_learned_from_without_advantages(group_rollout, grpo_config):
    policy, rollout = group_rollout
    dull = replace(rollout, scores=torch.ones(12))
    config = grpo_config(batch_size=12, num_generations=4, max_completion_length=6, beta=0.1)
    metrics, taken = stepped(policy, dull, config, 100)
    assert "policy/skipped_steps" not in metrics
    assert taken[0]


def test_completions_that_were_cut_off_teach_nothing_when_masked(group_rollout, grpo_config):
    policy, rollout = group_rollout
    known = {"batch_size": 12, "num_generations": 4, "max_completion_length": 6, "mask_truncated_completions": True}
    config = grpo_config(**known)
    changed = replace(
        rollout, ref_logprobs=torch.where(rollout.finished[:, None], rollout.ref_logprobs, torch.tensor(-9.0))
    )
    found = [stepped(policy, one, grpo_config(**known, beta=0.3), 100)[1][0] for one in (rollout, changed)]
    for name, grad in found[0].items():
        torch.testing.assert_close(found[1][name], grad)
    estimated = method_of(config).estimate(rollout, config, 0.0)
    assert not estimated.advantages[~rollout.finished].any()


@pytest.mark.parametrize("advantage", ["grpo", "reinforce++"])
def test_tokens_of_another_sampler_are_weighted_by_hand(group_rollout, grpo_config, advantage):
    policy, rollout = group_rollout
    torch.manual_seed(4)
    noise = 0.5 * torch.randn_like(rollout.old_logprobs) * rollout.completion_mask
    rollout = replace(rollout, sampler_logprobs=rollout.old_logprobs - noise)
    known = {"batch_size": 12, "num_generations": 4, "max_completion_length": 6, "advantage": advantage}
    config = grpo_config(**known, beta=0.0, rollout="vllm", importance_cap=1.5, loss_type="dapo")
    advantages = method_of(config).estimate(rollout, config, 0.0).advantages
    loss = 0.0
    for row, ids in enumerate(rollout.completions()):
        prompt = rollout.prompt_ids[row]
        logits = policy(input_ids=torch.tensor([prompt + ids]), use_cache=False).logits[0]
        logprobs = logits.log_softmax(-1)[len(prompt) - 1 : -1].gather(1, torch.tensor(ids)[:, None]).squeeze(1)
        weights = noise[row, : len(ids)].exp().clamp(max=1.5)
        loss = loss - (weights * advantages[row, : len(ids)] * logprobs).sum() / rollout.completion_mask.sum()
    policy.zero_grad()
    loss.backward()
    expected = {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}
    policy.zero_grad()
    assert (noise.exp() > 1.5).any() and (noise < -0.3).any()
    _, (taken,) = stepped(policy, rollout, config, 25)
    assert taken.keys() == expected.keys()
    for name, grad in expected.items():
        torch.testing.assert_close(taken[name], grad, rtol=1e-4, atol=2e-6, msg=lambda m, n=name: f"{n}: {m}")
    assert max(grad.abs().max() for grad in expected.values()) > 1e-3
