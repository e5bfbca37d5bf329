"""Settings of other programs that have no counterpart here, by the reason."""

from easyrlhf.config.peers.translation import Translation

# reason, and the names that it answers
REASONS: tuple[tuple[str, str], ...] = (
    (
        "a file is for one stage: give each its own in train_data, or easyrlhf data split",
        "data_split",
    ),
    (
        "what a row says is in the row: fill names in with transform",
        "model_author",
    ),
    (
        "the newest revision of a hub id is read; another one as a downloaded folder",
        "model_revision revision revision_of_model",
    ),
    (
        "one learning rate for all weights, which lr_scheduler takes down to 0 or leaves constant",
        """
        embedding_lr embedding_lr_scale lr_groups loraplus_lr_ratio lorap_lr_ratio loraplus_lr_embedding
        cosine_min_lr_ratio cosine_constant_lr_ratio lr_scheduler_kwargs lr_scheduler_args min_lr min_lr_ratio
        """,
    ),
    (
        "an account's key is never a setting: it would be written down; its own program keeps it",
        "hub_token hf_hub_token hf_token hf_use_auth_token push_to_hub_token wandb_api_key api_key",
    ),
    (
        "curves are named by output_dir; a tracker's further settings are its own environment variables",
        """
        run_name project_name experiment_name wandb_entity wandb_watch wandb_name wandb_run_id wandb_run_name
        wandb_group wandb_org wandb_log_model tracker_project_name mlflow_run_name hf_mlflow_log_artifacts
        """,
    ),
    (
        "SwanLab and Comet are not in this version; report_to has tensorboard, wandb, mlflow and trackio, and "
        "metrics.jsonl every number",
        """
        use_swanlab swanlab_project swanlab_token swanlab_exp_name swanlab_mode swanlab_workspace swanlab_api_key
        swanlab_run_name swanlab_logdir swanlab_lark_webhook_url swanlab_lark_secret use_comet comet_project_name
        comet_workspace comet_api_key comet_experiment_key comet_mode comet_online
        """,
    ),
    (
        "the base is in 4 bits by load_in_4bit alone: NF4, scales in 8 bits, computed in the run's precision",
        """
        load_in_8bit quantization_method quantization_type double_quantization
        quant_method bnb_4bit_compute_dtype bnb_4bit_quant_type bnb_4bit_use_double_quant
        bnb_4bit_quant_storage use_bnb_nested_quant gptq ref_model_quantization_bit reward_model_quantization_bit
        qat upcast_layernorm upcast_lmhead_output
        """,
    ),
    (
        "rows are read and tokenised once, before the first step, by this process",
        """
        preprocessing_num_workers dataset_num_proc dataset_processes preprocessing_batch_size lazy_tokenize
        dataset_batch_size streaming dataset_streaming buffer_size shuffle_buffer_size skip_prepare_dataset
        """,
    ),
    (
        "rows lie tokenised in a file that is mapped into memory; there is no loader to tune",
        """
        dataloader_num_workers dataloader_pin_memory dataloader_prefetch_factor dataloader_persistent_workers
        dataloader_drop_last num_workers num_proc processor_num dataloader_num_proc
        """,
    ),
    (
        "kernels are chosen by attn_implementation alone; the loss is computed in chunks anyway",
        """
        use_liger_kernel enable_liger_kernel use_liger_loss liger_rope liger_rms_norm liger_glu_activation
        liger_layer_norm liger_fused_linear_cross_entropy cut_cross_entropy plugins torch_compile
        torch_compile_backend torch_compile_mode use_unsloth use_unsloth_gc lora_mlp_kernel lora_qkv_kernel
        lora_o_kernel use_hybrid_engine enable_hybrid_engine jit_mode_eval use_ipex padding_free packing_samples
        unpad use_remove_padding moe_aux_loss_coef aux_loss_coef router_aux_loss_coef mixture_of_depths shift_attn
        s2_attention use_logits_to_keep dpo_use_logits_to_keep compute_fp32_loss
        """,
    ),
    (
        "the finished folder is uploaded once, by push_to_hub, to the main branch; checkpoints stay here",
        "hub_strategy hub_always_push hub_revision hub_strategy_kwargs push_checkpoints_to_hub",
    ),
    (
        "data sets are not uploaded; push_to_hub is for the model",
        "push_dataset_to_hub hub_dataset_id dataset_push_to_hub",
    ),
    (
        "every run writes its own tokenised rows beside its result; there is no cache",
        """
        overwrite_cache load_from_cache_file dataset_prepared_path tokenized_path cached_dataset data_output_path
        cache_dir download_mode
        """,
    ),
    (
        "the optimiser is AdamW with betas 0.9 and 0.999, fused where torch has it",
        """
        optimizer optim optim_args adam_beta1 adam_beta2 adam_beta3 adam_betas use_galore galore_rank use_apollo
        use_badam use_adam_mini use_muon pure_bf16
        """,
    ),
    (
        "noise on embeddings is not in this version",
        "neftune_noise_alpha noisy_embedding_alpha",
    ),
    (
        "the end-of-turn token comes from the chat template, and padding is never the end of a sequence",
        """
        special_tokens tokens eos_token pad_token bos_token unk_token pad_token_id eos_token_id add_eot_token
        end_of_conversation_token eot_tokens resize_vocab add_tokens add_special_tokens added_tokens_overrides
        split_special_tokens new_special_tokens num_padding_at_beginning pad_to_multiple_of pad_to_sequence_len
        label_pad_token_id padding_value padding_side truncation_side truncation_mode
        """,
    ),
    (
        "the reference's log-probabilities are computed once and kept, always",
        "precompute_ref_log_probs precompute_ref_batch_size reference_free ref_model_init_kwargs",
    ),
    (
        "the reference stays as it was; a moving one is not in this version",
        "sync_ref_model ref_model_mixup_alpha ref_model_sync_steps ref_model_sync",
    ),
    (
        "output_dir holds the model as safetensors, and checkpoints hold what going on needs",
        """
        save_only_model save_safetensors save_hf_ckpt disable_ds_ckpt create_checkpoint_symlink add_version
        safe_serialization export_dir
        """,
    ),
    (
        "training a choice of layers is not in this version; lora_target chooses those that get an adapter",
        """
        unfrozen_parameters freeze_trainable_layers freeze_trainable_modules freeze_extra_modules
        freeze_parameters freeze_parameters_ratio freeze_llm freeze_aligner trainable_parameters
        peft_layers_to_transform only_optimize_lora train_from_scratch
        """,
    ),
    (
        "pictures, sound and video are not in this version",
        """
        media_dir image_max_pixels video_max_pixels max_pixels freeze_vit freeze_vision_tower norm_bbox
        vit_gradient_checkpointing
        """,
    ),
    (
        "processes share the work as deepspeed or sharding says; other ways are not in this version",
        """
        fsdp_transformer_layer_cls_to_wrap accelerator_config
        tensor_parallel_size dp_shard_size
        ring_head_stride deepspeed_autotp_size ds_tensor_parallel_size
        zero_hpz_partition_size zpg grad_accum_dtype overlap_comm ddp_find_unused_parameters ddp_bucket_cap_mb
        ddp_broadcast_buffers ds3_gather_for_generation parallelism_config
        """,
    ),
    (
        "memory on the devices is handled by the program itself",
        """
        device_map low_cpu_mem_usage max_memory torch_empty_cache_steps gc_steps gc_collect_after_offload
        offload_folder auto_find_batch_size move_model_batches unpin_actor_parameters release_inference_cache
        tp_gather_partition_size inference_tp_size use_cache use_precise_fp8 float16
        cache_implementation skip_memory_metrics
        """,
    ),
    (
        "episodes are written as a class or a function of another form: environment file.py:NAME (easyrlhf docs "
        "environments)",
        """
        multi_turn_scheduler multi_turn_func rollout_func gym_env completion_length_limit_scope agent_func_path
        """,
    ),
    (
        "terms and masks by entropy are not in this version",
        "top_entropy_quantile log_entropy entropy_coeff entropy_loss_coef entropy_coef",
    ),
    (
        "normalising scores by running statistics is not in this version; reward_clip limits them",
        """
        use_score_norm ppo_score_norm normalize_reward normalize_rewards use_score_scaling use_running
        reward_normalisation
        """,
    ),
    (
        "vLLM's further settings are its own defaults",
        """
        sleep_level vllm_enforce_eager enforce_eager vllm_enable_prefix_caching enable_prefix_caching
        vllm_max_num_seqs vllm_engine_kwargs vllm_limit_mm_per_prompt vllm_disable_cascade_attn vllm_model_impl
        vllm_guided_decoding_regex vllm_structured_outputs_regex structured_outputs_regex vllm_server_pass_dataset
        vllm_server_group_port vllm_quantization vllm_data_parallel_size free_cache_engine vllm_max_lora_rank
        vllm_use_async_engine vllm_enable_lora vllm_enable_sleep_mode vllm_server_base_url generation_kwargs
        vllm_config infer_backend infer_dtype num_infer_workers offload_optimizer offload_model async_generate
        colocate_all_models colocate_critic_reward colocate_actor_ref
        """,
    ),
    (
        "a table line comes every log_steps, every number is in metrics.jsonl",
        """
        logging_strategy logging_first_step log_level log_level_replica disable_tqdm include_num_input_tokens_seen
        include_tokens_per_second include_effective_tokens_per_second log_unique_prompts print_answers debug
        report_per_token logger logging_nan_inf_filter verbose
        """,
    ),
    (
        "stopping early by a metric is not in this version; keep_best keeps the weights of the best evaluation",
        """
        early_stopping_patience early_stopping early_stopping_threshold loss_watchdog_threshold
        loss_watchdog_patience
        """,
    ),
    (
        "curves are drawn always, into report.html and plots/",
        "plot_loss acc_strategy compute_accuracy include_inputs_for_metrics batch_eval_metrics metric",
    ),
    (
        "files are read from disk or the hub; other stores are not in this version",
        "storage_options default_hdfs_dir custom_register_path",
    ),
    (
        "processes are started by devices and nnodes; there is no Ray",
        """
        ref_num_nodes ref_num_gpus_per_node reward_num_nodes reward_num_gpus_per_node actor_num_nodes
        actor_num_gpus_per_node critic_num_nodes critic_num_gpus_per_node ray_run_name ray_storage_path
        ray_num_workers ray_kwargs
        """,
    ),
    (
        "write deepspeed zero2_offload or zero3_offload",
        "adam_offload offload offload_reference_model ref_reward_offload",
    ),
    (
        "averages of weights are not in this version",
        "enable_ema ema_beta ema_decay use_bema",
    ),
    (
        "it needs no telling: what is set decides it",
        """
        do_train do_eval do_predict predict_with_generate train_on_policy model_init_kwargs model_kwargs
        ignore_pad_token_for_loss eval_accumulation_steps prediction_loss_only full_determinism
        average_tokens_across_devices restore_callback_states_from_checkpoint label_names ignore_data_skip
        world_size
        """,
    ),
    (
        "rows of like length come together in a micro-batch, always; the order of the steps stays random",
        "group_by_length length_column_name train_sampling_strategy",
    ),
    (
        "an odd row stops the run or is dropped and counted: on_bad_row",
        "skip_invalid_rows ignore_invalid",
    ),
    (
        "sequences are computed packed on GPUs, each by itself; joining rows up to max_length is not in this version",
        """
        packing sample_packing eval_packing eval_sample_packing packing_strategy neat_packing packing_length
        multipack_real_batches sample_packing_group_size sample_packing_bin_size
        """,
    ),
    (
        "dropout of the model itself is off but in sft_train; lora_dropout is that of adapters",
        "disable_dropout disable_actor_dropout disable_critic_dropout actor_dropout critic_dropout",
    ),
    (
        "only the gradients of the loss count: weight_decay and max_grad_norm",
        "label_smoothing_factor",
    ),
    (
        "a part of a file is asked for by a weight behind its path in train_data, as in rows.jsonl=0.1",
        "max_samples eval_limit train_limit",
    ),
    (
        "a system prompt for rows that have none is not in this version; a row's own comes from its column system",
        "system system_prompt default_system default_system_message",
    ),
    (
        "mixing KL estimates into GRPO's loss otherwise is not in this version; beta weighs k3",
        "use_kl_loss kl_loss_type use_kl_estimator_k3",
    ),
    (
        "losses by the whole completion (GSPO) are not in this version; importance is weighed token by token",
        "importance_sampling_level",
    ),
    (
        "a second limit on the ratio is not in this version; epsilon_high is the upper clip",
        "delta dual_clip",
    ),
    (
        "dividing DPO's log-probabilities by length is not in this version; simpo_train does, without a reference",
        "ld_alpha dpo_norm_loss use_weighting dpo_use_weighting",
    ),
    (
        "other divergences than KL are not in this version",
        "f_divergence_type f_alpha_divergence_coef discopop_tau",
    ),
    (
        "each method has one loss; rpo_alpha adds the SFT loss",
        "loss_weights sft_alpha",
    ),
    (
        "importing your own python is done by reward_funcs and transform; other plug-ins are not in this version",
        "external_plugins reward_model_plugin custom_rm_plugin",
    ),
    (
        "the reward model brings its own chat template",
        "reward_template reward_tokenizer reward_model_type",
    ),
    (
        "a LoRA of a reward model is a folder like any other: reward_model takes it",
        "reward_adapters reward_model_adapters",
    ),
    (
        "kl_target sets how hard kl_coef follows; the horizon is fixed",
        "horizon kl_horizon adap_kl_ctrl",
    ),
    (
        "samples are all used once, but for replay_buffer_size; the step's size is batch_size",
        "ppo_buffer_size generation_batches",
    ),
    (
        "kept groups are weighted by their whole completions' probability now over that of their sampling; without the "
        "weight it is another gradient (easyrlhf docs online)",
        "replay_recompute_logps",
    ),
    (
        "stream_rewards asks about each prompt by itself, once it is answered",
        "streaming_min_groups",
    ),
    (
        "an update without a signal is left out as a whole, and counted",
        "skip_zero_advantage_batches",
    ),
    (
        "evaluation measures the loss on valid_data; what the model writes is measured by easyrlhf compare",
        """
        generate_during_eval eval_table_size eval_max_new_tokens eval_use_evalscope do_bench_eval
        bench_eval_callbacks eval_num_beams num_generations_eval num_return_sequences
        """,
    ),
    (
        "each row is learned once an epoch; a file's weight repeats it: rows.jsonl=2",
        "dataset_repeat stopping_strategy mix_strategy curriculum_sampling",
    ),
    (
        "every assistant turn is learned with its end-of-turn token",
        "train_on_eos train_on_eot",
    ),
    (
        "prompts are never learned: loss falls on assistant turns alone",
        "train_on_inputs train_on_prompt assistant_only_loss completion_only_loss roles_to_train",
    ),
    (
        "rope settings beside the model's own config.json are not in this version",
        "rope_scaling rope_theta overrides_of_model_config model_config_overrides",
    ),
    (
        "a model folder of an earlier stage, adapter and all, is the model",
        "ref_adapters",
    ),
    (
        "completions are always kept whole and scored; grpo_train's mask_truncated_completions leaves cut-off ones out",
        "completion_filter",
    ),
    (
        "numbers of actors and critics are those of the program itself; all models use the same devices",
        "zero_reference actor_zero_stage critic_zero_stage",
    ),
    (
        "relatives of LoRA are not in this version; it is set by lora_r, lora_alpha, lora_dropout and lora_target",
        """
        lora_config peft_config use_rslora use_dora peft_use_dora peft_use_rslora pissa_init pissa_convert
        init_weights lora_bias lora_dtype lora_fan_in_fan_out lora_task_type peft_init_lora_weights relora_steps
        lisa_n_layers use_llama_pro target_regex target_parameters lora_target_parameters create_new_adapter
        num_lora_adapters
        """,
    ),
    (
        "train_data takes paths and hub ids; names of a dataset_info.json are not looked up",
        "custom_dataset_info dataset_dir",
    ),
    (
        "model and tokenizer are read as their folder says, and rows by their keys",
        """
        model_type tokenizer_type task_type tokenizer_config base_model_config is_llama_derived_model
        use_fast_tokenizer tokenizer_use_fast tokenizer_legacy disable_fast_tokenizer use_chat_template
        apply_chat_template num_labels dataset_kwargs remove_unused_columns strict check_model use_hf tool_format
        agent_template template_backend value_head_prefix tokenizer tokenizer_name tokenizer_path
        tokenizer_name_or_path
        """,
    ),
    (
        "gradient_checkpointing has no variants",
        "gradient_checkpointing_kwargs use_reentrant_gc gradient_checkpointing_use_reentrant",
    ),
    (
        "precision says what is computed in; torch's own settings stay as they are",
        "tf32",
    ),
    (
        "pretraining on plain text is not in this version",
        "pretraining_dataset sft_only_data_path",
    ),
    (
        "rows are shuffled anew every epoch, from seed",
        "shuffle shuffle_merged_datasets dataset_shuffle",
    ),
    (
        "rows of valid_data are not shuffled, and are evaluated from the first evaluation on",
        "val_dataset_shuffle eval_delay",
    ),
    (
        "equal rows stay; easyrlhf data check finds them",
        "dataset_exact_deduplication",
    ),
)

ABSENT: dict[str, Translation] = {name: Translation((), why) for why, names in REASONS for name in names.split()}
