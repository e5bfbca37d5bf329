"""SFT batches mixed into the policy's updates, against forgetting (Ouyang et al. 2022, eq. 2: PPO-ptx)."""

from dataclasses import dataclass
from functools import partial

from datasets import Dataset
from torch import Tensor, nn

from easyrlhf.config import OnlineConfig
from easyrlhf.data.batches import endless_order, pad_right
from easyrlhf.engine.engine import Work
from easyrlhf.engine.micro_batches import micro_batches
from easyrlhf.models.flat_rows import sent
from easyrlhf.models.logprobs import row_token_logprobs
from easyrlhf.models.parts import plain_lm


@dataclass(frozen=True)
class PtxBatches:
    """Draws as many demonstrations for every optimiser step as it has completions, and cuts them into micro-batches.

    budget  tokens of one forward pass
    """

    policy: nn.Module
    rows: Dataset
    config: OnlineConfig
    budget: int

    def __call__(self, optimiser_step: int) -> list[Work]:
        """The work that sums to ptx_coef times the mean loss per assistant token."""
        size = self.config.batch_size // self.config.num_mini_batches
        numbers = range(optimiser_step * size, (optimiser_step + 1) * size)
        rows = [self.rows[row] for row in endless_order(len(self.rows), self.config.seed, numbers)]
        tokens = sum(sum(row["loss_mask"]) for row in rows)
        return [
            (partial(self.loss, [rows[i] for i in group], tokens), weight)
            for group, weight in micro_batches([row["length"] for row in rows], self.budget)
        ]

    def loss(self, rows: list[dict], tokens: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The rows' part of the mean loss over so many assistant tokens, at its price; and without, as a metric."""
        device = plain_lm(self.policy).device
        input_ids = sent(pad_right([row["input_ids"] for row in rows]), device)
        loss_mask = pad_right([row["loss_mask"] for row in rows])
        loss = -row_token_logprobs(self.policy, input_ids, loss_mask).sum() / tokens
        return self.config.ptx_coef * loss, {"loss/ptx_avg": loss.detach()}
