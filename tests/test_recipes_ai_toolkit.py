"""ai-toolkit's jobs become this suite's settings, and none is dropped."""

import json

import pytest

from gm.errors import UserError
from gm.recipes.draft import DIFFERS, TAKEN, UNKNOWN, UNSUPPORTED
from recipes import every_setting_has_a_row, imported, loaded, outcomes, words_of

# the names that the classes of its toolkit/config_modules.py (27a03a9) look up
FIELDS = {
    "network": """
all_layers alpha conv conv_alpha dropout layer_offloading linear linear_alpha lokr_factor lokr_full_rank lorm network_kwargs
old_lokr_format pretrained_lora_path rank split_multistage_loras transformer_only type
""",
    "save": """
dtype hf_private hf_repo_id max_step_saves_to_keep push_to_hub save_every save_format
""",
    "logging": """
log_every project_name run_name use_ui_logger use_wandb verbose
""",
    "sample": """
adapter_conditioning_scale do_cfg_norm extra_values format fps guidance_rescale guidance_scale height neg network_multiplier
num_frames prompts refiner_start_at sample_every sample_start_step sample_steps sampler samples seed walk_seed width
""",
    "train": """
adapter_assist_name_or_path adapter_assist_type adapter_lr adaptive_scaling_factor attention_backend audio_loss_multiplier
batch_noise_correction_scale batch_size blank_prompt_preservation blank_prompt_preservation_multiplier blended_blur_noise
bypass_guidance_embedding cache_text_embeddings cfg_rescale cfg_scale content_or_style correct_pred_norm
correct_pred_norm_multiplier diff_output_preservation diff_output_preservation_class diff_output_preservation_multiplier
differential_guidance_scale diffusion_feature_extractor_path diffusion_feature_extractor_weight disable_sampling
do_batch_noise_correction do_blank_stabilization do_cfg do_differential_guidance do_fft_loss do_fft_velocity_equiv_weight
do_guidance_loss do_guidance_loss_cfg_zero do_paramiter_swapping do_prior_divergence do_random_cfg do_signal_amplification
do_signal_correction_noise dtype dynamic_noise_offset ema_config embedding_lr force_consistent_noise force_first_sample free_u
gradient_accumulation gradient_accumulation_steps gradient_checkpointing guidance_loss_schedule guidance_loss_target
img_multiplier inverted_mask_prior inverted_mask_prior_multiplier latent_feature_extractor_path latent_feature_loss_weight
latent_multiplier learnable_snr_gos linear_timesteps linear_timesteps2 loss_target loss_type lr lr_scheduler
lr_scheduler_params match_adapter_assist match_adapter_chance match_noise_norm max_cfg_scale max_denoising_steps max_grad_norm
max_loss max_loss_debug max_negative_prompts merge_network_on_save merge_network_on_save_strength min_denoising_steps
min_snr_gamma negative_prompt next_sample_timesteps noise_multiplier noise_offset noise_scheduler noisy_latent_multiplier
num_train_timesteps optimal_noise_pairing_samples optimizer optimizer_params paramiter_swapping_factor pred_scaler
prompt_dropout_prob prompt_saturation_chance random_noise_multiplier random_noise_shift refiner_lr reg_weight sdp
short_and_long_captions short_and_long_captions_encoder_split show_turbo_outputs signal_amplification_strength
signal_correction_noise_scale single_item_batching skip_first_sample snr_gamma standardize_images standardize_latents
start_step steps switch_boundary_every t0_loss_target t0_velocity_equiv_weight target_noise_multiplier target_norm_std
target_norm_std_value text_encoder_lr timestep_type train_refiner train_text_encoder train_turbo train_unet
unconditional_prompt unet_lr unload_text_encoder validation_config weight_jitter xformers
""",
    "model": """
accuracy_recovery_adapter arch assistant_lora_path attn_masking auto_memory block_compile cache_size_limit compile
compile_dynamic compile_fullgraph compile_mode dtype experimental_xl extras_name_or_path ignore_if_contains in_context
inference_lora_path is_auraflow is_flux is_lumina2 is_pixart is_pixart_sigma is_ssd is_v2 is_v3 is_v_pred is_vega is_xl
latent_space_version layer_offloading layer_offloading_text_encoder_percent layer_offloading_transformer_percent lora_path
low_vram model_kwargs model_paths name_or_path only_if_contains qtype qtype_te quantize quantize_kwargs quantize_te
refiner_name_or_path refiner_start_at split_model_other_module_param_count_scale split_model_over_gpus te_device te_dtype
te_name_or_path text_encoder_bits unconditional_lora_path unet_path unet_sample_size use_flux_cfg use_text_encoder_1
use_text_encoder_2 vae_device vae_dtype vae_path
""",
}
DATASET = """
alpha_mask audio_normalize audio_preserve_pitch augmentations augments auto_frame_count batch_size bucket_tolerance buckets
cache_clip_vision_to_disk cache_latents cache_latents_num_workers cache_latents_to_disk cache_tensors_to_disk
cache_text_embeddings caption_dropout_rate caption_ext caption_type clip_image_augmentations clip_image_from_same_folder
clip_image_path clip_image_shuffle_augmentations control_from_same_folder control_path control_path_1 control_path_2
control_path_3 control_transparent_color controls dataset_path debug default_caption diff_output_preservation
diff_output_preservation_class do_audio do_i2v extra_values fast_image_size flip_x flip_y folder_path fps
full_size_control_images guidance_type inpaint_path invert_mask is_reg keep_tokens load_image_when_caching_latents
loss_multiplier mask_min_value mask_path network_weight num_controls_from_same_folder num_frames num_repeats num_workers poi
prefetch_factor prior_reg random_crop random_scale random_triggers random_triggers_max replacements replay_transforms
resolution scale shrink_video_to_frames shuffle_augmentations shuffle_tokens square_crop standardize_images token_dropout_rate
trigger_word trim_auto_frame_count_tail type unconditional_path use_short_captions
""".split()
VALUES = {  # of names whose value must be of a kind
    **{
        "type": "lora",
        "lr": 1e-4,
        "dtype": "bf16",
        "optimizer": "adamw",
        "lr_scheduler": "cosine",
        "noise_scheduler": "ddpm",
        "steps": 9,
    },
    **{
        "optimizer_params": {"weight_decay": 0.1, "eps": 1e-8},
        "lr_scheduler_params": {"eta_min": 0},
        "conv": 4,
        "arch": "sdxl",
    },
    **{"ema_config": {"use_ema": True, "ema_decay": 0.9, "use_feedback": True, "param_multiplier": 0.9}, "dropout": 0.1},
    **{"network_kwargs": {"only_if_contains": ["attn", "conv"], "rank_dropout": 0.1, "module_dropout": 0.1, "use_cp": True}},
    **{
        "max_denoising_steps": 900,
        "prompts": ["a dog"],
        "samples": [{"prompt": "a dog", "seed": 1}],
        "is_xl": True,
        "is_reg": False,
    },
    **dict.fromkeys(
        ("is_auraflow", "is_flux", "is_lumina2", "is_pixart", "is_pixart_sigma", "is_ssd", "is_v2", "is_v3", "is_vega"), False
    ),
    **{
        "resolution": [1024],
        "prompt_dropout_prob": 0.1,
        "caption_dropout_rate": 0.1,
        "token_dropout_rate": 0.1,
        "content_or_style": "style",
    },
    **{"caption_ext": "txt", "train_text_encoder": False, "mask_path": "masks", "loss_type": "mse", "mask_min_value": 0.1},
}


def job(process=None, **config):
    process = {
        "type": "sd_trainer",
        "network": {},
        "model": {"is_xl": True},
        "datasets": [{"folder_path": "dog"}],
        **(process or {}),
    }
    process["model"] = {"is_xl": True, **process["model"]}
    return {"job": "extension", "config": {"name": "my_lora", "process": [process], **config}, "meta": {"name": "[name]"}}


def read(folder, process=None, **config):
    return imported(folder, "job.yaml", json.dumps(job(process, **config)))  # JSON is YAML


def test_every_name_of_ai_toolkit_has_a_row(tmp_path):
    parts = {part: {name: VALUES.get(name, 1) for name in text.split()} for part, text in FIELDS.items()}
    dataset = {name: VALUES.get(name, 1) for name in DATASET}
    process = {
        **parts,
        "datasets": [dataset, {**dataset, "is_reg": True}],
        "trigger_word": "sks",
        "device": "cuda:0",
        "log_dir": "a",
    }
    process |= {"training_folder": "runs", "performance_log_every": 10, "training_seed": 3, "sqlite_db_path": "a.db"}
    recipe = read(tmp_path, process, device="cuda:0")
    mappings = ("optimizer_params", "lr_scheduler_params", "ema_config", "network_kwargs", "samples")
    names = [f"{part}.{name}" for part, text in FIELDS.items() for name in text.split() if name not in mappings]
    names += [f"{part}.{name}.{key}" for part in parts for name in mappings[:4] for key in parts[part].get(name, ())]
    names += [f"datasets.{i}.{name}" for i in (0, 1) for name in DATASET] + [
        "sample.samples.0.prompt",
        "sample.samples.0.seed",
    ]
    names += [
        "job",
        "config.name",
        "config.device",
        "type",
        "trigger_word",
        "device",
        "training_seed",
        "meta",
        "sqlite_db_path",
    ]
    assert every_setting_has_a_row(recipe, names)
    assert UNKNOWN not in outcomes(recipe).values()
    loaded(recipe, tmp_path)


def test_what_it_does_not_have_is_unknown(tmp_path):
    process = {
        "network": {"liner": 4, "network_kwargs": {"foo": 1}},
        "train": {"step": 9},
        "sample": {"widht": 9},
        "netwrok": {"a": 1},
    }
    recipe = read(tmp_path, {**process, "datasets": [{"folder_path": "a", "folder": "b"}]})
    names = ("network.liner", "network.network_kwargs.foo", "train.step", "sample.widht", "netwrok", "datasets.0.folder")
    assert [outcomes(recipe)[name] for name in names] == [UNKNOWN] * 6


EXAMPLE = """
job: extension
config:
  name: "my_first_lora_v1"
  process:
    - type: 'sd_trainer'
      training_folder: "output"
      device: cuda:0
      trigger_word: "p3r5on"
      network: {type: "lora", linear: 16, linear_alpha: 8}
      save: {dtype: float16, save_every: 250, max_step_saves_to_keep: 4, push_to_hub: false}
      datasets:
        - folder_path: "/path/to/[name]"
          caption_ext: "txt"
          caption_dropout_rate: 0.05
          shuffle_tokens: false
          cache_latents_to_disk: true
          resolution: [512, 768, 1024]
      train:
        {batch_size: 2, steps: 2000, gradient_accumulation_steps: 1, train_unet: true, train_text_encoder: false,
         gradient_checkpointing: true, noise_scheduler: "ddpm", optimizer: "adamw8bit", lr: 1e-4, min_snr_gamma: 5.0,
         ema_config: {use_ema: true, ema_decay: 0.99}, dtype: bf16}
      model: {name_or_path: "stabilityai/stable-diffusion-xl-base-1.0", is_xl: true}
      sample: {sampler: "ddpm", sample_every: 250, width: 1024, prompts: ["[trigger] at the park", "b"], seed: 42, walk_seed: true}
meta: {name: "[name]", version: '1.0'}
"""


def test_a_job_as_its_examples_are(tmp_path):
    recipe = imported(tmp_path, "job.yaml", EXAMPLE)
    config = loaded(recipe, tmp_path)
    lora, optim, data = config.lora["unet"], config.optim, config.data
    assert set(config.lora) == {"unet"} and (lora.rank, lora.alpha, lora.conv_rank, lora.kind) == (16, 8.0, None, "lora")
    assert set(lora.targets) == {
        "middle_block.1.*",
        "input_blocks.*.1.*",
        "output_blocks.*.1.*",
        "*.emb_layers.*",
        "*.skip_connection",
    }
    assert (optim.optimizer, optim.base_learning_rate, optim.eps, optim.weight_decay) == ("AdamW", 1e-4, 1e-6, 0.01)
    assert optim.ema_decay == 0.99 and optim.schedule == "constant" and optim.warmup_steps == 0
    assert (data.per_batch_size, data.total_step, data.target_size, data.crop) == (2, 2000, 1024, "center")
    assert (data.buckets.step, data.buckets.upscale) == (64, False)
    assert (data.captions.extensions, data.captions.dropout, data.captions.trigger) == ((".txt",), 0.05, "p3r5on")
    assert (config.weighting.name, config.weighting.params) == ("MinSNRWeighting", {"gamma": 5.0})
    flags = {
        "instance_data_path": "/path/to/my_first_lora_v1",
        "prior_loss_weight": 0,
        "save_ckpt_interval": 250,
        "max_num_ckpt": 4,
    }
    flags |= {
        "infer_prompt": "p3r5on at the park",
        "infer_interval": 250,
        "max_grad_norm": 1.0,
        "save_path": "output/my_first_lora_v1",
    }
    assert {name: recipe.draft.flags[name] for name in flags} == flags
    found = outcomes(recipe)
    assert UNKNOWN not in found.values()
    assert [found[name] for name in ("train.dtype", "datasets.0.resolution", "train.optimizer", "network.type")] == [
        DIFFERS
    ] * 4
    assert found["sample.walk_seed"] == UNSUPPORTED and found["train.min_snr_gamma"] == TAKEN


def test_defaults_that_are_others_here_are_written_out(tmp_path):
    recipe = read(tmp_path)
    config = loaded(recipe, tmp_path)
    assert (config.lora["unet"].rank, config.lora["unet"].alpha) == (4, 1.0) and config.optim.base_learning_rate == 1e-6
    assert config.data.target_size == 512 and config.data.total_step == 1000 and config.data.crop == "center"
    assert recipe.draft.flags["ms_amp_level"] == "O0" and recipe.draft.flags["max_num_ckpt"] == 5
    given = {row.name: row.given for row in recipe.settings.rows}
    for name in (
        "train.lr",
        "network.linear",
        "network.linear_alpha",
        "datasets.0.resolution",
        "train.dtype",
        "save.save_every",
    ):
        assert given[name].endswith("(its default)"), name


@pytest.mark.parametrize(
    "process, message",
    [
        ({"model": {"is_flux": True}}, "is for the model flux, not for SDXL"),
        ({"model": {"arch": "wan21", "is_xl": False}}, "is for the model wan21, not for SDXL"),
        ({"model": {"is_xl": False}}, "is for the model Stable Diffusion 1, not for SDXL"),
        ({"model": {"is_ssd": True}}, "is for the model ssd"),
        ({"type": "slider"}, "has a process of the type 'slider', which trains no LoRA"),
        ({"network": None}, "has no network, so it trains no LoRA"),
        ({"embedding": {"trigger": "a"}}, "trains an embedding"),
        ({"train": {"noise_scheduler": "flowmatch"}}, "by flow matching"),
        ({"train": {"train_unet": False}}, "trains neither the UNet nor a text encoder"),
        ({"train": {"lr": "fast"}}, "train.lr"),
        ({"train": {"steps": 0}}, "must be at least 1"),
        ({"train": {"min_denoising_steps": 900, "max_denoising_steps": 100}}, "leave no noise level"),
        ({"datasets": [{"resolution": "large"}]}, "it must be a number of pixels"),
        ({"datasets": ["dog"]}, "it must be a list of mappings"),
        ({"datasets": [{"folder_path": "a", "is_reg": True}]}, "has class images alone"),
        ({"network": {"network_kwargs": {"only_if_contains": ["atention"]}}}, "leaves no layer"),
    ],
)
def test_bad_jobs_end_with_one_sentence(tmp_path, process, message):
    with pytest.raises(UserError, match=message) as found:
        read(tmp_path, {**process, "network": process.get("network", {"linear": 4})})
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    "text", ["a: 1", "job: extension\nconfig: {name: a}", "job: train\nconfig: {name: a, process: [3]}", "- 1", "a: ["]
)
def test_what_is_no_job_is_refused(tmp_path, text):
    with pytest.raises(UserError):
        imported(tmp_path, "job.yaml", text)


def test_words_say_what_differs(tmp_path):
    recipe = read(tmp_path, {"train": {"steps": 100, "gradient_accumulation_steps": 4, "min_denoising_steps": 100}})
    assert "clears gradients in each step" in words_of(recipe, "train.gradient_accumulation_steps")
    assert "100 steps / 4 accumulated = 25 updates" in " ".join(recipe.draft.notes)
    assert words_of(recipe, "train.min_denoising_steps").startswith("sigma_sampler_config: max_timestep: 899")
