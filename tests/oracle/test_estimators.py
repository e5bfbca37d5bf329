"""KL estimators, advantages and the policy gradient against exact expectations over every completion of a small tree.

One prompt, S states (prefixes that have not ended), V tokens, Y completions of at most T tokens. A policy is a table
of logits [S, V]; its completions are not sampled but all weighted by their probability.
"""

import itertools
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from easyrlhf.losses.kl import KL_ESTIMATORS
from easyrlhf.losses.ppo import gae, ppo_policy_loss, shape_rewards

EOS, SIZE, LENGTH, BETA = 0, 3, 3, 0.3
CLOSE = {"rtol": 1e-10, "atol": 1e-12}

HEADS = [head for n in range(LENGTH + 1) for head in itertools.product(range(1, SIZE), repeat=n)]
STATES = [head for head in HEADS if len(head) < LENGTH]
COMPLETIONS = [(*head, EOS) for head in STATES] + [head for head in HEADS if len(head) == LENGTH]
MASK = torch.tensor([[float(t < len(y)) for t in range(LENGTH)] for y in COMPLETIONS], dtype=torch.float64)
# the state before each token and the token, [Y, T]; 0 past the end
STATE_OF = torch.tensor([[STATES.index(y[:t]) if t < len(y) else 0 for t in range(LENGTH)] for y in COMPLETIONS])
TOKEN_OF = torch.tensor([[y[t] if t < len(y) else 0 for t in range(LENGTH)] for y in COMPLETIONS])


@dataclass(frozen=True)
class Task:
    """Two policies [S, V] and the score of every completion [Y]."""

    policy: Tensor
    reference: Tensor
    scores: Tensor


@pytest.fixture
def task() -> Task:
    random = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=random)

    return Task(draw(len(STATES), SIZE), draw(len(STATES), SIZE), draw(len(COMPLETIONS)))


def token_logprobs(logits: Tensor) -> Tensor:
    """Log-probability of every token of every completion.  [Y, T]"""
    return logits.log_softmax(-1)[STATE_OF, TOKEN_OF] * MASK


def probabilities(logits: Tensor) -> Tensor:
    """Probability of every completion.  [Y]"""
    return token_logprobs(logits).sum(1).exp()


def kl_of_completions(task: Task) -> Tensor:
    """KL of the two distributions over completions, by definition.  []"""
    p, q = probabilities(task.policy), probabilities(task.reference)
    return (p * (p / q).log()).sum()


def objective(logits: Tensor, task: Task) -> Tensor:
    """J(π) = E[score] − β·KL.  []"""
    p, q = probabilities(logits), probabilities(task.reference)
    return (p * (task.scores - BETA * (p / q).log())).sum()


def expected_advantages(task: Task, values: Tensor, lam: float) -> Tensor:
    """GAE of every token in every state by its recursion, from the last states back to the first; values [S].  [S, V]

    E[A | s, a] = r(s, a) + V(s') − V(s) + λ·E[A | s'], where r holds the score when the token ends the completion.
    """
    policy, reference = task.policy.log_softmax(-1), task.reference.log_softmax(-1)
    found = -BETA * (policy - reference) - values[:, None]
    for number in reversed(range(len(STATES))):
        for token in range(SIZE):
            after = (*STATES[number], token)
            if after in COMPLETIONS:
                found[number, token] += task.scores[COMPLETIONS.index(after)]
            else:
                later = STATES.index(after)
                found[number, token] += values[later] + lam * policy[later].exp() @ found[later]
    return found


def backed_up(task: Task) -> tuple[Tensor, Tensor]:
    """Q of every token in every state [S, V] and V of every state [S]."""
    q = expected_advantages(task, torch.zeros(len(STATES), dtype=torch.float64), lam=1.0)
    return q, (task.policy.softmax(-1) * q).sum(-1)


def mean_given_token(task: Task, x: Tensor) -> Tensor:
    """Expectation of x [Y, T] at a token, given that state and token.  [S, V]"""
    places = (STATE_OF * SIZE + TOKEN_OF)[MASK.bool()]
    p = (probabilities(task.policy)[:, None] * MASK)[MASK.bool()]
    sums = torch.zeros(2, len(STATES) * SIZE, dtype=torch.float64)
    sums[0].scatter_add_(0, places, p * x[MASK.bool()])
    sums[1].scatter_add_(0, places, p)
    return (sums[0] / sums[1]).view(len(STATES), SIZE)


def advantages_of(task: Task, values: Tensor, lam: float, estimator: str = "k1") -> tuple[Tensor, Tensor]:
    """Advantages and returns as PPO makes them, neither scaled nor shifted; values is [S].  [Y, T] each"""
    kl = KL_ESTIMATORS[estimator](token_logprobs(task.policy), token_logprobs(task.reference))
    rewards = shape_rewards(task.scores, kl, MASK, BETA)
    return gae(rewards, values[STATE_OF], MASK, gamma=1.0, lam=lam)


def policy_gradient(task: Task, values: Tensor, lam: float, estimator: str = "k1") -> Tensor:
    """Gradient of the clipped surrogate at ratio 1, its tokens summed, its completions weighted.  [S, V]"""
    logits = task.policy.clone().requires_grad_()
    logprobs = token_logprobs(logits)
    advantages, _ = advantages_of(task, values, lam, estimator)
    loss = ppo_policy_loss(logprobs, logprobs.detach(), advantages, 0.2, 0.2)
    (probabilities(task.policy)[:, None] * loss * MASK).sum().backward()
    return -logits.grad


def gradient_of_objective(task: Task, step: float = 1e-5) -> Tensor:
    """Central differences of J with respect to every logit.  [S, V]"""
    moves = step * torch.eye(task.policy.numel(), dtype=torch.float64).view(-1, *task.policy.shape)
    slopes = [objective(task.policy + move, task) - objective(task.policy - move, task) for move in moves]
    return torch.stack(slopes).view_as(task.policy) / (2 * step)


def test_the_completions_are_all_there_are(task):
    assert probabilities(task.policy).sum().item() == pytest.approx(1, abs=1e-12)


# --- KL


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_the_expected_sum_over_a_completion_is_the_kl_of_the_completions(task, estimator):
    kl = KL_ESTIMATORS[estimator](token_logprobs(task.policy), token_logprobs(task.reference)) * MASK
    expected = (probabilities(task.policy) * kl.sum(1)).sum()
    torch.testing.assert_close(expected, kl_of_completions(task), **CLOSE)


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_the_expectation_over_the_next_token_is_the_kl_of_that_token(task, estimator):
    policy, reference = task.policy.log_softmax(-1), task.reference.log_softmax(-1)
    expected = (policy.exp() * KL_ESTIMATORS[estimator](policy, reference)).sum(-1)
    of_tokens = torch.nn.functional.kl_div(reference, policy, log_target=True, reduction="none").sum(-1)
    torch.testing.assert_close(expected, of_tokens, **CLOSE)


# --- advantages


@pytest.mark.parametrize("lam", [0.0, 0.95, 1.0])
def test_with_exact_values_the_expected_advantage_is_q_less_v(task, lam):
    q, v = backed_up(task)
    advantages, _ = advantages_of(task, v, lam)
    torch.testing.assert_close(mean_given_token(task, advantages), q - v[:, None], **CLOSE)


def test_with_lam_1_the_expected_advantage_is_q_less_any_value(task):
    q, v = backed_up(task)
    values = v + torch.linspace(-1, 2, len(v), dtype=torch.float64)
    advantages, _ = advantages_of(task, values, lam=1.0)
    torch.testing.assert_close(mean_given_token(task, advantages), q - values[:, None], **CLOSE)


@pytest.mark.parametrize("lam", [0.0, 0.5, 0.95])
def test_with_any_values_the_expected_advantage_follows_its_recursion(task, lam):
    values = torch.linspace(-1, 2, len(STATES), dtype=torch.float64)
    advantages, _ = advantages_of(task, values, lam)
    expected = expected_advantages(task, values, lam)
    torch.testing.assert_close(mean_given_token(task, advantages), expected, **CLOSE)


@pytest.mark.parametrize("lam", [0.0, 0.95, 1.0])
def test_exact_values_are_what_the_value_model_is_taught(task, lam):
    q, v = backed_up(task)
    _, returns = advantages_of(task, v, lam)
    torch.testing.assert_close(mean_given_token(task, returns), q, **CLOSE)


def test_the_value_of_the_first_state_is_the_objective(task):
    _, v = backed_up(task)
    torch.testing.assert_close(v[0], objective(task.policy, task), **CLOSE)


# --- the policy gradient


@pytest.mark.parametrize("lam", [0.0, 0.95, 1.0])
def test_with_exact_values_the_surrogate_climbs_the_objective(task, lam):
    found = policy_gradient(task, backed_up(task)[1], lam)
    torch.testing.assert_close(found, gradient_of_objective(task), rtol=1e-6, atol=1e-9)


def test_with_lam_1_the_surrogate_climbs_the_objective_whatever_the_values(task):
    values = torch.linspace(-1, 2, len(STATES), dtype=torch.float64)
    found = policy_gradient(task, values, lam=1.0)
    torch.testing.assert_close(found, gradient_of_objective(task), rtol=1e-6, atol=1e-9)


def test_with_k3_in_the_reward_the_surrogate_climbs_something_else(task):
    found, wanted = policy_gradient(task, backed_up(task)[1], 1.0, "k3"), gradient_of_objective(task)
    assert (found - wanted).norm() > 0.1 * wanted.norm()
