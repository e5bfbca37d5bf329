"""Supervised fine-tuning: next-token cross-entropy on the assistant's tokens."""

import math
from pathlib import Path

import torch
from datasets import Dataset
from torch import Tensor, nn

from easyrlhf.config import SFTConfig
from easyrlhf.data.batches import micro_batches, pad_right
from easyrlhf.engine.engine import Engine, OptimiserSettings
from easyrlhf.engine.run import open_run
from easyrlhf.models.folder import save_lm
from easyrlhf.models.logprobs import token_logprobs
from easyrlhf.offline.loop import Row, Task, fit, planned_steps
from easyrlhf.report.console import Console
from easyrlhf.report.log import MetricsLog
from easyrlhf.stages import common


def train_sft(config: SFTConfig) -> Path:
    """Fine-tune a causal language model on demonstrations and leave it in `output_dir`.

    Returns the folder. Raises InputError for bad input before a model is loaded, RunError when training fails,
    RunStopped when it was asked to stop.
    """
    config = config.resolved()
    console = Console("sft")
    with open_run(config) as run:
        if run is None:
            return common.already_complete(config, console)
        renderer = common.prepare(run, console)
        data = {
            "train": common.read_data(run, renderer, "demonstration", config.train_data, "train"),
            "valid": common.read_data(run, renderer, "demonstration", config.valid_data, "valid"),
        }
        train, valid = data["train"].rows, data["valid"] and data["valid"].rows
        steps = planned_steps(config, len(train))
        console.summary(
            "Supervised fine-tuning",
            common.describe_plan(run, steps, data, {"model": config.model}),
        )
        if config.dry_run:
            return run.folder

        lm = common.load_trained_lm(run, renderer, config.model, dropout=True)
        engine = Engine(lm, OptimiserSettings.of(config, steps))
        run.begin(common.stage_info(run, renderer, data, {"model": config.model}), {"model": engine})
        log = MetricsLog(run.folder, last_step=run.step, report_to=config.report_to)
        metrics = fit(run, engine, sft_task(lm, renderer.pad_id, run), train, valid, log, console)
        save_lm(run.folder, lm, renderer.tokenizer)
        return common.finish(
            run,
            console,
            metrics,
            log,
            [f"next: rm_train --model {config.output_dir} --train_data …"],
        )


def sft_task(lm: nn.Module, pad_id: int, run) -> Task:
    """What sft plugs into the offline loop: the summed negative log-likelihood of a micro-batch's assistant tokens."""

    def negative_log_likelihood(rows: list[Row]) -> tuple[Tensor, dict[str, Tensor]]:
        input_ids = pad_right([row["input_ids"] for row in rows], pad_id).to(run.device)
        loss_mask = pad_right([row["loss_mask"] for row in rows]).to(run.device)
        return -token_logprobs(lm, input_ids, loss_mask).sum(), {}

    def evaluate(rows: Dataset) -> dict[str, float]:
        loss = mean_loss(lm, rows, negative_log_likelihood, run.micro_batch_tokens)
        return {"eval/loss": loss, "eval/perplexity": math.exp(min(loss, 700.0))}

    return Task(
        units=lambda row: sum(row["loss_mask"]),
        tokens=lambda row: row["length"],
        loss=negative_log_likelihood,
        evaluate=evaluate,
    )


@torch.no_grad()
def mean_loss(lm: nn.Module, rows: Dataset, loss, budget: int) -> float:
    """Mean loss per assistant token over all rows, dropout off."""
    lm.eval()
    total = tokens = 0
    for group in micro_batches(list(rows["length"]), budget):
        batch = [rows[index] for index in group]
        total += loss(batch)[0].item()
        tokens += sum(sum(row["loss_mask"]) for row in batch)
    lm.train()
    return total / tokens
