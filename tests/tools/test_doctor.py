"""easyrlhf doctor, and the same examination at the end of rm_train."""

import json
import re
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from easyrlhf.cli import doctor
from easyrlhf.config import DoctorConfig, RMConfig
from easyrlhf.errors import InputError
from easyrlhf.labels.rows import NewItem, NewLabel
from easyrlhf.labels.store import Store
from easyrlhf.models import value_head
from easyrlhf.models.value_head import ScalarModel
from easyrlhf.stages.rm import train_rm
from easyrlhf.tools.doctor import PairLimits, examine_reward_model, limits_of, read_pairs

pytestmark = pytest.mark.usefixtures("pictures")

PAIR = {"prompt": "The sky is", "chosen": " blue", "rejected": " red"}


def run(*words: str):
    return CliRunner().invoke(doctor.command, list(words), prog_name="easyrlhf doctor")


def examined(folder: Path) -> dict:
    return json.loads((folder / "doctor.json").read_text())


def test_it_prints_writes_and_draws(rm, tmp_path):
    out = tmp_path / "out"
    done = run(rm.folder, "--valid_data", f"{rm.one},{rm.two}", "--output_dir", str(out), "--devices", "cpu")
    assert done.exit_code == 0, done.output
    found = examined(out)
    assert (found["n"], found["precision"], found["reward_model"]) == (64, "float32", rm.folder)
    assert [(part["source"], part["n"]) for part in found["by_source"]] == [(rm.one, 40), (rm.two, 24)]
    assert sum(part["n"] * part["accuracy"] for part in found["by_source"]) == pytest.approx(64 * found["accuracy"])
    assert found["invariance"]["largest"] < 1e-4
    for words in ("accuracy", "length alone", "one sentence 20 times", "more padding", "verdict: PPO", rm.two):
        assert words in done.stdout
    assert found["verdict"]["lean"] in done.stdout
    page = (out / "doctor.html").read_text()
    pictures = re.findall(r'<svg role="img" aria-label="([^"]+)"', page)
    assert pictures == ["Held-out scores", "Accuracy by length gap", "Calibration", "Probes"]
    assert "<script" not in page and "http" not in page.replace("http://www.w3.org", "")
    assert found["verdict"]["lean"] in page


def test_labels_draw_a_ceiling(rm, tmp_path):
    """Two annotators who agree in 41 of 50: one label is right in 90 %."""
    with Store(tmp_path / "labels", create=True) as store:
        items = [number for number, _ in store.add_items(NewItem("pair", f"q{n}", ["a", "b"]) for n in range(50))]
        for name, differs in (("ann", 0), ("bob", 9)):
            who = store.annotator(name).id
            store.add_labels(
                NewLabel(f"{who} {n}", number, who, -1 if n < differs else 1, "2", [0, 1])
                for n, number in enumerate(items)
            )
    words = ["--valid_data", rm.one, "--output_dir", str(tmp_path), "--devices", "cpu", "--examine_rows", "4"]
    done = run(rm.folder, *words, "--labels", str(tmp_path / "labels"))
    assert done.exit_code == 0, done.output
    assert examined(tmp_path)["ceiling"]["accuracy"] == pytest.approx(0.9)
    assert "ceiling of the labels       90.0%" in done.stdout
    assert 'aria-label="Accuracy and its ceiling"' in (tmp_path / "doctor.html").read_text()


def test_rm_train_ends_with_the_same_examination(rm, tmp_path):
    examine_reward_model(
        DoctorConfig(reward_model=rm.folder, valid_data=rm.one, output_dir=str(tmp_path), devices="cpu")
    )
    ours, theirs = examined(tmp_path), examined(Path(rm.folder))
    assert theirs["probes"]["n"] == 40
    for name in ("accuracy", "n", "by_length_gap", "ties", "verdict"):
        assert ours[name] == theirs[name]
    assert ours["probes"]["answers"][1]["score"] == pytest.approx(theirs["probes"]["answers"][1]["score"], abs=1e-4)
    assert ours["ece"] == pytest.approx(theirs["ece"], abs=1e-6)


def test_how_many_pairs_it_looks_at_is_a_setting(rm, tmp_path):
    done = run(rm.folder, "--valid_data", rm.one, "--output_dir", str(tmp_path), "--examine_rows", "6")
    assert done.exit_code == 0, done.output
    found = examined(tmp_path)
    assert (found["n"], found["probes"]["n"], found["invariance"]["n"]) == (40, 6, 6)


def test_rm_train_says_how_many_pairs_the_doctor_looks_at(rm, tmp_path, capsys):
    settings = {
        "model": f"{rm.root}/init",
        "train_data": rm.train,
        "valid_data": rm.one,
        "max_steps": 1,
        "save_steps": 0,
    }
    settings |= {"max_length": 64, "max_prompt_length": 40, "devices": "cpu", "report_to": "none", "eval_steps": 0}
    train_rm(RMConfig(**settings, output_dir=str(tmp_path / "some"), examine_rows=6))
    assert "the doctor looks at 6 of 40 held-out pairs (--examine_rows)\n" in capsys.readouterr().out
    assert examined(tmp_path / "some")["probes"]["n"] == 6
    train_rm(RMConfig(**settings, output_dir=str(tmp_path / "none"), examine_rows=0))
    assert "the doctor" not in capsys.readouterr().out
    assert not (tmp_path / "none" / "doctor.json").exists() and (tmp_path / "none" / "rm_eval.json").exists()


def test_the_report_of_rm_train_shows_the_verdict_and_the_pictures(rm):
    page = (Path(rm.folder) / "report.html").read_text()
    assert "Should PPO lean on it?" in page and examined(Path(rm.folder))["verdict"]["lean"] in page
    for title in ("Held-out scores", "Accuracy by length gap", "Calibration", "Probes"):
        assert f'aria-label="{title}"' in page
    assert (Path(rm.folder) / "plots" / "probes.png").exists()


def test_a_model_that_counts_words_is_told_so(rm, tmp_path, monkeypatch):
    """Longer answers are chosen in 3 of 5 pairs, and the model goes by length alone."""
    rows = [{"prompt": "Say", "chosen": " blue" * (3 if i % 5 < 3 else 1), "rejected": " red" * 2} for i in range(200)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(ScalarModel, "scores", lambda self, ids, lengths: lengths.float())
    monkeypatch.setattr("easyrlhf.tools.scoring.check_probes", lambda *_: None)
    done = run(rm.folder, "--valid_data", str(tmp_path / "pairs.jsonl"), "--output_dir", str(tmp_path / "out"))
    assert done.exit_code == 0, done.output
    found = examined(tmp_path / "out")
    assert found["accuracy"] == found["length_baseline_accuracy"] == pytest.approx(0.6)
    for words in ("alarm: Not better than length", "alarm: Biased by length", "alarm: Hackable", "should not lean"):
        assert words in done.stdout


def test_a_model_that_sees_padding_is_caught(rm, tmp_path, monkeypatch):
    honest = value_head.row_states

    def spoilt(lm, ids, lengths):
        hidden, begins = honest(lm, ids, lengths)
        return hidden * (1 + 1e-3 * ids.shape[1]), begins

    monkeypatch.setattr(value_head, "row_states", spoilt)
    monkeypatch.setattr("easyrlhf.tools.scoring.check_probes", lambda *_: None)
    done = run(rm.folder, "--valid_data", rm.one, "--output_dir", str(tmp_path), "--devices", "cpu")
    assert done.exit_code == 0, done.output
    assert "alarm: Scores the batch too" in done.stdout
    assert examined(tmp_path)["invariance"]["largest"] > 1e-3


@pytest.fixture
def pair_file(tmp_path) -> str:
    (tmp_path / "pairs.jsonl").write_text(json.dumps(PAIR) + "\n")
    return str(tmp_path / "pairs.jsonl")


def test_a_folder_that_is_no_reward_model_is_bad_input(model_folder, pair_file):
    done = run(str(model_folder()), "--valid_data", pair_file, "--devices", "cpu")
    assert done.exit_code == 2
    assert "has no value_head.safetensors, so it is not a reward model" in done.stderr
    assert done.stderr.count("\n") == 2


@pytest.mark.parametrize(
    "row, message",
    [
        ({**PAIR, "rejected": " blue"}, "chosen"),
        ({"prompt": "The sky is"}, "pairs.jsonl"),
        ({**PAIR, "chosen": " blue" * 2000}, "every one of the 1 rows is too long for --max_length"),
        ({**PAIR, "chosen_probability": 0.5}, "--valid_data: all 1 pairs to evaluate on are ties"),
    ],
    ids=["equal", "no pair", "too long", "tie"],
)
def test_data_without_a_usable_pair_are_bad_input(rm, tmp_path, row, message):
    (tmp_path / "pairs.jsonl").write_text(json.dumps(row) + "\n")
    words = ("--valid_data", str(tmp_path / "pairs.jsonl"), "--output_dir", str(tmp_path / "out"), "--devices", "cpu")
    done = run(rm.folder, *words)
    assert done.exit_code == 2, done.output
    assert message in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "doctor.json").exists()


def test_labels_that_are_not_sure_have_their_own_lines(rm, tmp_path):
    rows = [{**PAIR, "chosen": f" blue {i}", "chosen_probability": (0.5, 0.75)[i % 2]} for i in range(8)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ("--valid_data", str(tmp_path / "pairs.jsonl"), "--output_dir", str(tmp_path / "out"), "--devices", "cpu")
    done = run(rm.folder, *words)
    assert done.exit_code == 0, done.output
    found = examined(tmp_path / "out")
    assert (found["n"], found["labelled_ties"], found["label_entropy"]) == (4, 4, pytest.approx(0.6277412))
    floor = "(nats; at least 0.628, the entropy of the labels; a coin 0.693)"
    assert re.search(rf"cross-entropy +{found['cross_entropy']:.3f}  {re.escape(floor)}", done.stdout)
    assert re.search(r"labelled ties +4  \(not in the accuracy\)", done.stdout)
    assert "at least 0.628, the entropy of the labels" in (tmp_path / "out" / "doctor.html").read_text()


def limits(folder, places=1024, **settings) -> tuple:
    config = DoctorConfig(reward_model=str(folder), valid_data="a.jsonl", **settings)
    found = limits_of(config, places)
    return found.max_length, found.max_prompt_length, found.overlength


def test_the_limits_are_those_of_the_training(tmp_path):
    assert limits(tmp_path) == (1024, 1023, None) and limits(tmp_path, places=64) == (64, 63, None)
    (tmp_path / "stage.json").write_text(json.dumps({"stage": "rm", "status": "complete", "max_length": 64}))
    (tmp_path / "args.yaml").write_text("max_length: 64\nmax_prompt_length: 40\noverlength: truncate\n")
    assert limits(tmp_path) == (64, 40, "truncate")
    assert limits(tmp_path, max_length=128, overlength="drop") == (128, 40, "drop")
    assert limits(tmp_path, max_length=32) == (32, 31, "truncate")
    with pytest.raises(InputError, match="--max_prompt_length 64: must be less than max_length 64"):
        limits(tmp_path, max_prompt_length=64)


@pytest.mark.parametrize("overlength, read, refused", [("truncate", 4, False), ("drop", 3, False), (None, 0, True)])
def test_long_rows_are_read_as_in_training(chatml_renderer, tmp_path, overlength, read, refused):
    rows = [PAIR, PAIR, PAIR, {**PAIR, "prompt": "The sky is " * 40}]
    lines = [json.dumps(row | {"chosen": f" blue{i}"}) + "\n" for i, row in enumerate(rows)]
    (tmp_path / "pairs.jsonl").write_text("".join(lines))
    config = DoctorConfig(reward_model="rm", valid_data=str(tmp_path / "pairs.jsonl"), output_dir=str(tmp_path))
    how = config, chatml_renderer, PairLimits(100, 80, overlength), tmp_path
    if refused:
        with pytest.raises(InputError, match=r"1 of 4 rows .* or cut prompts with --overlength truncate"):
            read_pairs(*how)
    else:
        assert len(read_pairs(*how)) == read


def test_more_tokens_than_the_model_has_places_are_bad_input(rm, pair_file, tmp_path):
    done = run(rm.folder, "--valid_data", pair_file, "--max_length", "4096", "--output_dir", str(tmp_path / "out"))
    assert done.exit_code == 2
    assert "--max_length 4096" in done.stderr and "was made for 1024 tokens at most" in done.stderr


def test_scores_that_are_no_numbers_are_bad_input(rm, pair_file, tmp_path, monkeypatch):
    monkeypatch.setattr(ScalarModel, "scores", lambda self, ids, lengths: torch.full((len(ids),), torch.nan))
    monkeypatch.setattr("easyrlhf.tools.scoring.check_probes", lambda *_: None)
    with pytest.raises(InputError, match="scores 1 of 1 pairs NaN or infinite"):
        examine_reward_model(
            DoctorConfig(reward_model=rm.folder, valid_data=pair_file, output_dir=str(tmp_path / "out"))
        )
