"""Off-policy corrections: by hand, by exact enumeration of a small world, and as TRL's GRPO has them."""

import itertools
import math
from collections import defaultdict

import pytest
import torch
from torch import tensor as T

from easyrlhf.losses.importance import importance_weights, off_policy_mask

# ratios of probabilities 2, 0.5, 8 | 1, 4; junk in the padding
OLD = T([[math.log(0.4), math.log(0.1), math.log(0.8)], [math.log(0.3), math.log(0.8), 50.0]])
SAMPLER = T([[math.log(0.2), math.log(0.2), math.log(0.1)], [math.log(0.3), math.log(0.2), -50.0]])
MASK = T([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]])


@pytest.mark.parametrize(
    "level, cap, expected",
    [
        ("token", 100.0, [[2, 0.5, 8], [1, 4, 0]]),
        ("token", 3.0, [[2, 0.5, 3], [1, 3, 0]]),
        ("token", 1.0, [[1, 0.5, 1], [1, 1, 0]]),
        ("sequence", 100.0, [[8, 8, 8], [4, 4, 0]]),  # 2 · 0.5 · 8 and 1 · 4
        ("sequence", 5.0, [[5, 5, 5], [4, 4, 0]]),
    ],
)
def test_weights_by_hand(level, cap, expected):
    found = importance_weights(OLD, SAMPLER, MASK, level, cap)
    assert found.tolist() == [pytest.approx(row, rel=1e-5) for row in expected]


def test_a_sampler_that_is_the_policy_is_weighted_by_1():
    assert importance_weights(OLD, OLD, MASK, "token", 3.0).tolist() == MASK.tolist()
    assert importance_weights(OLD, OLD, MASK, "sequence", 3.0).tolist() == MASK.tolist()


def world() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two distributions, p and q, of sequences of two of four tokens, each step's depending on the one before.

    Returns first-step and second-step probabilities of p and q, [2, 4] and [2, 4, 4].
    """
    torch.manual_seed(0)
    logits = torch.randn(2, 5, 4, dtype=torch.float64)
    table = logits.softmax(-1)
    return table[:, 0], table[:, 1:], torch.randn(4, 4, dtype=torch.float64)


def test_weighted_samples_of_another_policy_have_the_expectation_of_the_own():
    # Every sequence (a, b), with its probability under q: Σ q · w · f = Σ p · f, to rounding
    first, second, f = world()
    pairs = list(itertools.product(range(4), range(4)))
    p, q = (
        T([[first[who, a].item(), second[who, a, b].item()] for a, b in pairs], dtype=torch.float64) for who in (0, 1)
    )
    values = T([f[a, b].item() for a, b in pairs], dtype=torch.float64)
    exact = (p.prod(1) * values).sum()
    mask = torch.ones(16, 2, dtype=torch.float64)
    whole = importance_weights(p.log(), q.log(), mask, "sequence", 1e9)
    assert torch.equal(whole[:, 0], whole[:, 1])
    assert (q.prod(1) * whole[:, 0] * values).sum().item() == pytest.approx(exact.item(), rel=1e-12)
    assert abs((q.prod(1) * values).sum() - exact) > 0.1  # which weights of 1 do not have
    # token by token: each step's expectation given what came before it
    each = importance_weights(p.log(), q.log(), mask, "token", 1e9)
    by_first = T([g for g in (0.3, -1.0, 2.0, 0.7) for _ in range(4)], dtype=torch.float64)
    assert (q.prod(1) * each[:, 0] * by_first).sum().item() == pytest.approx((p.prod(1) * by_first).sum().item())
    given = slice(4, 8)  # the sequences that begin with token 1
    found = (q[given, 1] * each[given, 1] * values[given]).sum()
    assert found.item() == pytest.approx((p[given, 1] * values[given]).sum().item(), rel=1e-12)


# --- against TRL


@pytest.fixture(scope="module")
def rollout():
    """(policy's, sampler's log-probabilities, mask) of twelve completions of up to six tokens, float64."""
    torch.manual_seed(1)
    lengths = T([6, 1, 3, 6, 2, 2, 5, 4, 6, 6, 1, 3])
    mask = (torch.arange(6) < lengths[:, None]).double()
    sampler = torch.randn(12, 6, dtype=torch.float64) - 2
    return sampler + 0.8 * torch.randn(12, 6, dtype=torch.float64), sampler, mask


@pytest.fixture(scope="module")
def trl_weights(rollout, tmp_path_factory):
    """trl_weights(mode, cap) -> what TRL's own GRPO weights this rollout with, given its log-probabilities."""
    pytest.importorskip("trl", reason="the oracle is TRL")
    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    from trl import GRPOConfig, GRPOTrainer

    core = Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1, "a": 2}, unk_token="a"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<eos>")
    tiny = LlamaConfig(vocab_size=3, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    args = GRPOConfig(
        output_dir=str(tmp_path_factory.mktemp("trl")),
        num_generations=4,
        per_device_train_batch_size=12,
        max_completion_length=6,
        report_to=[],
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        beta=0.0,
    )
    trainer = GRPOTrainer(
        model=LlamaForCausalLM(tiny),
        reward_funcs=[lambda completions, **_: [float(len(text)) for text in completions]],
        args=args,
        train_dataset=Dataset.from_list([{"prompt": "a"}] * 3),
        processing_class=tokenizer,
    )
    policy, sampler, mask = rollout
    return lambda mode, cap: run_trl(trainer, policy, sampler, mask, mode, cap)


def run_trl(trainer, policy, sampler, mask, mode: str, cap: float) -> torch.Tensor:
    """The ratios of one of TRL's batches whose completions have these log-probabilities."""
    lengths = mask.sum(1).long().tolist()
    ids, sampled = [[2] * n for n in lengths], [row[:n] for row, n in zip(sampler.tolist(), lengths, strict=True)]

    def generated(prompts, *_, **__):
        return [[2]] * 12, ids, None, ["a"] * 12, sampled, {}, None, None

    trainer._generate = generated
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (policy, None, None)
    trainer.use_vllm = trainer.vllm_importance_sampling_correction = True
    trainer.vllm_importance_sampling_mode = mode
    trainer.vllm_importance_sampling_clip_min, trainer.vllm_importance_sampling_clip_max = None, cap
    trainer._metrics = {"train": defaultdict(list), "eval": defaultdict(list)}
    rows = [{"prompt": "a"} for _ in range(12)]
    return trainer._generate_and_score_completions(rows)["importance_sampling_ratio"]


@pytest.mark.parametrize("cap", [1.2, 3.0])
@pytest.mark.parametrize("level", ["token", "sequence"])
def test_weights_are_the_truncated_ratios_of_trl(rollout, trl_weights, level, cap):
    policy, sampler, mask = rollout
    theirs = trl_weights(f"{level}_truncate", cap)
    ours = importance_weights(policy, sampler, mask, level, cap)
    torch.testing.assert_close(ours, theirs * mask, rtol=1e-5, atol=1e-6)
    capped = (theirs * mask >= cap).double().mean().item()
    assert 0 < capped < 0.7


@pytest.mark.parametrize("threshold", [0.01, 0.3, 0.6])
def test_the_mask_is_trls(rollout, threshold):
    trainer = pytest.importorskip("trl", reason="the oracle is TRL").GRPOTrainer
    policy, sampler, mask = rollout
    left_out = 0
    for seed in range(5):
        torch.manual_seed(seed)
        moved = policy + 0.5 * torch.randn_like(policy)
        advantages = torch.randn(12, 1, dtype=torch.float64) * (torch.arange(12) % 5 > 0).double()[:, None]
        theirs = trainer.get_off_policy_mask(advantages, moved, sampler, mask, threshold)
        counted = mask.bool()
        rows = counted.nonzero()[:, 0]
        ours = off_policy_mask((sampler - moved)[counted], advantages.expand(-1, 6)[counted], rows, threshold)
        assert ours.tolist() == theirs.expand(-1, 6)[counted].tolist()
        left_out += 12 - theirs.sum().item()
    assert 0 < left_out < 30  # of 60


# --- the mask


def test_the_mask_by_hand_where_each_token_has_its_own_advantage():
    # mean log-ratios of three completions: (1 + 0 + 2) / 3 = 1, (0.5 − 0.1) / 2 = 0.2, 0.4
    log_ratios = T([1.0, 0.0, 2.0, 0.5, -0.1, 0.4])
    rows = T([0, 0, 0, 1, 1, 2])
    advantages = T([-1.0, 2.0, 0.0, -1.0, -1.0, -3.0])
    for threshold, expected in (
        (0.1, [0, 1, 1, 0, 0, 0]),
        (0.3, [0, 1, 1, 1, 1, 0]),
        (0.9, [0, 1, 1, 1, 1, 1]),
        (1.0, [1, 1, 1, 1, 1, 1]),  # as far as the threshold is not too far
    ):
        assert off_policy_mask(log_ratios, advantages, rows, threshold).tolist() == expected


def test_the_mask_of_nothing_is_nothing():
    assert off_policy_mask(T([]), T([]), torch.empty(0, dtype=torch.long), 0.1).tolist() == []


def test_completions_that_the_policy_has_come_to_like_are_kept():
    found = off_policy_mask(T([-5.0, -5.0]), T([-1.0, 1.0]), T([0, 0]), 0.1)
    assert found.tolist() == [1, 1]


def test_what_the_sampler_does_not_know_weighs_nothing():
    sampler, mask = torch.tensor([[-1.0, torch.nan, -2.0]]), torch.ones(1, 3)
    own = torch.tensor([[-1.0, -5.0, -1.5]])
    by_token = importance_weights(own, sampler, mask, "token", 10.0)
    torch.testing.assert_close(by_token, torch.tensor([[1.0, 1.0, math.exp(0.5)]]))
    whole = importance_weights(own, sampler, mask, "sequence", 10.0)
    torch.testing.assert_close(whole, torch.full((1, 3), math.exp(0.5)))
    rows = torch.tensor([0, 0, 0])
    fallen = torch.tensor([0.9, torch.nan, 0.9])  # 1.8 over three tokens
    advantages = -torch.ones(3)
    assert off_policy_mask(fallen, advantages, rows, 0.5).tolist() == [0, 0, 0]
    assert off_policy_mask(fallen, advantages, rows, 0.7).tolist() == [1, 1, 1]
