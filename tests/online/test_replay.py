"""Groups that are learned from once more: which, how they are weighted, and what a checkpoint holds of them."""

import itertools
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from easyrlhf.config import GRPOConfig
from easyrlhf.online.batch import collect_batch, failures
from easyrlhf.online.grpo import clipped_loss, estimate_rloo, rloo_loss
from easyrlhf.online.replay import KeptGroup, ReplayBuffer
from easyrlhf.online.rollout import Rollout
from easyrlhf.online.state import LoopState

KNOWN = {"model": "m", "reward_model": "rm", "train_data": "x.jsonl"}


def rollout_of(scores: list[list[float]], numbers: list[int], **changed) -> Rollout:
    """Groups with these scores; each completion's tokens tell it apart."""
    flat = [score for group in scores for score in group]
    ids = torch.arange(2 * len(flat)).view(-1, 2)
    ones = torch.ones(len(flat), 2)
    known = {
        "rows": [{}] * len(flat),
        "completion_ids": ids,
        "completion_mask": ones,
        "finished": torch.ones(len(flat), dtype=torch.bool),
        "sampler_logprobs": -ids / 8,
        "old_logprobs": -ids / 8,
        "ref_logprobs": None,
        "entropies": ones,
        "values": None,
        "scores": torch.tensor(flat),
        "source_scores": {"f": torch.tensor(flat) * 2},
        "numbers": torch.tensor(numbers).repeat_interleave(len(scores[0])),
    }
    return Rollout(**known | changed)


def test_groups_whose_scores_differ_are_kept_and_the_oldest_leave():
    buffer = ReplayBuffer(size=3, max_age=2)
    buffer.add(rollout_of([[1.0, 0.0], [1.0, 1.0], [0.0, 3.0]], [4, 5, 6]), 2, step=0)
    assert [(group.number, group.step, group.scores) for group in buffer.groups] == [
        (4, 0, [1.0, 0.0]),
        (6, 0, [0.0, 3.0]),
    ]
    assert buffer.groups[1] == KeptGroup(
        number=6,
        step=0,
        ids=[[8, 9], [10, 11]],
        logprobs=[[-1.0, -1.125], [-1.25, -1.375]],
        finished=[True, True],
        scores=[0.0, 3.0],
        sources={"f": [0.0, 6.0]},
    )
    nan = float("nan")
    buffer.add(rollout_of([[2.0, 0.0], [nan, 0.0], [5.0, 4.0]], [7, 8, 9]), 2, step=1)
    assert [group.number for group in buffer.groups] == [6, 7, 9]
    assert [group.number for group in buffer.choose(9, 0, step=2)] == [
        [6, 7, 9][place] for place in np.random.default_rng((0, 3, 2)).permutation(3)
    ]
    assert len({id(group) for group in buffer.choose(2, 0, step=2)}) == 2
    assert sorted(group.number for group in buffer.choose(9, 0, step=3)) == [7, 9]  # the other is 3 steps old


def test_a_checkpoint_holds_the_buffer():
    buffer = ReplayBuffer(size=8, max_age=9)
    empty = ReplayBuffer(8, 9)
    empty.restore(buffer.tensors())
    assert empty.groups == []
    short = torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 1.0], [1.0, 1.0]])
    buffer.add(rollout_of([[1.0, 0.5], [0.0, 3.0]], [4, 6], completion_mask=short), 2, step=3)
    assert buffer.groups[0].ids == [[0], [2, 3]]
    back = ReplayBuffer(8, 9)
    back.restore(buffer.tensors())
    assert back.groups == buffer.groups


# --- a world of one prompt and two tokens, summed exactly: samples of an earlier policy, the policy of today

SIZE = 3
ANSWERS = list(itertools.product(range(SIZE), repeat=2))
TOKENS = torch.tensor(ANSWERS)
NOISE = torch.Generator().manual_seed(5)
SCORES = torch.randn(len(ANSWERS), generator=NOISE, dtype=torch.float64)


def table(shift: float) -> torch.Tensor:
    """Logits of the first token, and of the second after each first.  [4, 3]"""
    own = torch.randn(4, SIZE, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    return own + shift * torch.randn(4, SIZE, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


def logprobs_of(logits: torch.Tensor) -> torch.Tensor:
    states = torch.stack([torch.zeros(len(ANSWERS), dtype=torch.long), TOKENS[:, 0] + 1], 1)
    return logits.log_softmax(1)[states, TOKENS]


THEN, NOW = table(0.8), table(0.0).requires_grad_()
PAIRS = {"num_generations": 2, "batch_size": 2, "replay_buffer_size": 4}
CONFIG = GRPOConfig(**KNOWN, **PAIRS, advantage="rloo", importance_cap=1e9)
CAPPED = GRPOConfig(**KNOWN, **PAIRS, importance_cap=1.0)


def gradient_of(loss, weigh) -> torch.Tensor:
    """The expected gradient of kept pairs: drawn by the earlier policy, learned from by today's."""
    pairs = torch.cartesian_prod(*[torch.arange(len(ANSWERS))] * 2)
    chances = logprobs_of(THEN).sum(1).exp()[pairs].prod(1, keepdim=True).expand(-1, 2).flatten() / 2
    rows = pairs.flatten()
    ones = torch.ones(len(rows), 2, dtype=torch.float64)
    kept = rollout_of(
        SCORES[pairs].tolist(),
        [0] * len(pairs),
        completion_ids=TOKENS[rows],
        completion_mask=ones,
        sampler_logprobs=logprobs_of(THEN)[rows],
        old_logprobs=logprobs_of(NOW).detach()[rows],
        replayed=torch.ones(len(rows), dtype=torch.bool),
    )
    kept = estimate_rloo(replace(kept, scores=SCORES[rows]), CONFIG, 0.0)
    weights = weigh(kept).flatten() * chances.repeat_interleave(2)
    found = loss(kept, logprobs_of(NOW)[rows].flatten(), CONFIG) * weights
    return torch.autograd.grad(found.sum(), NOW)[0]


def true_gradient() -> torch.Tensor:
    return torch.autograd.grad(-(logprobs_of(NOW).sum(1).exp() * SCORES).sum(), NOW)[0]


def cosine(found: torch.Tensor) -> float:
    return torch.cosine_similarity(found.flatten(), true_gradient().flatten(), dim=0).item()


@pytest.mark.parametrize("loss, share", [(rloo_loss, 2.0), (clipped_loss, 1.0)], ids=["rloo", "grpo"])
def test_kept_completions_weighted_as_a_whole_give_the_true_gradient(loss, share):
    found = gradient_of(loss, lambda kept: kept.importance_weights(CONFIG))
    torch.testing.assert_close(found, share * true_gradient(), rtol=0, atol=1e-10)


def test_other_weights_are_another_gradient():
    by_token = gradient_of(clipped_loss, lambda kept: (kept.old_logprobs - kept.sampler_logprobs).exp())
    without = gradient_of(clipped_loss, lambda kept: kept.actions)
    assert cosine(by_token) < 0.995 and cosine(without) < 0.995
    capped = gradient_of(clipped_loss, lambda kept: kept.importance_weights(CAPPED))
    assert cosine(capped) < 0.9999


def test_what_is_the_policys_own_weighs_one_beside_what_was_kept():
    both = rollout_of([[1.0, 0.0], [1.0, 2.0]], [0, 1], replayed=torch.tensor([False, False, True, True]))
    both = replace(both, sampler_logprobs=both.old_logprobs - 0.25)
    assert both.importance_weights(CONFIG).tolist() == [[1.0, 1.0]] * 2 + [[pytest.approx(np.exp(0.5))] * 2] * 2


# --- prompts that are asked once more


def asked_by_step(config: GRPOConfig, count: int, steps: int, fails: set[int], state: LoopState | None = None, start=0):
    """The prompts of each step's rollout, where those of `fails` score 0 whenever they are asked."""
    at, seen = state or LoopState(0.0), []

    def collect(run, online, rows, keys, timer, with_reference):
        seen[-1].extend(rows[:: config.num_generations])
        return rollout_of([[0.0, 0.0] if row in fails else [1.0, 0.5] for row in rows[::2]], rows[::2])

    online = SimpleNamespace(
        method=SimpleNamespace(in_groups=False, groups_that_teach=None),
        rewards=SimpleNamespace(state=SimpleNamespace(max_steps=steps)),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("easyrlhf.online.batch.collect", collect)
        for step in range(start, steps):
            seen.append([])
            collect_batch(SimpleNamespace(config=config, step=step), online, list(range(count)), None, at)
    return seen, at


def rerolls(**changed) -> GRPOConfig:
    known = {"num_generations": 2, "batch_size": 4, "shuffle_prompts": False, "reroll_max_groups": 1}
    return GRPOConfig(**KNOWN | known | {"reroll_start_fraction": 0.0} | changed)


def test_a_prompt_that_fails_is_asked_once_more_and_no_new_one_is_lost():
    seen, at = asked_by_step(rerolls(), 10, 8, {1, 4, 7})
    assert seen[:3] == [[0, 1], [1, 2], [3, 4]]
    assert seen[3:7] == [[4, 5], [6, 7], [7, 8], [9, 0]]
    once = [prompt for step in seen[:7] for prompt in step]
    assert sorted(once[:-1]) == [0, 1, 1, 2, 3, 4, 4, 5, 6, 7, 7, 8, 9]
    assert at.repeated == 3 and at.drawn == 8 * 4


def test_from_when_on_and_how_many_and_that_a_resumed_run_asks_the_same():
    config = rerolls(reroll_start_fraction=0.5, reroll_max_groups=2)
    seen, _ = asked_by_step(config, 10, 6, {1, 2})
    assert seen == [[0, 1], [2, 3], [4, 5], [1, 2], [6, 7], [8, 9]]
    first, at = asked_by_step(config, 10, 6, {1, 2})[0][:3], LoopState(0.0, drawn=12, failed=[1, 2])
    assert first + asked_by_step(config, 10, 6, {1, 2}, at, start=3)[0] == seen


def test_who_waits():
    drawn = rollout_of([[0.0, 0.1], [0.0, 0.6], [float("nan")] * 2, [-1.0, 0.5], [0.2, 0.2]], [0] * 5)
    config = rerolls(reroll_below=0.5)
    # the first was asked once more; the third has no score; the fourth waits already
    assert failures(drawn, [5, 6, 7, 8, 9], 1, [3, 8], config) == [3, 8, 9]
    assert len(failures(drawn, [5, 6, 7, 8, 9], 0, list(range(100, 1100)), config)) == 1000


def test_settings_that_do_not_go_together_are_refused():
    for changed, said in (
        ({"replay_buffer_size": 8, "advantage": "reinforce++"}, "compares the whole batch"),
        ({"replay_buffer_size": 8, "environment": "e.py:E"}, "not episodes of an environment"),
        ({"reroll_max_groups": 3}, "a rollout has 2 prompts"),
        ({"rollout": "vllm", "vllm_mode": "server", "rollout_ahead": 1}, "before it is known which have failed"),
    ):
        with pytest.raises(ValueError, match=said):
            rerolls(**changed)
