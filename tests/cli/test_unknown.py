"""What is said about names that do not exist here."""

import re
from collections import Counter
from dataclasses import fields

import pytest
from click.testing import CliRunner

from easyrlhf.cli.main import main
from easyrlhf.config import SFTConfig
from easyrlhf.config.peers import FOREIGN
from easyrlhf.config.peers.absent import REASONS
from easyrlhf.config.peers.nested import NESTED
from easyrlhf.config.peers.renamed import SAME_THING, WITH_A_NOTE
from easyrlhf.config.suggestions import STAGES, explain_unknown

OURS = {f.name for config in STAGES for f in fields(config)}


def test_every_translation_leads_to_a_setting_that_exists():
    wrong = {name: t.ours for name, t in FOREIGN.items() if not set(t.ours) <= OURS}
    assert wrong == {}


def test_every_name_without_a_counterpart_has_an_explanation():
    assert [name for name, t in FOREIGN.items() if not t.ours and not t.note] == []


def test_no_foreign_name_hides_one_of_ours_or_is_listed_twice():
    assert set(FOREIGN) & OURS == set()
    named = Counter([*SAME_THING, *WITH_A_NOTE, *NESTED, *(name for _, names in REASONS for name in names.split())])
    assert [name for name, count in named.items() if count > 1] == []


def test_settings_named_in_explanations_exist():
    words = {w for t in FOREIGN.values() for w in re.findall(r"\b[a-z]+_[a-z_]+\b", t.note)}
    known = OURS | {f"{config.stage}_train" for config in STAGES} | {"flash_attention_2", "dataset_info", "low_var_kl"}
    known |= {"last_token", "completion_mean"}  # values of theirs
    assert words - known == set()


@pytest.mark.parametrize("config", STAGES)
def test_every_foreign_name_is_answered_as_flag_and_as_key(config):
    own = {f.name for f in fields(config)}
    for theirs, (ours, note) in FOREIGN.items():
        flag = explain_unknown(f"--{theirs}", config, f"{config.stage}_train")
        key = explain_unknown(theirs, config, f"{config.stage}_train")
        assert flag.startswith(f"unknown flag --{theirs}: ") and key.startswith(f"unknown key {theirs}: ")
        assert "lists all settings" not in flag and "did you mean" not in key
        for name in own & set(ours):
            assert f"--{name}" in flag and re.search(rf"(?<!-)\b{name}\b", key)
        if own & set(ours) or not ours:
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
        ("sft", "--confg", "unknown flag --confg: did you mean --config?"),
        ("sft", "--xyzzy", "unknown flag --xyzzy: sft_train --help lists all settings"),
        ("sft", "-output_dir", "unknown flag -output_dir: it is spelled --output_dir here, with"),
        ("sft", "--Batch_Size", "unknown flag --Batch_Size: it is spelled --batch_size here"),
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


@pytest.mark.parametrize(
    "command, flag, answer",
    [
        ("generate m", "num_return_sequences", "here it is --samples"),
        ("generate m", "do_sample", "temperature 0 takes the likeliest token, always; above it tokens are drawn"),
        ("chat m", "min_p", "not in this version, which has temperature, top_p, top_k and repetition_penalty"),
    ],
)
def test_names_of_sampling_are_answered_where_models_are_used(command, flag, answer):
    done = CliRunner().invoke(main, [*command.split(), f"--{flag}", "5"])
    assert done.stderr == f"error: unknown flag --{flag}: {answer}\n"


PART = "takes a whole number; for a part of a pass give max_steps, the number of optimiser steps: rows of that part / "


def test_a_part_of_a_pass_is_answered_under_either_name(stages, yaml_file):
    own = stages.error("sft", "--train_data", "a", "--epochs", "0.5")
    theirs = stages.error("sft", "--train_data", "a", "--num_train_epochs", "0.5")
    assert own == f"--epochs 0.5: {PART}batch_size"
    assert theirs == f"unknown flag --num_train_epochs: here it is --epochs, but epochs 0.5: {PART}batch_size"
    whole = stages.error("sft", "--config", yaml_file("train_data: a\nnum_train_epochs: 3.0\n"))
    assert whole == "settings.yaml:2: unknown key num_train_epochs: here it is epochs"


@pytest.mark.parametrize("command", ["chat m", "generate m --prompt a", "compare a b --prompts c --judge d.py:e"])
@pytest.mark.parametrize("name", ["max_tokens", "response_length", "max_completion_length", "generate_max_len"])
def test_the_length_of_answers_has_one_name_where_models_are_used(command, name):
    done = CliRunner().invoke(main, [*command.split(), f"--{name}", "5"])
    assert f"unknown flag --{name}: here it is --max_new_tokens" in done.stderr


@pytest.mark.parametrize(
    "flag",
    ["--adapter_x", "--overwrite_caches", "--overwrit", "--max_sample", "--multi_turn_lr_scheduler"],
)
def test_a_name_that_is_near_to_nothing_gets_no_guess(stages, flag):
    assert stages.error("ppo", "--train_data", "a", flag, "1") == (
        f"unknown flag {flag}: ppo_train --help lists all settings"
    )


@pytest.mark.parametrize(
    "given, guess",
    [
        (("--dry_ru",), "did you mean --dry_run?"),
        (("--dry_ru", "somewhere"), "sft_train --help lists all settings"),  # a switch takes no word
        (("--overwrit",), "sft_train --help lists all settings"),  # never offered: it empties output_dir
        (("--no_overwrit",), "did you mean --no_overwrite?"),
        (("--learning_rat", "fast"), "sft_train --help lists all settings"),
        (("--epoch=3",), "did you mean --epochs?"),
    ],
)
def test_a_guess_can_have_the_value(stages, given, guess):
    assert stages.error("sft", "--train_data", "a", *given).endswith(f": {guess}")


def test_every_flag_that_does_not_exist_is_answered_at_once(stages):
    assert stages.error(
        "sft", "--run_name", "x", "--train_data", "a", "--learning_rat=1", "--do_train"
    ).splitlines() == [
        "unknown flag --run_name: curves are named by output_dir; a tracker's further settings are its own environment "
        "variables",
        "unknown flag --learning_rat: did you mean --learning_rate?",
        "unknown flag --do_train: it needs no telling: what is set decides it",
    ]


def test_a_name_is_given_once_where_two_of_ours_are_one_here(stages):
    assert stages.error("kto", "--train_data", "a", "--rl_beta", "0.1").startswith(
        "unknown flag --rl_beta: here it is --beta (PPO's"
    )


@pytest.mark.parametrize(
    "stage, line, answer",
    [
        ("sft", "stage: dpo", "stage dpo is the command dpo_train"),
        ("dpo", "rl: KTO", "rl KTO is the command kto_train"),
        ("dpo", "rlhf_type: dpo", "that is the command itself, dpo_train; leave the setting out"),
        ("ppo", "advantage_estimator: rloo", "advantage_estimator rloo is the command grpo_train with advantage rloo"),
        ("sft", "stage: pt", "each method is a command of its own, such as dpo_train; pt is none of them"),
    ],
)
def test_a_method_is_answered_with_its_command(stages, yaml_file, stage, line, answer):
    path = yaml_file(f"train_data: a\n{line}\n")
    assert stages.error(stage, "--config", path) == f"settings.yaml:2: unknown key {line.split(':')[0]}: {answer}"


def test_blocks_are_walked_and_all_that_is_wrong_with_a_file_comes_in_the_order_of_its_lines(stages, yaml_file):
    path = yaml_file(
        "epochs: many\n"
        "trl:\n  beta: 0.1\n  use_vllm: true\n  xyz: {a: 1}\n"
        "reward_model:\n  model: {path: rm}\n"
        "seed: -1\n"
        "algorithm: {kl_ctrl: {kl_coef: 0.001}}\n"
    )
    assert stages.error("ppo", "--config", path, "--batch_size", "0").splitlines() == [
        f"settings.yaml:1: epochs many: {PART}batch_size",
        "settings.yaml:3: unknown key trl.beta: here it is kl_coef",
        "settings.yaml:4: unknown key trl.use_vllm: here it is rollout (write rollout vllm)",
        "settings.yaml:5: unknown key trl.xyz.a: ppo_train --help lists all settings",
        "settings.yaml:7: unknown key reward_model.model.path: here it is reward_model",
        "settings.yaml:8: seed -1: must be 0 or more",
        "settings.yaml:9: unknown key algorithm.kl_ctrl.kl_coef: here it is kl_coef",
        "--batch_size 0: must be 1 or more",
    ]


def test_a_setting_of_ours_inside_of_a_block_is_sent_to_the_top(stages, yaml_file):
    path = yaml_file("train_data: a\ntrl:\n  beta: 0.1\n")
    assert stages.error("grpo", "--config", path) == (
        "settings.yaml:3: unknown key trl.beta: here it is beta, outside of any block"
    )


def test_data_sets_of_axolotl_are_answered_from_what_they_hold(stages, yaml_file):
    path = yaml_file(
        "datasets:\n"
        "- path: Intel/orca_dpo_pairs\n  name: main\n  split: train[:5%]\n  type: chatml.intel\n"
        "- path: org/chats\n  split: train\n  type: chat_template.default\n  field_messages: talk\n"
        "  field_chosen: good\n  message_property_mappings: {role: from, content: value}\n  roles_to_train: [gpt]\n"
        "- {path: json, data_files: [a.jsonl, b.jsonl], type: {field_prompt: q, field_chosen: chosen}}\n"
        "- path: rows.jsonl\n  split: train\n  type: jeopardy\n"
        "dataset_prepared_path:\n"
    )
    start = "settings.yaml:{}: unknown key datasets[{}]: here it is train_data "
    assert stages.error("dpo", "--config", path).splitlines() == [
        start.format(2, 0) + "Intel/orca_dpo_pairs:main@train[:5%], format chatml.intel",
        start.format(6, 1) + "org/chats, format chat_template.default, field chosen=good,conversations=talk; "
        "roles_to_train: loss falls on assistant turns alone",
        start.format(13, 2) + "a.jsonl,b.jsonl, field prompt=q",
        start.format(14, 3) + "rows.jsonl; type: jeopardy is no row format here; rows are recognised by their keys, "
        "else see field and transform",
        "settings.yaml:17: unknown key dataset_prepared_path: every run writes its own tokenised rows beside its "
        "result; there is no cache",
        "settings.yaml looks like a file of axolotl: easyrlhf convert-config settings.yaml turns it into one of ours",
    ]


def test_what_repeats_and_what_is_wrong_in_python_is_listed_too(tmp_path):
    file = tmp_path / "s.yaml"
    file.write_text("train_data: a\nepochs: 0\nseed: x\n")
    with pytest.raises(ValueError) as caught:
        SFTConfig.from_yaml(file)
    assert str(caught.value) == f"{file}:2: epochs 0: must be 1 or more\n{file}:3: seed x: takes a whole number"
    file.write_text("seed: 1\nseed: 2\nepochs: 1\nepochs: 2\n")
    with pytest.raises(ValueError) as caught:
        SFTConfig.from_yaml(file)
    assert [line.split("'")[1] for line in str(caught.value).splitlines()] == ["seed", "epochs"]
