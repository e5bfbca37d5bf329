"""Reward modelling: a scalar head learns from comparisons which completion people prefer."""

import json
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor

from easyrlhf.config import RMConfig
from easyrlhf.data.batches import micro_batches, pad_right
from easyrlhf.engine.engine import Engine, OptimiserSettings
from easyrlhf.engine.run import Run, open_run
from easyrlhf.losses.preference import bradley_terry_loss, centering_loss
from easyrlhf.models.folder import probe, probe_ids, prove_folder, save_lm
from easyrlhf.models.value_head import ScalarModel, new_head
from easyrlhf.offline.loop import Row, Task, fit, planned_steps
from easyrlhf.report.console import Console
from easyrlhf.report.log import MetricsLog
from easyrlhf.report.rm_eval import rm_evaluation
from easyrlhf.stages import common


def train_rm(config: RMConfig) -> Path:
    """Train a reward model on comparisons and leave it in `output_dir`, its head in value_head.safetensors.

    Returns the folder. Raises InputError for bad input before a model is loaded, RunError when training fails,
    RunStopped when it was asked to stop.
    """
    config = config.resolved()
    console = Console("rm")
    with open_run(config) as run:
        if run is None:
            return common.already_complete(config, console)
        renderer = common.prepare(run, console)
        data = {
            "train": common.read_data(run, renderer, "comparison", config.train_data, "train"),
            "valid": common.read_data(run, renderer, "comparison", config.valid_data, "valid"),
        }
        train, valid = data["train"].rows, data["valid"] and data["valid"].rows
        steps = planned_steps(config, len(train))
        console.summary("Reward model", common.describe_plan(run, steps, data, {"model": config.model}))
        if config.dry_run:
            return run.folder

        lm = common.load_trained_lm(run, renderer, config.model)
        model = ScalarModel(lm, new_head(lm))
        engine = Engine(model, OptimiserSettings.of(config, steps))
        run.begin(common.stage_info(run, renderer, data, {"model": config.model}), {"model": engine})
        log = MetricsLog(run.folder, last_step=run.step, report_to=config.report_to)
        metrics = fit(run, engine, rm_task(model, renderer.pad_id, run), train, valid, log, console)
        model.lm = save_lm(run.folder, model.lm, renderer.tokenizer, model.head)
        probes = probe(model, probe_ids(renderer))
        prove_folder(run.folder, probes, renderer.tokenizer, run.device, run.dtype)
        lines = [f"next: ppo_train --reward_model {config.output_dir} --train_data …"]
        return common.finish(run, console, metrics, log, lines, probes=probes)


def rm_task(model: ScalarModel, pad_id: int, run: Run) -> Task:
    """What rm plugs into the offline loop: the summed Bradley-Terry loss of a micro-batch of pairs."""

    def scores_of(rows: list[Row], side: str) -> Tensor:
        ids = [row["prompt_ids"] + row[f"{side}_ids"] for row in rows]
        lengths = torch.tensor([len(row) for row in ids], device=run.device)
        return model.scores(pad_right(ids, pad_id).to(run.device), lengths)

    def pair_loss(rows: list[Row]) -> tuple[Tensor, dict[str, Tensor]]:
        chosen, rejected = scores_of(rows, "chosen"), scores_of(rows, "rejected")
        margin = torch.tensor([row["margin"] for row in rows], device=run.device)
        loss = bradley_terry_loss(chosen, rejected, margin)
        if run.config.center_rewards_coefficient:
            loss = loss + run.config.center_rewards_coefficient * centering_loss(chosen, rejected)
        return loss.sum(), {
            "rewards/chosen": chosen.detach().sum(),
            "rewards/rejected": rejected.detach().sum(),
            "rewards/margins": (chosen - rejected).detach().sum(),
            "rewards/accuracies": (chosen > rejected).sum() + 0.5 * (chosen == rejected).sum(),
        }

    @torch.no_grad()
    def evaluate(rows: Dataset) -> dict[str, float]:
        model.eval()
        chosen, rejected = np.zeros(len(rows)), np.zeros(len(rows))
        for group in micro_batches([2 * length for length in rows["length"]], run.micro_batch_tokens):
            batch = [rows[index] for index in group]
            chosen[group] = scores_of(batch, "chosen").cpu()
            rejected[group] = scores_of(batch, "rejected").cpu()
        model.train()
        return evaluation_of(run.folder, rows, chosen, rejected)

    return Task(units=lambda row: 1, tokens=lambda row: 2 * row["length"], loss=pair_loss, evaluate=evaluate)


def evaluation_of(folder: Path, rows: Dataset, chosen: np.ndarray, rejected: np.ndarray) -> dict[str, float]:
    """Metrics of held-out pairs from their scores; the full examination goes to rm_eval.json.

    chosen, rejected  [N]  scores
    """
    lengths = [np.array([len(ids) for ids in rows[f"{side}_ids"]]) for side in ("chosen", "rejected")]
    examined = rm_evaluation(chosen, rejected, *lengths)
    (folder / "rm_eval.json").write_text(json.dumps(examined, indent=1))
    margins = torch.tensor(chosen - rejected)
    return {
        "eval/loss": -torch.nn.functional.logsigmoid(margins).mean().item(),
        "eval/rewards/accuracies": examined["accuracy"],
        "eval/rewards/margins": margins.mean().item(),
        "eval/rewards/chosen": float(chosen.mean()),
        "eval/rewards/rejected": float(rejected.mean()),
        "eval/length_baseline_accuracy": examined["length_baseline_accuracy"],
        "eval/ties": examined["ties"],
    }
