"""Learning from single answers, liked or not, without a reward model: kto on the offline loop."""

from pathlib import Path

import torch
from torch import Tensor, nn

from easyrlhf.config import KTOConfig
from easyrlhf.data.render import Renderer
from easyrlhf.data.tokens import TokenData, check_labels, label_counts
from easyrlhf.losses.kto import kto_kl, kto_loss
from easyrlhf.models.flat_rows import sent
from easyrlhf.models.logprobs import sequence_logprobs
from easyrlhf.models.prefix_sharing import PromptGroup
from easyrlhf.offline.loop import Row, Task
from easyrlhf.offline.reference import ReferenceQuestion, all_logprobs
from easyrlhf.report.console import Console
from easyrlhf.run.run import Run
from easyrlhf.stages.offline import train_offline
from easyrlhf.stages.preference import check_reference, column, evaluate_rows, preference_stage


def train_kto(config: KTOConfig) -> Path:
    """Kahneman-Tversky optimisation (Ethayarajh et al. 2024) on single answers; see train_offline."""
    return train_offline(config, KTO)


def check_feedback(config: KTOConfig, renderer: Renderer, data: dict[str, TokenData | None], console: Console) -> None:
    """Raise InputError when only one label is there; warn when the two kinds do not weigh alike."""
    check_reference(config, renderer, data, console)
    check_labels(data["train"].rows)
    liked, disliked = label_counts(data["train"].rows)
    ratio = config.desirable_weight * liked / (config.undesirable_weight * disliked)
    if not 1 <= ratio <= 4 / 3:
        fitting = config.undesirable_weight * disliked / liked
        console.warn(
            f"{liked:,} liked and {disliked:,} disliked answers, by their weights, are {ratio:.2f} to 1; KTO's paper "
            f"wants 1 to 1.33: --desirable_weight {fitting:.2g} to {fitting * 4 / 3:.2g} would fit"
        )


def answer_and_other(row: Row) -> PromptGroup:
    """A prompt with its answer and with one that belongs to another prompt."""
    return row["prompt_ids"], [row["completion_ids"], row["other_ids"]]


def kto_task(lm: nn.Module, run: Run) -> Task:
    """What kto plugs into the offline loop.

    The KL of the paper's reference point is estimated on prompts with answers that belong to other prompts, over the
    whole optimiser batch, before any of it is learned from.
    """
    config, device = run.config, run.device

    def prepare(rows: list[Row]) -> list[Row]:
        """Rows with the batch's KL, and with what makes sums over one label its mean."""
        mismatched = [(row["prompt_ids"], [row["other_ids"]]) for row in rows]
        now = all_logprobs(lm, mismatched, run.micro_batch_tokens)[:, 0]
        kl = kto_kl(torch.tensor(now) - torch.tensor([row["ref_other"] for row in rows])).item()
        count = {label: sum(row["label"] == label for row in rows) for label in (True, False)}
        return [row | {"kl": kl, "share": len(rows) / count[row["label"]]} for row in rows]

    def loss_sum(rows: list[Row]) -> tuple[Tensor, dict[str, Tensor]]:
        groups = [(row["prompt_ids"], [row["completion_ids"]]) for row in rows]
        logratios = sequence_logprobs(lm, groups) - column(rows, "ref_completion", device)
        desirable = sent(torch.tensor([row["label"] for row in rows]), device)
        weights = config.desirable_weight, config.undesirable_weight
        loss = kto_loss(logratios, desirable, column(rows, "kl", device), config.beta, *weights)
        rewards = config.beta * logratios.detach() * column(rows, "share", device)
        liked, disliked = (rewards * desirable).sum(), (rewards * ~desirable).sum()
        return loss.sum(), {
            "rewards/chosen": liked,
            "rewards/rejected": disliked,
            "rewards/margins": liked - disliked,
            "kl": column(rows, "kl", device).sum(),
        }

    task = Task(
        units=lambda row: 1,
        tokens=lambda row: row["length"],
        loss=loss_sum,
        evaluate=lambda rows, advance: evaluate_rows(lm, run, rows, task, advance),
        prepare=prepare,
    )
    return task


ANSWER = ReferenceQuestion(("ref_completion", "ref_other"), answer_and_other, partner="completion_ids")
KTO = preference_stage("KTO", "feedback", kto_task, check=check_feedback, question=ANSWER)
