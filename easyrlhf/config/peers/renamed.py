"""Settings that other programs have under another name."""

from easyrlhf.config.peers.translation import Translation

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
ADAPTER = "a folder that holds an adapter is given like any other; it is merged first"
KERNEL = "such as flash_attention_2, sdpa or eager"
HUB_DATA = "the hub's data sets are written name:config@split"
PER_EPOCH = "it counts optimiser steps; left out, 10 times a run"
EVALS_PER_EPOCH = "it counts optimiser steps; left out, 10 times a run or more, within a fifth of the training"
HELD_OUT = "a share of the rows, in whole prompts; easyrlhf data split writes them to files"
ROLLOUT = (
    "batch_size counts the completions of a rollout, over all devices, and num_mini_batches the optimiser steps it is "
    "split into"
)
OVERLONG = "so many tokens before the limit the punishment begins"

# The same thing under two names of ours, as each stage keeps those of its own field.
TWINS = (
    ("response_length", "max_completion_length", "max_new_tokens"),
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
    "train_files": "train_data",
    "train_dataset": "train_data",
    "prompt_data": "train_data",
    "val_dataset": "valid_data",
    "eval_dataset": "valid_data",
    "validation_file": "valid_data",
    "valid_file": "valid_data",
    "eval_file": "valid_data",
    "eval_data": "valid_data",
    "test_data": "valid_data",
    "save_path": "output_dir",
    "save_dir": "output_dir",
    "output_path": "output_dir",
    "out_dir": "output_dir",
    "exp_name": "output_dir",
    "val_files": "valid_data",
    "template": "chat_template",
    "chat_template_path": "chat_template",
    "chat_template_jinja": "chat_template",
    "tokenizer_chat_template": "chat_template",
    "ckpt_path": "output_dir",
    "default_local_dir": "output_dir",
    # optimisation
    "num_train_epochs": "epochs",
    "num_epochs": "epochs",
    "n_epochs": "epochs",
    "max_epochs": "epochs",
    "max_train_steps": "max_steps",
    "lr": "learning_rate",
    "lora_learning_rate": "learning_rate",
    "actor_lr": "learning_rate",
    "critic_lr": "value_learning_rate",
    "clip_grad": "max_grad_norm",
    "clip_grad_norm": "max_grad_norm",
    "gradient_clip": "max_grad_norm",
    "actor_weight_decay": "weight_decay",
    "grad_clip": "max_grad_norm",
    "data_seed": "seed",
    "lr_warmup_steps_ratio": "warmup_ratio",
    "total_training_steps": "max_steps",
    "total_epochs": "epochs",
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
    "actor_gradient_checkpointing": "gradient_checkpointing",
    "critic_gradient_checkpointing": "gradient_checkpointing",
    "sequence_parallel_size": "context_parallel_size",
    "sequence_parallel_degree": "context_parallel_size",
    "ulysses_sequence_parallel_size": "context_parallel_size",
    "ring_attn_size": "context_parallel_size",
    # LoRA
    "lora_target_modules": "lora_target",
    "target_modules": "lora_target",
    "lora_module_name": "lora_target",
    "actor_lora_module_name": "lora_target",
    "critic_lora_module_name": "lora_target",
    "additional_target": "modules_to_save",
    "additional_trainable": "modules_to_save",
    "lora_modules_to_save": "modules_to_save",
    # PPO
    "reward_pretrain": "reward_model",
    "reward_model_path": "reward_model",
    "reward_model_name_or_path": "reward_model",
    "critic_pretrain": "value_model",
    "critic_model_name_or_path": "value_model",
    "value_model_path": "value_model",
    "ref_pretrain": "ref_model",
    "reference_model": "ref_model",
    "ref_policy": "ref_model",
    "ref_model_name_or_path": "ref_model",
    "remote_rm_url": "reward_url",
    "environment_factory": "environment",
    "max_tool_calling_iterations": "max_turns",
    "reward_function": "reward_funcs",
    "reward_func": "reward_funcs",
    "reward_fn": "reward_funcs",
    "reward_models": "reward_model",
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
    "kl_coefficient": "kl_coef",
    "kl_beta": "kl_coef",
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
    "stop_strings": "stop",
    "stop_sequences": "stop",
    "stop_words": "stop",
    "reward_clip_range": "reward_clip",
    "cliprange_reward": "reward_clip",
    "score_clip": "reward_clip",
    "freezing_actor_steps": "value_warmup_steps",
    "critic_warmup": "value_warmup_steps",
    "pretrain_data": "ptx_data",
    "ptx_dataset": "ptx_data",
    "unsupervised_dataset_name": "ptx_data",
    "rl_adapter_ref_model": "ref_model",
    "ref_model_adapters": "ref_model",
    "max_prompt_seq_len": "max_prompt_length",
    "rloo_k": "num_generations",
    "shuffle_dataset": "shuffle_prompts",
    "overlong_filter": "mask_truncated_completions",
    "max_resample_times": "dynamic_sampling",
    # preference losses
    "dpo_beta": "beta",
    "ipo_beta": "beta",
    "kto_beta": "beta",
    "tau": "beta",
    "dpo_label_smoothing": "label_smoothing",
    "nll_loss_coef": "rpo_alpha",
    "kto_desirable_weight": "desirable_weight",
    "kto_chosen_weight": "desirable_weight",
    "kto_rejected_weight": "undesirable_weight",
    "kto_undesirable_weight": "undesirable_weight",
    "rrhf_alpha": "rrhf_weight",
    # run
    "logging_steps": "log_steps",
    "log_interval": "log_steps",
    "log_every": "log_steps",
    "eval_every": "eval_steps",
    "save_interval": "save_steps",
    "save_every": "save_steps",
    "checkpoint": "resume",
    "eval_interval": "eval_steps",
    "max_ckpt_num": "save_total_limit",
    "resume_from_checkpoint": "resume",
    "load_checkpoint": "resume",
    "auto_resume_from_checkpoints": "resume",
    "resume_mode": "resume",
    "save_freq": "save_steps",
    "test_freq": "eval_steps",
    "eval_on_start": "eval_at_start",
    "val_before_train": "eval_at_start",
    "max_actor_ckpt_to_keep": "save_total_limit",
    "vllm_gpu_util": "vllm_gpu_memory_utilization",
    "gpu_ids": "devices",
    "device": "devices",
}

WITH_A_NOTE: dict[str, Translation] = {
    "activation_offloading": Translation(("offload_activations",), "of those that gradient_checkpointing keeps"),
    **dict.fromkeys(
        (
            "per_device_train_batch_size",
            "per_gpu_train_batch_size",
            "per_device_training_batch_size",
            "train_batch_size",
            "micro_batch_size",
            "gradient_accumulation_steps",
            "grad_accum_steps",
        ),
        Translation(("batch_size", "micro_batch_tokens"), BATCH),
    ),
    "micro_train_batch_size": Translation(("micro_batch_tokens",), BATCH),
    "mini_batch_size": Translation(("num_mini_batches", "batch_size"), BATCH),
    **dict.fromkeys(
        ("per_device_eval_batch_size", "eval_batch_size"),
        Translation(("micro_batch_tokens",), "evaluation uses the same token budget as training"),
    ),
    **dict.fromkeys(
        ("train_max_tokens_per_gpu", "ppo_max_token_len_per_gpu"),
        Translation(("micro_batch_tokens",), "tokens of a forward pass on a device"),
    ),
    **dict.fromkeys(
        ("steps_per_generation", "generation_batch_size"), Translation(("batch_size", "num_mini_batches"), ROLLOUT)
    ),
    **dict.fromkeys(
        ("dataset", "dataset_name"), Translation(("train_data",), "paths and hub ids, separated by commas")
    ),
    **dict.fromkeys(("dataset_config", "dataset_train_split", "train_split"), Translation(("train_data",), HUB_DATA)),
    **dict.fromkeys(("dataset_test_split", "eval_split"), Translation(("valid_data",), HUB_DATA)),
    "datasets": Translation(
        ("train_data",), "a comma list of paths and hub ids; format and field say how rows are read"
    ),
    "test_datasets": Translation(("valid_data",), "a comma list of paths and hub ids"),
    "rollout_batch_size": Translation(
        ("batch_size",), "batch_size counts the completions of one rollout, over all devices"
    ),
    "ppo_mini_batch_size": Translation(
        ("num_mini_batches",), "it counts the parts a rollout is split into, not their size"
    ),
    **dict.fromkeys(
        ("micro_rollout_batch_size", "per_device_generation_batch_size"),
        Translation(("local_rollout_forward_batch_size",), "it counts completions decoded together on a device"),
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
    **dict.fromkeys(
        ("vllm_max_model_len", "vllm_max_model_length", "vllm_maxlen", "max_model_len"),
        Translation(("max_length",), LENGTH),
    ),
    "prompt_max_len": Translation(("max_prompt_length",), "in tokens"),
    **dict.fromkeys(
        ("truncation_strategy", "excess_length_strategy"),
        Translation(("overlength",), "drop counts and keeps aside what is too long, truncate cuts prompts"),
    ),
    "max_new_tokens": Translation(("response_length",), SAMPLED),
    "generate_max_len": Translation(("response_length",), SAMPLED),
    "max_tokens": Translation(("response_length",), SAMPLED),
    "max_answer_seq_len": Translation(("response_length",), SAMPLED),
    **dict.fromkeys(("lora_rank", "lora_dim", "actor_lora_dim", "critic_lora_dim"), Translation(("lora_r",), LORA)),
    "adapter": Translation(("lora_r",), f"a rank switches LoRA on; {LORA}"),
    "lora_target_linear": Translation(("lora_target",), "all-linear is the default"),
    **dict.fromkeys(
        ("adapter_name_or_path", "lora_model_dir", "adapters", "adapter_folder", "resume_from_adapter"),
        Translation(("model",), ADAPTER),
    ),
    **dict.fromkeys(("use_peft", "peft", "lora"), Translation(("lora_r",), f"a rank switches LoRA on; {LORA}")),
    "use_lora": Translation(("lora_r",), f"a rank switches LoRA on; {LORA}"),
    "tuner_type": Translation(("lora_r",), f"a rank switches LoRA on; {LORA}"),
    "train_type": Translation(("lora_r",), f"a rank switches LoRA on; {LORA}"),
    "finetuning_type": Translation(("lora_r",), f"a rank switches LoRA on; {LORA}"),
    **dict.fromkeys(
        ("quantization_bit", "quant_bits"), Translation(("load_in_4bit",), "true for 4 bits; there are no others")
    ),
    "bf16": Translation(("precision",), "write precision bf16"),
    "fp32": Translation(("precision",), "write precision float32"),
    "fp16": Translation(("precision",), "bf16 or float32; fp16 is not used, it overflows"),
    "dtype": Translation(("precision",), "auto, float32 or bf16"),
    "torch_dtype": Translation(("precision",), "auto, float32 or bf16"),
    "param_dtype": Translation(("precision",), "auto, float32 or bf16"),
    "use_cpu": Translation(("devices",), "write devices cpu"),
    "no_cuda": Translation(("devices",), "write devices cpu"),
    **dict.fromkeys(
        (
            "flash_attn",
            "use_flash_attn",
            "flash_attention",
            "sdp_attention",
            "eager_attention",
            "xformers_attention",
            "flex_attention",
        ),
        Translation(("attn_implementation",), KERNEL),
    ),
    "bfloat16": Translation(("precision",), "write precision bf16"),
    **dict.fromkeys(
        ("use_wandb", "wandb_project", "wandb"),
        Translation(("report_to",), "write report_to wandb; its own variables name project and account"),
    ),
    **dict.fromkeys(
        ("use_tensorboard", "tensorboard_dir", "enable_tensorboard", "tensorboard_path"),
        Translation(("report_to",), "TensorBoard files are the default"),
    ),
    **dict.fromkeys(
        ("use_mlflow", "mlflow_tracking_uri", "mlflow_experiment_name"),
        Translation(("report_to",), "write report_to mlflow; MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME are read"),
    ),
    **dict.fromkeys(
        ("use_trackio", "trackio_space_id", "trackio_project_name"),
        Translation(("report_to",), "write report_to trackio; TRACKIO_SPACE_ID and TRACKIO_PROJECT are read"),
    ),
    **dict.fromkeys(
        ("hub_model_id", "push_to_hub_model_id", "push_to_hub_organization", "export_hub_model_id", "hub_repo_id"),
        Translation(("push_to_hub",), "it takes the repository itself: push_to_hub OWNER/NAME"),
    ),
    **dict.fromkeys(
        ("hub_private_repo", "hub_public_repo"),
        Translation(("hub_private",), "a repository is private unless this is false"),
    ),
    "log_with": Translation(("report_to",), "one or several of tensorboard, wandb, mlflow, trackio; all; or none"),
    "mask_history": Translation(("learn",), "write learn last"),
    "loss_scale": Translation(("learn",), "all answers, or write learn last; prompts are never learned"),
    **dict.fromkeys(
        (
            "dataset_text_field",
            "text_column",
            "prompt_column",
            "response_column",
            "columns",
            "prompt_key",
            "input_key",
            "output_key",
            "chosen_key",
            "rejected_key",
            "label_key",
        ),
        Translation(("field",), KEYS),
    ),
    "prompt_format": Translation(("field",), KEYS),
    **dict.fromkeys(("prompt_data_probs", "interleave_prob", "interleave_probs"), Translation(("train_data",), SHARES)),
    "dataset_format": Translation(("format",), "it is recognised when left out"),
    **dict.fromkeys(
        ("val_size", "val_set_size", "split_dataset_ratio", "test_size", "val_split"),
        Translation(("valid_split",), HELD_OUT),
    ),
    "kl_penalty": Translation(("kl_estimator",), "k1 or k3; kl_coef is its weight"),
    "rl_beta": Translation(("kl_coef", "beta"), "PPO's weight of KL is kl_coef; in the other methods it is beta"),
    "pref_beta": Translation(("beta",), ""),
    "pref_loss": Translation(("loss_type",), "ipo, kto, orpo and simpo are commands of their own"),
    "pref_ftx": Translation(("rpo_alpha",), "for DPO; cpo_alpha for CPO and SimPO"),
    "n_samples_per_prompt": Translation(("num_generations",), ""),
    "orpo_alpha": Translation(("beta",), "the odds-ratio loss's weight"),
    "orpo_lambda": Translation(("beta",), "the odds-ratio loss's weight"),
    "gamma_beta_ratio": Translation(("simpo_gamma",), "gamma itself, not its ratio to beta"),
    **dict.fromkeys(
        ("zero_stage", "deepspeed_stage", "zero", "ds_config"),
        Translation(("deepspeed",), "a file's path, or zero2, zero3, zero2_offload, zero3_offload"),
    ),
    **dict.fromkeys(
        ("fsdp", "fsdp_config", "fsdp_version"), Translation(("sharding",), "fsdp2, which has no settings")
    ),
    "deepspeed_config": Translation(("deepspeed",), "a file's path, or zero2, zero3, zero2_offload, zero3_offload"),
    **dict.fromkeys(
        ("num_gpus", "gpus", "n_gpus", "cuda_visible_devices"),
        Translation(("devices",), "their indices: devices 0,1,2,3"),
    ),
    "nproc_per_node": Translation(("devices",), "their indices: devices 0,1,2,3; on the CPU devices cpu:2"),
    "local_rank": Translation(("devices",), "processes are numbered by RANK and LOCAL_RANK, which launchers set"),
    "num_nodes": Translation(("nnodes",), "run the same command on each with a node_rank of its own"),
    "num_machines": Translation(("nnodes",), "run the same command on each with a node_rank of its own"),
    "machine_rank": Translation(("node_rank",), "the machine's number, from 0"),
    "main_process_ip": Translation(("master_addr",), "the machine with node_rank 0"),
    "main_process_port": Translation(("master_port",), "the same on all machines"),
    "hostfile": Translation(("master_addr",), "start the command on every machine (easyrlhf docs distributed)"),
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
    **dict.fromkeys(("async_train", "async_prefetch"), Translation(("rollout_ahead",), "with vllm_mode server")),
    "prefetch_depth": Translation(("rollout_ahead",), "rollouts under way, up to 8"),
    "streaming_partial_batch": Translation(("stream_rewards",), "a prompt at a time"),
    **dict.fromkeys(
        ("stop_token", "stop_token_id"),
        Translation(
            ("stop",), "for texts; what the chat template or the model's own settings name ends answers anyway"
        ),
    ),
    **dict.fromkeys(("top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty"), Translation((), PLAIN)),
    "overwrite_output_dir": Translation(
        ("overwrite",), "it empties output_dir first; the same command goes on without it"
    ),
    "evals_per_epoch": Translation(("eval_steps",), EVALS_PER_EPOCH),
    "saves_per_epoch": Translation(("save_steps",), PER_EPOCH),
    "log_completions": Translation(
        ("log_rollouts", "num_sample_generations"),
        "completions of a step that are kept in rollouts.jsonl, and how often in a run a sample is printed",
    ),
    **dict.fromkeys(
        ("num_completions_to_print", "log_samples"), Translation(("log_rollouts",), "kept in rollouts.jsonl")
    ),
    "num_episodes": Translation(("epochs",), "passes over the prompts; total_episodes counts completions"),
    **dict.fromkeys(
        ("soft_cache_length", "overlong_buffer_len", "soft_max_length"), Translation(("soft_punish_cache",), OVERLONG)
    ),
    **dict.fromkeys(
        ("dynamic_sample", "dynamic_filtering"),
        Translation(("dynamic_sampling",), "how many times a step; 0 for never"),
    ),
    "eps_clip_low_high": Translation(("epsilon", "epsilon_high"), "a setting each"),
    "greater_is_better": Translation(("keep_best",), "whether higher is better is known"),
    "kl_in_reward": Translation(("advantage",), "grpo pays KL in the loss, rloo and reinforce++ in the reward"),
    "ipo": Translation((), "IPO is a command of its own: ipo_train"),
    "save_strategy": Translation(("save_steps",), "checkpoints come every so many steps"),
    "eval_strategy": Translation(("eval_steps",), "evaluation comes every so many steps"),
    "evaluation_strategy": Translation(("eval_steps",), "evaluation comes every so many steps"),
    "load_best_model_at_end": Translation(("keep_best",), "give it the metric, such as eval/loss"),
    "metric_for_best_model": Translation(("keep_best",), "whether higher is better is known"),
    "logging_dir": Translation(("output_dir",), "TensorBoard files are in output_dir/runs"),
}
