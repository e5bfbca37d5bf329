"""--valid_split: rows held out of the training data, evaluated on, and the same ones when a run goes on."""

import json
from pathlib import Path

import pytest
import yaml

from easyrlhf.config import KTOConfig, PPOConfig, RMConfig, SFTConfig
from easyrlhf.errors import RunStopped, SettingError
from easyrlhf.stages.rm import train_rm
from easyrlhf.stages.sft import train_sft
from tests.stages.conftest import SMALL, answer, question, write_rows


@pytest.fixture
def pairs(tmp_path) -> str:
    """12 prompts, two rows each."""
    words = [f"{word} {number}" for word in ("red", "cat", "one") for number in "abcd"]
    rows = [
        {"prompt": [question(word)], "chosen": [answer(f"{word}{mark}")], "rejected": [answer("no")]}
        for word in words
        for mark in "!?"
    ]
    return write_rows(tmp_path / "pairs.jsonl", rows)


def test_a_run_evaluates_on_what_it_held_out_and_says_so(chain, pairs, tmp_path):
    out = tmp_path / "out"
    settings = SMALL | {"train_data": pairs, "valid_split": 0.25, "examine_rows": 0, "output_dir": str(out)}
    train_rm(RMConfig(model=chain.sft, **settings))
    data = json.loads((out / "stage.json").read_text())["data"]
    assert {name: (part["read"], part["used"], part["dropped"]) for name, part in data.items()} == {
        "train": (24, 18, {"held out for validation": 6}),
        "valid": (24, 6, {"kept for training": 18}),
    }
    assert any("eval/loss" in row for row in logged(out))
    assert yaml.safe_load((out / "args.yaml").read_text())["valid_split"] == 0.25


@pytest.mark.parametrize("config", [SFTConfig, RMConfig, KTOConfig, PPOConfig])
@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"valid_split": 0.1, "valid_data": "b"}, "valid_split 0.1: valid_data is given as well; leave one of the two"),
        ({"valid_split": 0}, "valid_split 0.0: must be greater than 0"),
        ({"valid_split": 1}, "valid_split 1.0: must be less than 1"),
        ({"eval_steps": 5}, "eval_steps 5: needs valid_data or valid_split"),
    ],
)
def test_shares_that_cannot_be_are_refused(config, wrong, message):
    with pytest.raises(SettingError) as error:
        config(train_data="a", **wrong)
    assert message in str(error.value)
    assert config(train_data="a", valid_split=0.1, eval_steps=5).validates
    assert config(train_data="a", valid_split=0.1).valid_name == "0.1 of a"


def test_a_run_that_goes_on_holds_the_same_rows_out(chain, data, tmp_path, stop_after):
    settings = SMALL | {"model": chain.init, "train_data": data.sft, "valid_split": 0.3, "epochs": 2, "eval_steps": 1}
    train_sft(SFTConfig(output_dir=str(tmp_path / "whole"), **settings))
    stop_signals_off = stop_after(2)
    with pytest.raises(RunStopped):
        train_sft(SFTConfig(output_dir=str(tmp_path / "stopped"), **settings))
    stop_signals_off()
    train_sft(SFTConfig(output_dir=str(tmp_path / "stopped"), **settings))
    whole, stopped = (
        [{name: row.get(name) for name in ("step", "loss", "eval/loss")} for row in logged(tmp_path / name)]
        for name in ("whole", "stopped")
    )
    assert whole == stopped and any(row["eval/loss"] for row in whole)


def logged(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
