"""The rules that settings obey, from Python as from the command line."""

import pickle
from copy import copy, deepcopy
from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest

from easyrlhf.config import GenerateConfig, GRPOConfig, InitConfig, PPOConfig, RMConfig, SFTConfig
from easyrlhf.config.base import GROUPS
from easyrlhf.config.lists import split_list
from easyrlhf.config.suggestions import STAGES
from easyrlhf.config.yaml_file import read_yaml
from easyrlhf.errors import SettingError

ALL = (*STAGES, InitConfig)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"batch_size": 0}, "batch_size 0: must be 1 or more"),
        ({"epochs": 0}, "epochs 0: must be 1 or more"),
        ({"max_steps": 0}, "max_steps 0: must be 1 or more"),
        ({"learning_rate": 0}, "learning_rate 0.0: must be greater than 0"),
        ({"weight_decay": -0.1}, "weight_decay -0.1: must be 0 or more"),
        ({"warmup_ratio": 1}, "warmup_ratio 1.0: must be less than 1"),
        ({"max_grad_norm": 0}, "max_grad_norm 0.0: must be greater than 0"),
        ({"lora_r": -1}, "lora_r -1: must be 0 or more"),
        ({"lora_dropout": 1}, "lora_dropout 1.0: must be less than 1"),
        ({"seed": -1}, "seed -1: must be 0 or more"),
        ({"seed": 2**32}, "seed 4294967296: must be less than 4294967296"),
        ({"adam_eps": float("inf")}, "adam_eps inf: must be a finite number"),
        ({"report_to": "tensorbord"}, "report_to tensorbord: must be one or several of tensorboard, wandb, mlflow"),
        ({"report_to": "mlflow,WandB"}, "report_to WandB: must be one"),
        ({"report_to": "mlflow,WandB"}, "did you mean wandb?"),
        ({"report_to": "wandb,wandb"}, "report_to wandb,wandb: each tracker once"),
        ({"report_to": ["none", "wandb"]}, "report_to none,wandb: none stands alone"),
        ({"report_to": "wandb,all"}, "report_to wandb,all: all stands alone"),
        ({"push_to_hub": "true"}, "push_to_hub true: must be the repository: OWNER/NAME"),
        ({"push_to_hub": "a/b/c"}, "push_to_hub a/b/c: must be the repository"),
        ({"push_to_hub": "-a"}, "push_to_hub -a: must be the repository"),
        ({"push_to_hub": "me/x.git"}, "push_to_hub me/x.git: must be the repository"),
        ({"push_to_hub": "https://huggingface.co/me/x/tree/main"}, "and .; write me/x"),
        ({"hub_private": False}, "hub_private false: belongs to push_to_hub, which is not given"),
        ({"report_to": "swanlab"}, "which is every one that is installed"),
        ({"report_to": ","}, "report_to ',': names no tracker; write none"),
        ({"precision": None}, "precision None: takes one of auto, float32, bf16"),
        ({"model": ["a", "b"]}, "model ['a', 'b']: takes a text or none"),
        ({"max_length": 512, "max_prompt_length": 512}, "max_prompt_length 512: must be less than max_length 512"),
        ({"max_prompt_length": 2000}, "max_prompt_length 2000: must be less than max_length 1024"),
        ({"eval_steps": 5}, "eval_steps 5: needs valid_data"),
        ({"devices": "gpu"}, "devices gpu: must be GPU indices such as 0 or 0,1,2,3; cpu; or cpu:2 for two processes"),
        ({"devices": "cuda:0"}, "devices cuda:0: must be GPU indices such as 0 or 0,1,2,3"),
        ({"devices": "0,1,0"}, "devices 0,1,0: each GPU once, and at least one process"),
        ({"devices": "cpu:0"}, "devices cpu:0: each GPU once, and at least one process"),
        ({"node_rank": 2, "nnodes": 2}, "node_rank 2: with nnodes 2 it must be below 2"),
    ],
)
@pytest.mark.parametrize("config", ALL[:3])
def test_every_stage_refuses(config, wrong, message):
    with pytest.raises(ValueError) as caught:
        config(train_data="rows.jsonl", **wrong)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "wrong, message",
    [
        (
            {"batch_size": 12, "num_mini_batches": 5},
            "num_mini_batches 5: does not divide batch_size 12; use one of 1, 2, 3, 4, 6, 12",
        ),
        ({"cliprange": 0}, "cliprange 0.0: must be greater than 0"),
        ({"cliprange": 1.0}, "cliprange 1.0: must be less than 1"),
        ({"cliprange_value": -1}, "cliprange_value -1.0: must be greater than 0"),
        ({"temperature": 0}, "temperature 0.0: must be greater than 0"),
        ({"kl_coef": -0.1}, "kl_coef -0.1: must be 0 or more"),
        ({"kl_target": 0}, "kl_target 0.0: must be greater than 0"),
        ({"kl_estimator": "k2"}, "kl_estimator k2: must be one of k1, k3"),
        ({"gamma": 1.1}, "gamma 1.1: must be 1 or less"),
        ({"lam": -0.1}, "lam -0.1: must be 0 or more"),
        ({"reward_clip": 0}, "reward_clip 0.0: must be greater than 0"),
        ({"value_learning_rate": -1}, "value_learning_rate -1.0: must be greater than 0"),
        (
            {"reward_funcs": "rewards.short"},
            "reward_funcs rewards.short: must look like",
        ),
        ({"reward_funcs": "a.py:f,b.py"}, "reward_funcs b.py: must look like file.py:function"),
        (
            {"reward_funcs": "a.py:f,rewards.fn"},
            "reward_funcs rewards.fn: must look like file.py:function; write rewards.py:fn",
        ),
        (
            {"transform": "rows.fix"},
            "transform rows.fix: must look like file.py:function; write rows.py:fix",
        ),
        (
            {"reward_funcs": "pkg.rewards.fn"},
            "reward_funcs pkg.rewards.fn: must look like file.py:function; write pkg/rewards.py:fn",
        ),
        ({"reward_weights": "1,2"}, "reward_weights 1,2: 2 for 1 reward sources"),
        (
            {"reward_model": "r", "reward_funcs": "a.py:f", "reward_weights": "1"},
            "reward_weights 1: 1 for 2 reward sources",
        ),
        ({"reward_weights": "heavy"}, "reward_weights heavy: 'heavy' is not a number"),
        ({"reward_weights": "nan"}, "reward_weights nan: 'nan' is not a number"),
        ({"ptx_coef": 0.5}, "ptx_coef 0.5 with ptx_data none: give both or neither"),
        ({"ptx_data": "d"}, "ptx_coef 0 with ptx_data d: give both or neither"),
        (
            {"response_length": 600, "max_prompt_length": 512},
            "response_length 600: with max_prompt_length 512 it exceeds max_length 1024; use max_length 1112",
        ),
    ],
)
def test_ppo_refuses(wrong, message):
    with pytest.raises(ValueError) as caught:
        PPOConfig(train_data="rows.jsonl", **wrong)
    assert message in str(caught.value)


def test_limits_that_are_included_are_accepted():
    config = PPOConfig(train_data="a", gamma=0, lam=1, kl_coef=0, response_length=512)
    assert (config.gamma, config.lam, config.kl_coef) == (0.0, 1.0, 0.0)
    assert PPOConfig(train_data="a", kl_estimator="k3").kl_estimator == "k3"
    assert SFTConfig(train_data="a", eval_steps=0, save_steps=0).save_steps == 0
    assert RMConfig(train_data="a", seed=2**32 - 1).seed == 4294967295


@pytest.mark.parametrize("given", [3.0, "3.0", " 3 ", "3e0"])
def test_whole_numbers_may_be_written_with_a_point(given):
    epochs = SFTConfig(train_data="a", epochs=given).epochs
    assert epochs == 3 and type(epochs) is int


@pytest.mark.parametrize("given", [2.5, "2.5", "inf", "nan", "three", True])
def test_other_numbers_are_not_rounded(given):
    with pytest.raises(SettingError, match=r"^epochs .*: takes a whole number"):
        SFTConfig(train_data="a", epochs=given)


def test_python_values_become_the_settings_own_types(tmp_path):
    config = SFTConfig(train_data=["a", "b"], output_dir=tmp_path, lora_alpha=16, devices=0)
    assert config.train_data == "a,b"
    assert config.output_dir == str(tmp_path)
    assert type(config.lora_alpha) is float
    assert config.devices == "0"


@pytest.mark.parametrize(
    "given, device",
    [("cpu", "cpu"), ("cpu:1", "cpu"), ("3", "3"), ("0,1, 2", "0,1,2"), ([0, 1], "0,1"), ("cpu:2",) * 2],
)
def test_devices_are_accepted(given, device):
    assert SFTConfig(train_data="a", devices=given).devices == device


def test_a_config_cannot_be_changed_and_can_be_a_key():
    config = SFTConfig(train_data="a")
    with pytest.raises(FrozenInstanceError):
        config.seed = 3
    assert {config: 1}[SFTConfig(train_data="a")] == 1
    assert SFTConfig(train_data="b") not in {config: 1}


@pytest.mark.parametrize("copied", [copy, deepcopy, lambda config: pickle.loads(pickle.dumps(config))])
def test_a_copy_of_a_config_has_its_values(copied):
    config = SFTConfig(train_data="a", seed=7)
    assert copied(config) == config and copied(config).seed == 7


def test_defaults_of_pretrained_models_are_filled_in():
    sft = SFTConfig(train_data="a").resolved()
    assert (sft.model, sft.output_dir) == ("Qwen/Qwen2.5-0.5B", "outputs/sft")
    assert sft.learning_rate == 2e-5
    assert SFTConfig(train_data="a", lora_r=8).resolved().learning_rate == 2e-4
    assert SFTConfig(train_data="a", lora_r=8, learning_rate=1e-3).resolved().learning_rate == 1e-3
    assert RMConfig(train_data="a", model="m").resolved().learning_rate == 9e-6
    ppo = PPOConfig(train_data="a", model="m", reward_model="r").resolved()
    assert (ppo.learning_rate, ppo.value_learning_rate) == (3e-6, 3e-6)
    assert (ppo.ref_model, ppo.value_model, ppo.output_dir) == ("m", None, "outputs/ppo")
    lora = PPOConfig(train_data="a", model="m", reward_model="r", lora_r=8).resolved()
    assert (lora.learning_rate, lora.value_learning_rate) == (1e-5, 1e-5)


def test_resolving_twice_changes_nothing_more():
    once = PPOConfig(train_data="a", model="m", reward_model="r").resolved()
    assert once.resolved() == once


def test_each_stage_finds_the_folders_of_the_stages_before_it(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert RMConfig(train_data="a").resolved().model == "Qwen/Qwen2.5-0.5B"
    with pytest.raises(ValueError, match="model: outputs/sft does not exist; run sft_train first"):
        PPOConfig(train_data="a").resolved()
    Path("outputs/sft").mkdir(parents=True)
    assert RMConfig(train_data="a").resolved().model == "outputs/sft"
    with pytest.raises(ValueError, match="outputs/rm does not exist and reward_funcs is not given"):
        PPOConfig(train_data="a").resolved()
    Path("outputs/rm").mkdir()
    ppo = PPOConfig(train_data="a").resolved()
    assert (ppo.model, ppo.reward_model, ppo.ref_model) == (
        "outputs/sft",
        "outputs/rm",
        "outputs/sft",
    )
    assert PPOConfig(train_data="a", reward_funcs="r.py:f").resolved().reward_model is None


def test_reward_weights_count_the_reward_model_first():
    def weights(**more):
        return PPOConfig(train_data="a", **more).reward_weight_values

    assert weights() == (1.0,)
    assert weights(reward_funcs="r.py:f,r.py:g") == (1.0, 1.0)
    assert weights(reward_model="r", reward_funcs="r.py:f", reward_weights="2, -0.5") == (2.0, -0.5)


def test_a_comma_list_is_split_without_blanks():
    assert split_list("a, b,,c ") == ("a", "b", "c")
    assert split_list(None) == ()


@pytest.mark.parametrize("config", ALL)
def test_every_setting_teaches(config):
    for setting in fields(config):
        assert config.group_of(setting.name) in GROUPS, setting.name
        text = setting.metadata["help"]
        assert len(text) > 20 and text.endswith((".", "…")), f"{setting.name}: {text}"
        assert config.default_text(setting) != "None"


def test_a_setting_is_in_the_group_of_the_class_that_declares_it():
    assert SFTConfig.group_of("batch_size") == "Optimisation"
    assert PPOConfig.group_of("batch_size") == "Rollouts"  # declared anew, by a class with a group of its own
    assert PPOConfig.group_of("adam_eps") == "Optimisation"  # another default, in a class without a group


def test_the_defaults_are_those_that_are_promised():
    ppo = PPOConfig(train_data="a")
    assert (ppo.batch_size, ppo.num_ppo_epochs, ppo.num_mini_batches) == (64, 4, 1)
    assert (ppo.kl_coef, ppo.kl_estimator, ppo.kl_target) == (0.05, "k1", None)
    assert (ppo.cliprange, ppo.cliprange_value, ppo.vf_coef) == (0.2, 0.2, 0.1)
    assert (ppo.gamma, ppo.lam, ppo.adam_eps, ppo.missing_eos_penalty) == (1.0, 0.95, 1e-5, 1.0)
    assert (ppo.response_length, ppo.temperature, ppo.whiten_rewards) == (128, 1.0, False)
    sft = SFTConfig(train_data="a").with_lengths(None)
    assert (sft.epochs, sft.max_length, sft.max_prompt_length, sft.adam_eps) == (1, 1024, 512, 1e-8)
    assert (sft.lora_r, sft.lora_alpha, sft.overlength, sft.on_bad_row) == (0, 32.0, None, "stop")


@pytest.mark.parametrize(
    "config, given, places, lengths",
    [
        (SFTConfig, {}, None, (1024, 512)),
        (SFTConfig, {}, 8192, (1024, 512)),
        (SFTConfig, {}, 512, (512, 256)),
        (SFTConfig, {"max_length": 2048}, 512, (2048, 1024)),
        (SFTConfig, {"max_length": 2}, None, (2, 1)),
        (SFTConfig, {"max_prompt_length": 900}, None, (1024, 900)),
        (PPOConfig, {}, None, (1024, 512)),
        (PPOConfig, {"max_length": 256}, None, (256, 128)),
        (PPOConfig, {"response_length": 900}, None, (1024, 124)),
        (PPOConfig, {"response_length": 900, "stop": "x", "stop_finishes": True}, None, (1024, 123)),
        (GRPOConfig, {}, 300, (300, 44)),
        (GRPOConfig, {"max_completion_length": 2000, "max_length": 6000}, None, (6000, 3000)),
    ],
)
def test_lengths_follow_from_one_another(config, given, places, lengths):
    filled = config(train_data="a", **given).with_lengths(places)
    assert (filled.max_length, filled.max_prompt_length) == lengths
    assert filled.with_lengths(99) == filled


def test_a_model_without_room_for_a_completion_and_a_prompt_is_refused():
    with pytest.raises(SettingError, match="response_length 128: with max_prompt_length 1 it exceeds max_length 128"):
        PPOConfig(train_data="a").with_lengths(128)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"batch_size": 12}, "batch_size 12: counts completions, 8 (num_generations) for each prompt; use a multiple"),
        ({"num_generations": 1}, "num_generations 1: grpo compares the completions of a prompt with one another"),
        ({"advantage": "rloo", "num_generations": 1}, "num_generations 1: rloo compares"),
        ({"advantage": "rloo", "loss_type": "grpo"}, "loss_type grpo: belongs to advantage grpo, not rloo"),
        ({"soft_punish_cache": 300}, "soft_punish_cache 300: is longer than max_completion_length 256"),
        (
            {"multi_objective_aggregation": "normalize_then_sum", "reward_clip": 5},
            "reward_clip 5: limits the sum of the rewards",
        ),
        (
            {"max_completion_length": 600, "max_prompt_length": 512},
            "max_completion_length 600: with max_prompt_length 512 it exceeds max_length",
        ),
        (
            {"max_completion_length": 1024},
            "max_completion_length 1024: with any prompt it exceeds max_length 1024; use max_length 1025 or more",
        ),
    ],
)
def test_grpo_settings_that_contradict_each_other_are_refused(wrong, message):
    with pytest.raises(SettingError) as caught:
        GRPOConfig(train_data="rows.jsonl", **wrong)
    assert message in str(caught.value)


def test_ppo_takes_whole_groups_of_completions():
    assert PPOConfig(train_data="a").num_generations == 1
    assert PPOConfig(train_data="a", batch_size=12, num_generations=4).share_prefix == "auto"
    with pytest.raises(SettingError) as caught:
        PPOConfig(train_data="a", batch_size=12, num_generations=8)
    assert "batch_size 12: counts completions, 8 (num_generations) for each prompt; use a multiple" in str(caught.value)


def test_the_defaults_of_grpo_are_trls():
    from trl import GRPOConfig as Theirs

    ours = GRPOConfig(train_data="a", model="m", reward_model="r").resolved()
    theirs = Theirs(output_dir="x", use_cpu=True, bf16=False)
    same = "num_generations beta use_bias_correction_kl epsilon epsilon_high loss_type scale_rewards num_iterations "
    same += "multi_objective_aggregation mask_truncated_completions learning_rate temperature"
    assert {name: getattr(ours, name) for name in same.split()} == {
        name: getattr(theirs, name) for name in same.split()
    }


def test_the_dpo_losses_to_choose_from_are_those_there_are():
    from easyrlhf.config import DPOConfig
    from easyrlhf.losses.pairwise import DPO_LOSSES

    choices = DPOConfig.__dataclass_fields__["loss_type"].metadata["choices"]
    assert set(choices) == {*DPO_LOSSES, "aot"}


@pytest.mark.parametrize(
    "given, texts",
    [
        ("</answer>", ("</answer>",)),
        ("</answer>,\\nUser:", ("</answer>", "\nUser:")),
        (" END,b ", (" END", "b ")),  # spaces count
        ("\\boxed\\,\\\\n,\n", ("\\boxed,\\n", "\n")),
        (["a,b", "\n\n", " \\n"], ("a,b", "\n\n", " \\n")),  # a list in YAML or Python: as they are
        (None, ()),
    ],
)
def test_stop_texts_are_what_was_written(given, texts):
    assert PPOConfig(train_data="rows.jsonl", stop=given).stop_texts == texts
    assert GenerateConfig(model="m", prompts="p.jsonl", output="o.jsonl", stop=given).stop_texts == texts


def test_stop_texts_survive_args_yaml(tmp_path):
    config = PPOConfig(train_data="rows.jsonl", stop=[" a,b\n", "\\"])
    (tmp_path / "args.yaml").write_text(config.to_yaml())
    assert PPOConfig(**{k: v for k, (v, _) in read_yaml(tmp_path / "args.yaml").items()}).stop_texts == (" a,b\n", "\\")


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"stop": "a,,b"}, "stop 'a,,b': has an empty text, which every answer holds; leave it out"),
        ({"stop_finishes": True}, "stop_finishes: belongs to stop, which is not given"),
        (
            {"stop": "x", "stop_finishes": True, "response_length": 512, "max_prompt_length": 512},
            "response_length 512: with max_prompt_length 512 and an end that stop_finishes adds it exceeds max_length",
        ),
    ],
)
def test_stop_texts_that_cannot_be_are_refused(wrong, message):
    with pytest.raises(SettingError) as caught:
        PPOConfig(train_data="rows.jsonl", **wrong)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "config, settings, measured",
    [
        (PPOConfig, {}, "step"),
        (PPOConfig, {"kl_coef": 0}, "never"),
        (PPOConfig, {"kl_coef": 0, "lora_r": 4}, "eval"),
        (PPOConfig, {"kl_coef": 0, "lora_r": 4, "ref_model": "other"}, "eval"),
        (PPOConfig, {"kl_coef": 0, "measure_kl": "step"}, "step"),
        (GRPOConfig, {}, "never"),
        (GRPOConfig, {"beta": 0.01, "advantage": "rloo"}, "step"),
        (GRPOConfig, {"ref_model": "m"}, "never"),
        (GRPOConfig, {"ref_model": "other"}, "eval"),
        (GRPOConfig, {"lora_r": 4, "measure_kl": "never"}, "never"),
    ],
)
def test_when_the_distance_from_the_reference_is_measured(config, settings, measured):
    assert config(train_data="rows.jsonl", model="m", reward_model="rm", **settings).kl_measured == measured


@pytest.mark.parametrize(
    "config, wrong, message",
    [
        (PPOConfig, {"measure_kl": "eval"}, "measure_kl eval: kl_coef 0.05 is the price of the distance"),
        (GRPOConfig, {"beta": 0.1, "measure_kl": "never"}, "leave it at auto, or give beta 0"),
        (
            GRPOConfig,
            {"ref_model": "other", "measure_kl": "never"},
            "ref_model other: is never asked with measure_kl",
        ),
    ],
)
def test_a_price_and_a_reference_that_is_not_asked_are_refused(config, wrong, message):
    with pytest.raises(SettingError) as caught:
        config(train_data="rows.jsonl", model="m", **wrong)
    assert message in str(caught.value)


def test_home_and_variables_are_filled_in_wherever_a_path_is_set(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("SCRATCH", "/big")
    monkeypatch.chdir(tmp_path)
    config = SFTConfig(
        model="$SCRATCH/m",
        train_data="~/d.jsonl=0.3, ${SCRATCH}/e.jsonl,org/rows:name@train[:10%],a~b.jsonl",
        output_dir="~/runs/x",
        resume="~/runs/y/checkpoints/step-3",
        chat_template="~/t.jinja",
    )
    assert config.model == "/big/m"
    assert config.train_data == "/home/me/d.jsonl=0.3,/big/e.jsonl,org/rows:name@train[:10%],a~b.jsonl"
    assert (config.output_dir, config.chat_template) == ("/home/me/runs/x", "/home/me/t.jinja")
    assert config.resume == "/home/me/runs/y/checkpoints/step-3"
    assert SFTConfig(train_data="x", field="prompt='~ {a} $B'").field == "prompt='~ {a} $B'"


def test_a_variable_that_is_not_set_is_named_and_a_file_with_a_dollar_sign_is_itself(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NOWHERE", raising=False)
    with pytest.raises(SettingError, match=r"output_dir \$NOWHERE/x: the variable \$NOWHERE is not set"):
        SFTConfig(train_data="x", output_dir="$NOWHERE/x")
    (tmp_path / "a$NOWHERE.jsonl").write_text("")
    assert SFTConfig(train_data="a$NOWHERE.jsonl").train_data == "a$NOWHERE.jsonl"
