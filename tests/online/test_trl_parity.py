"""GRPO and RLOO against the trainers of TRL: same scores and tensors, same advantages, losses and gradients."""

from dataclasses import replace

import pytest
import torch
from datasets import Dataset
from trl import GRPOConfig as TRLGRPOConfig
from trl import GRPOTrainer, RLOOConfig, RLOOTrainer

from easyrlhf.config import GRPOConfig
from easyrlhf.online.methods import method_of
from easyrlhf.online.rollout import Rollout

G, PROMPTS, LIMIT = 4, 3, 6
LENGTHS = [6, 1, 3, 6, 2, 2, 5, 4, 6, 6, 1, 3]
FINISHED = [False, True, True, True, True, True, True, True, False, True, True, True]
SCORES = {
    "first": [0.1, 1.0, -0.5, 2.0, 0.0, 0.0, 0.0, 0.0, 3.0, 2.5, 1.0, -1.0],
    "second": [10.0, -20.0, 5.0, 0.0, 1.0, 2.0, 3.0, 4.0, 0.0, 0.0, 0.0, 30.0],
}


def first(completions, **_):
    return SCORES["first"]


def second(completions, **_):
    return SCORES["second"]


@pytest.fixture
def trainer(tiny_lm, tokenizer, tmp_path):
    """trainer(class, its config's class, settings) -> a trainer of TRL with both rewards, weighted 1 and 0.5."""

    def make(trainer_class, config_class, **settings):
        args = config_class(
            output_dir=str(tmp_path),
            num_generations=G,
            per_device_train_batch_size=G * PROMPTS,
            max_completion_length=LIMIT,
            reward_weights=[1.0, 0.5],
            report_to=[],
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            **settings | {"beta": 0.0},  # TRL would fetch its reference from the hub
        )
        made = trainer_class(
            model=tiny_lm(seed=0, vocab=len(tokenizer)),
            reward_funcs=[first, second],
            args=args,
            train_dataset=Dataset.from_list([{"prompt": text} for text in ("hello", "good day", "yes")]),
            processing_class=tokenizer,
        )
        made.current_gradient_accumulation_steps = 1
        made.beta = settings.get("beta", 0.0)
        return made

    return make


@pytest.fixture
def rollout() -> Rollout:
    """Twelve completions with random numbers in float64."""
    torch.manual_seed(0)
    mask = (torch.arange(LIMIT) < torch.tensor(LENGTHS)[:, None]).double()
    old, ref = (torch.randn(2, len(mask), LIMIT, dtype=torch.float64) - 2) * mask
    return Rollout(
        rows=[{}] * len(mask),
        completion_ids=mask.long(),
        completion_mask=mask,
        finished=torch.tensor(FINISHED),
        sampler_logprobs=old,
        old_logprobs=old,
        ref_logprobs=ref,
        entropies=old,
        values=None,
        scores=torch.tensor(SCORES["first"]).double() + 0.5 * torch.tensor(SCORES["second"]).double(),
        source_scores={name: torch.tensor(scores).double() for name, scores in SCORES.items()},
    )


def config(**settings) -> GRPOConfig:
    known = {"model": "m", "train_data": "x", "reward_funcs": "a.py:first,a.py:second", "reward_weights": "1,0.5"}
    known |= {"num_generations": G, "batch_size": G * PROMPTS, "max_completion_length": LIMIT}
    return GRPOConfig(**known | settings)


def both_losses(trainer, rollout: Rollout, settings: GRPOConfig) -> tuple[tuple, tuple]:
    """(loss, its gradient for each token's log-probability), ours and TRL's, of the rollout as one step."""
    torch.manual_seed(1)
    method, counted = method_of(settings), rollout.completion_mask.bool()
    logprobs = (rollout.old_logprobs + 0.3 * torch.randn_like(rollout.old_logprobs)).requires_grad_()
    weights = method.weigh(rollout, rollout.learned.sum().item(), settings)
    ours = (method.loss(rollout, logprobs[counted], settings) * weights[counted]).sum()

    def given(*_, **__):
        return logprobs, logprobs.detach(), None

    trainer._get_per_token_logps_and_entropies = given
    inputs = {
        "prompt_ids": rollout.completion_ids,
        "prompt_mask": rollout.completion_ids,
        "completion_ids": rollout.completion_ids,
        "completion_mask": rollout.learned,  # TRL empties the mask of what it leaves out
        "advantages": rollout.advantages[torch.arange(len(rollout)), 0],
        "old_per_token_logps": rollout.old_logprobs,
        "old_logps": (rollout.old_logprobs * rollout.completion_mask).sum(1),
        "ref_per_token_logps": rollout.ref_logprobs,
        "num_items_in_batch": rollout.learned.sum(),
    }
    theirs = trainer._compute_loss(trainer.model, inputs)
    return tuple((loss.detach(), torch.autograd.grad(loss, logprobs)[0]) for loss in (ours, theirs))


def assert_same(losses) -> None:
    (ours, our_grad), (theirs, their_grad) = losses
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-9)
    torch.testing.assert_close(our_grad, their_grad, rtol=1e-9, atol=1e-12)
    assert their_grad.abs().max() > 1e-3


@pytest.mark.parametrize(
    "settings",
    [
        {"scale_rewards": "group"},
        {"scale_rewards": "batch"},
        {"scale_rewards": "none"},
        {"multi_objective_aggregation": "normalize_then_sum"},
    ],
)
def test_grpo_advantages_are_trls(trainer, rollout, settings):
    peer = trainer(GRPOTrainer, TRLGRPOConfig, **settings)
    theirs = peer._generate_and_score_completions([row for row in peer.train_dataset for _ in range(G)])["advantages"]
    settings = config(**settings)
    ours = method_of(settings).estimate(rollout, settings, 0.0)
    torch.testing.assert_close(ours.advantages[:, 0], theirs.double(), rtol=1e-6, atol=1e-6)
    assert theirs.abs().max() > 0.5
    assert torch.equal(ours.advantages, ours.advantages[:, :1] * ours.completion_mask)


@pytest.mark.parametrize("mask_truncated_completions", [False, True])
@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dr_grpo", "dapo"])
def test_grpo_losses_and_gradients_are_trls(trainer, rollout, loss_type, mask_truncated_completions):
    shared = {"loss_type": loss_type, "beta": 0.3, "epsilon": 0.1, "epsilon_high": 0.15}
    settings = config(**shared, mask_truncated_completions=mask_truncated_completions)
    rollout = method_of(settings).estimate(rollout, settings, 0.0)
    assert (rollout.learned.sum() < rollout.completion_mask.sum()) == mask_truncated_completions
    assert_same(both_losses(trainer(GRPOTrainer, TRLGRPOConfig, **shared), rollout, settings))


def test_the_kl_without_bias_correction_is_trls(trainer, rollout):
    shared = {"beta": 0.3, "use_bias_correction_kl": False}
    settings = config(**shared)
    rollout = method_of(settings).estimate(rollout, settings, 0.0)
    assert_same(both_losses(trainer(GRPOTrainer, TRLGRPOConfig, **shared), rollout, settings))


def test_rloo_advantages_losses_and_gradients_are_trls(trainer, rollout):
    shared = {"epsilon": 0.1, "epsilon_high": 0.15}
    peer = trainer(RLOOTrainer, RLOOConfig, **shared)
    theirs = peer._generate_and_score_completions([row for row in peer.train_dataset for _ in range(G)])["advantages"]
    settings = config(advantage="rloo", **shared)
    rollout = method_of(settings).estimate(rollout, settings, 0.0)
    torch.testing.assert_close(rollout.advantages[:, 0], theirs.double(), rtol=1e-6, atol=1e-6)
    assert_same(both_losses(peer, rollout, settings))


def test_the_kl_of_rloo_is_in_its_scores(hand_rollout):
    settings = config(advantage="rloo", num_generations=2, batch_size=2, beta=0.5)
    rollout = method_of(settings).estimate(hand_rollout, settings, 0.5)
    # log-ratios: (−1+1.5) + 0 + (−3+2) = −.5 and (−1+2) + 0 = 1; scores 1 + .25 and 2 − .5
    assert rollout.advantages[:, 0].tolist() == pytest.approx([1.25 - 1.5, 1.5 - 1.25])


def test_reinforce_sums_what_is_still_to_come_and_standardises_over_the_batch(hand_rollout):
    settings = config(advantage="reinforce++", num_generations=1, batch_size=2, beta=0.5)
    rollout = method_of(settings).estimate(hand_rollout, settings, 0.5)
    # KL a token: .5, 0, −1 | 1, 0; rewards −.25, 0, 1 + .5 | −.5, 2; to come 1.25, 1.5, 1.5 | 1.5, 2
    to_come = torch.tensor([1.25, 1.5, 1.5, 1.5, 2.0])
    expected = (to_come - to_come.mean()) / to_come.std(correction=0)
    assert rollout.flat("advantages")[0].tolist() == pytest.approx(expected.tolist(), rel=1e-5)


def test_the_missing_eos_penalty_is_the_weight_of_one_more_reward_of_gdpo(rollout):
    settings = config(multi_objective_aggregation="normalize_then_sum", missing_eos_penalty=2.0)
    cut_off = -(~rollout.finished).double()
    as_source = replace(rollout, source_scores={**rollout.source_scores, "end": cut_off})
    three = {"reward_funcs": "a.py:first,a.py:second,a.py:end", "reward_weights": "1,0.5,2"}
    expected = config(multi_objective_aggregation="normalize_then_sum", **three)
    found = method_of(settings).estimate(rollout, settings, 0.0).advantages
    torch.testing.assert_close(found, method_of(expected).estimate(as_source, expected, 0.0).advantages)


@pytest.mark.parametrize(
    "penalty, expected",
    [(0.0, [1.16, -1.16, 0.39, -0.39]), (0.01, [1.17, -1.15, 0.38, -0.40]), (100.0, [0.88, 0.85, -0.86, -0.87])],
)
def test_a_small_missing_eos_penalty_stays_small_in_gdpo(penalty, expected):
    """Scores 3 0 2 1 alone: deviations 1.5, -1.5, .5, -.5 over their spread 1.29. The last two are cut off."""
    settings = config(
        multi_objective_aggregation="normalize_then_sum", missing_eos_penalty=penalty, reward_funcs="a.py:first",
        reward_weights=None, batch_size=4,
    )  # fmt: skip
    some = torch.ones(4, 1)
    rollout = Rollout(
        rows=[{}] * 4,
        completion_ids=some.long(),
        completion_mask=some,
        finished=torch.tensor([True, True, False, False]),
        sampler_logprobs=some,
        old_logprobs=some,
        ref_logprobs=some,
        entropies=some,
        values=None,
        scores=some[:, 0],
        source_scores={"first": torch.tensor([3.0, 0.0, 2.0, 1.0])},
    )
    found = method_of(settings).estimate(rollout, settings, 0.0).advantages[:, 0]
    assert found.tolist() == pytest.approx(expected, abs=6e-3)
