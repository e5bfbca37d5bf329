"""The alignment stages against TRL's trainers: same model, same batch, the same loss and the same gradients."""

from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from torch import tensor as T
from trl import DPOConfig as TRLDPOConfig
from trl import DPOTrainer, KTOTrainer
from trl import KTOConfig as TRLKTOConfig
from trl.experimental.cpo import CPOConfig as TRLCPOConfig
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOConfig as TRLORPOConfig
from trl.experimental.orpo import ORPOTrainer

from easyrlhf.config import CPOConfig, DPOConfig, IPOConfig, KTOConfig, ORPOConfig, SimPOConfig
from easyrlhf.data.batches import join, within_budget
from easyrlhf.stages import preference
from easyrlhf.stages.kto import kto_task

ROWS = [  # prompt, chosen, rejected; log-probabilities of the two under a made-up reference
    ([5, 6, 7], [8, 9, 2], [10, 2], -14.0, -11.0),
    ([11], [12, 13, 14, 15, 2], [16, 17, 2], -25.0, -20.0),
    ([18, 19, 20, 21], [22, 2], [23, 24, 25, 26, 2], -9.0, -31.0),
    ([27, 28], [29, 30, 2], [31, 32, 33, 2], -17.0, -18.5),
]
LABELS = [True, False, False, True]


def pairs() -> list[dict]:
    names = ("prompt_ids", "chosen_ids", "rejected_ids", "ref_chosen", "ref_rejected")
    rows = [dict(zip(names, row, strict=True)) | {"weight": 1.0} for row in ROWS]
    return [row | {"length": len(row["prompt_ids"]) + 5} for row in rows]


def feedbacks() -> list[dict]:
    """One answer of every row; the mismatched answer is that of the row before."""
    return [
        {
            "prompt_ids": prompt,
            "completion_ids": chosen,
            "other_ids": ROWS[i - 1][1],
            "label": label,
            "ref_completion": reference,
            "ref_other": -15.0 - i,
            "length": len(prompt) + len(chosen),
        }
        for i, ((prompt, chosen, _, reference, _), label) in enumerate(zip(ROWS, LABELS, strict=True))
    ]


def our_gradients(lm, config, make_task, rows, budget=10_000) -> tuple[float, dict]:
    """Loss and gradients of the rows as one optimiser batch, in micro-batches."""
    run = SimpleNamespace(config=config, device=torch.device("cpu"), micro_batch_tokens=budget)
    task = make_task(lm, run)
    rows, total = task.prepare(rows), 0.0
    lm.zero_grad()
    for group in within_budget([task.tokens(row) for row in rows], budget):
        loss = task.loss([rows[i] for i in group])[0] / sum(map(task.units, rows))
        loss.backward()
        total += loss.item()
    return total, {name: p.grad.clone() for name, p in lm.named_parameters() if p.grad is not None}


def their_gradients(model, loss) -> tuple[float, dict]:
    model.zero_grad()
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(ours, theirs) -> None:
    """Within 1e-5 of the largest gradient of each parameter, in float32."""
    assert ours[0] == pytest.approx(theirs[0], rel=1e-5)
    assert ours[1].keys() == theirs[1].keys()
    for name, grad in theirs[1].items():
        scale = grad.abs().max().item()
        assert scale > 0
        torch.testing.assert_close(ours[1][name], grad, rtol=0, atol=1e-5 * scale, msg=lambda m, n=name: f"{n}: {m}")


@pytest.fixture
def lm(tiny_lm, tokenizer):
    return tiny_lm(seed=0, vocab=len(tokenizer))


@pytest.fixture
def trainer(tiny_lm, tokenizer, tmp_path):
    """trainer(class, its config's class, rows, settings) -> a trainer of TRL around the same weights."""

    def make(trainer_class, config_class, rows, **settings):
        args = config_class(
            output_dir=str(tmp_path), report_to=[], use_cpu=True, bf16=False, gradient_checkpointing=False, **settings
        )
        model = tiny_lm(seed=0, vocab=len(tokenizer))
        more = {} if "orpo" in config_class.__module__ or "cpo" in config_class.__module__ else {"ref_model": None}
        return trainer_class(
            model=model, args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer, **more
        )

    return make


TEXT_PAIRS = [{"prompt": "a", "chosen": "b", "rejected": "c"}] * 4
TEXT_FEEDBACKS = [{"prompt": f"a{i}", "completion": "b", "label": i % 2 == 0} for i in range(4)]


def both_sides(prefix: str = "") -> dict[str, torch.Tensor]:
    """The batch as TRL's collator lays it out: chosen above rejected."""
    sides = [(row[0], row[1]) for row in ROWS] + [(row[0], row[2]) for row in ROWS]
    return laid_out(sides, prefix)


def laid_out(sides: list[tuple[list[int], list[int]]], prefix: str = "") -> dict[str, torch.Tensor]:
    prompts, completions = zip(*sides, strict=True)
    input_ids, mask = join(list(prompts), list(completions), 0)
    lengths = T([len(prompt) + len(completion) for prompt, completion in sides])
    attention = (torch.arange(input_ids.shape[1]) < lengths[:, None]).long()
    return {f"{prefix}input_ids": input_ids, f"{prefix}attention_mask": attention, f"{prefix}completion_mask": mask}


def dpo_of_trl(trainer, **settings) -> tuple[float, dict]:
    made = trainer(DPOTrainer, TRLDPOConfig, TEXT_PAIRS, precompute_ref_log_probs=True, beta=0.3, **settings)
    inputs = both_sides() | {"ref_chosen_logps": T([r[3] for r in ROWS]), "ref_rejected_logps": T([r[4] for r in ROWS])}
    return their_gradients(made.model, made._compute_loss(made.model, inputs, return_outputs=False))


@pytest.mark.parametrize("budget", [10_000, 1])
@pytest.mark.parametrize("loss_type", list(DPOConfig.__dataclass_fields__["loss_type"].metadata["choices"]))
def test_every_dpo_loss_is_trls(lm, trainer, loss_type, budget):
    smoothing = {"label_smoothing": 0.1} if loss_type in ("robust", "exo_pair", "aot") else {}
    config = DPOConfig(train_data="x", model="m", beta=0.3, loss_type=loss_type, **smoothing)
    ours = our_gradients(lm, config, lambda *a: preference.pair_task(*a, losses=preference.dpo_losses), pairs(), budget)
    assert_same(ours, dpo_of_trl(trainer, loss_type=[loss_type], **smoothing))


@pytest.mark.parametrize("budget", [10_000, 1])
def test_rpo_alpha_is_trls_sigmoid_plus_sft(lm, trainer, budget):
    config = DPOConfig(train_data="x", model="m", beta=0.3, rpo_alpha=0.7)
    ours = our_gradients(lm, config, lambda *a: preference.pair_task(*a, losses=preference.dpo_losses), pairs(), budget)
    assert_same(ours, dpo_of_trl(trainer, loss_type=["sigmoid", "sft"], loss_weights=[1.0, 0.7]))


def test_ipo_is_trls(lm, trainer):
    config = IPOConfig(train_data="x", model="m", beta=0.3)
    ours = our_gradients(lm, config, lambda *a: preference.pair_task(*a, losses=preference.ipo_losses), pairs())
    assert_same(ours, dpo_of_trl(trainer, loss_type=["ipo"]))


@pytest.mark.parametrize("budget", [10_000, 1])
def test_kto_is_trls_with_the_kl_of_the_whole_batch(lm, trainer, budget):
    settings = {"beta": 0.3, "desirable_weight": 1.3, "undesirable_weight": 0.8}
    ours = our_gradients(lm, KTOConfig(train_data="x", model="m", **settings), kto_task, feedbacks(), budget)
    made = trainer(KTOTrainer, TRLKTOConfig, TEXT_FEEDBACKS, precompute_ref_log_probs=True, **settings)
    rows = feedbacks()
    inputs = laid_out([(row["prompt_ids"], row["completion_ids"]) for row in rows])
    inputs |= laid_out([(row["prompt_ids"], row["other_ids"]) for row in rows], "KL_")
    inputs |= {"label": T(LABELS), "ref_logps": T([row["ref_completion"] for row in rows])}
    inputs["ref_KL_logps"] = T([row["ref_other"] for row in rows])
    assert_same(ours, their_gradients(made.model, made._compute_loss(made.model, inputs, return_outputs=False)))


def pairs_of_cpo(labels_of_prompt: bool) -> dict[str, torch.Tensor]:
    """The batch as the collators of CPO and ORPO lay it out; prompts carry labels in ORPO's SFT loss."""
    batch = {}
    for side, place in (("chosen", 1), ("rejected", 2)):
        part = laid_out([(row[0], row[place]) for row in ROWS])
        kept = part["attention_mask"] if labels_of_prompt else part["completion_mask"]
        batch[f"{side}_input_ids"], batch[f"{side}_attention_mask"] = part["input_ids"], part["attention_mask"]
        batch[f"{side}_labels"] = part["input_ids"].masked_fill(kept == 0, -100)
    longest = max(len(row[0]) for row in ROWS)
    batch["prompt_input_ids"] = T([row[0] + [0] * (longest - len(row[0])) for row in ROWS])
    batch["prompt_attention_mask"] = (batch["prompt_input_ids"] != 0).long()
    return batch


@pytest.mark.parametrize("cpo_alpha", [0.0, 0.6])
@pytest.mark.parametrize("method", ["cpo", "simpo"])
def test_cpo_and_simpo_are_trls(lm, trainer, method, cpo_alpha):
    if method == "cpo":
        config, losses = (
            CPOConfig(train_data="x", beta=0.3, cpo_alpha=cpo_alpha, label_smoothing=0.1),
            preference.cpo_losses,
        )
        theirs = {"loss_type": "sigmoid", "label_smoothing": 0.1}
    else:
        config = SimPOConfig(train_data="x", beta=0.3, cpo_alpha=cpo_alpha, simpo_gamma=0.5)
        losses, theirs = preference.simpo_losses, {"loss_type": "simpo", "simpo_gamma": 0.5}
    ours = our_gradients(lm, config, lambda *a: preference.pair_task(*a, losses=losses), pairs(), 1)
    made = trainer(CPOTrainer, TRLCPOConfig, TEXT_PAIRS, beta=0.3, cpo_alpha=cpo_alpha, **theirs)
    loss, _ = made.get_batch_loss_metrics(made.model, pairs_of_cpo(False))
    assert_same(ours, their_gradients(made.model, loss))


def test_orpo_is_trls_but_for_the_prompt_in_its_sft_loss(lm, trainer):
    """TRL's SFT loss covers prompts too; recomputed on completions, the sum is ours."""
    ours = our_gradients(
        lm,
        ORPOConfig(train_data="x", beta=0.3),
        lambda *a: preference.pair_task(*a, losses=preference.orpo_losses),
        pairs(),
        1,
    )
    made = trainer(ORPOTrainer, TRLORPOConfig, TEXT_PAIRS, beta=0.3)
    chosen, rejected, *_ = made.concatenated_forward(made.model, pairs_of_cpo(False))
    odds = -made.odds_ratio_loss(chosen, rejected)[0].mean()
    part = laid_out([(row[0], row[1]) for row in ROWS])
    labels = part["input_ids"].masked_fill(part["completion_mask"] == 0, -100)
    nll = made.model(input_ids=part["input_ids"], attention_mask=part["attention_mask"], labels=labels).loss
    assert_same(ours, their_gradients(made.model, odds + nll))
