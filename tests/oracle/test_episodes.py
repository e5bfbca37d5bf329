"""Episodes of two turns with an environment between them, summed exactly: which tokens teach, and how time is counted.

Turn 1 is one sampled token a; the environment answers with a token e, random given a; turn 2 is two sampled tokens b
and c. The policy is a free table of logits for every history, the environment's tokens included. Nothing is sampled:
all 81 episodes stand in one rollout, and each weighs by its probability.
"""

import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from easyrlhf.config import GRPOConfig, PPOConfig
from easyrlhf.losses.masked import masked_std
from easyrlhf.losses.ppo import gae, shape_rewards
from easyrlhf.online.grpo import estimate_grpo, estimate_reinforce, estimate_rloo, rloo_loss
from easyrlhf.online.method import shaped
from easyrlhf.online.ppo import clipped_loss
from easyrlhf.online.rollout import Rollout

SIZE, EXACT = 3, {"rtol": 0, "atol": 1e-10}
HISTORIES = [()] + [h for n in (1, 2, 3) for h in itertools.product(range(SIZE), repeat=n)]
EPISODES = list(itertools.product(range(SIZE), repeat=4))
STATES = torch.tensor([[HISTORIES.index(episode[:t]) for t in range(4)] for episode in EPISODES])
TOKENS = torch.tensor(EPISODES)
SAMPLED = torch.tensor([1.0, 0.0, 1.0, 1.0], dtype=torch.float64).expand(len(EPISODES), 4)
KNOWN = {"model": "m", "reward_model": "rm", "train_data": "x.jsonl"}
PPO = PPOConfig(**KNOWN, kl_coef=0.0)
PAIRS = GRPOConfig(**KNOWN, num_generations=2, batch_size=2, scale_rewards="none", beta=0.0)


class World:
    """The table of logits, what the environment says, and what episodes are worth."""

    def __init__(self):
        noise = torch.Generator().manual_seed(1)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=noise, dtype=torch.float64)

        self.logits = normal(len(HISTORIES), SIZE).requires_grad_()
        self.answers = normal(SIZE, SIZE).softmax(1)  # of e given a
        self.scores = normal(len(EPISODES))
        logprobs = self.logprobs()
        turn = (logprobs * SAMPLED).sum(1).exp()
        self.chances = turn * self.answers[TOKENS[:, 0], TOKENS[:, 1]]
        (self.gradient,) = torch.autograd.grad((self.chances * self.scores).sum(), self.logits)
        self.chances = self.chances.detach()

    def logprobs(self) -> Tensor:
        """Of every token under the policy, the environment's too, as a model reads them.  [81, 4]"""
        return self.logits.log_softmax(1)[STATES, TOKENS]

    def value(self, history: tuple[int, ...]) -> float:
        """The expected score from here on."""
        if len(history) == 4:
            return self.scores[EPISODES.index(history)].item()
        table = self.answers[history[0]] if len(history) == 1 else self.logits[HISTORIES.index(history)].softmax(0)
        return sum(table[token].item() * self.value((*history, token)) for token in range(SIZE))

    def rollout(self, episodes: Tensor) -> Rollout:
        """These episodes; what stands beside the environment's tokens, where nothing was sampled, is 0."""
        table = [[self.value(episode[:t]) for t in range(4)] for episode in EPISODES]
        values = torch.tensor(table, dtype=torch.float64)
        numbers = {"old_logprobs": self.logprobs().detach() * SAMPLED, "values": values * SAMPLED}
        taken = {name: table[episodes] for name, table in numbers.items()}
        count = len(episodes)
        return Rollout(
            rows=[{"prompt_ids": [0]}] * count,
            completion_ids=TOKENS[episodes],
            completion_mask=torch.ones(count, 4, dtype=torch.float64),
            action_mask=SAMPLED[episodes],
            finished=torch.ones(count, dtype=torch.bool),
            sampler_logprobs=taken["old_logprobs"],
            ref_logprobs=None,
            entropies=torch.zeros(count, 4),
            scores=self.scores[episodes],
            source_scores={},
            **taken,
        )

    def descended(self, loss, rollout: Rollout, episodes: Tensor, weights: Tensor, config) -> Tensor:
        """The gradient of the weighted sum of a loss over the sampled tokens of these episodes."""
        rows = rollout.actions.nonzero()[:, 0]
        every = self.logprobs()[episodes].flatten()  # as a model gives them: of all completion tokens
        found = loss(rollout, rollout.sampled(every), config) * weights[rows]
        return torch.autograd.grad(found.sum(), self.logits)[0]


@pytest.fixture(scope="module")
def world() -> World:
    return World()


EVERY = torch.arange(len(EPISODES))


@pytest.mark.parametrize("lam", [1.0, 0.95, 0.5, 0.0])
def test_ppos_gradient_is_exact_whatever_lambda_when_values_are(world, lam):
    rollout = world.rollout(EVERY)
    rewards = shape_rewards(rollout.scores, torch.zeros_like(rollout.actions), rollout.actions, 0.0)
    advantages, returns = gae(rewards, rollout.values, rollout.actions, 1.0, lam)
    found = world.descended(clipped_loss, replace(rollout, advantages=advantages), EVERY, world.chances, PPO)
    torch.testing.assert_close(found, -world.gradient, **EXACT)
    # what the value model learns is the expected score: of the last choice it is what was scored
    torch.testing.assert_close(returns[:, 3], world.scores, **EXACT)
    assert not (advantages[:, 1].any() or returns[:, 1].any())


def test_with_lambda_1_the_gradient_is_exact_whatever_the_values_say(world):
    rollout = world.rollout(EVERY)
    rewards = shape_rewards(rollout.scores, torch.zeros_like(rollout.actions), rollout.actions, 0.0)
    advantages, _ = gae(rewards, (rollout.values + 0.3) * rollout.actions, rollout.actions, 1.0, 1.0)
    found = world.descended(clipped_loss, replace(rollout, advantages=advantages), EVERY, world.chances, PPO)
    torch.testing.assert_close(found, -world.gradient, **EXACT)


@pytest.mark.parametrize(
    "estimate, loss, share",
    [
        (estimate_rloo, rloo_loss, 3.0),  # the loss of a whole episode is told to each of its three sampled tokens
        (estimate_grpo, clipped_loss, 0.5),  # a mean with the own score in it halves what the group says
    ],
    ids=["rloo", "grpo"],
)
def test_groups_of_two_summed_over_all_pairs(world, estimate, loss, share):
    pairs = torch.cartesian_prod(EVERY, EVERY)
    chances = (world.chances[pairs].prod(1, keepdim=True) / 2).expand(-1, 2).flatten()
    rollout = estimate(world.rollout(pairs.flatten()), PAIRS, 0.0)
    found = world.descended(loss, rollout, pairs.flatten(), chances, PAIRS)
    torch.testing.assert_close(found, -share * world.gradient, **EXACT)


def test_reinforce_is_exact_but_for_the_scale_of_the_batch(world):
    rollout = estimate_reinforce(world.rollout(EVERY), PAIRS, 0.0)
    found = world.descended(clipped_loss, rollout, EVERY, world.chances, PAIRS)
    spread = masked_std(world.scores[:, None].expand(-1, 4), SAMPLED) + 1e-8
    torch.testing.assert_close(found * spread, -world.gradient, **EXACT)


@pytest.fixture(scope="module")
def early() -> Tensor:
    """What the first turn of each episode has earned of its score: by its token alone.  [81, 4]"""
    return torch.tensor([0.7, -1.1, 0.4], dtype=torch.float64)[TOKENS[:, :1]] * torch.eye(4)[0]


@pytest.mark.parametrize("lam", [1.0, 0.5, 0.0])
def test_a_reward_of_the_first_turn_is_that_turns_own(world, early, lam):
    """Values of what is still to come are perfect then, and PPO exact whatever λ."""
    to_come = torch.tensor([[0.0], [1.0], [1.0], [1.0]], dtype=torch.float64) * early.sum(1)
    values = world.rollout(EVERY).values - to_come.T * SAMPLED
    rollout = replace(world.rollout(EVERY), values=values, turn_rewards=early)
    rewards = shaped(rollout, None, 0.0)
    torch.testing.assert_close(rewards[:, 0], early[:, 0], **EXACT)
    torch.testing.assert_close(rewards.sum(1), world.scores, **EXACT)
    advantages, returns = gae(rewards, values, rollout.actions, 1.0, lam)
    found = world.descended(clipped_loss, replace(rollout, advantages=advantages), EVERY, world.chances, PPO)
    torch.testing.assert_close(found, -world.gradient, **EXACT)
    torch.testing.assert_close(returns[:, 3], world.scores - early[:, 0], **EXACT)


def test_reinforce_pays_later_turns_nothing_for_it(world, early):
    rollout = estimate_reinforce(replace(world.rollout(EVERY), turn_rewards=early), PAIRS, 0.0)
    found = world.descended(clipped_loss, rollout, EVERY, world.chances, PAIRS)
    rest = (world.scores - early[:, 0])[:, None]
    spread = masked_std(torch.cat([world.scores[:, None], rest, rest, rest], 1), SAMPLED) + 1e-8
    torch.testing.assert_close(found * spread, -world.gradient, **EXACT)


def test_groups_compare_whole_episodes_whenever_they_were_rewarded(world, early):
    for estimate in (estimate_grpo, estimate_rloo):
        plain = estimate(world.rollout(EVERY[:80]), PAIRS, 0.0)
        rewarded = estimate(replace(world.rollout(EVERY[:80]), turn_rewards=early[:80]), PAIRS, 0.0)
        assert torch.equal(plain.advantages, rewarded.advantages)


SERVED = {"rollout": "vllm", "vllm_mode": "server", "importance_correction": "sequence", "importance_cap": 1e9}
OFF = replace(PPO, **SERVED)


def test_importance_of_what_another_policy_has_sampled_is_that_of_its_own_tokens(world):
    """Episodes by other chances, weighed to be those of the policy: exact, whatever stands at the environment's."""
    other = World().logits.detach() + torch.linspace(-1, 1, SIZE, dtype=torch.float64)
    sampler = other.log_softmax(1)[STATES, TOKENS]
    chances = (sampler * SAMPLED).sum(1).exp() * world.answers[TOKENS[:, 0], TOKENS[:, 1]]
    advantages = world.scores[:, None] * SAMPLED
    rollout = replace(world.rollout(EVERY), sampler_logprobs=sampler + 5 * (1 - SAMPLED), advantages=advantages)
    weights = rollout.importance_weights(OFF)
    assert not weights[:, 1].any()
    assert torch.equal(weights[:, 0], weights[:, 3])
    found = world.descended(clipped_loss, rollout, EVERY, chances * weights[:, 0], PPO)
    torch.testing.assert_close(found, -world.gradient, **EXACT)


@pytest.mark.parametrize("threshold, left_out", [(0.25, 0), (0.15, 3)])
def test_what_the_policy_has_left_behind_is_measured_on_sampled_tokens(world, threshold, left_out):
    """0.2 nats a sampled token, whatever the environment's token is said to be."""
    some = world.rollout(EVERY[:1])
    away = torch.tensor([[0.3, 9.0, 0.1, 0.2]], dtype=torch.float64)
    some = replace(some, sampler_logprobs=some.old_logprobs + away, advantages=-SAMPLED[:1])
    near, count = some.near_policy(some.flat("old_logprobs")[0], threshold)
    assert count == left_out
    assert near.advantages.tolist() == ([[0, 0, 0, 0]] if left_out else [[-1, 0, -1, -1]])


def test_time_counts_sampled_tokens_alone():
    """γ .9, λ .8; by hand: δ₃ = .917498 − .89981, Â₂ = δ₂ + .72 · Â₃, Â₁ = δ₁ + .72 · Â₂ across the environment."""
    values = torch.tensor([[-0.292359, 0.0, 0.250696, 0.89981]], dtype=torch.float64)
    rewards = torch.tensor([[0.0, 0.0, 0.0, 0.917498]], dtype=torch.float64)
    advantages, returns = gae(rewards, values, SAMPLED[:1], 0.9, 0.8)
    expected = torch.tensor([[0.92973, 0.0, 0.571869, 0.017689]], dtype=torch.float64)
    torch.testing.assert_close(advantages, expected, rtol=0, atol=2e-6)
    torch.testing.assert_close(returns, expected + values, rtol=0, atol=2e-6)


def test_what_a_model_says_of_the_environments_tokens_is_not_looked_at(world):
    rollout = world.rollout(EVERY)
    assert rollout.sampled(torch.arange(81 * 4)).tolist() == [4 * row + t for row in range(81) for t in (0, 2, 3)]
    alone = replace(rollout, action_mask=None)
    assert torch.equal(alone.sampled(torch.arange(81 * 4)), torch.arange(81 * 4))
