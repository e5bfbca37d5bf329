"""TRL's side of the offline measures: its trainers with the flags that make them fastest."""

import gc
from collections.abc import Callable

from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.trainer import Trainer
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, RewardConfig, RewardTrainer, SFTConfig, SFTTrainer

from speed.turns import Turns
from speed.world import words


def load(folder: str):
    """The model of a folder in float32: bf16 is autocast, as TRL does it."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype="float32")


def demonstrations(rows: list[dict]) -> Dataset:
    """Rows of sft_train as SFTTrainer's."""
    return Dataset.from_list([{"input_ids": row["input_ids"], "length": row["length"]} for row in rows])


def joined(rows: list[dict]) -> Dataset:
    """Comparisons as RewardTrainer's: each side with its prompt."""
    sides = ("chosen_ids", "rejected_ids")
    return Dataset.from_list(
        [{side: row["prompt_ids"] + row[side] for side in sides} | {"length": row["length"]} for row in rows]
    )


def texts(rows: list[dict], *names: str) -> Dataset:
    """Rows as DPOTrainer and KTOTrainer take them: texts, of these columns of ids, and whatever else is of use."""

    def told(row: dict) -> dict:
        answers = {name: " " + words(row[f"{name}_ids"]) for name in names}
        return answers | {"prompt": words(row["prompt_ids"]), "length": row["length"]}

    return Dataset.from_list([told(row) | {key: row[key] for key in ("label",) if key in row} for row in rows])


def sft(folder: str, rows: list[dict], **settings) -> SFTTrainer:
    """SFTTrainer on demonstrations."""
    return make(SFTTrainer, SFTConfig, load(folder), demonstrations(rows), folder, settings)


def rm(folder: str, rows: list[dict], classifier, **settings) -> RewardTrainer:
    """RewardTrainer on comparisons, around this sequence classifier."""
    return make(RewardTrainer, RewardConfig, classifier, joined(rows), folder, settings)


def dpo(folder: str, rows: list[dict], **settings) -> DPOTrainer:
    """DPOTrainer on comparisons; the reference's log-probabilities are computed before the training."""
    data = texts(rows, "chosen", "rejected")
    return make(DPOTrainer, DPOConfig, load(folder), data, folder, settings | {"precompute_ref_log_probs": True})


def kto(folder: str, rows: list[dict], **settings) -> KTOTrainer:
    """KTOTrainer on single answers; the reference's log-probabilities are computed before the training."""
    data = texts(rows, "completion")
    return make(KTOTrainer, KTOConfig, load(folder), data, folder, settings | {"precompute_ref_log_probs": True})


def make(trainer_class, config_class, model, data: Dataset, folder: str, settings: dict) -> Trainer:
    """A trainer that says how many real tokens it computed in each step, and how many with padding."""
    gc.collect()  # the trainer before this one is held by cycles, and its weights with it
    trainer = trainer_class(
        model=model,
        args=config_class(**settings),
        train_dataset=data,
        processing_class=AutoTokenizer.from_pretrained(folder),
    )
    trainer.tokens = TokenCount()
    trainer.compute_loss = trainer.tokens.around(trainer.compute_loss)
    return trainer


class TokenCount:
    """Real and padded tokens of what went through a trainer's compute_loss.

    They stay where they are counted until somebody asks: to read them earlier would make a GPU's step wait.
    """

    def __init__(self):
        self.step = self.real = self.padded = 0

    def around(self, compute_loss: Callable) -> Callable:
        """compute_loss, counted."""

        def counted(model, inputs, *args, **kwargs):
            padded = inputs["input_ids"].numel()
            real = inputs["attention_mask"].sum() if "attention_mask" in inputs else padded  # packed: no padding
            self.step, self.real, self.padded = self.step + real, self.real + real, self.padded + padded
            return compute_loss(model, inputs, *args, **kwargs)

        return counted

    def take(self) -> int:
        """Real tokens since the last time."""
        taken, self.step = self.step, 0
        return int(taken)

    @property
    def fill(self) -> float:
        """Share of real tokens in everything computed."""
        return int(self.real) / self.padded


def loss_and_norm(trainer: Trainer, features: list[dict], change: Callable[[dict], dict] = lambda inputs: inputs):
    """Loss and norm of the gradient of the peer's own batch of these features, before it is trained."""
    trainer.model.train()
    inputs = change(trainer._prepare_inputs(trainer.data_collator(features)))
    loss = trainer.compute_loss(trainer.model, inputs)
    loss.backward()
    norm = sum(p.grad.norm() ** 2 for p in trainer.model.parameters() if p.grad is not None) ** 0.5
    trainer.model.zero_grad()
    trainer.tokens.__init__()
    return loss.item(), norm.item()


def turns(trainer: Trainer, ours: Callable[[], float]) -> Turns:
    """Train, our steps in between."""
    callback = Turns(ours, trainer.tokens.take)
    trainer.add_callback(callback)
    trainer.train()
    return callback
