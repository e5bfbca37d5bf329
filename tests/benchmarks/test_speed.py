"""The speed benchmarks: their arithmetic by hand, and one of them whole on a tiny model."""

import importlib
from dataclasses import replace

import click
import numpy as np
import pytest
import run
import torch
from click.testing import CliRunner
from speed import measure, measures, offline, ours, peers, results, roofline, sampling, world
from speed.turns import Lap, Paired, Turns, by_turns
from transformers import AutoModelForCausalLM

TINY = world.Size(hidden=64, layers=1, intermediate=96, vocabulary=300)


def laps(*rates: float) -> list[Lap]:
    """Laps of ten units at these rates, which took half as much CPU time."""
    return [Lap(10, 10 / rate, 5 / rate) for rate in rates]


def test_the_median_of_the_paired_ratios_leaves_the_warm_up_out():
    found = Paired(ours=laps(1, 8, 9, 20), theirs=laps(100, 2, 3, 2)).as_result(scale=0.5)
    assert found["ratio"] == pytest.approx(4)  # of 8/2, 9/3, 20/2
    assert found["spread"] == pytest.approx((3, 10))
    assert (found["ours"], found["theirs"]) == pytest.approx((4.5, 1.0))
    assert found["cpu_ratio"] == pytest.approx(4)


def test_the_sides_take_turns():
    said = []
    by_turns(lambda: said.append("ours") or 1, lambda: said.append("theirs") or 1, pairs=2)
    assert said == ["theirs", "ours"] * 3


def test_the_peers_clock_stands_still_during_our_step(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("speed.turns.time.perf_counter", lambda: now[0])

    def ours() -> float:
        now[0] += 100
        return 7

    turns = Turns(ours, lambda: 3)
    turns.on_train_begin(None, None, None)
    for seconds in (2, 5):
        now[0] += seconds
        turns.on_step_end(None, None, None)
    assert [(lap.units, lap.seconds) for lap in turns.paired.theirs] == [(3, 2), (3, 5)]
    assert [(lap.units, lap.seconds) for lap in turns.paired.ours] == [(7, 100), (7, 100)]


@pytest.mark.parametrize(
    "changed, met",
    [
        ({"ratio": 1.5}, True),
        ({"ratio": 1.49}, False),
        ({"ratio": 1.5, "at_most": True}, True),
        ({"ratio": 1.51, "at_most": True}, False),
        ({"ratio": 0.1, "utilisation": 1.6, "judged": "utilisation"}, True),
    ],
)
def test_a_target_is_met_on_its_own_side(changed, met):
    result = results.Result("x", "s", ours=1.0, target=1.5, **changed)
    assert result.met is met
    cells = results.cells("X1", result)
    assert cells[-1] == ("yes" if met else "NO")
    assert len(cells) == results.HEADER.count("|") - 1


def test_the_operations_of_a_step_are_those_counted_by_hand():
    size = world.Size(hidden=2, layers=1, intermediate=3, vocabulary=5)
    # trunk 4·2² + 3·2·3 = 34 weights for 2 tokens; head 5·2 for the one learned; attention 2·1·2·2 for each of 2
    assert roofline.flops(size, rows=1, length=2) == 3 * (2 * 34 * 2 + 2 * 10 * 1 + 8 * 2)


def test_a_prompt_of_two_answers_is_counted_once():
    size = world.Size(hidden=2, layers=1, intermediate=3, vocabulary=5)  # 34 weights of the trunk
    row = {"prompt_ids": [1] * 4, "chosen_ids": [1] * 2, "rejected_ids": [1] * 3, "length": 7}
    # 9 tokens, which look at 4²/2, 2·(4 + 1) and 3·(4 + 1.5) = 34.5 tokens; the answers' 5 are learned
    assert roofline.row_flops(size, row, head=True) == 3 * (2 * 34 * 9 + 2 * 10 * 5 + 4 * 2 * 34.5)
    assert roofline.row_flops(size, row, head=False) == 3 * (2 * 34 * 9 + 4 * 2 * 34.5)
    demonstration = {"input_ids": [1, 1], "length": 2}
    assert roofline.row_flops(size, demonstration, head=True) == 3 * (2 * 34 * 2 + 2 * 10 * 1 + 8 * 2)


def test_flat_lengths_are_all_the_mean():
    flat, skewed = measure.Options(lengths="flat"), measure.Options()
    rows = world.comparisons(TINY, 5, 100, 0.8, flat.spread)
    assert {tuple(len(row[name]) for name in ("prompt_ids", "chosen_ids", "rejected_ids")) for row in rows} == {
        (80, 20, 20)
    }
    assert {len(row["prompt_ids"]) for row in world.comparisons(TINY, 50, 100, 0.8, skewed.spread)} > {60, 100}
    assert set(world.lengths(9, 160, 512, skewed=flat.skewed)) == {160}
    assert len(set(world.lengths(9, 160, 512, skewed=skewed.skewed))) > 5


def test_answers_end_where_they_were_meant_to():
    limit, vocabulary = 64, 8192
    logit = world.ending_at(0.4, limit, vocabulary)
    p = np.exp(logit) / (np.exp(logit) + vocabulary - 1)
    drawn = np.minimum(np.random.default_rng(0).geometric(p, size=100_000), limit)
    assert drawn.mean() == pytest.approx(0.4 * limit, rel=0.02)


def test_a_model_gives_the_end_of_turn_its_logit_everywhere(tmp_path):
    lm = AutoModelForCausalLM.from_pretrained(world.make_model(tmp_path / "model", TINY, eos_logit=3.0))
    ids = torch.tensor(world.Words(TINY, seed=1)(200))[None]
    logits = lm(ids).logits[0, :, world.EOS]
    assert logits.mean().item() == pytest.approx(3.0, abs=0.05)
    assert logits.std().item() < 0.15


def test_texts_are_read_back_as_the_ids_they_were_made_of():
    ids = [*world.Words(TINY)(20), world.EOS]
    assert world.tokenizer_of(TINY)(world.words(ids))["input_ids"] == ids


def test_another_answer_for_the_kl_is_of_the_same_group_of_rows():
    others = [row["other"] for row in world.feedback(TINY, 7, 40, 0.5, group=4, spread=0.3)]
    assert others == [3, 0, 1, 2, 6, 4, 5]


def test_a_packed_row_is_taken_apart():
    rows = offline.parts({"input_ids": [5, 6, 7, 8, 9], "seq_lengths": [2, 3]})
    assert rows == [
        {"input_ids": [5, 6], "loss_mask": [0, 1], "length": 2},
        {"input_ids": [7, 8, 9], "loss_mask": [0, 1, 1], "length": 3},
    ]


def test_tokens_are_counted_without_padding():
    count = peers.TokenCount()
    compute_loss = count.around(lambda model, inputs: 0)
    compute_loss(None, {"input_ids": torch.zeros(2, 4), "attention_mask": torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])})
    compute_loss(None, {"input_ids": torch.zeros(1, 8)})
    assert (count.take(), count.take(), count.fill) == (13, 0, 13 / 16)


def test_useful_tokens_end_with_the_end_of_turn():
    end = world.EOS
    assert sampling.useful(torch.tensor([[9, end, 0, 0], [9, 9, 9, 9], [end, 0, 0, 0]])) == 2 + 4 + 1


def test_a_sampler_that_says_what_the_model_does_not_is_not_timed(tmp_path):
    lm = AutoModelForCausalLM.from_pretrained(world.make_model(tmp_path / "model", TINY, eos_logit=3.0))
    prompts = [row["prompt_ids"] for row in world.prompts(TINY, 5, 8)]
    samples = ours.Sampling(lm, world.tokenizer_of(TINY), 20, 5, 1.0).generate(prompts)
    assert samples.completion_mask.sum() > 5  # more than one token each
    sampling.check(lm, torch.tensor(prompts), samples, "float32")
    wrong = replace(samples, completion_ids=samples.completion_ids.roll(1, 0))
    with pytest.raises(click.ClickException, match="logprobs"):
        sampling.check(lm, torch.tensor(prompts), wrong, "float32")


def test_sides_that_differ_are_not_timed():
    measure.require_equal("loss", 1.00001, 1.0, "float32")
    with pytest.raises(click.ClickException, match=r"loss is 1\.01 here and 1 there"):
        measure.require_equal("loss", 1.01, 1.0, "float32")
    with pytest.raises(click.ClickException):
        measure.require_equal("loss", float("nan"), 1.0, "float32")


@pytest.mark.parametrize("name", measures.MEASURES)
def test_every_measure_is_there(name):
    module, function = measures.MEASURES[name].function.split(":")
    assert callable(getattr(importlib.import_module(f"speed.{module}"), function))


@pytest.mark.parametrize("lengths", ["skewed", "flat"])
def test_the_reward_model_is_measured_from_end_to_end(monkeypatch, lengths):
    monkeypatch.setitem(world.SIZES, "m9", TINY)
    monkeypatch.setitem(roofline.SIDES, "cpu", 512)
    (result,) = offline.r1(measure.Options(pairs=1, lengths=lengths))
    assert result.ratio == pytest.approx(result.ours / result.theirs)
    assert 0.5 < result.fill < 1 if lengths == "skewed" else result.fill == 1  # nothing is padded
    assert 0 < result.utilisation < 1
    assert result.what.endswith(f"; {lengths} lengths")


def test_an_unknown_measure_and_a_missing_peer_are_named(tmp_path):
    unknown = CliRunner().invoke(run.main, ["--only", "X9"])
    assert unknown.exit_code == 2 and "X9" in unknown.output
    missing = CliRunner().invoke(run.main, ["--only", "P2", "--trl_ppo", str(tmp_path)])
    assert missing.exit_code == 1
    assert f"pip install --no-deps --target {tmp_path} trl==1.12.0" in missing.output
