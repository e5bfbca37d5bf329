"""Settings files of other programs, in miniature and in their style, as ours."""

import random

import pytest
import yaml
from click.testing import CliRunner

from easyrlhf.cli.main import main as easyrlhf
from easyrlhf.cli.options import build_config
from easyrlhf.config.peers import FOREIGN
from easyrlhf.errors import InputError
from easyrlhf.tools.converting.common import RULES
from easyrlhf.tools.converting.convert_config import as_yaml, convert_settings
from easyrlhf.tools.converting.draft import CONFIGS
from easyrlhf.tools.converting.peers import PEERS, peer_of

AXOLOTL_DPO = """
base_model: org/base-8b
load_in_8bit: true
strict: false
rl: dpo
rl_beta: 0.2
chat_template: llama3
datasets:
  - path: org/pairs
    name: clean
    split: train[:10%]
    type: chat_template.default
    field_messages: talk
    field_chosen: better
    roles: {user: [human]}
dataset_prepared_path:
val_set_size: 0.05
output_dir: ./outputs/dpo-out
sequence_len: 4096
sample_packing: false
adapter: lora
lora_r: 16
lora_alpha: 8
lora_target_linear: true
wandb_project: tries
gradient_accumulation_steps: 4
micro_batch_size: 2
num_epochs: 1.5
optimizer: adamw_bnb_8bit
lr_scheduler: cosine
learning_rate: 2e-4
bf16: auto
tf32: true
gradient_checkpointing: unsloth
flash_attention: true
warmup_steps: 10
evals_per_epoch: 4
saves_per_epoch: 1
weight_decay: 0.1
deepspeed: deepspeed_configs/zero3_bf16_cpuoffload_all.json
special_tokens:
  pad_token: <pad>
"""

LLAMAFACTORY_SFT = """
model_name_or_path: org/base-8b
trust_remote_code: true
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 8
lora_target: all
dataset: identity, helpful
template: llama3
cutoff_len: 2048
max_samples: 1000
preprocessing_num_workers: 16
output_dir: saves/sft
logging_steps: 10
save_steps: 500
plot_loss: true
overwrite_output_dir: true
report_to: none
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
learning_rate: 1.0e-4
num_train_epochs: 3.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
ddp_timeout: 180000000
resume_from_checkpoint: null
eval_steps: 500
"""

SWIFT_GRPO = """
rlhf_type: grpo
model: org/chat-7b
external_plugins: plugin.py
reward_funcs: rewards.accuracy
use_vllm: true
vllm_mode: colocate
vllm_max_model_len: 8192
train_type: full
torch_dtype: bfloat16
dataset: [org/maths#1000, more.jsonl]
max_length: 2048
max_completion_length: 1024
num_train_epochs: 1
per_device_train_batch_size: 4
gradient_accumulation_steps: 8
steps_per_generation: 16
learning_rate: 1e-6
warmup_ratio: 0.05
weight_decay: 0.0
lr_scheduler_type: constant_with_warmup
num_generations: 7
temperature: 0.9
deepspeed: zero2
beta: 0.001
overlong_filter: true
dynamic_sample: true
max_resample_times: 5
advantage_estimator: rloo
sleep_level: 1
report_to: [swanlab, wandb]
"""

TRL_DPO = """
model_name_or_path: org/chat-0.5b
dataset_name: org/ultra
dataset_config: main
dataset_train_split: train_prefs
dataset_test_split: test_prefs
eval_strategy: steps
eval_steps: 50
learning_rate: 5.0e-7
loss_type: [sigmoid, sft]
loss_weights: [1.0, 0.2]
beta: 0.1
max_length: 1024
use_peft: false
lora_r: 64
push_to_hub: true
hub_token: hf_secret
max_steps: 200
warmup_steps: 20
save_strategy: "no"
"""

OPENRLHF_PPO = """
pretrain: org/sft-8b
reward_pretrain: org/rm-8b
save_path: ckpt/ppo
micro_train_batch_size: 8
train_batch_size: 128
rollout_batch_size: 1024
n_samples_per_prompt: 2
max_epochs: 1
num_episodes: 3
prompt_max_len: 1024
generate_max_len: 512
zero_stage: 3
adam_offload: true
bf16: true
actor_learning_rate: 5e-7
critic_learning_rate: 9e-6
init_kl_coef: 0.01
eps_clip: 0.1
prompt_data: org/prompts
input_key: context
vllm_num_engines: 4
use_wandb: 0123456789abcdef
"""

VERL_GRPO = """
data:
  train_files: [gsm8k/train.parquet]
  val_files: gsm8k/test.parquet
  train_batch_size: 512
  max_prompt_length: 256
  max_response_length: 768
  prompt_key: question
actor_rollout_ref:
  model:
    path: org/chat-7b
    enable_gradient_checkpointing: true
  actor:
    optim: {lr: 2e-6}
    ppo_mini_batch_size: 128
    use_kl_loss: true
    kl_loss_coef: 0.004
    clip_ratio: 0.3
    loss_agg_mode: seq-mean-token-mean
  rollout: {name: vllm, n: 4, gpu_memory_utilization: 0.6, tensor_model_parallel_size: 2}
algorithm:
  adv_estimator: grpo
  use_kl_in_reward: false
  norm_adv_by_std_in_grpo: false
custom_reward_function: {path: rewards.py, name: compute}
trainer:
  logger: [console, wandb]
  n_gpus_per_node: 4
  total_epochs: 15
  save_freq: -1
  test_freq: 5
"""

EXPECTED = {
    "axolotl": (
        AXOLOTL_DPO,
        "dpo",
        {
            "model": "org/base-8b",
            "beta": 0.2,
            "chat_template": "llama3",
            "train_data": "org/pairs:clean@train[:10%]",
            "format": "chat_template.default",
            "field": "chosen=better,messages=talk",
            "output_dir": "./outputs/dpo-out",
            "valid_split": 0.05,
            "max_length": 4096,
            "max_prompt_length": 4095,
            "lora_r": 16,
            "lora_alpha": 8.0,
            "lora_dropout": 0.0,
            "lora_target": "all-linear",
            "report_to": "wandb",
            "batch_size": 8,
            "epochs": 2,
            "lr_scheduler": "cosine",
            "learning_rate": 0.0002,
            "precision": "auto",
            "gradient_checkpointing": True,
            "attn_implementation": "flash_attention_2",
            "weight_decay": 0.1,
            "deepspeed": "zero3_offload",
        },
    ),
    "llamafactory": (
        LLAMAFACTORY_SFT,
        "sft",
        {
            "model": "org/base-8b",
            "trust_remote_code": True,
            "lora_r": 8,
            "lora_alpha": 16.0,
            "lora_dropout": 0.0,
            "lora_target": "all-linear",
            "train_data": "identity,helpful",
            "max_length": 2048,
            "max_prompt_length": 2047,
            "output_dir": "saves/sft",
            "log_steps": 10,
            "save_steps": 500,
            "report_to": "none",
            "batch_size": 8,
            "learning_rate": 0.0001,
            "epochs": 3,
            "lr_scheduler": "cosine",
            "warmup_ratio": 0.1,
            "precision": "bf16",
            "ddp_timeout": 180000000,
        },
    ),
    "swift": (
        SWIFT_GRPO,
        "grpo",
        {
            "model": "org/chat-7b",
            "reward_funcs": "rewards.py:accuracy",
            "rollout": "vllm",
            "vllm_mode": "colocate",
            "precision": "bf16",
            "train_data": "org/maths,more.jsonl",
            "max_prompt_length": 2048,
            "max_completion_length": 1024,
            "max_length": 3072,
            "epochs": 1,
            "batch_size": 70,  # 4 x 8 a step, twice as many generated at once, in groups of 7
            "num_mini_batches": 2,
            "learning_rate": 1e-6,
            "warmup_ratio": 0.05,
            "weight_decay": 0.0,
            "lr_scheduler": "constant",
            "num_generations": 7,
            "temperature": 0.9,
            "deepspeed": "zero2",
            "beta": 0.001,
            "mask_truncated_completions": True,
            "dynamic_sampling": 5,
            "advantage": "rloo",
            "report_to": "wandb",
        },
    ),
    "trl": (
        TRL_DPO,
        "dpo",
        {
            "model": "org/chat-0.5b",
            "train_data": "org/ultra:main@train_prefs",
            "valid_data": "org/ultra:main@test_prefs",
            "eval_steps": 50,
            "learning_rate": 5e-7,
            "rpo_alpha": 0.2,
            "loss_type": "sigmoid",
            "beta": 0.1,
            "max_length": 1024,
            "max_prompt_length": 1023,
            "max_steps": 200,
            "warmup_ratio": 0.1,
            "save_steps": 0,
            "epochs": 3,
            "batch_size": 8,
        },
    ),
    "openrlhf": (
        OPENRLHF_PPO,
        "ppo",
        {
            "model": "org/sft-8b",
            "reward_model": "org/rm-8b",
            "output_dir": "ckpt/ppo",
            "num_generations": 2,
            "batch_size": 2048,
            "num_mini_batches": 16,
            "num_ppo_epochs": 1,
            "epochs": 3,
            "max_prompt_length": 1024,
            "response_length": 512,
            "max_length": 1536,
            "deepspeed": "zero3_offload",
            "precision": "bf16",
            "learning_rate": 5e-7,
            "value_learning_rate": 9e-6,
            "kl_coef": 0.01,
            "cliprange": 0.1,
            "train_data": "org/prompts",
            "field": "prompt=context",
            "rollout": "vllm",
            "report_to": "wandb",
            "lr_scheduler": "cosine",
            "cliprange_value": 0.5,
            "lam": 1.0,
            "reward_clip": 10.0,
        },
    ),
    "verl": (
        VERL_GRPO,
        "grpo",
        {
            "train_data": "gsm8k/train.parquet",
            "valid_data": "gsm8k/test.parquet",
            "num_generations": 4,
            "batch_size": 2048,
            "num_mini_batches": 4,
            "max_prompt_length": 256,
            "max_completion_length": 768,
            "field": "prompt=question",
            "model": "org/chat-7b",
            "gradient_checkpointing": True,
            "learning_rate": 2e-6,
            "beta": 0.004,
            "epsilon": 0.3,
            "loss_type": "grpo",
            "rollout": "vllm",
            "vllm_gpu_memory_utilization": 0.6,
            "vllm_tensor_parallel_size": 2,
            "advantage": "grpo",
            "scale_rewards": "none",
            "reward_funcs": "rewards.py:compute",
            "report_to": "wandb",
            "devices": "0,1,2,3",
            "epochs": 15,
            "save_steps": 0,
            "eval_steps": 5,
            "lr_scheduler": "constant",
            "warmup_ratio": 0.0,
        },
    ),
}


@pytest.mark.parametrize("peer", EXPECTED)
def test_each_programs_file_is_recognised_and_gives_these_settings(peer):
    text, stage, settings = EXPECTED[peer]
    theirs = yaml.safe_load(text)
    assert peer_of(set(theirs)) == peer
    converted = convert_settings(theirs)
    assert (converted.stage, converted.settings) == (stage, settings)


@pytest.mark.parametrize("peer", EXPECTED)
def test_the_file_that_is_written_is_taken_by_the_stage_that_its_first_line_names(peer, tmp_path):
    text, stage, settings = EXPECTED[peer]
    converted = convert_settings(yaml.safe_load(text))
    file = tmp_path / "ours.yaml"
    file.write_text(as_yaml(converted, "theirs.yaml", PEERS[peer].title, str(file)))
    assert file.read_text().splitlines()[0] == f"# {stage}_train --config {file}"
    config = build_config(CONFIGS[stage], str(file), {}, f"{stage}_train")
    assert {name: getattr(config, name) for name in settings} == settings


def test_what_has_no_counterpart_is_a_comment_with_its_value_and_the_reason():
    comments = convert_settings(yaml.safe_load(AXOLOTL_DPO)).comments
    assert [line.partition(": ")[0] for line in comments] == [
        *["load_in_8bit", "strict", "datasets[0].roles", "sample_packing", "optimizer", "tf32"],
        *["warmup_steps", "evals_per_epoch", "saves_per_epoch", "special_tokens"],
    ]
    assert (
        comments[6] == "warmup_steps: 10 (here warmup_ratio: 10 divided by the number of steps, which --dry_run says)"
    )
    assert comments[0].startswith("load_in_8bit: true (the base is in 4 bits by load_in_4bit alone")
    assert comments[-1].startswith("special_tokens: {pad_token: <pad>} (the end-of-turn token comes from the chat")


@pytest.mark.parametrize(
    "said, found",
    [
        ({"adapter": "qlora"}, True),
        ({"adapter": "lora", "load_in_4bit": True}, True),
        ({"adapter": "qlora", "load_in_4bit": True}, True),
        ({"adapter": "lora", "load_in_4bit": False}, None),
        ({"load_in_4bit": True}, None),  # of all weights: our own check says why not
    ],
)
def test_a_base_in_four_bits(said, found):
    settings = {"base_model": "m", "datasets": [{"path": "rows.jsonl", "type": "alpaca"}], "micro_batch_size": 2}
    assert convert_settings(settings | said).settings.get("load_in_4bit") is found


def test_four_bits_of_llamafactory():
    settings = {"stage": "sft", "finetuning_type": "lora", "dataset": "rows.jsonl", "cutoff_len": 64}
    assert convert_settings(settings | {"quantization_bit": 4}).settings["load_in_4bit"] is True
    eight = convert_settings(settings | {"quantization_bit": 8})
    assert "load_in_4bit" not in eight.settings
    assert "quantization_bit: 8 (here load_in_4bit: true for 4 bits; there are no others)" in eight.comments


def test_values_that_change_their_unit_say_what_they_were():
    said = {
        line.name: line.remark for line in convert_settings(yaml.safe_load(AXOLOTL_DPO), devices=4).lines if line.name
    }
    assert said["batch_size"] == "2 on a device x 4 accumulated x 4 devices (--num_devices)"
    assert said["epochs"] == "num_epochs: 1.5; max_steps ends a run earlier"
    assert said["deepspeed"] == "deepspeed: deepspeed_configs/zero3_bf16_cpuoffload_all.json"
    assert convert_settings(yaml.safe_load(AXOLOTL_DPO), devices=4).settings["batch_size"] == 32


@pytest.mark.parametrize("text", [TRL_DPO, OPENRLHF_PPO])
def test_keys_to_accounts_are_not_written_down(text):
    converted = convert_settings(yaml.safe_load(text))
    written = as_yaml(converted, "a", "b", "c")
    assert "hf_secret" not in written and "0123456789abcdef" not in written


@pytest.mark.parametrize(
    "theirs, stage, some",
    [
        ({"base_model": "m", "adapter": "lora"}, "sft", {"lora_r": 16, "max_length": 512, "lr_scheduler": "cosine"}),
        ({"base_model": "m", "adapter": "qlora", "lora_r": 4}, "sft", {"lora_r": 4}),
        ({"base_model": "m", "reward_model": True}, "rm", {"model": "m"}),
        ({"base_model": "m", "rl": "gdpo"}, "grpo", {"multi_objective_aggregation": "normalize_then_sum"}),
        ({"base_model": "m", "rl": "orpo", "orpo_alpha": 0.3}, "orpo", {"beta": 0.3}),
        ({"base_model": "m", "rl": "grpo", "trl": {"beta": 0.1, "use_vllm": True}}, "grpo", {"rollout": "vllm"}),
        (
            {"base_model": "m", "rl": "grpo", "micro_batch_size": 2, "trl": {"num_generations": 4}},
            "grpo",
            {"batch_size": 4, "num_generations": 4},
        ),
        ({"rlhf_type": "dpo", "model": "m", "model_name": "robot", "train_type": "full"}, "dpo", {"model": "m"}),
        ({"stage": "sft", "val_size": 0.1, "eval_steps": 5}, "sft", {"valid_split": 0.1, "eval_steps": 5}),
        ({"stage": "sft", "val_size": 100, "eval_steps": 5}, "sft", {"valid_split": None, "eval_steps": None}),
        ({"base_model": "m", "max_steps": 100, "warmup_steps": 5}, "sft", {"warmup_ratio": 0.05, "max_steps": 100}),
        ({"stage": "sft", "deepspeed": "ds_z0_config.json"}, "sft", {"deepspeed": "none"}),
        ({"stage": "sft", "deepspeed": "ds_z2_offload_config.json"}, "sft", {"deepspeed": "zero2_offload"}),
        ({"stage": "sft", "deepspeed": "mine.json"}, "sft", {"deepspeed": "mine.json"}),
        ({"stage": "sft", "deepspeed": {"zero_optimization": {"stage": 3}}}, "sft", {"deepspeed": "zero3"}),
        ({"base_model": "m", "bf16": False}, "sft", {"precision": "float32"}),
        ({"stage": "dpo", "pref_loss": "simpo", "pref_beta": 2.5, "simpo_gamma": 1.2}, "simpo", {"beta": 2.5}),
        ({"stage": "dpo", "pref_loss": "hinge", "pref_ftx": 0.1}, "dpo", {"loss_type": "hinge", "rpo_alpha": 0.1}),
        ({"stage": "kto", "kto_rejected_weight": 1.5}, "kto", {"undesirable_weight": 1.5, "learning_rate": 5e-5}),
        ({"stage": "ppo", "reward_model": "rm", "ppo_epochs": 2, "max_new_tokens": 64}, "ppo", {"num_ppo_epochs": 2}),
        ({"stage": "sft", "mask_history": True, "enable_thinking": False}, "sft", {"learn": "last"}),
        ({"stage": "sft", "enable_thinking": False}, "sft", {"enable_thinking": "false", "learn": None}),
        ({"stage": "sft", "finetuning_type": "full"}, "sft", {"epochs": 3, "batch_size": 8}),
        ({"stage": "sft", "report_to": ["swanlab", "mlflow", "trackio"]}, "sft", {"report_to": "mlflow,trackio"}),
        ({"stage": "sft", "report_to": "all"}, "sft", {"report_to": "all"}),
        ({"stage": "sft", "report_to": "tensorboard,wandb"}, "sft", {"report_to": "tensorboard,wandb"}),
        (
            {"stage": "sft", "push_to_hub": True, "hub_model_id": "me/x", "hub_private_repo": False},
            "sft",
            {"push_to_hub": "me/x", "hub_private": False},
        ),
        ({"stage": "sft", "push_to_hub": True, "output_dir": "saves/y"}, "sft", {"push_to_hub": "y"}),
        ({"stage": "sft", "push_to_hub": False, "hub_model_id": "me/x"}, "sft", {"push_to_hub": None}),
        ({"base_model": "m", "hub_model_id": "me/x"}, "sft", {"push_to_hub": "me/x"}),
        ({"base_model": "m", "wandb_project": "p", "use_mlflow": True}, "sft", {"report_to": "wandb,mlflow"}),
        ({"rlhf_type": "dpo", "loss_type": "ipo", "train_type": "lora"}, "ipo", {"lora_r": 8, "lora_dropout": 0.05}),
        ({"rlhf_type": "simpo", "cpo_alpha": 1.0}, "simpo", {"cpo_alpha": 1.0, "batch_size": 16}),
        ({"sft_model_path": "p", "reward_model_path": "r"}, "ppo", {"model": "p", "temperature": 0.7}),
        ({"model_name_or_path": "m", "dataset_name": "d", "use_peft": True}, "sft", {"lora_r": 16, "train_data": "d"}),
        ({"model_name_or_path": "m", "use_peft": True, "center_rewards_coefficient": 0.01}, "rm", {"lora_r": 16}),
        ({"pretrain": "m", "chosen_key": "c", "rejected_key": "r", "train_batch_size": 64}, "rm", {"batch_size": 64}),
        ({"pretrain": "m", "save_path": "s", "beta": 0.2, "ipo": True}, "ipo", {"beta": 0.2}),
        ({"prompt_data": "p", "advantage_estimator": "reinforce"}, "grpo", {"advantage": "reinforce++"}),
    ],
)  # fmt: skip
def test_methods_and_their_settings(theirs, stage, some):
    converted = convert_settings(theirs)
    assert converted.stage == stage
    assert {name: converted.settings.get(name) for name in some} == some


def test_lora_settings_of_a_file_that_trains_all_weights_are_comments():
    for theirs in ({"base_model": "m", "lora_r": 8}, {"stage": "sft", "finetuning_type": "full", "lora_rank": 8}):
        converted = convert_settings(theirs)
        assert "lora_r" not in converted.settings
        assert any("8 (" in line and line.startswith("lora_r") for line in converted.comments)


def test_verls_kl_is_off_unless_it_is_switched_on():
    theirs = yaml.safe_load(VERL_GRPO)
    theirs["algorithm"] = {"adv_estimator": "gae", "kl_ctrl": {"kl_coef": 0.01}}
    assert convert_settings(theirs).settings["kl_coef"] == 0.0
    theirs["algorithm"]["use_kl_in_reward"] = True
    assert convert_settings(theirs).settings["kl_coef"] == 0.01


@pytest.mark.parametrize(
    "theirs, peer, message",
    [
        (
            {"learning_rate": 1},
            None,
            "not recognised as a file of axolotl, llamafactory, swift, trl, openrlhf, verl; say",
        ),
        ({"stage": "pt"}, "llamafactory", "stage pt: there is no such method here; there are sft, rm, ppo, dpo, kto"),
        ({"rl": "bco"}, "axolotl", "rl bco: there is no such method here"),
        ({"rlhf_type": "gkd"}, "swift", "rlhf_type gkd: there is no such method here"),
    ],
)
def test_what_cannot_be_converted_is_refused(theirs, peer, message):
    with pytest.raises(InputError) as caught:
        convert_settings(theirs, peer)
    assert message in str(caught.value)


def test_a_number_of_gpus_that_no_machine_has_is_a_comment():
    for count, devices in ((4, "0,1,2,3"), (10**30, None)):
        converted = convert_settings({"actor_rollout_ref": {}, "trainer": {"n_gpus_per_node": count}}, "verl")
        assert converted.settings.get("devices") == devices


@pytest.mark.parametrize("seed", range(20))
def test_whatever_stands_in_a_file_the_result_is_taken_by_our_stage(seed, tmp_path):
    draw = random.Random(seed)
    names = sorted(
        {*FOREIGN, "datasets", *RULES, *(name for config in CONFIGS.values() for name in config.__dataclass_fields__)}
    )
    values = [True, False, 0, 1, -1, 7, 0.5, 1e-5, "5e-6", "all", "auto", "a/b", "", [], ["x", "y"], {"k": 1}, 3000]
    values += [float("inf"), float("nan"), "two\nlines # and a hash", 10**30, [None], {1: 2}, [{"path": "x"}]]
    peer = draw.choice(sorted(PEERS))
    theirs: dict = {name: draw.choice(values) for name in draw.sample(names, 80)}
    theirs |= {"train_file": "rows.jsonl"}
    for name in ("rl", "rlhf_type", "stage", "reward_model", "loss_type", "pref_loss"):
        theirs.pop(name, None)
    converted = convert_settings(theirs, peer, stage=draw.choice([None, *CONFIGS]))
    file = tmp_path / "ours.yaml"
    file.write_text(as_yaml(converted, "theirs", peer, "ours"))
    build_config(CONFIGS[converted.stage], str(file), {"train_data": "rows.jsonl"}, "x")


def run(*args):
    return CliRunner().invoke(easyrlhf, ["convert-config", *args], prog_name="easyrlhf")


def test_the_command_writes_a_file_once_or_prints(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "theirs.yaml").write_text(AXOLOTL_DPO)
    done = run("theirs.yaml", "--output_file", "ours.yaml", "--num_devices", "2")
    assert done.exit_code == 0
    assert done.stderr == (
        "axolotl: dpo_train, 24 settings, 10 lines without a counterpart; dpo_train --config ours.yaml\n"
    )
    written = (tmp_path / "ours.yaml").read_text()
    assert "batch_size: 16  # 2 on a device x 4 accumulated x 2 devices (--num_devices)\n" in written
    assert run("theirs.yaml", "--num_devices", "2").stdout == written.replace("ours.yaml", "FILE.yaml")
    again = run("theirs.yaml", "--output_file", "ours.yaml")
    assert again.exit_code == 2
    assert again.stderr == "error: --output_file ours.yaml: is there already; give another, or --overwrite\n"
    assert run("theirs.yaml", "--output_file", "ours.yaml", "--overwrite").exit_code == 0


@pytest.mark.parametrize(
    "text, message",
    [
        ("a: [", "theirs.yaml:1: not valid YAML"),
        ("learning_rate: 1\n", "theirs.yaml: not recognised as a file of axolotl"),
        ("stage: pt\nfinetuning_type: full\n", "theirs.yaml: stage pt: there is no such method here"),
    ],
)
def test_the_command_refuses_with_the_file(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "theirs.yaml").write_text(text)
    done = run("theirs.yaml")
    assert done.exit_code == 2
    assert done.stderr.startswith(f"error: {message}")


def test_a_file_of_another_program_given_to_a_stage_is_sent_here(tmp_path):
    import click

    file = tmp_path / "theirs.yaml"
    file.write_text(LLAMAFACTORY_SFT)
    with pytest.raises(click.UsageError) as caught:
        build_config(CONFIGS["sft"], str(file), {}, "sft_train")
    last = str(caught.value).splitlines()[-1]
    assert (
        last == f"{file} looks like a file of LLaMA-Factory: easyrlhf convert-config {file} turns it into one of ours"
    )


AXOLOTL_EBFT = """
base_model: org/base-1b
rl: ebft
ebft:
  feature_layers: [0.3, 0.6]
  embed_method: completion_mean
  use_whitening: false
  alignment_coef: 1.0
  diversity_coef: 0.5
  ce_coef: 0.03
  mode: structured
trl: {num_generations: 8, max_completion_length: 128, temperature: 0.6}
datasets: [{path: rows.jsonl}]
sequence_len: 512
micro_batch_size: 8
"""


def test_a_block_of_ebft_becomes_our_settings():
    ours = convert_settings(yaml.safe_load(AXOLOTL_EBFT)).settings
    assert (
        ours.items()
        >= {
            "feature_depths": "0.3,0.6",
            "feature_pooling": "mean",
            "whiten_samples": 0,
            "alignment_coef": 1.0,
            "diversity_coef": 0.5,
            "ce_coef": 0.03,
            "num_generations": 8,
            "temperature": 0.6,
        }.items()
    )
    whitened = yaml.safe_load(AXOLOTL_EBFT.replace("use_whitening: false", "use_whitening: true"))
    assert "whiten_samples" not in convert_settings(whitened).settings
    assert (ours["max_length"], ours["max_prompt_length"]) == (512, 512 - 128)


def test_strided_ebft_becomes_stride_mode():
    own = "mode: strided\n  stride: 4\n  context_length: 16\n  generate_max_len: 6"
    theirs = AXOLOTL_EBFT.replace("mode: structured", own).replace(", max_completion_length: 128", "")
    ours = convert_settings(yaml.safe_load(theirs)).settings
    expected = {"ebft_mode": "stride", "stride": 4, "context_length": 16, "generate_length": 6, "max_length": 512}
    assert ours.items() >= expected.items()
    assert "max_prompt_length" not in ours
    assert ours["batch_size"] == 8 * 123 * 8  # texts of floor((512 - 6 - 16) / 4) + 1 blocks, 8 completions each
    kept = convert_settings(yaml.safe_load(theirs.replace("strided", "structured")))
    assert not {"stride", "context_length", "generate_length", "ebft_mode"} & kept.settings.keys()
    assert sum("counts in ebft_mode stride alone" in comment for comment in kept.comments) == 3
