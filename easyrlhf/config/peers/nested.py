"""Settings that stand inside blocks in other programs' files, by their whole path.

What is not here is looked up by its last part: trl.use_vllm is use_vllm.
"""

from easyrlhf.config.peers.translation import Translation, alike

COUNTS = (
    "batch_size counts completions: prompts times num_generations; num_mini_batches says into how many steps they are "
    "split"
)
TOKENS = "micro_batch_tokens bounds a forward pass in tokens, whatever is computed"
VLLM_OWN = "vLLM's further settings are its own defaults"
LENGTHS = "rows over max_length are dropped and counted, or cut with overlength truncate"

# axolotl's `datasets` entries as a whole are answered in datasets.py
AXOLOTL = {
    "vllm.host": (("vllm_host",), ""),
    "vllm.port": (("vllm_port",), ""),
    "vllm.tensor_parallel_size": (("vllm_tensor_parallel_size",), ""),
    "vllm.gpu_memory_utilization": (("vllm_gpu_memory_utilization",), ""),
    "vllm.dtype": (("precision",), "vLLM takes that of the run"),
    "vllm.max_model_len": (("max_length",), "max_length counts prompt and completion together, in tokens"),
    "vllm.data_parallel_size": ((), "a colocated vLLM is in every process"),
    "vllm.enable_prefix_caching vllm.enable_reasoning vllm.reasoning_parser": ((), VLLM_OWN),
    "trl.vllm_mode": (("vllm_mode",), "outside of the block"),
    "ebft.feature_layers": (("feature_depths",), "as in feature_depths 0.25,0.5,0.75"),
    "ebft.embed_method": (("feature_pooling",), "last_token is last, completion_mean is mean"),
    "ebft.use_whitening": (
        ("whiten_samples",),
        "features are measured once, by so many demonstrations and answers, not in each group; 0 for no whitening",
    ),
    "ebft.n_samples_per_prompt": (("num_generations",), ""),
    "ebft.temperature": (("temperature",), ""),
    "ebft.advantage_estimator": ((), "the advantage is exact for any number of completions (easyrlhf docs ebft)"),
    "ebft.mode": (("ebft_mode",), "strided is stride"),
    "ebft.stride": (("stride",), ""),
    "ebft.context_length": (("context_length",), ""),
    "ebft.generate_max_len": (("generate_length",), ""),
    "ebft.min_completion_prefix ebft.rl_coef": (
        (),
        "all places of a text are continued alike, and ce_coef is the weight beside them (easyrlhf docs ebft)",
    ),
    "ebft.top_p": ((), "completions are drawn from the policy itself: other draws would be another gradient"),
    "ebft.adaptive_max_tokens ebft.gt_length_multiplier": (("max_completion_length",), "one limit for all answers"),
}

VERL = {
    "data.train_files": (("train_data",), ""),
    "data.val_files": (("valid_data",), ""),
    "data.train_batch_size data.gen_batch_size": (("batch_size",), COUNTS),
    "data.val_batch_size": (("micro_batch_tokens",), TOKENS),
    "data.max_prompt_length": (("max_prompt_length",), ""),
    "data.max_response_length": (("response_length",), ""),
    "data.prompt_key data.reward_fn_key data.response_key data.messages_key": (
        ("field",),
        "as in field prompt=question,answer=gold",
    ),
    "data.truncation data.filter_overlong_prompts": (("overlength",), LENGTHS),
    "data.shuffle": (("shuffle_prompts",), ""),
    "data.return_raw_chat data.return_raw_input_ids data.custom_cls": ((), "rows are read by their keys"),
    "data.image_key data.video_key": ((), "pictures, sound and video are not in this version"),
    "actor_rollout_ref.model.path model.partial_pretrain": (("model",), ""),
    "actor_rollout_ref.model.enable_gradient_checkpointing critic.model.enable_gradient_checkpointing": (
        ("gradient_checkpointing",),
        "",
    ),
    "actor_rollout_ref.model.lora_rank": (("lora_r",), "lora_r 0, the default, trains all weights"),
    "actor_rollout_ref.model.lora_alpha": (("lora_alpha",), ""),
    "actor_rollout_ref.actor.optim.lr optim.lr": (("learning_rate",), ""),
    "actor_rollout_ref.actor.optim.weight_decay optim.weight_decay": (("weight_decay",), ""),
    "actor_rollout_ref.actor.optim.lr_warmup_steps critic.optim.lr_warmup_steps": (
        ("warmup_ratio",),
        "it is a share of all steps: 0.03 is 3 %",
    ),
    "actor_rollout_ref.actor.ppo_mini_batch_size": (("num_mini_batches",), COUNTS),
    "actor_rollout_ref.actor.ppo_micro_batch_size actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu "
    "critic.ppo_micro_batch_size critic.ppo_micro_batch_size_per_gpu "
    "actor_rollout_ref.rollout.log_prob_micro_batch_size actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu "
    "actor_rollout_ref.ref.log_prob_micro_batch_size actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu "
    "actor_rollout_ref.actor.use_dynamic_bsz critic.forward_micro_batch_size_per_gpu critic.ppo_max_token_len_per_gpu "
    "reward_model.micro_batch_size reward_model.micro_batch_size_per_gpu data.micro_batch_size_per_gpu "
    "data.micro_batch_size": (("micro_batch_tokens",), TOKENS),
    "actor_rollout_ref.actor.ppo_epochs": (("num_ppo_epochs",), ""),
    "actor_rollout_ref.actor.clip_ratio": (("cliprange",), ""),
    "actor_rollout_ref.actor.clip_ratio_low": (("epsilon",), ""),
    "actor_rollout_ref.actor.clip_ratio_high": (("epsilon_high",), ""),
    "actor_rollout_ref.actor.clip_ratio_c": ((), "a second limit on the ratio is not in this version"),
    "actor_rollout_ref.actor.kl_loss_coef": (("beta",), "grpo_train's weight of KL in the loss; 0 switches it off"),
    "actor_rollout_ref.actor.loss_agg_mode": (("loss_type",), "token-mean is dapo, seq-mean-token-mean is grpo"),
    "actor_rollout_ref.rollout.name": (("rollout",), "hf or vllm"),
    "actor_rollout_ref.rollout.mode": (("vllm_mode",), "colocate or server"),
    "actor_rollout_ref.rollout.n": (("num_generations",), ""),
    "actor_rollout_ref.rollout.temperature": (("temperature",), ""),
    "actor_rollout_ref.rollout.gpu_memory_utilization": (("vllm_gpu_memory_utilization",), ""),
    "actor_rollout_ref.rollout.tensor_model_parallel_size": (("vllm_tensor_parallel_size",), ""),
    "actor_rollout_ref.rollout.dtype": (("precision",), "vLLM takes that of the run"),
    "actor_rollout_ref.rollout.val_kwargs": (
        (),
        "evaluation draws one completion a prompt of valid_data at the temperature of the run",
    ),
    "critic.optim.lr": (("value_learning_rate",), ""),
    "critic.optim.weight_decay": (("weight_decay",), "the same for both models"),
    "critic.model.path": (("value_model",), ""),
    "critic.cliprange_value": (("cliprange_value",), ""),
    "critic.ppo_mini_batch_size critic.ppo_epochs": ((), "the value model is updated with the policy, step for step"),
    "reward_model.enable": (("reward_model",), "a folder; leave it out where there are reward functions alone"),
    "reward_model.model.path": (("reward_model",), ""),
    "reward_model.reward_manager reward.reward_manager": (
        ("reward_funcs",),
        "rewards are functions of your own: file.py:function",
    ),
    "custom_reward_function.path custom_reward_function.name reward.custom_reward_function.path "
    "reward.custom_reward_function.name": (
        ("reward_funcs",),
        "as in rewards.py:compute (easyrlhf docs rewards)",
    ),
    "algorithm.gamma": (("gamma",), ""),
    "algorithm.lam": (("lam",), ""),
    "algorithm.kl_ctrl.kl_coef": (("kl_coef",), ""),
    "algorithm.kl_ctrl.type": (("kl_target",), "a target makes kl_coef follow it; left out, kl_coef is fixed"),
    "algorithm.kl_ctrl.target_kl": (("kl_target",), ""),
    "algorithm.kl_penalty": (("kl_estimator",), "k1 or k3; kl is k1, low_var_kl is k3"),
    "algorithm.use_kl_in_reward": (("kl_coef",), "PPO pays KL in the reward, and 0 switches it off"),
    "algorithm.norm_adv_by_std_in_grpo": (("scale_rewards",), "group for true, none for false"),
    "algorithm.filter_groups.enable": (("dynamic_sampling",), "how many times a step; 0 for never"),
    "trainer.n_gpus_per_node": (("devices",), "their indices: devices 0,1,2,3"),
    "trainer.nnodes": (("nnodes",), "run the same command on each with a node_rank of its own"),
    "trainer.logger": (("report_to",), "one or several of tensorboard, wandb, mlflow, trackio; or none"),
    "trainer.critic_warmup": (("value_warmup_steps",), ""),
    "trainer.device": (("devices",), ""),
}

NESTED: dict[str, Translation] = {**alike(AXOLOTL), **alike(VERL)}
