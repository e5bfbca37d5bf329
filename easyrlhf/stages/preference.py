"""Learning from preferences without a reward model: dpo, ipo, kto, orpo, simpo, cpo, rrhf on the offline loop."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn

from easyrlhf.config import (
    CPOConfig,
    DPOConfig,
    IPOConfig,
    ORPOConfig,
    PreferenceConfig,
    ReferenceConfig,
    SimPOConfig,
)
from easyrlhf.data.render import Renderer
from easyrlhf.data.tokens import TokenData
from easyrlhf.errors import InputError
from easyrlhf.losses.pairwise import (
    DPO_LOSSES,
    aot_loss,
    aot_matches,
    cpo_loss,
    ipo_loss,
    odds_ratio_loss,
    simpo_loss,
)
from easyrlhf.losses.soft_labels import soft_label_loss
from easyrlhf.models.flat_rows import sent
from easyrlhf.models.logprobs import sequence_logprobs
from easyrlhf.models.parts import evaluating
from easyrlhf.offline.loop import Row, Task, mean_metrics, pair_group
from easyrlhf.offline.pair_metrics import concluded, pair_metrics, probabilities
from easyrlhf.offline.reference import PAIR, ReferenceQuestion, RowsWithReference, all_logprobs, reference_columns
from easyrlhf.report.console import Console
from easyrlhf.run.run import Run
from easyrlhf.run.step_end import Advance
from easyrlhf.stages.checks import check_held_out_pairs, check_parent, check_positions, require_policy_tokenizer
from easyrlhf.stages.models import load_lm, load_trained_lm, save_trained_lm, spread_first
from easyrlhf.stages.offline import OfflineStage, train_offline


def train_dpo(config: DPOConfig) -> Path:
    """Direct preference optimisation (Rafailov et al. 2023) and the losses of its family; see train_offline."""
    return train_offline(config, DPO)


def train_ipo(config: IPOConfig) -> Path:
    """Identity preference optimisation (Azar et al. 2024) on mean log-ratios; see train_offline."""
    return train_offline(config, IPO)


def train_orpo(config: ORPOConfig) -> Path:
    """Odds-ratio preference optimisation (Hong et al. 2024), which needs no reference; see train_offline."""
    return train_offline(config, ORPO)


def train_simpo(config: SimPOConfig) -> Path:
    """Simple preference optimisation (Meng et al. 2024), which needs no reference; see train_offline."""
    return train_offline(config, SIMPO)


def train_cpo(config: CPOConfig) -> Path:
    """Contrastive preference optimisation (Xu et al. 2024), which needs no reference; see train_offline."""
    return train_offline(config, CPO)


def comparing(title: str, losses: Callable) -> OfflineStage:
    """A stage that learns from comparisons by these losses."""
    task = partial(pair_task, losses=losses)
    return preference_stage(title, "comparison", task, check=check_pairs, question=PAIR)


def preference_stage(
    title: str, kind: str, task: Callable, check: Callable | None = None, question: ReferenceQuestion | None = None
) -> OfflineStage:
    """An alignment stage: it trains a language model on rows of this kind, of which a reference is asked this."""
    return OfflineStage(
        title=title,
        kind=kind,
        model=lambda run, renderer: load_trained_lm(run, renderer, run.config.model),
        task=task,
        save=save_trained_lm,
        join=asking_reference(question),
        check=check or check_reference,
    )


# --- the reference


def check_reference(
    config: PreferenceConfig, renderer: Renderer, data: dict[str, TokenData | None], console: Console
) -> None:
    """Raise InputError unless the reference, where there is another than the starting model, reads the same tokens."""
    if isinstance(config, ReferenceConfig) and config.ref_model != config.model:
        check_parent("--ref_model", config.ref_model, config)
        check_positions("--ref_model", config.ref_model, config)
        require_policy_tokenizer("--ref_model", config.ref_model, config, renderer)


def check_pairs(
    config: PreferenceConfig, renderer: Renderer, data: dict[str, TokenData | None], console: Console
) -> None:
    """As check_reference; raise InputError also for soft labels where the method takes none, and for ties alone."""
    check_reference(config, renderer, data, console)
    check_held_out_pairs(config, data)
    if not config.matches_batches:
        return
    for name, part in data.items():
        labels = np.array(part.rows["chosen_probability"][:]) if part else np.ones(0)
        if (soft := np.flatnonzero(labels < 1)).size:
            raise InputError(
                f"--loss_type {config.loss_type}: {name}: {soft.size:,} of {len(labels):,} pairs have a "
                f"chosen_probability below 1 (the first in {part.rows[int(soft[0])]['source']}); this loss, which "
                "compares the pairs of a batch by their ranks, has no form for them. Use another loss_type, or take "
                "the key out with --field chosen_probability="
            )


def asking_reference(question: ReferenceQuestion | None) -> Callable[..., RowsWithReference]:
    """What joins rows with the reference's answers to a question, for methods that have a reference.

    The reference is the model as it starts, so it takes no memory of its own unless the settings name another.
    """

    def join(
        run: Run, renderer: Renderer, lm: nn.Module, rows: Dataset, numbers: np.ndarray, console: Console
    ) -> RowsWithReference:
        config, joined = run.config, RowsWithReference(rows, question)
        if isinstance(config, ReferenceConfig):
            if config.ref_model != config.model:
                lm = load_lm(run, renderer, config.ref_model).requires_grad_(False)
                lm = spread_first(run, lm, config.ref_model)
            budget, share = run.micro_batch_tokens, config.share_prefix
            joined.numbers = reference_columns(lm, joined, numbers, budget, share, console)
        return joined

    return join


# --- comparisons


@dataclass(frozen=True)
class Side:
    """One side of N comparisons.

    logprobs   [N]  summed over each completion, under the policy
    lengths    [N]  tokens of each completion
    reference  [N]  summed over each completion, under the reference; 0 where there is none
    """

    logprobs: Tensor
    lengths: Tensor
    reference: Tensor

    @property
    def means(self) -> Tensor:
        """Log-probability a token.  [N]"""
        return self.logprobs / self.lengths

    @property
    def logratios(self) -> Tensor:
        """log policy − log reference, summed.  [N]"""
        return self.logprobs - self.reference

    @property
    def mean_logratios(self) -> Tensor:
        """log policy − log reference a token.  [N]"""
        return self.logratios / self.lengths


@dataclass(frozen=True)
class Losses:
    """What a method says of N comparisons: the loss of each, and the implicit rewards of both sides, each [N]."""

    loss: Tensor
    chosen: Tensor
    rejected: Tensor


@dataclass(frozen=True)
class Labels:
    """What is known of N comparisons beside their log-probabilities.

    probability  [N]  how surely chosen is the better one, on the CPU
    matched      [N]  the reference's value that aot compares with; 0 elsewhere
    """

    probability: Tensor
    matched: Tensor


def dpo_losses(config: DPOConfig, chosen: Side, rejected: Side, labels: Labels) -> Losses:
    """Of summed log-ratios."""
    if config.loss_type == "aot":
        difference = chosen.logprobs - rejected.logprobs
        loss = aot_loss(difference, labels.matched, config.beta, config.label_smoothing)
    else:
        of = partial(DPO_LOSSES[config.loss_type], beta=config.beta, label_smoothing=config.label_smoothing)
        loss = soft_label_loss(of, chosen.logratios, rejected.logratios, labels.probability)
    return Losses(loss, config.beta * chosen.logratios, config.beta * rejected.logratios)


def ipo_losses(config: IPOConfig, chosen: Side, rejected: Side, labels: Labels) -> Losses:
    """Of mean log-ratios."""
    of = partial(ipo_loss, beta=config.beta)
    loss = soft_label_loss(of, chosen.mean_logratios, rejected.mean_logratios, labels.probability)
    return Losses(loss, config.beta * chosen.logratios, config.beta * rejected.logratios)


def orpo_losses(config: ORPOConfig, chosen: Side, rejected: Side, labels: Labels) -> Losses:
    """Of mean log-probabilities."""
    loss = config.beta * soft_label_loss(odds_ratio_loss, chosen.means, rejected.means, labels.probability)
    return Losses(loss, config.beta * chosen.means, config.beta * rejected.means)


def simpo_losses(config: SimPOConfig, chosen: Side, rejected: Side, labels: Labels) -> Losses:
    """Of mean log-probabilities."""
    of = partial(simpo_loss, beta=config.beta, gamma=config.simpo_gamma)
    loss = soft_label_loss(of, chosen.means, rejected.means, labels.probability)
    return Losses(loss, config.beta * chosen.means, config.beta * rejected.means)


def cpo_losses(config: CPOConfig, chosen: Side, rejected: Side, labels: Labels) -> Losses:
    """Of summed log-probabilities."""
    of = partial(cpo_loss, beta=config.beta, label_smoothing=config.label_smoothing)
    loss = soft_label_loss(of, chosen.logprobs, rejected.logprobs, labels.probability)
    return Losses(loss, config.beta * chosen.logprobs, config.beta * rejected.logprobs)


def pair_task(lm: nn.Module, run: Run, losses: Callable) -> Task:
    """What a method that learns from comparisons plugs into the offline loop."""
    config, device = run.config, run.device

    def prepare(rows: list[Row]) -> list[Row]:
        """Rows with what they need to know of their optimiser batch."""
        tokens = sum(len(row["chosen_ids"]) for row in rows)
        share = config.sft_weight * sum(row["weight"] for row in rows) / tokens
        rows = [row | {"sft_share": share} for row in rows]
        if not config.matches_batches:
            return rows
        now = all_logprobs(lm, list(map(pair_group, rows)), run.micro_batch_tokens, config.share_prefix)
        then = torch.tensor([row["ref_chosen"] - row["ref_rejected"] for row in rows], dtype=torch.float64)
        matches = aot_matches(torch.tensor(now[:, 0] - now[:, 1]), then)
        return [row | {"matched": float(match)} for row, match in zip(rows, matches, strict=True)]

    def side_of(rows: list[Row], side: str, logprobs: Tensor) -> Side:
        lengths = sent(torch.tensor([len(row[f"{side}_ids"]) for row in rows]), device)
        return Side(logprobs, lengths, column(rows, f"ref_{side}", device))

    def pair_loss(rows: list[Row]) -> tuple[Tensor, dict[str, Tensor]]:
        both = sequence_logprobs(lm, list(map(pair_group, rows)), config.share_prefix).view(-1, 2)
        chosen, rejected = (side_of(rows, *side) for side in zip(("chosen", "rejected"), both.unbind(1), strict=True))
        labels = Labels(probabilities(rows), column(rows, "matched", device))
        found = losses(config, chosen, rejected, labels)
        weight = column(rows, "weight", device)
        # A tie is no answer to imitate, a sure label is one as a whole: 2p − 1 of what chosen wins is not also lost.
        imitated = (sent(2 * labels.probability - 1, device) * chosen.logprobs).sum()
        total = (weight * found.loss).sum() - rows[0]["sft_share"] * imitated
        return total, pair_metrics(found.chosen, found.rejected, weight, labels.probability) | {
            "logps/chosen": (weight * chosen.means.detach()).sum(),
            "logps/rejected": (weight * rejected.means.detach()).sum(),
        }

    task = Task(
        units=lambda row: row["weight"],
        tokens=lambda row: 2 * row["length"],
        loss=pair_loss,
        evaluate=lambda rows, advance: evaluate_rows(lm, run, rows, task, advance),
        prepare=prepare,
        conclude=concluded,
    )
    return task


def column(rows: list[Row], name: str, device: torch.device) -> Tensor:
    """A number of every row, 0 where it has none.  [N] float32"""
    return sent(torch.tensor([row.get(name, 0.0) for row in rows], dtype=torch.float32), device)


def evaluate_rows(lm: nn.Module, run: Run, rows: RowsWithReference, task: Task, advance: Advance) -> dict[str, float]:
    """Loss and metrics of held-out rows, in batches as large as the optimiser's."""
    with torch.no_grad(), evaluating(lm):
        found = mean_metrics(task, rows, run.config.batch_size, run.micro_batch_tokens, advance)
    return {f"eval/{name}": value for name, value in found.items()}


# --- the stages

DPO, IPO = comparing("DPO", dpo_losses), comparing("IPO", ipo_losses)
ORPO, SIMPO, CPO = comparing("ORPO", orpo_losses), comparing("SimPO", simpo_losses), comparing("CPO", cpo_losses)
