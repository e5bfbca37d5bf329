"""SFT batches mixed into the policy's updates, against forgetting (Ouyang et al. 2022, eq. 2: PPO-ptx)."""

from dataclasses import dataclass

import torch
from datasets import Dataset
from torch import Tensor, nn

from easyrlhf.data.batches import endless_order, pad_right
from easyrlhf.engine.micro_batches import MicroBatch, micro_batches
from easyrlhf.models.logprobs import row_token_logprobs


@dataclass(frozen=True)
class PtxBatches:
    """Draws `batch_size` demonstrations for every optimiser step and cuts them into micro-batches."""

    policy: nn.Module
    rows: Dataset
    batch_size: int
    seed: int
    pad_id: int
    micro_batch_tokens: int
    device: torch.device

    def __call__(self, optimiser_step: int) -> list[MicroBatch]:
        """Functions without arguments, one per micro-batch, that sum to the mean loss per assistant token.

        Each with whether it counts.
        """
        numbers = range(optimiser_step * self.batch_size, (optimiser_step + 1) * self.batch_size)
        rows = [self.rows[row] for row in endless_order(len(self.rows), self.seed, numbers)]
        tokens = sum(sum(row["loss_mask"]) for row in rows)
        return [
            (lambda group=group: self.loss([rows[i] for i in group]) / tokens, counts)
            for group, counts in micro_batches([row["length"] for row in rows], self.micro_batch_tokens)
        ]

    def loss(self, rows: list[dict]) -> Tensor:
        """Summed negative log-likelihood of the rows' assistant tokens."""
        input_ids = pad_right([row["input_ids"] for row in rows], self.pad_id).to(self.device)
        loss_mask = pad_right([row["loss_mask"] for row in rows]).to(self.device)
        return -row_token_logprobs(self.policy, input_ids, loss_mask).sum()
