"""Reward modelling: a scalar head learns from comparisons which completion people prefer."""

import json
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor

from easyrlhf.config import RMConfig
from easyrlhf.data.render import Renderer
from easyrlhf.data.tokens import TokenData
from easyrlhf.engine import processes
from easyrlhf.engine.device import dtype_name
from easyrlhf.engine.micro_batches import micro_batches
from easyrlhf.losses.pairwise import bradley_terry_loss, centering_loss
from easyrlhf.losses.soft_labels import cross_entropy, label_entropy, soft_label_loss
from easyrlhf.models.flat_rows import sent
from easyrlhf.models.folder import check_probes
from easyrlhf.models.parts import evaluating
from easyrlhf.models.sequence_classifier import read_backbone
from easyrlhf.models.unread import once_read
from easyrlhf.models.value_head import ScalarModel, new_head
from easyrlhf.offline.loop import Row, Task, pair_group
from easyrlhf.offline.pair_metrics import concluded, pair_metrics, probabilities
from easyrlhf.report.console import Console
from easyrlhf.report.plots import RM_EVAL_FILE
from easyrlhf.report.progress import ProgressBar
from easyrlhf.report.rm_eval import rm_evaluation
from easyrlhf.report.rm_verdict import write_examination
from easyrlhf.rewards.model import ScoringModel
from easyrlhf.rewards.probes import PARTS, examine
from easyrlhf.run.manifest import read_stage
from easyrlhf.run.run import Run
from easyrlhf.run.step_end import Advance
from easyrlhf.stages.checks import check_held_out_pairs, check_probes_render
from easyrlhf.stages.models import load_trained_lm, save_scalar_model
from easyrlhf.stages.offline import OfflineStage, train_offline
from easyrlhf.stages.reward_head import check_kept_head, kept_head


def train_rm(config: RMConfig) -> Path:
    """Train a reward model on comparisons and leave it in `output_dir`; see train_offline.

    The folder is a full causal language model with the head beside it in value_head.safetensors.
    """
    return train_offline(config, RM)


def load_reward_backbone(run: Run, renderer: Renderer) -> ScalarModel:
    """The language model with a head, dropout off: that of a reward model to go on from, else a fresh one.

    Raises InputError when a head that is kept does not score as it did when its folder was written.
    """
    path = run.config.model
    lm = load_trained_lm(run, renderer, path, read=read_backbone)
    kept = kept_head(run.config, lm)
    model = ScalarModel(lm, new_head(lm) if kept is None else kept)
    if kept is not None and not run.config.load_in_4bit:
        once_read(lm, lambda: check_probes(model, read_stage(path).get("probes", []), path, run.dtype))
    return model


def save_reward_model(run: Run, model: ScalarModel, renderer: Renderer) -> dict:
    """Write backbone and head, prove that the folder scores as the model does, examine it, and keep the probes."""
    probes = save_scalar_model(run, run.folder, model, renderer)
    if run.config.validates and run.config.examine_rows:
        examine_whole(run, model, renderer)
    return {"probes": probes}


def examine_whole(run: Run, model: ScalarModel, renderer: Renderer) -> None:
    """Write doctor.json: what the last evaluation measured, and what `easyrlhf doctor` looks at besides."""
    rows = Dataset.from_file(str(run.cache / "valid.arrow"))
    measured = json.loads((run.folder / RM_EVAL_FILE).read_text())
    most, console = run.config.examine_rows, Console(run.config.stage)
    console.note(f"the doctor looks at {min(most, len(rows)):,} of {len(rows):,} held-out pairs (--examine_rows)")
    with ProgressBar(console, PARTS, 0, "part", ("", "")) as bar:
        scorer = ScoringModel(model, renderer, run.micro_batch_tokens)
        measured |= examine(scorer, rows, run.dtype, most=most, advance=bar.advance)
    if processes.is_main():
        write_examination(run.folder, str(run.folder), run.config.valid_name, dtype_name(run.dtype), measured)


def check_rm(config: RMConfig, renderer: Renderer, data: dict[str, TokenData | None], console: Console) -> None:
    """Raise InputError for a model that cannot be proven, a head that is not its own, or held-out ties alone."""
    check_kept_head(config)
    check_probes_render("--model", config.model, renderer)
    check_held_out_pairs(config, data)


def rm_task(model: ScalarModel, run: Run) -> Task:
    """What rm plugs into the offline loop: the summed Bradley-Terry loss of a micro-batch of weighted pairs."""

    def scores_of(rows: list[Row]) -> tuple[Tensor, Tensor]:
        """Scores of the chosen and of the rejected completions, each [N], from one forward pass."""
        scores = model.completion_scores(list(map(pair_group, rows)), run.config.share_prefix)
        return scores.view(-1, 2).unbind(1)

    def pair_loss(rows: list[Row]) -> tuple[Tensor, dict[str, Tensor]]:
        chosen, rejected = scores_of(rows)
        margin = sent(torch.tensor([row["margin"] for row in rows]), run.device)
        loss = soft_label_loss(bradley_terry_loss, chosen, rejected, probabilities(rows), margin)
        if run.config.center_rewards_coefficient:
            loss = loss + run.config.center_rewards_coefficient * centering_loss(chosen, rejected)
        weight = sent(torch.tensor([row["weight"] for row in rows]), run.device)
        return (weight * loss).sum(), pair_metrics(chosen, rejected, weight, probabilities(rows))

    @torch.no_grad()
    def evaluate(rows: Dataset, advance: Advance) -> dict[str, float]:
        found = torch.zeros(2, len(rows), dtype=torch.float64)
        with evaluating(model):
            for group, weight in micro_batches([2 * length for length in rows["length"]], run.micro_batch_tokens):
                scores = torch.stack(scores_of([rows[index] for index in group]))
                if weight:
                    found[:, group] = weight * scores.cpu().double()
                    advance(len(group))
        return evaluation_of(run.folder, rows, *processes.all_reduce_sum(found).numpy())

    return Task(
        units=lambda row: row["weight"],
        tokens=lambda row: 2 * row["length"],
        loss=pair_loss,
        evaluate=evaluate,
        conclude=concluded,
    )


def evaluation_of(folder: Path, rows: Dataset, chosen: np.ndarray, rejected: np.ndarray) -> dict[str, float]:
    """Metrics of held-out pairs from their scores; the full examination goes to rm_eval.json.

    chosen, rejected  [N]  scores
    """
    lengths = [np.array([len(ids) for ids in rows[f"{side}_ids"]]) for side in ("chosen", "rejected")]
    labels = np.array(rows["chosen_probability"][:])
    examined = rm_evaluation(chosen, rejected, *lengths, rows["source"][:], labels)
    if processes.is_main():
        (folder / RM_EVAL_FILE).write_text(json.dumps(examined, indent=1))
    margins, labels = torch.tensor(chosen - rejected), torch.tensor(labels)
    loss, floor = cross_entropy(margins, labels).mean().item(), label_entropy(labels).mean().item()
    soft = {"eval/cross_entropy": loss, "eval/label_entropy": floor} if floor else {}
    return {
        "eval/loss": loss,
        "eval/rewards/accuracies": examined["accuracy"],
        "eval/rewards/margins": margins.mean().item(),
        "eval/rewards/chosen": float(chosen.mean()),
        "eval/rewards/rejected": float(rejected.mean()),
        "eval/length_baseline_accuracy": examined["length_baseline_accuracy"],
        "eval/ties": examined["ties"],
        **soft,
    }


RM = OfflineStage(
    title="Reward model",
    kind="comparison",
    model=load_reward_backbone,
    task=rm_task,
    save=save_reward_model,
    check=check_rm,
)
