"""ai-toolkit's settings that need no arithmetic: name -> what became of it, in words."""

from typing import Mapping

from gm.recipes.draft import DIFFERS, TAKEN, UNSUPPORTED, Settings

_NONE = "has no effect on the result"
_OTHER = "of another model, has no effect on SDXL"
_LOGS = "metrics.jsonl, loss.png and the log, always"
_NO_HUB = "nothing is sent anywhere: copy the files of --save_path"
_BASE = "the base is float16, or float32 on a CPU"
_MEMORY = "use_recompute: True saves memory instead"
_ONE_LOSS = "the loss of the noise alone"
_NOISE = "noise is as it is drawn, with noise_offset"
_CAPTIONS = "one caption a photo"
_CLASS = "class images keep what the model knows of the class: --class_data_path and --class_prompt"
_CONTROL = "no control pictures"
_COMPILED = "graphs are always compiled"


def _each(names: str, outcome: str, words: str, beginning: str = "") -> dict[str, tuple[str, str]]:
    return {beginning + name: (outcome, words) for name in names.split()}


SAID: Mapping[str, tuple[str, str]] = {
    "job": (TAKEN, "a training"),
    "type": (TAKEN, "trains a LoRA"),
    "config.process": (UNSUPPORTED, "the first process: import the others by themselves"),
    **_each("device config.device", TAKEN, "--device_target: found out"),
    **_each("log_dir config.log_dir performance_log_every torch_profiler", TAKEN, _LOGS),
    **_each("sqlite_db_path", TAKEN, "of its window: " + _NONE),
    **_each("is_v2 config.is_v2", TAKEN, "SDXL"),
    **_each(
        "do_lorm lorm_extract_mode lorm_extract_mode_param", UNSUPPORTED, "a LoRA, not the model's own layers taken apart"
    ),
    **_each("guidance", UNSUPPORTED, _ONE_LOSS),
    **_each("embedding adapter decorator slider", TAKEN, "none"),
    **_each("log_every verbose use_ui_logger project_name run_name", TAKEN, _LOGS, "logging."),
    **_each("use_wandb", UNSUPPORTED, _NO_HUB, "logging."),
    **_each("logging save sample train model network first_sample", TAKEN, "empty"),
    # network
    **_each("transformer_only split_multistage_loras", TAKEN, _OTHER, "network."),
    **_each("lokr_full_rank lokr_factor old_lokr_format", TAKEN, "of LoKr: " + _NONE, "network."),
    **_each("lorm", UNSUPPORTED, "a LoRA, not the model's own layers taken apart", "network."),
    **_each("layer_offloading", UNSUPPORTED, _MEMORY, "network."),
    **_each("all_layers", UNSUPPORTED, "norms stay as they are", "network."),
    **_each("network_kwargs", TAKEN, "none", "network."),
    # saving
    **_each("push_to_hub hf_repo_id hf_private", UNSUPPORTED, _NO_HUB, "save."),
    # optimizer, rates
    **_each("refiner_lr train_refiner", TAKEN, "no refiner is trained here: " + _NONE, "train."),
    **_each("embedding_lr adapter_lr", TAKEN, "there is none to train", "train."),
    # loss and noise
    **_each("learnable_snr_gos", UNSUPPORTED, "min_snr_gamma weighs noise levels", "train."),
    **_each("noise_scheduler", TAKEN, "the noise levels of SDXL's training; of its pictures alone otherwise", "train."),
    **_each(
        "noise_multiplier target_noise_multiplier img_multiplier noisy_latent_multiplier latent_multiplier",
        UNSUPPORTED,
        "1",
        "train.",
    ),
    **_each(
        "random_noise_multiplier random_noise_shift dynamic_noise_offset force_consistent_noise", UNSUPPORTED, _NOISE, "train."
    ),
    **_each(
        "do_signal_correction_noise do_batch_noise_correction do_signal_amplification blended_blur_noise",
        UNSUPPORTED,
        _NOISE,
        "train.",
    ),
    **_each(
        "signal_correction_noise_scale batch_noise_correction_scale signal_amplification_strength",
        TAKEN,
        "acts where it is on",
        "train.",
    ),
    **_each("optimal_noise_pairing_samples", UNSUPPORTED, "1: noise is not chosen by the photo", "train."),
    **_each("num_train_timesteps", TAKEN, "1000 noise levels", "train."),
    **_each(
        "adaptive_scaling_factor standardize_images standardize_latents",
        UNSUPPORTED,
        "latents are as the VAE has them",
        "train.",
    ),
    **_each(
        "match_noise_norm correct_pred_norm loss_target do_cfg do_random_cfg do_prior_divergence",
        UNSUPPORTED,
        _ONE_LOSS,
        "train.",
    ),
    **_each("correct_pred_norm_multiplier cfg_scale max_cfg_scale cfg_rescale", TAKEN, "acts where it is on", "train."),
    **_each(
        "target_norm_std t0_loss_target do_fft_loss do_guidance_loss do_differential_guidance",
        UNSUPPORTED,
        _ONE_LOSS,
        "train.",
    ),
    **_each(
        "target_norm_std_value t0_velocity_equiv_weight do_fft_velocity_equiv_weight", TAKEN, "acts where it is on", "train."
    ),
    **_each(
        "guidance_loss_target do_guidance_loss_cfg_zero guidance_loss_schedule unconditional_prompt",
        TAKEN,
        "acts where it is on",
        "train.",
    ),
    **_each("differential_guidance_scale", TAKEN, "acts where it is on", "train."),
    **_each("pred_scaler", UNSUPPORTED, "1", "train."),
    **_each("do_blank_stabilization", UNSUPPORTED, _ONE_LOSS, "train."),
    **_each("diffusion_feature_extractor_path latent_feature_extractor_path", UNSUPPORTED, _ONE_LOSS, "train."),
    **_each("diffusion_feature_extractor_weight latent_feature_loss_weight", TAKEN, "acts where it is on", "train."),
    **_each("diff_output_preservation blank_prompt_preservation", UNSUPPORTED, _CLASS, "train."),
    **_each(
        "diff_output_preservation_multiplier diff_output_preservation_class",
        TAKEN,
        "acts with diff_output_preservation",
        "train.",
    ),
    **_each("blank_prompt_preservation_multiplier", TAKEN, "acts with blank_prompt_preservation", "train."),
    **_each("inverted_mask_prior", UNSUPPORTED, "acts with mask_path alone: masks: prior_weight", "train."),
    **_each("inverted_mask_prior_multiplier", TAKEN, "acts with inverted_mask_prior", "train."),
    **_each("max_loss", UNSUPPORTED, "losses are not clipped: --max_grad_norm clips gradients", "train."),
    **_each("max_loss_debug", TAKEN, _NONE, "train."),
    **_each("weight_jitter", UNSUPPORTED, "weights are not shaken", "train."),
    # captions
    **_each("negative_prompt max_negative_prompts", TAKEN, "acts with do_cfg", "train."),
    **_each("short_and_long_captions short_and_long_captions_encoder_split", UNSUPPORTED, _CAPTIONS, "train."),
    **_each("prompt_saturation_chance", UNSUPPORTED, "prompts are not repeated", "train."),
    # machine
    **_each(
        "xformers sdp attention_backend",
        TAKEN,
        "fused attention is spatial_transformer_attn_type of the 910B's YAML",
        "train.",
    ),
    **_each("single_item_batching", UNSUPPORTED, "a batch is computed at once", "train."),
    **_each("cache_text_embeddings", TAKEN, "prompts are always embedded once where the text encoders are frozen", "train."),
    **_each("unload_text_encoder", UNSUPPORTED, "each photo has its own caption, embedded once", "train."),
    **_each("do_paramiter_swapping", UNSUPPORTED, "all numbers train in every update", "train."),
    **_each("paramiter_swapping_factor", TAKEN, "acts with do_paramiter_swapping", "train."),
    **_each("start_step", UNSUPPORTED, "--resume continues a run of this suite", "train."),
    **_each("merge_network_on_save", UNSUPPORTED, "LoRA alone is saved: python tools/merge_lora.py merges it", "train."),
    **_each("merge_network_on_save_strength", TAKEN, "acts with merge_network_on_save", "train."),
    **_each("validation_config", UNSUPPORTED, "no photos are kept apart: --evaluate_every judges pictures instead", "train."),
    **_each("free_u show_turbo_outputs", UNSUPPORTED, "of pictures alone: plain ones", "train."),
    **_each("train_turbo", UNSUPPORTED, _ONE_LOSS, "train."),
    **_each("adapter_assist_name_or_path match_adapter_assist match_adapter_chance", UNSUPPORTED, _CONTROL, "train."),
    **_each("adapter_assist_type", TAKEN, "acts with adapter_assist_name_or_path", "train."),
    **_each(
        "timestep_type linear_timesteps linear_timesteps2 next_sample_timesteps",
        TAKEN,
        "of flow matching: has no effect on SDXL",
        "train.",
    ),
    **_each("bypass_guidance_embedding switch_boundary_every audio_loss_multiplier", TAKEN, _OTHER, "train."),
    # model
    **_each("is_xl arch", TAKEN, "SDXL", "model."),
    **_each("is_v2 is_v3 is_pixart is_pixart_sigma is_auraflow is_flux is_lumina2 is_ssd is_vega", TAKEN, "SDXL", "model."),
    **_each(
        "use_flux_cfg attn_masking split_model_over_gpus split_model_other_module_param_count_scale", TAKEN, _OTHER, "model."
    ),
    **_each(
        "te_name_or_path extras_name_or_path model_kwargs model_paths in_context text_encoder_bits", TAKEN, _OTHER, "model."
    ),
    **_each("refiner_name_or_path", UNSUPPORTED, "no refiner is trained here", "model."),
    **_each("refiner_start_at", TAKEN, "acts with refiner_name_or_path", "model."),
    **_each("experimental_xl latent_space_version unet_sample_size", TAKEN, _NONE, "model."),
    **_each("unet_path", UNSUPPORTED, "the UNet is that of --weight", "model."),
    **_each("assistant_lora_path inference_lora_path unconditional_lora_path", UNSUPPORTED, "no further LoRA", "model."),
    **_each("dtype vae_dtype te_dtype", DIFFERS, "the VAE is float32, the rest float16, or float32 on a CPU", "model."),
    **_each("vae_device te_device", TAKEN, _NONE, "model."),
    **_each("quantize quantize_te", UNSUPPORTED, _BASE, "model."),
    **_each("qtype qtype_te quantize_kwargs ignore_if_contains only_if_contains", TAKEN, "acts with quantize", "model."),
    **_each("accuracy_recovery_adapter", UNSUPPORTED, _BASE, "model."),
    **_each("low_vram auto_memory layer_offloading", UNSUPPORTED, _MEMORY, "model."),
    **_each(
        "layer_offloading_transformer_percent layer_offloading_text_encoder_percent",
        TAKEN,
        "acts with layer_offloading",
        "model.",
    ),
    **_each(
        "compile block_compile compile_mode compile_fullgraph compile_dynamic cache_size_limit", TAKEN, _COMPILED, "model."
    ),
}

# of a dataset
DATASETS: Mapping[str, tuple[str, str]] = {
    **_each("batch_size", TAKEN, "batch_size of train counts"),
    **_each("type", TAKEN, "pictures in a folder"),
    **_each("random_scale scale", UNSUPPORTED, "photos are only made to fit"),
    **_each("flip_x flip_y", UNSUPPORTED, "photos are not mirrored: most subjects are not symmetric"),
    **_each("augments augmentations shuffle_augmentations standardize_images", UNSUPPORTED, "photos stay as they are"),
    **_each("replay_transforms", TAKEN, "acts with augmentations"),
    **_each("network_weight", UNSUPPORTED, "1: the LoRA trains at its whole strength"),
    **_each("prior_reg", UNSUPPORTED, "class images are learned as they are, not as the model draws them"),
    **_each("random_triggers use_short_captions replacements", UNSUPPORTED, _CAPTIONS),
    **_each("random_triggers_max", TAKEN, "acts with random_triggers"),
    **_each("diff_output_preservation", UNSUPPORTED, _CLASS),
    **_each("diff_output_preservation_class", TAKEN, "acts with diff_output_preservation"),
    **_each(
        "cache_latents",
        TAKEN,
        "--cache_latents True, the default; a latent is drawn from the kept posterior each time, once there",
    ),
    **_each("cache_latents_to_disk cache_tensors_to_disk", TAKEN, "--cache_dir keeps encoded crops and prompts"),
    **_each("cache_text_embeddings", TAKEN, "prompts are always embedded once where the text encoders are frozen"),
    **_each("load_image_when_caching_latents num_workers prefetch_factor cache_latents_num_workers", TAKEN, _NONE),
    **_each("debug fast_image_size", TAKEN, _NONE),
    **_each("extra_values cache_clip_vision_to_disk", TAKEN, "of adapters: " + _NONE),
    **_each("control_path control_path_1 control_path_2 control_path_3 controls inpaint_path", UNSUPPORTED, _CONTROL),
    **_each("control_from_same_folder clip_image_path clip_image_from_same_folder unconditional_path", UNSUPPORTED, _CONTROL),
    **_each("clip_image_augmentations clip_image_shuffle_augmentations", UNSUPPORTED, _CONTROL),
    **_each("num_controls_from_same_folder control_transparent_color full_size_control_images guidance_type", TAKEN, _CONTROL),
    **_each("poi", UNSUPPORTED, "crops do not look for a place: cut the photos"),
    **_each(
        "num_frames shrink_video_to_frames fps auto_frame_count trim_auto_frame_count_tail do_i2v do_audio",
        TAKEN,
        "of videos: " + _NONE,
    ),
    **_each("audio_preserve_pitch audio_normalize", TAKEN, "of videos: " + _NONE),
    **_each("dataset_path folder_path", TAKEN, "the folder above"),
}

# of its progress pictures, and of each in `samples`
SAMPLE = (
    "sampler sample_every sample_start_step width height neg seed walk_seed guidance_scale sample_steps network_multiplier"
).split()
SAMPLE += "guidance_rescale format ext adapter_conditioning_scale refiner_start_at extra_values num_frames fps prompts samples".split()
SAMPLE += "do_cfg_norm prompt ctrl_img ctrl_idx ctrl_img_1 ctrl_img_2 ctrl_img_3".split()

# of network_kwargs, beside the dropouts and the words that choose layers
NETWORK_KWARGS = (
    "block_dims block_alphas conv_block_dims conv_block_alphas modules_dim modules_alpha module_class varbose".split()
)
NETWORK_KWARGS += (
    "use_bias is_lorm full_if_contains parameter_threshold attn_only target_lin_modules target_conv_modules".split()
)
NETWORK_KWARGS += (
    "full_train_in_out peft_format is_assistant_adapter is_ara use_cp use_tucker decompose_both factor block_size".split()
)


def say_words(settings: Settings, said: Mapping[str, tuple[str, str]], beginning: str = "") -> None:
    """The rows of a table, of names with this beginning. What is off, or 1 as here, needs no words of what it would do."""
    for name, (outcome, words) in said.items():
        given = str(settings.values.get(beginning + name)).lower()
        if outcome == UNSUPPORTED and given in ("false", "0", "0.0", "[]", "{}", "none"):
            settings.off(beginning + name)
        if outcome == UNSUPPORTED and words.partition(":")[0] == "1" and given in ("1", "1.0"):
            settings.taken(beginning + name, "1, as here")
        settings.say(outcome, beginning + name, words)
