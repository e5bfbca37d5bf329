"""easyrlhf's side of every measure: models, engines and steps of the stages. The one file that knows their insides."""

from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor

from easyrlhf.config import OnlineConfig, TrainConfig
from easyrlhf.data.render import Renderer
from easyrlhf.data.tokenizer import load_tokenizer
from easyrlhf.engine.choice import make_engine
from easyrlhf.engine.device import take_device
from easyrlhf.engine.engine import OptimiserSettings
from easyrlhf.offline.loop import Row, train_step
from easyrlhf.online.batch import collect_batch
from easyrlhf.online.state import LoopState
from easyrlhf.report.console import Console
from easyrlhf.rollout.ending import Ending
from easyrlhf.rollout.inverse_cdf import draw_tokens
from easyrlhf.rollout.sampler import HFSampler, Samples
from easyrlhf.run.claim import NEW
from easyrlhf.run.run import Run
from easyrlhf.run.signals import StopRequest
from easyrlhf.run.timer import Timer
from easyrlhf.stages import online
from easyrlhf.stages.kto import kto_task
from easyrlhf.stages.offline import OfflineStage
from easyrlhf.stages.preference import comparing, dpo_losses, preference_stage
from easyrlhf.stages.rm import RM
from easyrlhf.stages.sft import SFT

STAGES = {
    "sft": SFT,
    "rm": RM,
    "dpo": comparing("DPO", dpo_losses),
    "kto": preference_stage("KTO", "feedback", kto_task),
}
STEPS = 1000  # of the schedule: more than any measure takes


def open_stage(config: TrainConfig) -> tuple[Run, Renderer]:
    """A run in its folder, and its renderer, as a stage begins with them."""
    config = config.resolved()
    torch.manual_seed(config.seed)
    folder = Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    device = take_device(config.devices)
    return Run(config, folder, StopRequest(), NEW, device), Renderer(load_tokenizer(config.model))


class OfflineSide:
    """An offline stage at work on rows given as token ids."""

    def __init__(self, config: TrainConfig, rows: list[Row]):
        stage: OfflineStage = STAGES[config.stage]
        self.run, renderer = open_stage(config)
        self.model = stage.model(self.run, renderer)
        asked, console = (Dataset.from_list(rows), np.arange(len(rows))), Console(config.stage)
        self.rows = stage.join(self.run, renderer, self.model, *asked, console)
        settings = OptimiserSettings.of(self.run.config, STEPS)
        self.engine = make_engine(self.model, settings, self.run.zero, self.run.dtype)
        self.task = stage.task(self.model, self.run)
        self.batches = self._batches()

    def _batches(self) -> Iterator[list[Row]]:
        """Batches of the rows in their order, over and over."""
        while True:
            for start in range(0, len(self.rows), self.run.config.batch_size):
                yield [self.rows[i] for i in range(start, min(start + self.run.config.batch_size, len(self.rows)))]

    def step(self) -> float:
        """One optimiser step on the next batch; returns its real tokens."""
        rows = next(self.batches)
        train_step(self.engine, self.task, rows, self.run)
        return real_tokens(rows)

    def loss_and_norm(self, rows: list[Row]) -> tuple[float, float]:
        """Loss of the rows as one optimiser batch, and the norm of its gradient."""
        metrics = train_step(self.engine, self.task, rows, self.run)
        return metrics["loss"], metrics["grad_norm"]

    def forward_and_backward(self, rows: list[Row]) -> None:
        """The passes of one micro-batch without the optimiser's step."""
        self.task.loss(rows)[0].backward()
        for parameter in chain(self.model.parameters(), self.engine.masters.values()):
            parameter.grad = None


def real_tokens(rows: list[Row]) -> int:
    """Tokens of rows, padding apart; a prompt counts with each of its answers."""
    return sum(map(tokens_of, rows))


def tokens_of(row: Row) -> int:
    """Tokens of a demonstration, a comparison or an answer that was liked or not."""
    if "chosen_ids" in row:
        return 2 * len(row["prompt_ids"]) + len(row["chosen_ids"]) + len(row["rejected_ids"])
    return row["length"]


class OnlineSide:
    """An online stage at work: collect → estimate → update, as its loop does it."""

    def __init__(self, config: OnlineConfig, prompts: list[Row]):
        self.run, renderer = open_stage(config)
        cast = online.check_model_folders(self.run.config, renderer)
        self.online = online.build(self.run, renderer, cast, online.Plan(STEPS))
        self.prompts, self.at = Dataset.from_list(prompts), LoopState(self.run.config.kl_price)
        self.lengths: list[float] = []

    def step(self) -> float:
        """One rollout and its update; returns the completions sampled."""
        rollout = self.rollout()
        rollout = self.online.method.estimate(rollout, self.run.config, self.at.kl_coef)
        self.online.update(rollout, self.run.step)
        self.run.step += 1
        return len(rollout)

    def rollout(self):
        """Completions of the next prompts and what every model says of them; their mean length is noted."""
        rollout, _ = collect_batch(self.run, self.online, self.prompts, Timer(), self.at)
        self.lengths.append(rollout.lengths.float().mean().item())
        return rollout


class Sampling:
    """The sampler of the online stages around a language model."""

    def __init__(self, lm, tokenizer, limit: int, batch_size: int, temperature: float):
        ids = tokenizer.pad_token_id, Ending((tokenizer.eos_token_id,))
        self.sampler, self.calls = HFSampler(lm.eval(), *ids, limit, temperature, batch_size), 0

    def generate(self, prompts: list[list[int]]) -> Samples:
        """Answers to the prompts, others at each call."""
        self.calls += 1
        return self.sampler.generate(prompts, [(self.calls, row) for row in range(len(prompts))])


def draw_once(logits: Tensor) -> Tensor:
    """One sampling step.  [b]"""
    return draw_tokens(logits, torch.rand(len(logits), dtype=torch.float64, device=logits.device), 1.0)[0]


def first(rows, count: int) -> list[Row]:
    """The first rows, as lists of a stage's rows."""
    return list(islice((rows[i] for i in range(len(rows))), count))
