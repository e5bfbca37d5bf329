"""S1, S2, R1, R2, D1, K1: the stages that learn from fixed data, beside TRL's trainers."""

import tempfile
from copy import deepcopy
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

from easyrlhf.config import DPOConfig, KTOConfig, RMConfig, SFTConfig
from easyrlhf.tools.exporting.classifier import as_classifier
from speed import ours, peers, roofline, world
from speed.measure import Options, require_equal
from speed.results import Result, best_of
from speed.settings import LEARNING_RATE, common

CONFIGS = {"sft": SFTConfig, "rm": RMConfig, "dpo": DPOConfig, "kto": KTOConfig}
LONGEST, MEAN = 512, 160  # tokens of a demonstration
TOTAL = 240  # tokens of a prompt and one answer, on average
STRATEGIES = ("random", "group_by_length")  # orders of a peer's rows; the better of them counts
SHIFT = 1.02  # what the reference says is multiplied by this: else a first DPO loss is ln 2 whatever is done


class Case:
    """A stage on rows, and the trainers of TRL that it is measured against.

    batch  rows of an optimiser step, on both sides
    """

    def __init__(self, options: Options, stage: str, rows: list[dict], batch: int, precision: str = ""):
        self.options, self.stage, self.rows, self.batch = options, stage, rows, batch
        self.precision = precision or options.precision
        self.scratch = tempfile.TemporaryDirectory()
        self.folder = world.make_model(Path(self.scratch.name) / "model", options.shape)
        config = CONFIGS[stage](
            train_data="rows",
            model=self.folder,
            output_dir=f"{self.folder}-ours",
            batch_size=batch,
            learning_rate=LEARNING_RATE,
            precision=self.precision,
            devices=options.devices,
            report_to="none",
        )
        self.side = ours.OfflineSide(config, rows)

    def flags(self, per_pass: int, passes: int | None = None, **more) -> dict:
        """Settings of a peer that takes as many rows an optimiser step, `per_pass` of its own rows in a pass."""
        accumulated = {"per_device_train_batch_size": per_pass}
        accumulated["gradient_accumulation_steps"] = passes or self.batch // per_pass
        told = {"max_steps": self.options.pairs + 1, "bf16": self.precision == "bf16"}
        told |= {"remove_unused_columns": False}  # lengths are for grouping
        return common(self.options.device, f"{self.folder}-trl", **accumulated, **told, **more)

    def require_equal(self, trainer, features: list[dict], rows: list[dict], change=lambda inputs: inputs) -> None:
        """Raise unless loss and gradient of our rows are those of the peer's features."""
        sides = self.side.loss_and_norm(rows), peers.loss_and_norm(trainer, features, change)
        for name, mine, other in zip(("loss", "norm of the gradient"), *sides, strict=True):
            require_equal(name, mine, other, self.precision)

    def against(self, trainer, what: str, unit: str, target: float) -> Result:
        """Take turns with a peer. Rates are of real tokens; a unit is as many of them as in the rows' mean."""
        each = 1 if unit == "tokens/s" else ours.real_tokens(self.rows) / len(self.rows)
        peak = self.product_speed()
        found = peers.turns(trainer, self.side.step).paired.as_result(1 / each)
        peak = max(peak, self.product_speed())  # what else the machine does may have met one of them
        utilisation = self.work and found["ours"] * each * self.work / peak
        shares = {"fill": trainer.tokens.fill, "utilisation": utilisation}
        what = f"{what}; {self.options.lengths} lengths"
        return Result(what, unit, **found, target=target, **shares, **self.options.how(self.precision))

    @property
    def work(self) -> float | None:
        """Floating-point operations of a real token that cannot be spared: every prompt counts once. None for KTO."""
        if self.stage == "kto":
            return None
        work = sum(roofline.row_flops(self.options.shape, row, head=self.stage != "rm") for row in self.rows)
        return work / ours.real_tokens(self.rows)

    def product_speed(self) -> float:
        """Floating-point operations a second of a matrix product."""
        return roofline.product_speed(self.side.run.dtype, self.side.run.device)


def sft_case(options: Options, precision: str) -> Case:
    """Demonstrations of 160 tokens on average, up to 512."""
    batch = 32
    rows = world.lengths(batch * (options.pairs + 1), MEAN, LONGEST, skewed=options.skewed)
    return Case(options, "sft", world.demonstrations(options.shape, rows), batch, precision)


def sft_padded(case: Case, target: float) -> Result:
    """Against SFTTrainer with padded batches."""
    trainer = peers.sft(case.folder, case.rows, **case.flags(8))
    case.require_equal(trainer, list(ours.first(trainer.train_dataset, 8)), ours.first(case.side.rows, 8))
    return case.against(trainer, "SFT against SFTTrainer, padded", "tokens/s", target)


def sft_packed(case: Case, target: float) -> Result:
    """Against SFTTrainer with packed rows, its best."""
    batch = 2 * round(case.batch * MEAN / LONGEST / 2)  # packed rows

    def against(per_pass: int) -> Result:
        flags = case.flags(per_pass, batch // per_pass, packing=True, packing_strategy="bfd", max_length=LONGEST)
        trainer = peers.sft(case.folder, case.rows, **flags)
        packed = trainer.train_dataset[0]
        case.require_equal(trainer, [packed], parts(packed))
        return case.against(trainer, "SFT against SFTTrainer, packed", "tokens/s", target)

    return best_of(map(against, case.options.rows_of_a_pass(2, batch)))


def parts(packed: dict) -> list[dict]:
    """The demonstrations in a packed row of TRL's."""
    rows, start = [], 0
    for length in packed["seq_lengths"]:
        ids = packed["input_ids"][start : start + length]
        rows.append({"input_ids": ids, "loss_mask": [0] + [1] * (length - 1), "length": length})
        start += length
    return rows


def s1(options: Options) -> list[Result]:
    """SFT in float32."""
    case = sft_case(options, "float32")
    return [sft_padded(case, 3.0), sft_packed(case, 1.2)]


def s2(options: Options) -> list[Result]:
    """SFT in bf16."""
    return [sft_packed(sft_case(options, "bf16"), 1.5)]


def reward_model(options: Options, name: str, share: float, target: float) -> Result:
    """Reward modelling on comparisons of which `share` is the prompt, against RewardTrainer."""
    batch = 16
    rows = world.comparisons(options.shape, batch * (options.pairs + 1), TOTAL, share, options.spread)
    case = Case(options, "rm", rows, batch)

    def against(strategy: str, per_pass: int) -> Result:
        classifier = as_classifier(deepcopy(case.side.model), 0.0, case.folder).float()  # bf16 is autocast there
        trainer = peers.rm(case.folder, rows, classifier, **case.flags(per_pass, train_sampling_strategy=strategy))
        case.require_equal(trainer, list(ours.first(trainer.train_dataset, 4)), ours.first(case.side.rows, 4))
        what = f"reward model, prompt:completion {name}, against RewardTrainer ({strategy})"
        return case.against(trainer, what, "pairs/s", target)

    return best_of(against(*how) for how in product(STRATEGIES, options.rows_of_a_pass(4, batch)))


def r1(options: Options) -> list[Result]:
    """Long prompts."""
    return [reward_model(options, "4:1", 4 / 5, 1.5)]


def r2(options: Options) -> list[Result]:
    """Prompts as long as the answers, and short ones."""
    return [reward_model(options, "1:1", 1 / 2, 1.25), reward_model(options, "1:4", 1 / 5, 0.98)]


def d1(options: Options) -> list[Result]:
    """DPO on comparisons with long prompts, against DPOTrainer; the reference is computed before, on both sides."""
    batch = 8
    rows = world.comparisons(options.shape, batch * (options.pairs + 1), TOTAL, 4 / 5, options.spread)
    case = Case(options, "dpo", rows, batch)
    names = ("ref_chosen", "ref_rejected")
    moved = [row | {name: row[name] * SHIFT for name in names} for row in ours.first(case.side.rows, 4)]
    shift = partial(shifted, names=("ref_chosen_logps", "ref_rejected_logps"))

    def against(strategy: str, per_pass: int) -> Result:
        trainer = peers.dpo(case.folder, rows, **case.flags(per_pass, train_sampling_strategy=strategy))
        case.require_equal(trainer, list(ours.first(trainer.train_dataset, 4)), moved, shift)
        return case.against(trainer, f"DPO, 4:1, against DPOTrainer ({strategy})", "pairs/s", 1.6)

    return [best_of(against(*how) for how in product(STRATEGIES, options.rows_of_a_pass(4, batch)))]


def shifted(inputs: dict, names: tuple[str, ...]) -> dict:
    """A peer's batch with the reference's log-probabilities moved."""
    return inputs | {name: inputs[name] * SHIFT for name in names}


def k1(options: Options) -> list[Result]:
    """KTO on single answers, against KTOTrainer, which has no other order than the rows' own."""
    batch, names = 16, ("ref_completion", "ref_other")
    shift = partial(shifted, names=("ref_logps", "ref_KL_logps"))

    def against(per_pass: int) -> Result:
        rows = world.feedback(options.shape, batch * (options.pairs + 1), TOTAL, 1 / 2, per_pass, options.spread)
        case = Case(options, "kto", rows, batch)
        trainer = peers.kto(case.folder, rows, **case.flags(per_pass))
        moved = [row | {name: row[name] * SHIFT for name in names} for row in ours.first(case.side.rows, per_pass)]
        case.require_equal(trainer, list(ours.first(trainer.train_dataset, per_pass)), moved, shift)
        return case.against(trainer, "KTO, 1:1, against KTOTrainer", "examples/s", 1.3)

    result = best_of(map(against, options.rows_of_a_pass(8, batch)))
    return [replace(result, note="the answers for its KL are computed besides, on both sides")]
