"""The reward model's loss against TRL's RewardTrainer, run on the same scores."""

from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

from easyrlhf.losses.pairwise import bradley_terry_loss, centering_loss

RewardTrainer = pytest.importorskip("trl.trainer.reward_trainer", reason="the oracle is TRL").RewardTrainer


def trl_loss(chosen, rejected, margin, coefficient) -> torch.Tensor:
    """TRL's own compute_loss on given scores, its trainer and model replaced by what the method touches."""
    accelerator = SimpleNamespace(gather=lambda x: x, gather_for_metrics=lambda x: x)
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=False),
        args=SimpleNamespace(center_rewards_coefficient=coefficient),
        accelerator=accelerator,
        _metrics={"eval": defaultdict(list)},
        _total_train_tokens=0,
    )
    inputs = {} if margin is None else {"margin": margin}

    def model(**_):
        return SimpleNamespace(logits=torch.cat([chosen, rejected]).unsqueeze(-1))

    return RewardTrainer.compute_loss(trainer, model, inputs)


@pytest.mark.parametrize("with_margin", [False, True])
@pytest.mark.parametrize("coefficient", [None, 0.01])
def test_loss_and_gradient_equal_those_of_trl(with_margin, coefficient):
    torch.manual_seed(0)
    chosen, rejected = 2 * torch.randn(2, 16, dtype=torch.float64)
    margin = torch.rand(16, dtype=torch.float64) if with_margin else None
    ours, theirs = ([chosen.clone().requires_grad_(), rejected.clone().requires_grad_()] for _ in range(2))

    loss = bradley_terry_loss(*ours, torch.zeros(16) if margin is None else margin)
    loss = (loss + (coefficient or 0.0) * centering_loss(*ours)).mean()
    loss.backward()
    expected = trl_loss(*theirs, margin, coefficient)
    expected.backward()

    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-10, atol=1e-15)
