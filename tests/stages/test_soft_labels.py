"""Soft labels through the commands: what a run says of them, and what it refuses before a model is loaded."""

import json
import math
from pathlib import Path

import pytest

from easyrlhf.config import DPOConfig, RMConfig
from easyrlhf.errors import InputError
from easyrlhf.stages.preference import train_dpo
from easyrlhf.stages.rm import train_rm


def labelled(path: str, folder: Path, *probabilities: float | None) -> str:
    """The rows of a file, these probabilities added in turn; returns the new file."""
    rows = [json.loads(line) for line in Path(path).read_text().splitlines()]
    for number, row in enumerate(rows):
        if (probability := probabilities[number % len(probabilities)]) is not None:
            row["chosen_probability"] = probability
    file = folder / f"{'_'.join(map(str, probabilities))}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


@pytest.mark.parametrize("stage, config_class", [(train_rm, RMConfig), (train_dpo, DPOConfig)])
def test_a_run_tells_the_cross_entropy_of_its_labels_and_their_own_entropy(
    stage, config_class, data, chain, small, tmp_path, capsys
):
    rows = labelled(data.pairs, tmp_path, 0.5, 0.75, 1)  # a third each
    small |= {"train_data": rows, "valid_data": rows, "output_dir": str(tmp_path / "run"), "max_steps": 2}
    folder = stage(config_class(model=chain.sft, **small))
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    floor = (math.log(2) + 0.5623351 + 0) / 3
    assert last["eval/label_entropy"] == pytest.approx(floor, rel=1e-5)
    assert floor < last["eval/cross_entropy"] == pytest.approx(last["eval/loss"], rel=1e-5)
    assert {"cross_entropy", "label_entropy"} <= last.keys()
    if stage is not train_rm:
        return
    examined = json.loads((folder / "doctor.json").read_text())
    assert (examined["n"], examined["labelled_ties"]) == (32, 16)
    assert sum(part["n"] for part in examined["calibration"]) == 48
    assert f"of which {floor:.3f} are the labels' own doubt." in capsys.readouterr().out


def test_aot_refuses_soft_labels_before_a_model_is_loaded(data, chain, small, tmp_path, monkeypatch):
    monkeypatch.setattr("easyrlhf.stages.preference.load_trained_lm", None)
    soft = labelled(data.pairs, tmp_path, None, 0.75, 1.0)
    says = f"--loss_type aot: train: 16 of 48 pairs have a chosen_probability below 1 (the first in {soft})"
    settings = {"model": chain.sft, "loss_type": "aot", "output_dir": str(tmp_path / "run")} | small
    with pytest.raises(InputError) as stop:
        train_dpo(DPOConfig(train_data=soft, **settings))
    assert str(stop.value).startswith(says)
    with pytest.raises(InputError, match="--loss_type aot: valid: 16 of 48 pairs"):
        train_dpo(DPOConfig(train_data=data.pairs, valid_data=soft, **settings))
    train_dpo(DPOConfig(train_data=soft, field="chosen_probability=", dry_run=True, **settings))


@pytest.mark.parametrize("stage, config_class", [(train_rm, RMConfig), (train_dpo, DPOConfig)])
def test_held_out_ties_alone_are_refused_before_a_model_is_loaded(
    stage, config_class, data, chain, small, tmp_path, monkeypatch
):
    for module in ("rm", "preference"):
        monkeypatch.setattr(f"easyrlhf.stages.{module}.load_trained_lm", None)
    ties = labelled(data.pairs, tmp_path, 0.5)
    settings = {"model": chain.sft, "train_data": data.pairs, "output_dir": str(tmp_path / "run")} | small
    with pytest.raises(InputError, match=r"valid: all 48 pairs to evaluate on are ties \(chosen_probability 0.5\)"):
        stage(config_class(valid_data=ties, **settings))
