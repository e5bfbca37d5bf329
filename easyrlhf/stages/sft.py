"""Supervised fine-tuning: next-token cross-entropy on the assistant's tokens."""

import math
from pathlib import Path

import torch
from datasets import Dataset
from torch import Tensor, nn

from easyrlhf.config import SFTConfig
from easyrlhf.data.batches import pad_right
from easyrlhf.data.render import Renderer
from easyrlhf.engine import processes
from easyrlhf.engine.micro_batches import micro_batches
from easyrlhf.models.flat_rows import sent
from easyrlhf.models.logprobs import row_token_logprobs
from easyrlhf.models.parts import evaluating
from easyrlhf.offline.loop import Row, Task
from easyrlhf.run.run import Run
from easyrlhf.run.step_end import Advance
from easyrlhf.stages.models import load_trained_lm, save_trained_lm
from easyrlhf.stages.offline import OfflineStage, train_offline


def train_sft(config: SFTConfig) -> Path:
    """Fine-tune a causal language model on demonstrations and leave it in `output_dir`; see train_offline."""
    return train_offline(config, SFT)


def load_sft_model(run: Run, renderer: Renderer) -> nn.Module:
    """The language model, its dropout as its makers set it."""
    return load_trained_lm(run, renderer, run.config.model, dropout=True)


def sft_task(lm: nn.Module, run: Run) -> Task:
    """What sft plugs into the offline loop: the summed negative log-likelihood of a micro-batch's assistant tokens."""

    def negative_log_likelihood(rows: list[Row]) -> tuple[Tensor, dict[str, Tensor]]:
        input_ids = sent(pad_right([row["input_ids"] for row in rows]), run.device)
        loss_mask = pad_right([row["loss_mask"] for row in rows])
        return -row_token_logprobs(lm, input_ids, loss_mask).sum(), {}

    def evaluate(rows: Dataset, advance: Advance) -> dict[str, float]:
        loss = mean_loss(lm, rows, negative_log_likelihood, run.micro_batch_tokens, advance)
        return {"eval/loss": loss, "eval/perplexity": math.exp(min(loss, 700.0))}

    return Task(
        units=lambda row: sum(row["loss_mask"]),
        tokens=lambda row: row["length"],
        loss=negative_log_likelihood,
        evaluate=evaluate,
    )


@torch.no_grad()
def mean_loss(lm: nn.Module, rows: Dataset, loss, budget: int, advance: Advance) -> float:
    """Mean loss per assistant token over all rows, dropout off."""
    sums = {"loss": 0.0, "tokens": 0}
    with evaluating(lm):
        for group, weight in micro_batches(list(rows["length"]), budget):
            batch = [rows[index] for index in group]
            sums["loss"] += loss(batch)[0].item() * weight
            sums["tokens"] += sum(sum(row["loss_mask"]) for row in batch) * weight
            advance(len(batch) if weight else 0)
    sums = processes.all_reduce_numbers(sums)
    return sums["loss"] / sums["tokens"]


SFT = OfflineStage(
    title="Supervised fine-tuning",
    kind="demonstration",
    model=load_sft_model,
    task=sft_task,
    save=save_trained_lm,
)
