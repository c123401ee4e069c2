"""sd-scripts' settings that need no arithmetic: name -> what became of it, in words."""

from typing import Mapping

from gm.recipes.draft import DIFFERS, TAKEN, UNSUPPORTED, Settings

_NONE = "has no effect on the result"
_LOGS = "metrics.jsonl, loss.png and the log, always"
_NO_HUB = "nothing is sent anywhere: copy the files of --save_path"
_META = "not written into the file; the rest of the recipe is"
_FAST = "MindSpore chooses how attention is computed; fused attention is spatial_transformer_attn_type of the 910B's YAML"
_NO_BLOCKS = "one rate for all blocks"
_OTHER = "of another model, has no effect on SDXL"

SAID: Mapping[str, tuple[str, str]] = {
    # machine
    **dict.fromkeys(("xformers", "sdpa", "mem_eff_attn"), (TAKEN, _FAST)),
    **dict.fromkeys(("lowram", "lowvram", "highvram", "disable_mmap_load_safetensors"), (TAKEN, _NONE)),
    **dict.fromkeys(
        ("max_data_loader_n_workers", "persistent_data_loader_workers"), (TAKEN, "photos are read once; " + _NONE)
    ),
    **dict.fromkeys(("num_cpu_threads_per_process", "skip_cache_check", "tokenizer_cache_dir", "cache_info"), (TAKEN, _NONE)),
    **dict.fromkeys(("vae_batch_size", "text_encoder_batch_size"), (TAKEN, "photos and prompts are encoded once; " + _NONE)),
    "cache_latents": (TAKEN, "--cache_latents True, the default"),
    "cache_text_encoder_outputs": (TAKEN, "prompts are always embedded once where the text encoders are frozen"),
    "no_half_vae": (TAKEN, "the VAE is always float32"),
    "full_fp16": (DIFFERS, "the LoRA and its gradients stay float32, the rest is float16"),
    "full_bf16": (DIFFERS, "the LoRA and its gradients stay float32, the rest is float16"),
    "fp16_master_weights_and_gradients": (DIFFERS, "the LoRA and its gradients stay float32"),
    **dict.fromkeys(("fp8_base", "fp8_base_unet"), (UNSUPPORTED, "the base is float16, or float32 on a CPU")),
    "torch_compile": (TAKEN, "graphs are always compiled"),
    "dynamo_backend": (TAKEN, "graphs are always compiled, by MindSpore"),
    **dict.fromkeys(
        ("deepspeed", "zero_stage", "offload_optimizer_device", "offload_param_device"), (UNSUPPORTED, "one process a device")
    ),
    **dict.fromkeys(("offload_optimizer_nvme_path", "offload_param_nvme_path"), (UNSUPPORTED, "one process a device")),
    **dict.fromkeys(("zero3_init_flag", "zero3_save_16bit_model"), (UNSUPPORTED, "one process a device")),
    **dict.fromkeys(
        ("ddp_timeout", "ddp_gradient_as_bucket_view", "ddp_static_graph"), (TAKEN, "mpirun's processes need none of it")
    ),
    **dict.fromkeys(
        ("cpu_offload_checkpointing", "blocks_to_swap"), (UNSUPPORTED, "use_recompute: True saves memory instead")
    ),
    "fused_backward_pass": (UNSUPPORTED, "the update is one fused kernel over all LoRA numbers anyway"),
    # network
    "dim_from_weights": (TAKEN, "off: the rank is lora_dim"),
    "base_weights": (UNSUPPORTED, "merge them first: python tools/merge_lora.py, and give the result as --weight"),
    "base_weights_multiplier": (UNSUPPORTED, "merge them first: --scale of tools/merge_lora.py"),
    **{
        f"network_args.{name}": (UNSUPPORTED, _NO_BLOCKS)
        for name in ("down_lr_weight", "mid_lr_weight", "up_lr_weight", "block_lr")
    },
    "network_args.block_lr_zero_threshold": (UNSUPPORTED, _NO_BLOCKS),
    **dict.fromkeys(
        ("network_args.conv_block_dims", "network_args.conv_block_alphas"), (UNSUPPORTED, "lora_conv_dim for all convolutions")
    ),
    **dict.fromkeys(
        ("network_args.use_tucker", "network_args.use_cp", "network_args.use_conv_cp"),
        (UNSUPPORTED, "convolutions are not decomposed further: 3 x 3, then 1 x 1"),
    ),
    "network_args.use_scalar": (UNSUPPORTED, "no further factor: B starts at 0"),
    "network_args.rank_dropout_scale": (UNSUPPORTED, "what stays is always divided by 1 - rank_dropout"),
    "network_args.train_norm": (UNSUPPORTED, "norms stay as they are"),
    "network_args.bypass_mode": (TAKEN, "the LoRA is always computed beside the weight; " + _NONE),
    "network_args.wd_on_output": (TAKEN, "DoRA's lengths are those of rows"),
    **dict.fromkeys(
        tuple(f"network_args.{name}" for name in ("factor", "decompose_both", "block_size", "unit", "constraint", "rescaled"))
        + tuple(f"network_args.{name}" for name in ("train_on_input", "full_matrix", "unbalanced_factorization", "dora_init")),
        (TAKEN, "not of a LoRA; " + _NONE),
    ),
    "network_args.verbose": (TAKEN, _NONE),
    # optimizer
    "lr_decay_steps": (UNSUPPORTED, "a schedule falls over the whole run"),
    "lr_scheduler_timescale": (UNSUPPORTED, "a schedule falls over the whole run"),
    "stop_text_encoder_training": (
        TAKEN,
        "has no effect with LoRA in sd-scripts either: optim.text_encoder_stop_share does it here",
    ),
    # photos
    **dict.fromkeys(("flip_aug",), (UNSUPPORTED, "photos are not mirrored: most subjects are not symmetric")),
    "color_aug": (UNSUPPORTED, "colours stay as they are"),
    "face_crop_aug_range": (UNSUPPORTED, "crops do not look for faces: cut the photos"),
    "resize_interpolation": (DIFFERS, "bicubic; Resize's interpolation is Pillow's number"),
    "noise_offset_type": (TAKEN, "of kohya_ss' interface: the kind that counts stands in the file"),
    "in_json": (UNSUPPORTED, "captions are files beside photos here: write them into NAME.txt"),
    "dataset_class": (UNSUPPORTED, "photos in folders"),
    "dataset_config": (TAKEN, "give this file behind the recipe as well, if its settings are not in this table"),
    "debug_dataset": (TAKEN, "data.png shows what is trained on"),
    "conditioning_data_dir": (UNSUPPORTED, "no ControlNet"),
    # captions
    "clip_skip": (TAKEN, "has no effect on SDXL in sd-scripts either"),
    "no_token_padding": (TAKEN, "has no effect on SDXL in sd-scripts either"),
    "weighted_captions": (UNSUPPORTED, "brackets in captions are words"),
    "secondary_separator": (UNSUPPORTED, "no further separator: it stays in the caption"),
    "enable_wildcard": (UNSUPPORTED, "the first line of a caption, as it stands"),
    "caption_dropout_every_n_epochs": (UNSUPPORTED, "captions: dropout is a probability"),
    **dict.fromkeys(("token_warmup_min", "token_warmup_step"), (UNSUPPORTED, "all tags from the beginning")),
    "custom_attributes": (TAKEN, _NONE),
    "network_multiplier": (UNSUPPORTED, "the LoRA trains at its whole strength"),
    # validation
    **dict.fromkeys(
        ("validation_split", "validation_seed", "validate_every_n_epochs", "validate_every_n_steps", "max_validation_steps"),
        (UNSUPPORTED, "no photos are kept apart: --evaluate_every judges pictures instead"),
    ),
    # saving
    "save_n_epoch_ratio": (UNSUPPORTED, "--save_ckpt_interval says how often"),
    "save_precision": (DIFFERS, "LoRA files are float32: tools/export_lora.py --precision fp16 makes smaller ones"),
    **dict.fromkeys(
        ("save_state", "save_state_on_train_end"), (TAKEN, "training_state.ckpt is always saved beside the newest LoRA")
    ),
    **dict.fromkeys(("save_last_n_steps_state", "save_last_n_epochs_state"), (TAKEN, "only the newest state is kept")),
    "resume": (UNSUPPORTED, "a state of sd-scripts cannot be continued here; its LoRA can: --weight BASE,LORA"),
    **dict.fromkeys(
        ("initial_epoch", "initial_step", "skip_until_initial_step"), (UNSUPPORTED, "--resume continues a run of this suite")
    ),
    "use_safetensors": (TAKEN, "--save_format kohya writes .safetensors"),
    "no_metadata": (UNSUPPORTED, "files always say how they were trained"),
    **dict.fromkeys(("output_config", "config_file"), (TAKEN, "config.yaml is always written")),
    # logs
    **dict.fromkeys(
        ("logging_dir", "log_prefix", "log_with", "log_config", "log_tracker_name", "log_tracker_config", "use_wandb"),
        (TAKEN, _LOGS),
    ),
    **dict.fromkeys(("console_log_level", "console_log_file", "console_log_simple"), (TAKEN, _LOGS)),
    **dict.fromkeys(("wandb_api_key", "wandb_run_name"), (UNSUPPORTED, _NO_HUB)),
    "training_comment": (TAKEN, "a remark"),
    **{
        f"metadata_{name}": (UNSUPPORTED, _META) for name in ("author", "description", "license", "tags", "title", "thumbnail")
    },
    **{
        f"metadata_{name}": (UNSUPPORTED, _META)
        for name in ("is_negative_embedding", "merged_from", "preprocessor", "usage_hint")
    },
    "metadata_trigger_phrase": (TAKEN, "a remark: the prompt is --instance_prompt"),
    **{
        f"huggingface_{name}": (UNSUPPORTED, _NO_HUB)
        for name in ("repo_id", "repo_type", "path_in_repo", "token", "repo_visibility")
    },
    **dict.fromkeys(("save_state_to_huggingface", "resume_from_huggingface", "async_upload"), (UNSUPPORTED, _NO_HUB)),
    # the command that starts it
    **dict.fromkeys(
        ("num_processes", "num_machines", "multi_gpu", "gpu_ids", "main_process_port", "extra_accelerate_launch_args"),
        (TAKEN, "of the start of processes: here mpirun -n N and --is_parallel True"),
    ),
    **dict.fromkeys(
        ("dynamo_mode", "dynamo_use_fullgraph", "dynamo_use_dynamic"), (TAKEN, "graphs are always compiled, by MindSpore")
    ),
    # lora-scripts' own
    "model_train_type": (TAKEN, "a LoRA for SDXL, as here"),
    "enable_base_weight": (UNSUPPORTED, "merge them first: python tools/merge_lora.py, and give the result as --weight"),
    "enable_block_weights": (UNSUPPORTED, _NO_BLOCKS),
    **dict.fromkeys(
        ("enable_preview", "randomly_choice_prompt"), (UNSUPPORTED, "--infer_during_train True, with --infer_prompts FILE")
    ),
    **dict.fromkeys(
        ("positive_prompts", "negative_prompts", "sample_width", "sample_height", "sample_cfg", "sample_seed", "sample_steps"),
        (UNSUPPORTED, "a line of --infer_prompts FILE: PROMPT --w --h --l --d --s --n"),
    ),
    "prompt_file": (UNSUPPORTED, "--infer_prompts FILE"),
    "ui_custom_params": (UNSUPPORTED, "further settings as text: give them as a file of their own"),
    # other models
    **dict.fromkeys(("logit_mean", "logit_std", "mode_scale", "weighting_scheme"), (TAKEN, _OTHER)),
    "train_inpainting": (UNSUPPORTED, "plain training: inpainting UNets are not trained here"),
}


def say_words(settings: Settings) -> None:
    """Switches that are off need no words of what they would do."""
    for name, (outcome, _) in SAID.items():
        if outcome != TAKEN and name in settings and str(settings.values[name]).lower() in ("false", "0", "0.0"):
            settings.off(name)
