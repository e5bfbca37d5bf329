"""Learning from ranked answers without a reward model: rrhf on the offline loop."""

from pathlib import Path

import torch
from torch import Tensor, nn

from easyrlhf.config import RRHFConfig
from easyrlhf.losses.pairwise import rrhf_loss
from easyrlhf.models.logprobs import sequence_logprobs
from easyrlhf.offline.loop import Row, Task
from easyrlhf.run.run import Run
from easyrlhf.stages.offline import train_offline
from easyrlhf.stages.preference import evaluate_rows, preference_stage


def train_rrhf(config: RRHFConfig) -> Path:
    """Rank responses to align language models with human feedback (Yuan et al. 2023); see train_offline."""
    return train_offline(config, RRHF)


def rrhf_task(lm: nn.Module, run: Run) -> Task:
    """What rrhf plugs into the offline loop: the ranking loss of each prompt, and the SFT loss of its best answer."""
    config, device = run.config, run.device

    def best(row: Row) -> int:
        return max(range(len(row["scores"])), key=row["scores"].__getitem__)

    def prepare(rows: list[Row]) -> list[Row]:
        """Rows with the share of a token of a best answer in the batch's SFT loss."""
        tokens = sum(len(row["completions_ids"][best(row)]) for row in rows)
        return [row | {"sft_share": len(rows) / tokens} for row in rows]

    def loss_sum(rows: list[Row]) -> tuple[Tensor, dict[str, Tensor]]:
        groups = [(row["prompt_ids"], row["completions_ids"]) for row in rows]
        every = sequence_logprobs(lm, groups, config.share_prefix)
        every = every.split([len(row["scores"]) for row in rows])
        total, accuracy = 0.0, 0.0
        for row, logprobs in zip(rows, every, strict=True):
            scores = torch.tensor(row["scores"], device=device)
            lengths = torch.tensor([len(ids) for ids in row["completions_ids"]], device=device)
            ranked = logprobs / lengths**config.length_penalty
            total = total + config.rrhf_weight * rrhf_loss(ranked, scores) - row["sft_share"] * logprobs[best(row)]
            better = scores[:, None] > scores
            accuracy += ((ranked[:, None] > ranked)[better]).float().mean()
        return total, {"rewards/accuracies": accuracy}

    task = Task(
        units=lambda row: 1,
        tokens=lambda row: len(row["completions_ids"]) * row["length"],
        loss=loss_sum,
        evaluate=lambda rows, advance: evaluate_rows(lm, run, rows, task, advance),
        prepare=prepare,
    )
    return task


RRHF = preference_stage("RRHF", "ranking", rrhf_task)
