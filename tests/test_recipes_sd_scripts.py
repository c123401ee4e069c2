"""Recipes of sd-scripts and kohya_ss: presets, TOML, commands and metadata become this suite's settings, and none is dropped."""

import json

import pytest

from gm.recipes.draft import DIFFERS, TAKEN, UNKNOWN, UNSUPPORTED
from gm.recipes.written import command
from recipes import at, every_setting_has_a_row, imported, loaded, outcomes

UNET = "model.params.network_config.params."
DATA = "data.dataset_config.params."

# all arguments of sdxl_train_network.py (sd-scripts 0.9 to 0.10) but those that are given apart below
ARGUMENTS = """
adaptive_noise_scale alpha_mask async_upload base_weights base_weights_multiplier blocks_to_swap bucket_no_upscale bucket_reso_steps
cache_info cache_latents cache_latents_to_disk cache_text_encoder_outputs cache_text_encoder_outputs_to_disk caption_dropout_every_n_epochs
caption_dropout_rate caption_extension caption_prefix caption_separator caption_suffix caption_tag_dropout_rate clip_skip color_aug
conditioning_data_dir config_file console_log_file console_log_level console_log_simple cpu_offload_checkpointing dataset_class
dataset_config dataset_repeats ddp_gradient_as_bucket_view ddp_static_graph ddp_timeout debiased_estimation_loss debug_dataset deepspeed
dim_from_weights disable_mmap_load_safetensors dynamo_backend enable_bucket enable_wildcard face_crop_aug_range flip_aug
fp16_master_weights_and_gradients fp8_base fp8_base_unet full_bf16 full_fp16 fused_backward_pass gradient_accumulation_steps
gradient_checkpointing highvram huber_c huber_scale huber_schedule huggingface_path_in_repo huggingface_repo_id huggingface_repo_type
huggingface_repo_visibility huggingface_token in_json initial_epoch initial_step ip_noise_gamma ip_noise_gamma_random_strength keep_tokens
keep_tokens_separator learning_rate log_config log_prefix log_tracker_config log_tracker_name log_with logging_dir logit_mean logit_std
loss_type lowram lr_decay_steps lr_scheduler lr_scheduler_min_lr_ratio lr_scheduler_num_cycles lr_scheduler_power lr_scheduler_timescale
lr_warmup_steps masked_loss max_bucket_reso max_data_loader_n_workers max_grad_norm max_timestep max_token_length max_train_epochs
max_train_steps max_validation_steps mem_eff_attn metadata_author metadata_description metadata_is_negative_embedding metadata_license
metadata_merged_from metadata_preprocessor metadata_tags metadata_thumbnail metadata_title metadata_trigger_phrase metadata_usage_hint
min_bucket_reso min_snr_gamma min_timestep mixed_precision mode_scale multires_noise_discount multires_noise_iterations network_alpha
network_dim network_dropout network_module network_train_text_encoder_only network_train_unet_only network_weights no_half_vae no_metadata
noise_offset noise_offset_random_strength offload_optimizer_device offload_optimizer_nvme_path offload_param_device offload_param_nvme_path
optimizer_type output_config output_dir output_name persistent_data_loader_workers pretrained_model_name_or_path prior_loss_weight random_crop
reg_data_dir resize_interpolation resolution resume resume_from_huggingface sample_at_first sample_every_n_epochs sample_every_n_steps
sample_prompts sample_sampler save_every_n_epochs save_every_n_steps save_last_n_epochs save_last_n_epochs_state save_last_n_steps
save_last_n_steps_state save_model_as save_n_epoch_ratio save_precision save_state save_state_on_train_end save_state_to_huggingface
scale_v_pred_loss_like_noise_pred scale_weight_norms sdpa secondary_separator seed shuffle_caption skip_cache_check skip_until_initial_step
text_encoder_batch_size text_encoder_lr token_warmup_min token_warmup_step tokenizer_cache_dir torch_compile train_batch_size train_data_dir
training_comment unet_lr use_8bit_adam use_lion_optimizer use_safetensors v2 v_parameterization v_pred_like_loss vae vae_batch_size
validate_every_n_epochs validate_every_n_steps validation_seed validation_split wandb_api_key wandb_run_name weighted_captions
weighting_scheme xformers zero3_init_flag zero3_save_16bit_model zero_stage zero_terminal_snr
""".split()
NUMBERS = {
    "network_dropout": 0.1,
    "min_timestep": 10,
    "max_timestep": 900,
    "caption_dropout_rate": 0.5,
    "caption_tag_dropout_rate": 0.5,
    "lr_warmup_steps": 5,
    "seed": 7,
    "max_token_length": 150,
}
TEXTS = {
    **dict.fromkeys(
        ("train_data_dir", "reg_data_dir", "output_dir", "sample_prompts", "network_weights", "vae", "resume"), "some/path"
    ),
    "resolution": "1024,1024",
    "caption_extension": ".txt",
    "lr_scheduler": "cosine",
    "loss_type": "huber",
    "huber_schedule": "snr",
    "network_module": "networks.lora",
    "optimizer_type": "AdamW",
    "mixed_precision": "fp16",
    "save_model_as": "safetensors",
    "keep_tokens_separator": "|||",
    "text_encoder_lr": [1e-5],
    "v2": False,
    **{
        name: False
        for name in ("network_train_unet_only", "network_train_text_encoder_only", "use_8bit_adam", "use_lion_optimizer")
    },
    **{
        name: False
        for name in (
            "v_parameterization",
            "zero_terminal_snr",
            "debiased_estimation_loss",
            "scale_v_pred_loss_like_noise_pred",
        )
    },
}


def toml(values: dict) -> str:
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())


def test_every_argument_of_sd_scripts_has_a_row(tmp_path):
    values = {name: TEXTS.get(name, NUMBERS.get(name, 1)) for name in ARGUMENTS}
    recipe = imported(tmp_path, "all.toml", toml(values))
    assert every_setting_has_a_row(recipe, ARGUMENTS)
    assert UNKNOWN not in outcomes(recipe).values()
    loaded(recipe, tmp_path)


def test_what_sd_scripts_does_not_have_is_unknown(tmp_path):
    recipe = imported(tmp_path, "a.toml", toml({"network_dim": 8, "netwrok_alpha": 4}))
    assert outcomes(recipe)["netwrok_alpha"] == UNKNOWN and outcomes(recipe)["network_dim"] == TAKEN


def test_defaults_of_sd_scripts_that_are_others_here_are_written_out(tmp_path):
    recipe = imported(tmp_path, "a.toml", toml({"train_data_dir": "photos", "seed": 3}))
    config = loaded(recipe, tmp_path)
    assert config.lora["unet"].rank == 4 and config.lora["unet"].alpha == 1.0 and config.lora["unet"].targets == "linear"
    assert set(config.lora) == {"unet", "text_encoder_1", "text_encoder_2"}
    assert config.optim.base_learning_rate == 2e-6 and config.data.total_step == 1600
    assert config.data.crop == "center" and config.data.captions.extensions == (".caption",)
    flags = recipe.draft.flags
    assert flags["clip_grad"] is True and flags["max_grad_norm"] == 1.0 and flags["ms_amp_level"] == "O0"
    assert "its default" in next(row.given for row in recipe.settings.rows if row.name == "max_grad_norm")


PRESETS = {  # file -> entries of the YAML and flags, by reading the preset with kohya_ss' and sd-scripts' code
    "kohya_ss__SDXL_-_LoRA_AI_Now_prodigy_v1.0.json": (
        {
            UNET + "lora_dim": 32,
            UNET + "lora_alpha": 16.0,
            UNET + "lora_targets": "linear",
            "optim.base_learning_rate": 1.0,
            "optim.scale_weight_norms": 5.0,
            "optim.optimizer_config.target": "gm.training.optim.Prodigy",
            "optim.optimizer_config.params.d0": 1e-4,
            "optim.optimizer_config.params.weight_decay": 0.01,
            "optim.optimizer_config.params.use_bias_correction": True,
            "optim.scheduler_config.target": "gm.training.optim.Constant",
            "model.params.denoiser_config.params.weighting_config.params.gamma": 5.0,
            "data.per_batch_size": 8,
            "data.total_step": 200,  # 10 photos / 8 x 160 epochs
            DATA + "buckets.bucket_no_upscale": True,
            DATA + "buckets.bucket_reso_steps": 32,
        },
        {"clip_grad": True, "max_grad_norm": 1.0, "save_ckpt_interval": 20},
    ),
    "kohya_ss__SDXL_-_LoRA_aitrepreneur_clothing_v1.0.json": (
        {
            UNET + "lora_dim": 128,
            UNET + "lora_alpha": 1.0,
            "optim.base_learning_rate": 0.0009,
            "optim.optimizer_config.target": "gm.training.optim.Adafactor",
            "optim.optimizer_config.params.scale_parameter": False,
            "optim.optimizer_config.params.relative_step": False,
            "data.total_step": 75,  # 10 photos / 1 / 2 x 15 epochs
        },
        {"gradient_accumulation_steps": 2, "seed": 12345},
    ),
    "kohya_ss__SDXL_-_LoRA_kudou-reira_dadaptadam_v1.1.json": (
        {
            UNET + "lora_dim": 64,
            "optim.optimizer_config.target": "gm.training.optim.Prodigy",
            "optim.optimizer_config.params.beta2": 0.91,
            "optim.scheduler_config.target": "gm.training.optim.Cosine",
            "optim.scheduler_config.params.warmup_share": 0.05,
            "model.params.loss_fn_config.params.offset_noise_level": 0.0357,
        },
        {"seed": 1337},
    ),
    "kohya_ss__SDXL_-_1_image_LoRA_v1.0.json": (
        {
            UNET + "lora_targets": "all",
            UNET + "lora_dim": 16,  # LoKr of "rank" 100000: a LoRA stands in
            "model.params.loss_fn_config.params.multires_noise_iterations": 5,
            "data.total_step": 160,
        },
        {},
    ),
    "lora-scripts__lora.toml": (
        {
            UNET + "lora_dim": 32,
            "optim.base_learning_rate": 1e-4,
            "optim.rates.text_encoder_1": 1e-5,
            "optim.scheduler_config.target": "gm.training.optim.CosineRestarts",
            DATA + "max_tokens": 225,
            DATA + "captions.shuffle": True,
            DATA + "target_size": 512,
            "data.total_step": 100,
        },
        {"instance_data_path": "./train/aki", "seed": 1337, "save_ckpt_interval": 10, "infer_interval": 50},
    ),
}


@pytest.mark.parametrize("name", PRESETS)
def test_presets_value_by_value(shared, tmp_path, name):
    recipe = imported(tmp_path, name, (shared / "recipes" / name).read_text())
    entries, flags = PRESETS[name]
    assert {key: at(recipe.draft.tree, key) for key in entries} == entries
    assert {key: recipe.draft.flags.get(key) for key in flags} == flags
    loaded(recipe, tmp_path)


def test_all_presets_leave_nothing_unknown(shared, tmp_path):
    paths = [path for path in sorted((shared / "recipes").iterdir()) if path.name.startswith(("kohya", "lora-scripts"))]
    assert len(paths) >= 11
    for path in paths:
        recipe = imported(tmp_path, path.name, path.read_text())
        assert UNKNOWN not in outcomes(recipe).values(), path.name
        if path.suffix == ".json":
            names = [name for name, value in json.loads(path.read_text()).items() if value not in ("", None)]
            assert every_setting_has_a_row(recipe, names), path.name
        loaded(recipe, tmp_path)


def test_only_the_unet_trains_where_the_text_encoders_have_no_rate(shared, tmp_path):
    name = "kohya_ss__locon-dadaptation-sdxl.json"
    recipe = imported(tmp_path, name, (shared / "recipes" / name).read_text())
    assert set(loaded(recipe, tmp_path).lora) == {"unet"}
    name = (
        "kohya_ss__SDXL_-_LoRA_kudou-reira_dadaptadam_v1.1.json"  # --network_train_unet_only among its additional parameters
    )
    recipe = imported(tmp_path, name, (shared / "recipes" / name).read_text())
    assert set(loaded(recipe, tmp_path).lora) == {"unet"}


def test_network_arguments(tmp_path):
    args = ["conv_dim=8", "conv_alpha=4", "rank_dropout=0.1", "module_dropout=0.2", "loraplus_lr_ratio=16"]
    recipe = imported(
        tmp_path, "a.toml", toml({"network_dim": 16, "network_alpha": 8, "network_args": args, "network_dropout": 0.05})
    )
    lora = loaded(recipe, tmp_path).lora["unet"]
    assert (lora.rank, lora.alpha, lora.conv_rank, lora.conv_alpha, lora.targets) == (16, 8.0, 8, 4.0, "all")
    assert (lora.rank_dropout, lora.module_dropout, lora.neuron_dropout) == (0.1, 0.2, 0.05)
    assert recipe.draft.tree["optim"]["lora_plus_ratio"] == 16
    blocks = ",".join(["0", *["8"] * 9, *["16"] * 3, *["32"] * 9, "0"])
    recipe = imported(
        tmp_path, "b.toml", toml({"network_dim": 16, "network_alpha": 16, "network_args": [f"block_dims={blocks}"]})
    )
    parts = {part.pattern: part.rank for part in loaded(recipe, tmp_path).lora["unet"].parts}
    assert len(parts) == 18 and parts["input_blocks.4.*"] == 8 and parts["output_blocks.0.*"] == 32
    recipe = imported(
        tmp_path,
        "c.toml",
        toml({"network_module": "lycoris.kohya", "network_args": ["algo=locon", "dora_wd=True", "preset=attn-mlp"]}),
    )
    lora = loaded(recipe, tmp_path).lora["unet"]
    assert lora.kind == "dora" and lora.targets == "linear"
    given = {
        "network_module": "lycoris.kohya",
        "network_args": ["preset=unet-transformer-only"],
        "unet_lr": 1e-4,
        "text_encoder_lr": 1e-5,
    }
    config = loaded(imported(tmp_path, "d.toml", toml(given)), tmp_path)
    assert set(config.lora) == {"unet"} and config.lora["unet"].targets == "linear" and not config.optim.rates


@pytest.mark.parametrize(
    "given, target, outcome",
    [
        ("AdamW8bit", "AdamW", DIFFERS),
        ("Lion", "Lion", TAKEN),
        ("DAdaptAdam", "Prodigy", UNSUPPORTED),
        ("CAME", "AdamW", UNSUPPORTED),
        ("prodigyplus.ProdigyPlusScheduleFree", "Prodigy", UNSUPPORTED),
        ("bitsandbytes.optim.AdEMAMix8bit", "AdamW", UNSUPPORTED),
    ],
)
def test_optimizers(tmp_path, given, target, outcome):
    recipe = imported(
        tmp_path, "a.toml", toml({"optimizer_type": given, "optimizer_args": ["weight_decay=0.3", "nonsense=1"]})
    )
    assert at(recipe.draft.tree, "optim.optimizer_config.target").endswith(f".{target}")
    assert at(recipe.draft.tree, "optim.optimizer_config.params.weight_decay") == 0.3
    found = outcomes(recipe)
    assert found["optimizer_type"] == outcome and found["optimizer_args.nonsense"] == UNSUPPORTED


def test_a_dataset_file(tmp_path):
    dataset = """
[general]
caption_extension = ".txt"
shuffle_caption = true
[[datasets]]
resolution = [1024, 768]
batch_size = 4
enable_bucket = true
  [[datasets.subsets]]
  image_dir = "photos/dog"
  class_tokens = "sks dog"
  num_repeats = 10
  keep_tokens = 1
  [[datasets.subsets]]
  image_dir = "class/dog"
  class_tokens = "dog"
  is_reg = true
"""
    recipe = imported(tmp_path, "a.toml", toml({"network_dim": 8, "max_train_epochs": 2}), dataset)
    flags, config = recipe.draft.flags, loaded(recipe, tmp_path)
    assert (
        flags["instance_data_path"] == "photos/dog"
        and flags["instance_prompt"] == "sks dog"
        and flags["train_data_repeat"] == 10
    )
    assert flags["class_data_path"] == "class/dog" and flags["class_prompt"] == "dog" and flags["prior_loss_weight"] == 1.0
    assert config.data.per_batch_size == 2 and config.data.total_step == 100  # (100 + 100) / 4 x 2
    assert config.data.captions.shuffle and config.data.captions.keep_tokens == 1 and config.data.target_size == 896
    assert UNKNOWN not in outcomes(recipe).values()


def test_several_subjects(tmp_path):
    subsets = "".join(
        f'[[datasets.subsets]]\nimage_dir = "photos/{name}"\nclass_tokens = "sks {name}"\nnum_repeats = {repeats}\n'
        for name, repeats in (("dog", 3), ("cat", 5))
    )
    recipe = imported(tmp_path, "a.toml", "[[datasets]]\n" + subsets)
    concepts = loaded(recipe, tmp_path).data.concepts
    assert [(one.instance_data_path, one.repeats) for one in concepts] == [("photos/dog", 3), ("photos/cat", 5)]
    assert "--instance_data_path" not in command(recipe.draft, "a.yaml", "base.safetensors", "CPU")


def test_a_command_line(tmp_path):
    text = """accelerate launch --num_cpu_threads_per_process 1 sdxl_train_network.py \\
  --pretrained_model_name_or_path=sdxl.safetensors --train_data_dir=img --network_module=networks.lora --network_dim=16 \\
  --network_alpha=8 --unet_lr=1e-4 --text_encoder_lr 1e-5 2e-5 --optimizer_args weight_decay=0.1 betas=0.9,0.99 --max_train_steps=700 \\
  --min_snr_gamma=5 --xformers --mixed_precision bf16"""
    recipe = imported(tmp_path, "train.sh", text)
    config = loaded(recipe, tmp_path)
    assert config.optim.rates == {"text_encoder_1": 1e-5, "text_encoder_2": 2e-5} and config.optim.base_learning_rate == 1e-4
    assert (config.optim.beta2, config.optim.weight_decay, config.data.total_step) == (0.99, 0.1, 700)
    assert UNKNOWN not in outcomes(recipe).values()
