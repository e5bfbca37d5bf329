"""Which settings of a run may be others when it goes on, and which are known by the content of what they name."""

import json
import shutil
from dataclasses import fields, replace
from pathlib import Path

import pytest

from easyrlhf.config import DPOConfig, EBFTConfig, GRPOConfig, PPOConfig, RMConfig, SFTConfig
from easyrlhf.errors import InputError
from easyrlhf.run.differences import differences, edited, write_settings
from easyrlhf.run.inputs import inputs_of
from easyrlhf.run.manifest import write_stage

# What may be another, of all settings: it changes no number of a run but by rounding.
FREE = """
    output_dir resume overwrite dry_run allow_incomplete log_steps report_to save_steps save_total_limit stop_on_alarm
    eval_at_start devices nnodes node_rank master_addr master_port ddp_timeout deepspeed micro_batch_tokens reuse_memory
    context_parallel_size offload_activations sharding
    attn_implementation gradient_checkpointing share_prefix examine_rows reward_url reward_timeout reward_workers
    local_rollout_forward_batch_size num_sample_generations log_rollouts log_rollout_ids vllm_host vllm_port
    vllm_timeout vllm_weight_transfer vllm_mode vllm_tensor_parallel_size vllm_gpu_memory_utilization
    push_to_hub hub_private environment_timeout environment_workers environment_concurrency nemo_gym_url nemo_gym_policy
    stream_rewards
"""
ROWS = "train_data valid_data ptx_data format field transform on_bad_row"
MODELS = "model ref_model reward_model value_model"
FILES = "chat_template reward_funcs environment tools"


@pytest.mark.parametrize("config", [SFTConfig, RMConfig, DPOConfig, PPOConfig, GRPOConfig, EBFTConfig])
def test_every_setting_says_what_becomes_of_it(config):
    kinds = {setting.name: setting.metadata.get("on_resume") for setting in fields(config)}
    for kind, names in (("free", FREE), ("rows", ROWS), ("model", MODELS), ("files", FILES)):
        assert [name for name, found in kinds.items() if found == kind] == [
            name for name in kinds if name in names.split()
        ]
    known = {"eval_steps", *FREE.split(), *ROWS.split(), *MODELS.split(), *FILES.split()}
    assert [name for name, found in kinds.items() if found and name not in known] == []


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A working directory with a model, rows, a reward function and a template."""
    monkeypatch.chdir(tmp_path)
    for name in ("sft", "rm"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "model.safetensors").write_text(f"weights of {name}")
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a"}\n')
    (tmp_path / "rewards.py").write_text("def score(completions, **_):\n    return [0.0 for _ in completions]\n")
    (tmp_path / "chat.jinja").write_text("{{ messages }}")
    return tmp_path


def begun(**more) -> PPOConfig:
    """The settings of a run that was begun in `run`."""
    known = {"model": "sft", "reward_model": "rm", "reward_funcs": "rewards.py:score", "chat_template": "chat.jinja"}
    config = PPOConfig(train_data="rows.jsonl", output_dir="run", devices="cpu", **known | more).resolved()
    Path("run").mkdir()
    write_settings(Path("run"), config)
    write_stage(Path("run"), {"stage": "ppo", "status": "stopped", "inputs": inputs_of(config)})
    return config


def lines(config) -> list[str]:
    return [str(one) for one in differences(Path(config.output_dir).resolve(), config)]


def test_the_same_settings_do_not_differ(place):
    assert lines(begun()) == []


def test_everything_may_lie_elsewhere(place, monkeypatch):
    config = begun()
    (place / "other").mkdir()
    for name in ("sft", "rm", "rows.jsonl", "rewards.py", "chat.jinja", "run"):
        (place / name).rename(place / "other" / f"new_{name}")
    monkeypatch.chdir(place / "other")
    names = {"model": "new_sft", "reward_model": "./new_rm", "reward_funcs": "new_rewards.py:score"}
    names |= {"train_data": f"{place}/other/new_rows.jsonl", "chat_template": "../other/new_chat.jinja"}
    assert lines(replace(config, ref_model="new_sft", output_dir="new_run", **names)) == []


def test_another_content_is_told_by_what_differs(place):
    config = begun()
    shutil.copytree("sft", "copy")
    Path("copy/model.safetensors").write_text("others")
    Path("new.py").write_text("def score(completions, **_):\n    return [1.0 for _ in completions]\n")
    assert lines(replace(config, model="copy", reward_funcs="new.py:score")) == [
        "model: sft → copy (model.safetensors is not the same)",
        "reward_funcs: rewards.py:score → new.py:score (its content is not the same)",
    ]


def test_a_model_that_was_trained_again_under_its_name_is_another(place):
    config = begun()
    Path("sft/model.safetensors").write_text("others")
    (line,) = [line for line in lines(config) if line.startswith("model")]
    assert line == "model: sft → sft (model.safetensors is not the same)"


def test_what_a_run_has_kept_of_an_unfinished_one_is_what_it_goes_on_with(place):
    config = begun()
    Path("sft/model.safetensors").write_text("finished since")
    Path("run/parents/model").mkdir(parents=True)
    assert lines(config) == []  # neither model nor ref_model, which is the same
    Path("rm/model.safetensors").write_text("trained again")
    assert lines(config) == ["reward_model: rm → rm (model.safetensors is not the same)"]


def test_a_function_that_was_mended_in_its_place_goes_on_and_is_mentioned(place):
    config = begun()
    assert edited(Path("run"), config) == []
    Path("rewards.py").write_text("def score(completions, **_):\n    return [1.0 for _ in completions]\n")
    assert lines(config) == []
    (line,) = edited(Path("run"), config)
    assert line.startswith("reward_funcs rewards.py:score: is not as it was when the run started")


def test_rows_of_other_files_are_left_to_be_read(place):
    config = begun()
    Path("more.jsonl").write_text('{"prompt": "b"}\n')
    (found,) = differences(Path("run"), replace(config, train_data="more.jsonl"))
    assert (found.name, found.is_undecided) == ("train_data", True)
    (found,) = differences(Path("run"), replace(config, valid_data="more.jsonl"))
    assert (str(found), found.is_undecided) == ("valid_data: none → more.jsonl", False)


def test_settings_are_listed_in_a_users_words(place):
    config = begun(kl_target=None, learning_rate=1e-6)
    assert lines(replace(config, kl_target=6.0, learning_rate=3e-5, whiten_rewards=True)) == [
        "kl_target: none → 6",
        "learning_rate: 1e-6 → 3e-5",
        "whiten_rewards: false → true",
    ]


def test_evaluations_may_be_others_unless_the_best_one_is_kept(place):
    Path("v.jsonl").write_text('{"prompt": "b"}\n')
    config = begun(valid_data="v.jsonl", eval_steps=2)
    assert lines(replace(config, eval_steps=3, save_steps=7)) == []
    shutil.rmtree("run")
    config = begun(valid_data="v.jsonl", eval_steps=2, keep_best="eval/scores")
    assert lines(replace(config, eval_steps=3)) == ["eval_steps: 2 → 3"]


def test_a_run_without_an_account_of_its_inputs_is_compared_with_what_lies_at_its_paths(place, monkeypatch):
    config = begun()
    stage = json.loads(Path("run/stage.json").read_text())
    del stage["inputs"]
    Path("run/stage.json").write_text(json.dumps(stage))
    shutil.copytree("sft", "copy")
    copied = replace(config, model=f"{place}/copy", ref_model=f"{place}/copy", output_dir=f"{place}/run")
    assert lines(copied) == []
    (place / "elsewhere").mkdir()
    monkeypatch.chdir(place / "elsewhere")  # then sft is found from the run's folder
    away = replace(copied, reward_model=f"{place}/rm", reward_funcs=f"{place}/rewards.py:score")
    away = replace(away, chat_template=f"{place}/chat.jinja", train_data=f"{place}/rows.jsonl")
    assert lines(away) == []
    (place / "copy/config.json").write_text('{"a": 1}')
    assert lines(away)[0] == f"model: sft → {place}/copy (config.json is not the same)"


def test_settings_that_cannot_be_read_are_bad_input(place):
    config = begun()
    Path("run/args.yaml").write_text("- a list")
    with pytest.raises(InputError, match=r"args\.yaml: is no list of settings"):
        lines(config)
