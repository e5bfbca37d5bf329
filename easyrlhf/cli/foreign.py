"""Names that other systems use for our settings, so that a habit from there finds an answer here.

They are those of TRL and transformers, ms-swift, OpenRLHF, LLaMA-Factory, axolotl, verl and
DeepSpeed-Chat.
"""

from typing import NamedTuple


class Translation(NamedTuple):
    """Our names for a foreign setting (none when this version lacks it), and what differs."""

    ours: tuple[str, ...]
    note: str


BATCH = (
    "batch_size counts examples per optimiser step over all devices; micro_batch_tokens bounds a "
    "forward pass, and accumulation follows from both"
)
LENGTH = "max_length counts prompt and completion together, in tokens"
SAMPLED = "it bounds what is sampled, in tokens"
LORA = "lora_r 0, the default, trains all weights"
PLAIN = (
    "sampling is the plain softmax at the temperature, because PPO's log-probabilities must "
    "describe the very distribution that was sampled"
)
KEYS = "as in field prompt=question,chosen=good; a text with {key} in it is built"
SHARES = "each file may end with its weight, as in a.jsonl,b.jsonl=0.3"
LATER = "not in this version"

# The same thing under two names of ours, as each stage keeps those of its own field.
TWINS = (
    ("response_length", "max_completion_length"),
    ("kl_coef", "beta"),
    ("num_ppo_epochs", "num_iterations"),
    ("cliprange", "epsilon"),
)

SAME_THING: dict[str, str] = {
    # model and data
    "model_name_or_path": "model",
    "model_name": "model",
    "base_model": "model",
    "pretrain": "model",
    "pretrained": "model",
    "actor_model": "model",
    "actor_model_name_or_path": "model",
    "policy_model": "model",
    "sft_model_path": "model",
    "train_file": "train_data",
    "data_path": "train_data",
    "dataset": "train_data",
    "dataset_name": "train_data",
    "datasets": "train_data",
    "prompt_data": "train_data",
    "val_dataset": "valid_data",
    "eval_dataset": "valid_data",
    "validation_file": "valid_data",
    "valid_file": "valid_data",
    "eval_file": "valid_data",
    "save_path": "output_dir",
    "output_path": "output_dir",
    "out_dir": "output_dir",
    "template": "chat_template",
    # optimisation
    "num_train_epochs": "epochs",
    "num_epochs": "epochs",
    "max_epochs": "epochs",
    "num_episodes": "total_episodes",
    "max_train_steps": "max_steps",
    "lr": "learning_rate",
    "actor_learning_rate": "learning_rate",
    "critic_learning_rate": "value_learning_rate",
    "lr_scheduler_type": "lr_scheduler",
    "warmup_proportion": "warmup_ratio",
    "lr_warmup_ratio": "warmup_ratio",
    "adam_epsilon": "adam_eps",
    "l2": "weight_decay",
    "max_norm": "max_grad_norm",
    "gradient_clipping": "max_grad_norm",
    "attn_impl": "attn_implementation",
    # LoRA
    "lora_target_modules": "lora_target",
    "target_modules": "lora_target",
    # PPO
    "reward_pretrain": "reward_model",
    "reward_model_path": "reward_model",
    "reward_model_name_or_path": "reward_model",
    "critic_pretrain": "value_model",
    "critic_model_name_or_path": "value_model",
    "value_model_path": "value_model",
    "ref_pretrain": "ref_model",
    "ref_model_name_or_path": "ref_model",
    "remote_rm_url": "reward_url",
    "reward_function": "reward_funcs",
    "reward_func": "reward_funcs",
    "clip_range": "cliprange",
    "eps_clip": "cliprange",
    "clip_ratio": "cliprange",
    "clip_range_value": "cliprange_value",
    "value_clip": "cliprange_value",
    "value_clip_range": "cliprange_value",
    "init_kl_coef": "kl_coef",
    "kl_ctl": "kl_coef",
    "init_kl_coeff": "kl_coef",
    "kl_coeff": "kl_coef",
    "target_kl": "kl_target",
    "ppo_target": "kl_target",
    "ppo_epochs": "num_ppo_epochs",
    "update_iters": "num_ppo_epochs",
    "ppo_mini_batches": "num_mini_batches",
    "value_coef": "vf_coef",
    "critic_coef": "vf_coef",
    "lambd": "lam",
    "gae_lambda": "lam",
    "lmbda": "lam",
    "gae_gamma": "gamma",
    "non_eos_penalty": "missing_eos_penalty",
    "reward_clip_range": "reward_clip",
    "cliprange_reward": "reward_clip",
    "score_clip": "reward_clip",
    "freezing_actor_steps": "value_warmup_steps",
    "critic_warmup": "value_warmup_steps",
    "pretrain_data": "ptx_data",
    "ptx_dataset": "ptx_data",
    # preference losses
    "dpo_beta": "beta",
    "ipo_beta": "beta",
    "kto_beta": "beta",
    "tau": "beta",
    "kto_desirable_weight": "desirable_weight",
    "kto_undesirable_weight": "undesirable_weight",
    "rrhf_alpha": "rrhf_weight",
    # run
    "logging_steps": "log_steps",
    "eval_interval": "eval_steps",
    "max_ckpt_num": "save_total_limit",
    "overwrite_output_dir": "overwrite",
    "resume_from_checkpoint": "resume",
    "load_checkpoint": "resume",
    "gpu_ids": "devices",
    "device": "devices",
}

WITH_A_NOTE: dict[str, Translation] = {
    "per_device_train_batch_size": Translation(("batch_size", "micro_batch_tokens"), BATCH),
    "per_gpu_train_batch_size": Translation(("batch_size", "micro_batch_tokens"), BATCH),
    "train_batch_size": Translation(("batch_size", "micro_batch_tokens"), BATCH),
    "micro_train_batch_size": Translation(("micro_batch_tokens",), BATCH),
    "mini_batch_size": Translation(("num_mini_batches", "batch_size"), BATCH),
    "gradient_accumulation_steps": Translation(("batch_size", "micro_batch_tokens"), BATCH),
    "per_device_eval_batch_size": Translation(
        ("micro_batch_tokens",), "evaluation uses the same token budget as training"
    ),
    "rollout_batch_size": Translation(
        ("batch_size",), "batch_size counts the completions of one rollout, over all devices"
    ),
    "ppo_mini_batch_size": Translation(
        ("num_mini_batches",), "it counts the parts a rollout is split into, not their size"
    ),
    "micro_rollout_batch_size": Translation(
        ("local_rollout_forward_batch_size",), "it counts completions decoded together on a device"
    ),
    "warmup_steps": Translation(("warmup_ratio",), "it is a share of all steps: 0.03 is 3 %"),
    "num_warmup_steps": Translation(("warmup_ratio",), "it is a share of all steps: 0.03 is 3 %"),
    "lr_warmup_steps": Translation(("warmup_ratio",), "it is a share of all steps: 0.03 is 3 %"),
    "cutoff_len": Translation(("max_length",), LENGTH),
    "max_seq_length": Translation(("max_length",), LENGTH),
    "max_seq_len": Translation(("max_length",), LENGTH),
    "max_len": Translation(("max_length",), LENGTH),
    "sequence_len": Translation(("max_length",), LENGTH),
    "model_max_length": Translation(("max_length",), LENGTH),
    "prompt_max_len": Translation(("max_prompt_length",), "in tokens"),
    "truncation_strategy": Translation(
        ("overlength",), "drop counts and keeps aside what is too long, truncate cuts prompts"
    ),
    "max_new_tokens": Translation(("response_length",), SAMPLED),
    "generate_max_len": Translation(("response_length",), SAMPLED),
    "max_answer_seq_len": Translation(("response_length",), SAMPLED),
    "lora_rank": Translation(("lora_r",), LORA),
    "use_peft": Translation(("lora_r",), f"a rank switches LoRA on; {LORA}"),
    "use_lora": Translation(("lora_r",), f"a rank switches LoRA on; {LORA}"),
    "tuner_type": Translation(("lora_r",), f"a rank switches LoRA on; {LORA}"),
    "train_type": Translation(("lora_r",), f"a rank switches LoRA on; {LORA}"),
    "finetuning_type": Translation(("lora_r",), f"a rank switches LoRA on; {LORA}"),
    "bf16": Translation(("precision",), "write precision bf16"),
    "fp16": Translation(("precision",), "bf16 or float32; fp16 is not used, it overflows"),
    "dtype": Translation(("precision",), "auto, float32 or bf16"),
    "torch_dtype": Translation(("precision",), "auto, float32 or bf16"),
    "param_dtype": Translation(("precision",), "auto, float32 or bf16"),
    "use_cpu": Translation(("devices",), "write devices cpu"),
    "no_cuda": Translation(("devices",), "write devices cpu"),
    "flash_attn": Translation(("attn_implementation",), "such as flash_attention_2"),
    "use_flash_attn": Translation(("attn_implementation",), "such as flash_attention_2"),
    "use_wandb": Translation(("report_to",), "write report_to wandb"),
    **dict.fromkeys(
        ("columns", "prompt_key", "input_key", "output_key", "chosen_key", "rejected_key", "label_key"),
        Translation(("field",), KEYS),
    ),
    "prompt_format": Translation(("field",), KEYS),
    **dict.fromkeys(("prompt_data_probs", "interleave_prob", "interleave_probs"), Translation(("train_data",), SHARES)),
    "dataset_format": Translation(("format",), "it is recognised when left out"),
    "val_size": Translation(("valid_data",), "held-out rows come in a file of their own, split by prompt"),
    "kl_penalty": Translation(("kl_estimator",), "k1 or k3; kl_coef is its weight"),
    "rl_beta": Translation(("kl_coef", "beta"), "PPO's weight of KL is kl_coef; in the other methods it is beta"),
    "pref_beta": Translation(("beta",), ""),
    "pref_loss": Translation(("loss_type",), "ipo, kto, orpo and simpo are commands of their own"),
    "pref_ftx": Translation(("rpo_alpha",), "for DPO; cpo_alpha for CPO and SimPO"),
    "n_samples_per_prompt": Translation(("num_generations",), ""),
    "orpo_alpha": Translation(("beta",), "the odds-ratio loss's weight"),
    "orpo_lambda": Translation(("beta",), "the odds-ratio loss's weight"),
    "gamma_beta_ratio": Translation(("simpo_gamma",), "gamma itself, not its ratio to beta"),
    "rlhf_type": Translation((), "each method is a command of its own, such as dpo_train"),
    "zero_stage": Translation(("deepspeed",), "write deepspeed zero2 or zero3"),
    "deepspeed_config": Translation(("deepspeed",), "a file's path, or zero2, zero3, zero2_offload, zero3_offload"),
    "num_gpus": Translation(("devices",), "their indices: devices 0,1,2,3"),
    "nproc_per_node": Translation(("devices",), "their indices: devices 0,1,2,3; on the CPU devices cpu:2"),
    "local_rank": Translation(("devices",), "processes are numbered by RANK and LOCAL_RANK, which launchers set"),
    "num_nodes": Translation(("nnodes",), "run the same command on each with a node_rank of its own"),
    "num_machines": Translation(("nnodes",), "run the same command on each with a node_rank of its own"),
    "machine_rank": Translation(("node_rank",), "the machine's number, from 0"),
    "main_process_ip": Translation(("master_addr",), "the machine with node_rank 0"),
    "main_process_port": Translation(("master_port",), "the same on all machines"),
    "hostfile": Translation(("master_addr",), "start the command on every machine; docs/distributed.md shows how"),
    "use_vllm": Translation(("rollout",), "write rollout vllm"),
    "vllm_server_host": Translation(("vllm_host",), ""),
    "vllm_server_port": Translation(("vllm_port",), ""),
    "vllm_server_timeout": Translation(("vllm_timeout",), ""),
    "vllm_importance_sampling_correction": Translation(("importance_correction",), "token, sequence or off"),
    "vllm_importance_sampling_mode": Translation(("importance_correction",), "token, sequence or off; weights are cut"),
    "vllm_importance_sampling_cap": Translation(("importance_cap",), ""),
    "vllm_importance_sampling_clip_max": Translation(("importance_cap",), ""),
    "vllm_sync_backend": Translation(("vllm_weight_transfer",), "files or nccl, for a server"),
    "vllm_enable_sleep": Translation((), "a colocated vLLM always sleeps while the run trains"),
    "vllm_num_engines": Translation((), "one server; a colocated vLLM is in every process"),
    "async_train": Translation(("rollout_ahead",), "with vllm_mode server"),
    "load_in_4bit": Translation((), "quantised training is " + LATER),
    "quantization_bit": Translation((), "quantised training is " + LATER),
    "packing": Translation((), "rows are grouped by length, which wastes little; packing is " + LATER),
    "top_p": Translation(("temperature",), PLAIN),
    "top_k": Translation(("temperature",), PLAIN),
    "repetition_penalty": Translation(("temperature",), PLAIN),
    "save_strategy": Translation(("save_steps",), "checkpoints come every so many steps"),
    "eval_strategy": Translation(("eval_steps",), "evaluation comes every so many steps"),
    "evaluation_strategy": Translation(("eval_steps",), "evaluation comes every so many steps"),
    "load_best_model_at_end": Translation(("keep_best",), "give it the metric, such as eval/loss"),
    "metric_for_best_model": Translation(("keep_best",), "whether higher is better is known"),
    "logging_dir": Translation(("output_dir",), "TensorBoard files are in output_dir/runs"),
}

FOREIGN: dict[str, Translation] = {
    **{theirs: Translation((ours,), "") for theirs, ours in SAME_THING.items()},
    **WITH_A_NOTE,
}
