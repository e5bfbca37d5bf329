"""Where a value comes from: default, YAML file, flag; what is said when it cannot be used."""

import dataclasses

import pytest

from easyrlhf.config import PPOConfig


def test_a_flag_beats_the_file_and_the_file_beats_the_default(stages, yaml_file):
    path = yaml_file("train_data: rows.jsonl\nkl_coef: 0.3\nseed: 7\n")
    config = stages.config("ppo", "--config", path, "--seed", "8")
    assert config.seed == 8  # flag
    assert config.kl_coef == 0.3  # file
    assert config.gamma == 1.0  # default
    assert config.train_data == "rows.jsonl"


def test_a_flag_beats_the_file_wherever_it_stands(stages, yaml_file):
    path = yaml_file("train_data: rows.jsonl\nseed: 7\n")
    assert stages.config("sft", "--seed", "8", "--config", path).seed == 8


def test_none_takes_a_value_of_the_file_back(stages, yaml_file):
    path = yaml_file("train_data: a\nvalid_data: b\nmax_steps: 5\n")
    config = stages.config("sft", "--config", path, "--valid_data", "none", "--max_steps", "none")
    assert config.valid_data is None
    assert config.max_steps is None


def test_flags_arrive_with_their_types(stages):
    config = stages.config(
        "ppo",
        *["--train_data", "a.jsonl,b.jsonl", "--learning_rate", "5e-6", "--batch_size", "32"],
        *["--overwrite", "--no_dry_run", "--devices", "0", "--reward_funcs", "r.py:short"],
    )
    assert config.train_data == "a.jsonl,b.jsonl"
    assert config.learning_rate == 0.000005
    assert config.batch_size == 32 and type(config.batch_size) is int
    assert config.overwrite is True
    assert config.dry_run is False
    assert config.devices == "0"


def test_a_file_gives_the_same_as_flags_do(stages, yaml_file):
    # PyYAML reads 5e-6 as a text, 0 as a number, yes as true
    path = yaml_file(
        "train_data: [a.jsonl, b.jsonl]\nlearning_rate: 5e-6\nbatch_size: '32'\noverwrite: yes\n"
        "devices: 0\nreward_funcs: [r.py:short, r.py:kind]\nreward_weights: [1, 0.5]\nmodel:\n"
    )
    config = stages.config("ppo", "--config", path)
    assert config.train_data == "a.jsonl,b.jsonl"
    assert config.learning_rate == 0.000005
    assert config.batch_size == 32
    assert config.overwrite is True
    assert config.devices == "0"
    assert config.reward_funcs == "r.py:short,r.py:kind"
    assert config.reward_weight_values == (1.0, 0.5)
    assert config.model is None


def test_a_switch_of_the_file_is_turned_off_by_its_flag(stages, yaml_file):
    path = yaml_file("train_data: a\ngradient_checkpointing: true\n")
    assert stages.config("sft", "--config", path).gradient_checkpointing is True
    config = stages.config("sft", "--config", path, "--no_gradient_checkpointing")
    assert config.gradient_checkpointing is False


def test_saved_settings_give_the_same_config_again(stages, tmp_path):
    first = stages.config(
        "ppo", "--train_data", "ä.jsonl", "--model", "m", "--reward_model", "r", "--kl_coef", "1e-7"
    ).resolved()
    (tmp_path / "args.yaml").write_text(first.to_yaml(), encoding="utf-8")
    again = stages.config("ppo", "--config", "args.yaml")
    assert again == first
    assert again.kl_coef == 0.0000001
    assert again.train_data == "ä.jsonl"
    assert PPOConfig.from_yaml(tmp_path / "args.yaml") == first
    for setting in dataclasses.fields(first):
        value = getattr(first, setting.name)
        assert type(getattr(again, setting.name)) is type(value), setting.name


@pytest.mark.parametrize(
    "args, message",
    [
        (["--batch_size", "0"], "--batch_size 0: must be 1 or more"),
        (["--batch_size", "many"], "--batch_size many: takes a whole number"),
        (["--batch_size", "64.5"], "--batch_size 64.5: takes a whole number"),
        (["--learning_rate", "-1e-5"], "--learning_rate -1e-05: must be greater than 0"),
        (["--kl_coef", "nan"], "--kl_coef nan: must be a finite number"),
        (["--overlength", "dorp"], "--overlength dorp: must be one of drop, truncate; did you"),
        (["--model", ""], "--model '': takes a text or none"),
        (["--model"], "--model needs a value"),
        (["--model", "--seed", "3"], "--model needs a value, but --seed follows it"),
        (["--overwrite", "true"], "--overwrite takes no value; write --overwrite to turn it on, --no_overwrite to"),
        (["--valid_data", "a", "b"], "stray argument b; several values of --valid_data are joined"),
        (["ppo.yaml"], "stray argument ppo.yaml; a settings file is given as --config ppo.yaml"),
        (["kl_coef=1"], "stray argument kl_coef=1; settings are given as --kl_coef 1"),
        (["--config", "missing.yaml"], "--config missing.yaml: no such file"),
    ],
)
def test_a_flag_that_cannot_be_used_is_named(stages, args, message):
    assert stages.error("ppo", "--train_data", "rows.jsonl", *args).startswith(message)


@pytest.mark.parametrize(
    "text, message",
    [
        ("batch_size: 0", "settings.yaml:3: batch_size 0: must be 1 or more"),
        ("batch_size: true", "settings.yaml:3: batch_size True: takes a whole number"),
        ("batch_size: [1]", "settings.yaml:3: batch_size [1]: takes a whole number"),
        ("learning_rate: fast", "settings.yaml:3: learning_rate fast: takes a number or none"),
        ("seed:", "settings.yaml:3: seed None: takes a whole number"),
        ("overwrite: 2", "settings.yaml:3: overwrite 2: takes true or false"),
        ("resume: no", "settings.yaml:3: resume False: takes a text"),
        ("model: {a: b}", "settings.yaml:3: model {'a': 'b'}: takes a text or none"),
        (
            "train_data: b",
            "--config settings.yaml:3: 'train_data' was set before, at settings.yaml:2",
        ),
        (
            "a: b: c",
            "--config settings.yaml:3: not valid YAML: mapping values are not allowed here",
        ),
        ("kl_coeff: 1", "settings.yaml:3: unknown key kl_coeff: here it is kl_coef"),
        ("lamb: 1", "settings.yaml:3: unknown key lamb: did you mean lam?"),
    ],
)
def test_a_line_of_a_file_that_cannot_be_used_is_named(stages, yaml_file, text, message):
    path = yaml_file(f"# settings\ntrain_data: a\n{text}\n")
    assert stages.error("ppo", "--config", path).startswith(message)


def test_every_unknown_key_of_a_file_is_reported_at_once(stages, yaml_file):
    path = yaml_file("train_data: a\nepoch: 2\nzzz: 3\n")
    assert stages.error("sft", "--config", path).splitlines() == [
        "settings.yaml:2: unknown key epoch: did you mean epochs?",
        "settings.yaml:3: unknown key zzz: sft_train --help lists all settings",
    ]


@pytest.mark.parametrize("text", ["- a\n- b\n", "just words\n"])
def test_a_file_that_is_no_mapping_is_refused(stages, yaml_file, text):
    assert "must hold lines of the form 'setting: value'" in stages.error("sft", "--config", yaml_file(text))


def test_an_empty_file_sets_nothing(stages, yaml_file):
    path = yaml_file("# nothing yet\n")
    assert stages.config("sft", "--config", path, "--train_data", "a").seed == 42


def test_missing_training_data_is_asked_for(stages):
    assert stages.error("sft").startswith("--train_data is required. Rows to train on")


def test_a_bad_value_is_blamed_on_the_flag_that_beat_the_file(stages, yaml_file):
    path = yaml_file("train_data: a\nseed: 7\n")
    assert stages.error("sft", "--config", path, "--seed", "-1").startswith("--seed -1: ")


def test_from_yaml_names_the_place_too(tmp_path):
    path = tmp_path / "args.yaml"
    path.write_text("train_data: a\nlam: 2\n")
    with pytest.raises(ValueError, match=r"args\.yaml:2: lam 2\.0: must be 1 or less"):
        PPOConfig.from_yaml(path)
    path.write_text("train_data: a\nlambda: 2\n")
    with pytest.raises(ValueError, match=r"args\.yaml:2: unknown key 'lambda'"):
        PPOConfig.from_yaml(path)
