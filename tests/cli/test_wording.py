"""Small manners of the command line: other spellings that work, flags given twice, click's errors in our words."""

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

import easyrlhf as package
from easyrlhf.cli import main
from easyrlhf.config import CompareConfig, SFTConfig
from easyrlhf.config.suggestions import STAGES
from easyrlhf.errors import InputError, SettingError

ROOT = Path(__file__).parents[2]


def run(*words: str):
    return CliRunner().invoke(main.main, list(words), prog_name="easyrlhf")


def test_flags_may_be_written_with_dashes(stages):
    config = stages.config("sft", "--train-data", "a-b.jsonl", "--max-length=77", "--no-overwrite", "--dry-run")
    assert (config.train_data, config.max_length, config.overwrite, config.dry_run) == ("a-b.jsonl", 77, False, True)


def test_dashes_in_flags_of_commands_without_settings(monkeypatch):
    seen = []
    monkeypatch.setattr("easyrlhf.tools.convert.convert_data", lambda *args, **settings: seen.append(settings))
    assert run("data", "convert", "a-b.jsonl", "--output", "b.jsonl", "--on-bad-row", "skip").exit_code == 0
    assert seen[0]["on_bad_row"] == "skip"


def test_an_unknown_flag_is_shown_as_it_was_typed(stages):
    assert stages.error("sft", "--train-data", "a", "--num-train-epochs", "1") == (
        "unknown flag --num-train-epochs: here it is --epochs"
    )


@pytest.mark.parametrize("stage", [config.stage for config in STAGES])
@pytest.mark.parametrize("form", ["{}", "{}_train", "{}-train"])
def test_every_stage_is_a_subcommand_too(stage, form, monkeypatch):
    seen = []
    monkeypatch.setattr("easyrlhf.launch.start", lambda target, config: seen.append(config))
    given = ["--reward_funcs", "r.py:fn"] if stage in ("ppo", "grpo") else []
    result = run(form.format(stage), "--train_data", "rows.jsonl", *given)
    assert result.exit_code == 0, result.output
    assert [(config.stage, config.train_data) for config in seen] == [(stage, "rows.jsonl")]
    assert run(form.format(stage), "--zzz", "1").stderr.startswith(
        f"error: unknown flag --zzz: easyrlhf {stage}_train --help lists all settings"
    )


@pytest.mark.parametrize("words", [[], ["sft"], ["data"], ["data", "convert"], ["chat"], ["fit", "ppo"], ["recipes"]])
def test_h_is_help(words):
    short, long = run(*words, "-h"), run(*words, "--help")
    assert (short.exit_code, short.stdout) == (0, long.stdout)
    assert short.stdout.startswith("Usage: easyrlhf")


def test_subcommands_may_be_written_with_either_sign():
    assert run("init_config", "sft").stdout == run("init-config", "sft").stdout != ""
    assert run("serve-reward", "-h").stdout.startswith("Usage: easyrlhf serve_reward")


@pytest.mark.parametrize(
    "words, message",
    [
        (
            ["--config", "a.yaml", "--config=b.yaml"],
            "--config is given twice (a.yaml, b.yaml), and only one file is read; join them, or use flags",
        ),
        (["--train-data", "b", "--train_data", "c"], "--train_data is given twice; join its values by commas: "),
        (["--overwrite", "--no_overwrite"], "--overwrite and --no_overwrite are both given; keep one"),
    ],
)
def test_flags_that_contradict_each_other_are_refused(stages, words, message):
    assert stages.error("sft", "--train_data", "a", *words).startswith(message)


def test_a_flag_given_twice_counts_as_it_stands_last_and_that_is_said(stages):
    result = stages.run("sft", "--train_data", "a", "--seed", "1", "--max_length", "9", "--seed=2", "--max_length", "9")
    assert result.stderr == "note: --seed is given twice; the last one counts: 2, not 1\n"
    assert stages.configs[-1].seed == 2
    assert stages.run("sft", "--train_data", "a", "--overwrite", "--overwrite").stderr == ""


@pytest.mark.parametrize(
    "words, message",
    [
        (
            ["sft", "--dry_run=yes"],
            "--dry_run takes no value; write --dry_run to turn it on, --no_dry_run to turn it off",
        ),
        (["sft", "--train_data"], "--train_data needs a value"),
        (["data", "convert", "--output", "x"], "FILES... is missing; easyrlhf data convert --help says what it is"),
        (["data", "convert", "a.jsonl"], "--output is required. The file to write."),
        (["data", "convert", "a", "--output", "b", "--overwrite=1"], "--overwrite takes no value"),
        (["data", "convert", "a", "--outputt", "b"], "unknown flag --outputt: did you mean --output?"),
        (["data", "download", "a", "b"], "stray argument b"),
        (["docs", "a", "b", "c"], "stray argument b c"),
        (["data", "split", "a", "--output_dir", "b", "--valid", "5%"], "--valid 5%: takes a number"),
        (["data", "split", "a", "--output_dir", "b", "--seed", "1.5"], "--seed 1.5: takes a whole number"),
        (["convert-config", "a", "--num_devices", "0"], "--num_devices 0: must be 1 or more"),
        (
            ["data", "convert", "a", "--output", "b", "--kind", "pair"],
            "--kind pair: must be one of demonstration, comparison, ranking, feedback, prompt",
        ),
        (
            ["data", "convert", "a", "--output", "b", "--on_bad_row", "stpo"],
            "--on_bad_row stpo: must be one of stop, skip; did you mean stop?",
        ),
    ],
)
def test_clicks_errors_are_in_our_words(words, message):
    result = run(*words)
    assert (result.exit_code, result.stderr) == (2, f"error: {message}\n")


@pytest.mark.parametrize(
    "typed, answer",
    [
        ("mine.yml", "mine.yml: no such file; did you mean mine.yaml?"),
        ("mine", "mine: no such file; did you mean mine.yaml?"),
        ("configs/sft.yaml", "configs/sft.yaml: no such file; easyrlhf recipes --copy . brings it"),
        (
            "toy_ppo.yaml",
            "toy_ppo.yaml: no such file; easyrlhf recipes toy_ppo > toy_ppo.yaml takes it from the package",
        ),
        ("nope/x.yaml", "nope/x.yaml: no such file"),
        ("run", "run: is a folder; did you mean run/args.yaml?"),
        ("empty", "empty: is a folder"),
    ],
)
def test_a_settings_file_that_is_not_there(stages, tmp_path, typed, answer):
    (tmp_path / "mine.yaml").write_text("seed: 1\n")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "args.yaml").touch()
    (tmp_path / "empty").mkdir()
    assert stages.error("sft", "--config", typed) == f"--config {answer}"


def test_a_settings_file_in_the_home_folder(stages, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "s.yaml").write_text("train_data: a\nseed: 7\n")
    assert stages.config("sft", "--config=~/s.yaml").seed == 7
    error = stages.error("sft", "--config", "~/t.yaml")
    assert error == f"--config ~/t.yaml: no such file; did you mean {tmp_path}/home/s.yaml?"
    (tmp_path / "home" / "s.yaml").write_text("train_data: a\nepoch: 7\n")
    assert stages.error("sft", "--config", "~/s.yaml") == "~/s.yaml:2: unknown key epoch: did you mean epochs?"


def test_a_settings_file_that_is_not_text_is_named(stages, tmp_path):
    (tmp_path / "latin.yaml").write_bytes("# für\n".encode("latin-1"))
    assert stages.error("sft", "--config", "latin.yaml") == (
        "--config latin.yaml: cannot be read: it is not UTF-8 (invalid start byte at byte 3)"
    )


def test_wrong_settings_are_input_errors_in_python_too():
    with pytest.raises(package.SettingError, match="batch_size 0: must be 1 or more") as caught:
        SFTConfig(train_data="a", batch_size=0)
    assert isinstance(caught.value, InputError) and isinstance(caught.value, ValueError)
    with pytest.raises(InputError, match=r"^train_dta: is no setting of SFTConfig; did you mean train_data\?$"):
        SFTConfig(train_dta="a")
    with pytest.raises(InputError, match=r"^train_data is required. Rows to train on: .jsonl"):
        SFTConfig(model="a")
    with pytest.raises(InputError, match=r"^train_data is required. Rows to train on: .jsonl"):
        SFTConfig()
    with pytest.raises(InputError, match=r"^models is required. The language .*\nprompts is required. Prompts that"):
        CompareConfig()
    with pytest.raises(InputError, match=r"^num_train_epochs: is no setting of SFTConfig; here it is epochs$"):
        SFTConfig(train_data="a", num_train_epochs=1)
    with pytest.raises(InputError, match=r"^kl_coef: .*; it is a setting of ppo_train, not of sft_train\nlr: .*rate$"):
        SFTConfig(train_data="a", kl_coef=0.1, lr=1)
    with pytest.raises(InputError, match=r"^xyzzy: is no setting of SFTConfig$"):
        replace(SFTConfig(train_data="a"), xyzzy=1)


def test_a_wrong_setting_travels_between_processes():
    error = SettingError("seed", "seed -1: must be 0 or more")
    error.shown_by = 2
    again = pickle.loads(pickle.dumps(error))
    assert (again.setting, str(again), again.shown_by) == ("seed", "seed -1: must be 0 or more", 2)
