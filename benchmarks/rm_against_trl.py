"""rm_train against TRL's RewardTrainer: the same comparisons, initial weights, order, epochs and learning rate.

    python benchmarks/rm_against_trl.py --data hh-rlhf/helpful-base/test.jsonl.gz,hh-rlhf/harmless-base/test.jsonl.gz

(`easyrlhf data download hh-rlhf` gets the files.) A fifth of the conversations is held out; those that open alike stay
together. A small model learns all chosen answers of the rest. For each file it gets a random score head and is fitted
twice: by the stage of rm_train, and by RewardTrainer, which is given a copy of those very weights and the stage's token
ids in the stage's order. First for 20 steps, after which every held-out margin (score of the chosen minus that of the
rejected answer) must agree to 1e-4. Then for an epoch: the 95 % interval of the difference of the held-out accuracies,
taken pair by pair, must hold 0. About 10 minutes on one free core. The seconds are those of the two training loops, one
after the other on whatever else the machine does, RewardTrainer with whole batches: no claim about speed.
"""

import json
import math
import random
import sys
from collections import defaultdict
from collections.abc import Callable
from contextlib import redirect_stdout
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import click
import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel
from trl import RewardConfig, RewardTrainer

from easyrlhf.config import InitConfig, RMConfig, SFTConfig
from easyrlhf.data.batches import pad_right, within_budget
from easyrlhf.data.kinds import as_kind
from easyrlhf.data.ledger import Ledger
from easyrlhf.data.reader import read_records
from easyrlhf.data.records import Comparison
from easyrlhf.data.sources import open_sources
from easyrlhf.data.tokenizer import load_tokenizer
from easyrlhf.engine.device import choose_threads
from easyrlhf.models.folder import load_scalar_model
from easyrlhf.offline.loop import planned_batches, planned_steps
from easyrlhf.report.log import METRICS_FILE, read_rows
from easyrlhf.report.rm_eval import wilson
from easyrlhf.stages.offline import train_offline
from easyrlhf.stages.rm import RM
from easyrlhf.stages.sft import train_sft
from easyrlhf.tools.exporting.classifier import as_classifier
from easyrlhf.tools.init import init_model
from easyrlhf.userfile import load_module

report = load_module(Path(__file__).parent.parent / "scripts" / "quickstart_report.py")

IDENTICAL_STEPS, HELD_OUT = 20, 0.2
COMMON = {"max_length": 512, "max_prompt_length": 448, "devices": "cpu", "report_to": "none", "save_steps": 0}
SPLITS = ("train", "valid")
HEADER = (
    "| file | steps | mean size of a margin | largest Δ margin | largest Δ loss | accuracy of rm_train | "
    "of RewardTrainer | difference | pairs judged otherwise | seconds of each |"
)


@dataclass(frozen=True)
class Start:
    """What both sides begin with: the initial model as a sequence classifier, and the stage's token rows.

    The stage's head has a bias besides, which moves the two scores of a pair alike and no margin.
    """

    classifier: PreTrainedModel
    train: Dataset
    valid: Dataset


@dataclass(frozen=True)
class Fitted:
    """One side's result: score of the chosen minus that of the rejected answer, and what the training logged.

    margins  [N]      of the held-out pairs
    losses   [steps]  of every step's batch before its update
    """

    margins: np.ndarray
    losses: np.ndarray
    seconds: float


@click.command(help=__doc__)
@click.option("--data", required=True, help="Comparisons: files, separated by commas.")
@click.option("--output_dir", type=click.Path(path_type=Path), default="outputs/rm_against_trl", show_default=True)
@click.option("--batch_size", default=16, show_default=True)
@click.option("--learning_rate", default=5e-4, show_default=True)
@click.option("--share_prefix", default="off", show_default=True, help="rm_train's setting: RewardTrainer has none.")
def main(data: str, output_dir: Path, **settings):
    """Split, make the initial model, fit it four times on each file; print a line for each length of training."""
    choose_threads(torch.device("cpu"), 0)
    with redirect_stdout(sys.stderr):
        folders = split(data, output_dir)
        make_model(output_dir, folders)
    print(HEADER + "\n" + "|---" * (HEADER.count("|") - 1) + "|", flush=True)
    for name, folder in folders.items():
        for max_steps in (IDENTICAL_STEPS, None):
            with redirect_stdout(sys.stderr):
                config = settings_of(folder, output_dir / "sft", max_steps=max_steps, **settings)
                ours, start = fitted_by_stage(config)
                theirs = fitted_by_trl(config, start)
            print(line([name, *cells(ours, theirs)]), flush=True)


def split(data: str, output_dir: Path) -> dict[str, Path]:
    """Write train.jsonl and valid.jsonl of each file; no conversation opens as one on the other side, in any file.

    returns the files' names → folders
    """
    folders, together = {}, defaultdict(list)
    for number, source in enumerate(open_sources(data)):
        folder = folders[source.name] = output_dir / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        ledger = Ledger("all", folder / "bad_rows.jsonl")
        for record, _ in read_records(source, "comparison", ledger, format=None, on_bad_row="stop"):
            opening = record.prompt if isinstance(record.prompt, str) else record.prompt[0]["content"]
            together[opening] += [(folder, pair) for pair in as_kind(record, "comparison")]
    groups = [group for _, group in sorted(together.items())]
    random.Random(0).shuffle(groups)
    cut = round(len(groups) * HELD_OUT)
    for name, part in (("valid", groups[:cut]), ("train", groups[cut:])):
        for folder in folders.values():
            write(folder / f"{name}.jsonl", [pair for group in part for its, pair in group if its == folder])
    return folders


def write(file: Path, pairs: list[Comparison]) -> None:
    """Comparisons as rows of prompt, chosen and rejected."""
    rows = [{name: getattr(pair, name) for name in ("prompt", "chosen", "rejected")} for pair in pairs]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def make_model(output_dir: Path, folders: dict[str, Path]) -> None:
    """Leave in `sft` a small random model that has seen the chosen answers of all training pairs."""
    init, sft = str(output_dir / "init"), str(output_dir / "sft")
    again = {"train_data": ",".join(str(folder / "train.jsonl") for folder in folders.values()), "overwrite": True}
    init_model(InitConfig(output_dir=init, vocab_size=4096, **again))
    train_sft(SFTConfig(model=init, output_dir=sft, epochs=2, batch_size=32, learning_rate=2e-3, **again, **COMMON))


def settings_of(folder: Path, model: Path, **changed) -> RMConfig:
    """The settings of rm_train for the pairs of a folder, in float32; those of RewardTrainer follow from them."""
    names = {"train_data": "train.jsonl", "valid_data": "valid.jsonl", "output_dir": "rm"}
    paths = {name: str(folder / file) for name, file in names.items()} | {"model": str(model)}
    return RMConfig(**paths, precision="float32", eval_steps=0, overwrite=True, **COMMON | changed).resolved()


def fitted_by_stage(config: RMConfig) -> tuple[Fitted, Start]:
    """Run the stage of rm_train; copies of what it begins with, for the other side."""
    found = []

    def model(run, renderer):
        built = RM.model(run, renderer)
        rows = [Dataset.from_list(Dataset.from_file(str(run.cache / f"{name}.arrow")).to_list()) for name in SPLITS]
        found.append(Start(as_classifier(deepcopy(built), 0.0, config.model), *rows))
        return built

    folder = train_offline(config, replace(RM, model=model))
    trained = load_scalar_model(str(folder), load_tokenizer(str(folder)), dtype=torch.float32).eval()

    def scores(input_ids, mask):
        return trained.scores(input_ids, mask.sum(1))

    logged = read_rows(folder / METRICS_FILE)
    losses, seconds = (np.array([entry[name] for entry in logged]) for name in ("loss", "time/step"))
    return Fitted(margins_of(found[0], scores), losses, seconds.sum()), found[0]


def fitted_by_trl(config: RMConfig, start: Start) -> Fitted:
    """Train a sequence classifier on the same batches by RewardTrainer, from the stage's settings."""
    steps = planned_steps(config, len(start.train))
    order = np.concatenate(list(planned_batches(config, len(start.train))))
    trainer = RewardTrainer(
        model=start.classifier,
        args=trl_settings(config, steps),
        train_dataset=joined(start.train.select(order)),
        processing_class=load_tokenizer(config.model),
    )
    seconds = trainer.train().metrics["train_runtime"]
    losses = np.array([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    return Fitted(margins_of(start, scores_by(trainer.model)), losses, seconds)


def scores_by(classifier: PreTrainedModel) -> Callable[[Tensor, Tensor], Tensor]:
    """How transformers itself scores a batch of right-padded sequences, given their mask."""
    return lambda input_ids, mask: classifier.eval()(input_ids=input_ids, attention_mask=mask).logits.squeeze(-1)


def trl_settings(config: RMConfig, steps: int) -> RewardConfig:
    """The stage's settings in the words of TRL: rows as they come, a whole batch in one pass, float32, no dropout."""
    same = ("learning_rate", "weight_decay", "max_grad_norm", "seed")
    return RewardConfig(
        **{name: getattr(config, name) for name in same},
        output_dir=str(Path(config.output_dir).with_name("trl")),
        max_steps=steps,
        per_device_train_batch_size=config.batch_size,
        train_sampling_strategy="sequential",
        optim="adamw_torch",
        adam_epsilon=config.adam_eps,
        lr_scheduler_type=config.lr_scheduler,
        warmup_steps=math.floor(config.warmup_ratio * steps),
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
    )


def joined(rows: Dataset) -> Dataset:
    """The stage's rows as RewardTrainer's: each side with its prompt."""
    sides = ("chosen_ids", "rejected_ids")
    return Dataset.from_list([{side: row["prompt_ids"] + row[side] for side in sides} for row in rows])


@torch.no_grad()
def margins_of(start: Start, scores: Callable[[Tensor, Tensor], Tensor]) -> np.ndarray:
    """Score of the chosen minus score of the rejected answer of every held-out pair.  [N]

    scores  (right-padded ids, mask), each [B, S] → [B]
    """
    pairs, pad_id = joined(start.valid).to_list(), start.classifier.config.pad_token_id
    margins = np.zeros(len(pairs))
    for group in within_budget([2 * length for length in start.valid["length"]], report.TOKENS):
        ids = [pairs[i][side] for side in ("chosen_ids", "rejected_ids") for i in group]
        chosen, rejected = scores(pad_right(ids, pad_id), pad_right([[1] * len(one) for one in ids])).chunk(2)
        margins[group] = (chosen - rejected).numpy()
    return margins


def cells(ours: Fitted, theirs: Fitted) -> list:
    """The comparison of one length of training, in the order of the header."""
    count, right = len(ours.margins), [(np.sign(one.margins) + 1) / 2 for one in (ours, theirs)]  # a tie: one half
    low, high = report.interval(right[0] - right[1])["ci95"]
    return [
        len(ours.losses),
        f"{np.abs(ours.margins).mean():.2f}",
        f"{np.abs(ours.margins - theirs.margins).max():.1e}",
        f"{np.abs(ours.losses - theirs.losses).max():.1e}",
        *("{:.3f} ({:.3f} to {:.3f})".format(one.mean(), *wilson(one.sum(), count)) for one in right),
        f"{(right[0] - right[1]).mean():+.4f} ({low:+.4f} to {high:+.4f})",
        f"{(right[0] != right[1]).sum()} of {count}",
        f"{ours.seconds:.0f}, {theirs.seconds:.0f}",
    ]


def line(cells: list) -> str:
    """Cells as one line of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    main()
