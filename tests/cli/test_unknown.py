"""What is said about names that do not exist here."""

import re
from dataclasses import fields

import pytest

from easyrlhf.cli.foreign import FOREIGN, SAME_THING, WITH_A_NOTE
from easyrlhf.cli.unknown import STAGES

OURS = {f.name for config in STAGES for f in fields(config)}


def test_every_translation_leads_to_a_setting_that_exists():
    wrong = {name: t.ours for name, t in FOREIGN.items() if not set(t.ours) <= OURS}
    assert wrong == {}


def test_every_name_without_a_counterpart_has_an_explanation():
    assert [name for name, t in FOREIGN.items() if not t.ours and not t.note] == []


def test_no_foreign_name_hides_one_of_ours_or_is_listed_twice():
    assert set(FOREIGN) & OURS == set()
    assert set(SAME_THING) & set(WITH_A_NOTE) == set()


def test_settings_named_in_explanations_exist():
    words = {w for t in FOREIGN.values() for w in re.findall(r"\b[a-z]+_[a-z_]+\b", t.note)}
    known = OURS | {f"{config.stage}_train" for config in STAGES} | {"flash_attention_2"}
    assert words - known == set()


@pytest.mark.parametrize("theirs", sorted(FOREIGN))
def test_a_foreign_name_is_answered_as_flag_and_as_key(stages, yaml_file, theirs):
    ours, note = FOREIGN[theirs]
    having = [config.stage for config in STAGES if set(ours) & {f.name for f in fields(config)}]
    stage = "ppo" if "ppo" in having or not having else having[0]
    flag = stages.error(stage, "--train_data", "a", f"--{theirs}", "1")
    key = stages.error(stage, "--config", yaml_file(f"{theirs}: 1\n"))
    assert flag.startswith(f"unknown flag --{theirs}: ")
    assert key.startswith(f"settings.yaml:1: unknown key {theirs}: ")
    here = [
        name for name in ours if name in {f.name for config in STAGES if config.stage == stage for f in fields(config)}
    ]
    for name in here:
        assert f"--{name}" in flag
        assert re.search(rf"(?<!-)\b{name}\b", key)
    assert note in flag and note in key


@pytest.mark.parametrize(
    "stage, flag, message",
    [
        ("sft", "--train_file", "unknown flag --train_file: here it is --train_data"),
        (
            "sft",
            "--per_device_train_batch_size",
            "unknown flag --per_device_train_batch_size: here it is --batch_size and "
            "--micro_batch_tokens (batch_size counts examples per optimiser step over all devices; "
            "micro_batch_tokens bounds a forward pass, and accumulation follows from both)",
        ),
        ("sft", "--clip_range", "unknown flag --clip_range: that is --cliprange, a setting of ppo"),
        ("sft", "--kl_coef", "unknown flag --kl_coef: it is a setting of ppo_train, not of sft_tr"),
        ("orpo", "--orpo_alpha", "unknown flag --orpo_alpha: here it is --beta (the odds-ratio loss's weight)"),
        ("sft", "--learning_rat", "unknown flag --learning_rat: did you mean --learning_rate?"),
        ("ppo", "--cliprang", "unknown flag --cliprang: did you mean --cliprange?"),
        ("sft", "--no_overwrit", "unknown flag --no_overwrit: did you mean --no_overwrite?"),
        ("sft", "--confg", "unknown flag --confg: did you mean --config?"),
        ("sft", "--xyzzy", "unknown flag --xyzzy: sft_train --help lists all settings"),
        ("sft", "--output-dir", "unknown flag --output-dir: it is spelled --output_dir here, with"),
        ("sft", "-output_dir", "unknown flag -output_dir: it is spelled --output_dir here, with"),
        ("sft", "--Batch_Size", "unknown flag --Batch_Size: it is spelled --batch_size here"),
        ("sft", "--no-overwrite", "unknown flag --no-overwrite: it is spelled --no_overwrite here"),
        ("sft", "--num-train-epochs", "unknown flag --num-train-epochs: here it is --epochs"),
    ],
)
def test_an_unknown_flag_is_answered_with_the_one_that_was_meant(stages, stage, flag, message):
    assert stages.error(stage, "--train_data", "a", flag, "1").startswith(message)


def test_an_unknown_flag_with_an_equals_sign_is_named_without_its_value(stages):
    error = stages.error("sft", "--train_data", "a", "--lr=1e-5")
    assert error == "unknown flag --lr: here it is --learning_rate"


def test_a_key_of_another_stage_is_told_apart_from_a_typo(stages, yaml_file):
    path = yaml_file("train_data: a\nreward_model: b\n")
    assert stages.error("rm", "--config", path) == (
        "settings.yaml:2: unknown key reward_model: it is a setting of ppo_train and grpo_train, not of rm_train"
    )


@pytest.mark.parametrize(
    "stage, flag, expected",
    [
        ("ppo", "--max_completion_length", "unknown flag --max_completion_length: here it is --response_length"),
        ("grpo", "--kl_coef", "unknown flag --kl_coef: here it is --beta"),
        ("grpo", "--max_new_tokens", "here it is --max_completion_length"),  # another system's name, through its twin
        ("grpo", "--clip_range", "here it is --epsilon"),
        ("sft", "--simpo_gamma", "it is a setting of simpo_train, not of sft_train"),
    ],
)
def test_what_other_stages_call_a_setting_is_translated(stages, stage, flag, expected):
    assert expected in stages.error(stage, "--train_data", "a", flag, "1")
