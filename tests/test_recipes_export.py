"""--export_recipe: a run as sd-scripts' TOML, and back again by its importer."""

import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest

from gm.config.load import load_config
from gm.config.types import (
    BucketConfig,
    CaptionConfig,
    Config,
    DataConfig,
    LoraConfig,
    LossConfig,
    MaskConfig,
    NoiseConfig,
    OptimConfig,
)
from gm.data.concepts import ClassFolder, Subject
from gm.errors import UserError
from gm.options.train import parse_train
from gm.parallel.ranks import Ranks
from gm.recipes.export_files import recipe_files, write_recipe
from gm.recipes.export_sd_scripts import export_sd_scripts
from gm.recipes.files import read_recipe
from gm.recipes.updates import Hints
from gm.recipes.written import yaml_text

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

BASE = "configs/training/sd_xl_base_finetune_dreambooth_lora_910b.yaml"
YAMLS = sorted([*Path("configs/training").glob("*.yaml"), *Path("configs/recipes").glob("*.yaml")])
# of sdxl_train_network.py (48d368fa), setup_parser()
ARGUMENTS = set(
    """
adaptive_noise_scale alpha_mask async_upload base_weights base_weights_multiplier bucket_no_upscale bucket_reso_steps
cache_info cache_latents cache_latents_to_disk cache_text_encoder_outputs cache_text_encoder_outputs_to_disk
caption_dropout_every_n_epochs caption_dropout_rate caption_extension caption_extention caption_prefix caption_separator
caption_suffix caption_tag_dropout_rate clip_skip color_aug conditioning_data_dir config_file console_log_file
console_log_level console_log_simple cpu_offload_checkpointing dataset_class dataset_config dataset_repeats
ddp_gradient_as_bucket_view ddp_static_graph ddp_timeout debiased_estimation_loss debug_dataset deepspeed dim_from_weights
disable_mmap_load_safetensors dynamo_backend enable_bucket enable_wildcard face_crop_aug_range flip_aug
fp16_master_weights_and_gradients fp8_base fp8_base_unet full_bf16 full_fp16 fused_backward_pass gradient_accumulation_steps
gradient_checkpointing highvram huber_c huber_scale huber_schedule huggingface_path_in_repo huggingface_repo_id
huggingface_repo_type huggingface_repo_visibility huggingface_token in_json initial_epoch initial_step ip_noise_gamma
ip_noise_gamma_random_strength keep_tokens keep_tokens_separator learning_rate log_config log_prefix log_tracker_config
log_tracker_name log_with logging_dir loss_type lowram lr_decay_steps lr_scheduler lr_scheduler_args
lr_scheduler_min_lr_ratio lr_scheduler_num_cycles lr_scheduler_power lr_scheduler_timescale lr_scheduler_type
lr_warmup_steps masked_loss max_bucket_reso max_data_loader_n_workers max_grad_norm max_timestep max_token_length
max_train_epochs max_train_steps max_validation_steps mem_eff_attn metadata_author metadata_description
metadata_is_negative_embedding metadata_license metadata_merged_from metadata_preprocessor metadata_tags metadata_thumbnail
metadata_title metadata_trigger_phrase metadata_usage_hint min_bucket_reso min_snr_gamma min_timestep mixed_precision
multires_noise_discount multires_noise_iterations network_alpha network_args network_dim network_dropout network_module
network_train_text_encoder_only network_train_unet_only network_weights no_half_vae no_metadata noise_offset
noise_offset_random_strength offload_optimizer_device offload_optimizer_nvme_path offload_param_device
offload_param_nvme_path optimizer_args optimizer_type output_config output_dir output_name persistent_data_loader_workers
pretrained_model_name_or_path prior_loss_weight random_crop reg_data_dir resize_interpolation resolution resume
resume_from_huggingface sample_at_first sample_every_n_epochs sample_every_n_steps sample_prompts sample_sampler
save_every_n_epochs save_every_n_steps save_last_n_epochs save_last_n_epochs_state save_last_n_steps save_last_n_steps_state
save_model_as save_n_epoch_ratio save_precision save_state save_state_on_train_end save_state_to_huggingface
scale_v_pred_loss_like_noise_pred scale_weight_norms sdpa secondary_separator seed shuffle_caption skip_cache_check
skip_until_initial_step text_encoder_lr token_warmup_min token_warmup_step tokenizer_cache_dir torch_compile
train_batch_size train_data_dir training_comment unet_lr use_8bit_adam use_lion_optimizer v2 v_parameterization
v_pred_like_loss vae vae_batch_size validate_every_n_epochs validate_every_n_steps validation_seed validation_split
wandb_api_key wandb_run_name weighted_captions xformers zero3_init_flag zero3_save_16bit_model zero_stage zero_terminal_snr
""".split()
)
# of library/config_util.py, ConfigSanitizer
OF_SUBSETS = set(
    """
caption_dropout_every_n_epochs caption_dropout_rate caption_tag_dropout_rate caption_extension class_tokens cache_info color_aug
face_crop_aug_range flip_aug num_repeats random_crop shuffle_caption keep_tokens keep_tokens_separator secondary_separator
caption_separator enable_wildcard token_warmup_min token_warmup_step caption_prefix caption_suffix custom_attributes
resize_interpolation image_dir is_reg alpha_mask
""".split()
)
OF_DATASETS = set(
    """
batch_size bucket_no_upscale bucket_reso_steps enable_bucket max_bucket_reso min_bucket_reso validation_seed validation_split
resolution network_multiplier resize_interpolation
""".split()
)


def exported(config, tmp_path, flags=(), classes=(), subjects=None):
    """What is written, and the two trees that sd-scripts reads."""
    options = parse_train(["--instance_data_path", "dog", "--prior_loss_weight", "0", *flags])
    subjects = subjects or [Subject(Path("/photos/dog"), (Path("a.jpg"),), "a sks dog", 7)]
    out = export_sd_scripts(config, options, subjects, classes)
    files = tmp_path / "run.toml", tmp_path / "run_dataset.toml"
    command = write_recipe(out, files)
    assert str(files[0]) in command and str(files[1]) in command
    training, data = (tomllib.loads(file.read_text(encoding="utf-8")) for file in files)
    flat = {name: value for section in training.values() for name, value in section.items()}
    assert set(flat) <= ARGUMENTS and len(flat) == sum(len(section) for section in training.values())
    assert set(data) == {"general", "datasets"} and set(data["general"]) <= OF_SUBSETS | OF_DATASETS
    (dataset,) = data["datasets"]
    assert set(dataset) <= OF_DATASETS | {"subsets"} and all(set(one) <= OF_SUBSETS for one in dataset["subsets"])
    text = files[0].read_text(encoding="utf-8")
    assert all(f"# otherwise there: {remark}" in text for remark in out.remarks)
    return out, flat, data


def again(tmp_path):
    """The config and the flags that the importer makes of it."""
    recipe = read_recipe([tmp_path / "run.toml", tmp_path / "run_dataset.toml"], Hints(num_photos=1))
    path = tmp_path / "again.yaml"
    path.write_text(yaml_text(recipe.draft, BASE, path, "a test"), encoding="utf-8")
    assert [row.name for row in recipe.settings.rows if row.outcome == "unknown"] == []
    return load_config(str(path), (), training=True), recipe.draft.flags


def comparable(config):
    """What a recipe is, without what sd-scripts has no words for or has other words for."""
    data = config.data
    lora = {name: replace(one, merge_weights=False, only_save_lora=True, **_conv(one)) for name, one in config.lora.items()}
    buckets = data.buckets and replace(data.buckets, max_buckets=4)
    captions = replace(data.captions, variants=10, extensions=data.captions.extensions[:1])
    masks = data.masks and MaskConfig(0.0)
    rates = {name: rate for name, rate in config.optim.rates.items() if rate != config.optim.base_learning_rate}
    return {
        "lora": lora,
        "optim": replace(config.optim, ema_decay=None, rates=rates),
        "loss": (config.weighting, config.noise, config.loss),
        "prediction": (config.model.prediction, config.model.zero_terminal_snr),
        "data": (data.per_batch_size, data.total_step, data.target_size, data.crop, buckets, captions, masks, data.max_tokens),
        "recompute": config.model.unet.use_recompute,
    }


def _conv(lora):
    return {"conv_rank": lora.conv_rank or lora.rank, "conv_alpha": lora.conv_alpha or lora.alpha}


@pytest.mark.parametrize("yaml", YAMLS, ids=[path.stem for path in YAMLS])
def test_there_and_back_again(yaml, tmp_path):
    config = load_config(str(yaml), (), training=True)
    flags = [
        "--seed",
        "5",
        "--clip_grad",
        "True",
        "--max_grad_norm",
        "0.5",
        "--save_ckpt_interval",
        "1",
        "--max_num_ckpt",
        "3",
    ]
    exported(config, tmp_path, [*flags, "--gradient_accumulation_steps", "2"])
    back, told = again(tmp_path)
    assert comparable(back) == comparable(config)
    expected = {"seed": 5, "clip_grad": True, "max_grad_norm": 0.5, "save_ckpt_interval": 1, "max_num_ckpt": 3}
    expected |= {"gradient_accumulation_steps": 2, "instance_data_path": "/photos/dog", "instance_prompt": "a sks dog"}
    expected |= {"train_data_repeat": 7, "prior_loss_weight": 0}
    assert expected.items() <= told.items()


D, L, S = "model.params.denoiser_config.params.", "model.params.loss_fn_config.params.", "data.dataset_config.params."
W = "gm.modules.diffusionmodules.denoiser_weighting."
V = f"{D}scaling_config.target=gm.modules.diffusionmodules.denoiser_scaling.VScaling"
TEXT = "configs/training/sd_xl_base_finetune_dreambooth_textencoder_lora_910b.yaml"


@pytest.mark.parametrize(
    "yaml, changes",
    [
        (BASE, [V]),
        (BASE, [V, f"{D}weighting_config.target={W}VWeighting"]),
        (BASE, [V, f"{D}weighting_config.target={W}MinSNRWeighting"]),
        (BASE, [V, f"{D}weighting_config.target={W}VWeighting", f"{D}discretization_config.params.zero_terminal_snr=True"]),
        (BASE, [f"{D}weighting_config.target={W}DebiasedWeighting"]),
        (BASE, [f"{L}offset_noise_level=0.05", f"{L}multires_noise_iterations=6", f"{L}multires_noise_discount=0.4"]),
        (BASE, [f"{L}input_perturbation=0.1", f"{L}loss_type=huber", f"{L}huber_c=0.2", f"{L}huber_schedule=exponential"]),
        (BASE, ["model.params.sigma_sampler_config.params.min_timestep=10", "optim.scale_weight_norms=1.0"]),
        (BASE, ["model.params.network_config.params.lora_kind=dora"]),
        (
            BASE,
            [
                f"model.params.network_config.params.lora_{key}"
                for key in ("neuron_dropout=0.1", "rank_dropout=0.2", "targets=linear")
            ]
            + ["model.params.network_config.params.lora_module_dropout=0.3", "optim.lora_plus_ratio=8"],
        ),
        (
            BASE,
            [
                "optim.optimizer_config.target=gm.training.optim.Lion",
                "optim.optimizer_config.params={beta1: 0.9, beta2: 0.98}",
            ],
        ),
        (
            BASE,
            [
                "optim.optimizer_config.target=gm.training.optim.Adafactor",
                "optim.optimizer_config.params={scale_parameter: False, relative_step: False, clip_threshold: 2.0, eps1: 1.0e-20}",
                "optim.scheduler_config.params.warmup_steps=30",
            ],
        ),
        (
            BASE,
            [
                "optim.optimizer_config.target=gm.training.optim.Adafactor",
                "optim.optimizer_config.params={}",
                "optim.base_learning_rate=null",
                "optim.scheduler_config=null",
            ],
        ),
        (
            BASE,
            [
                "optim.optimizer_config.target=gm.training.optim.Prodigy",
                "optim.optimizer_config.params={d_coef: 2.0, beta3: 0.9, decouple: False, d0: 1.0e-5, growth_rate: 1.02}",
                "optim.base_learning_rate=1.0",
                "optim.scheduler_config.target=gm.training.optim.CosineRestarts",
                "optim.scheduler_config.params={num_cycles: 3, warmup_steps: 10}",
            ],
        ),
        (BASE, ["optim.scheduler_config.target=gm.training.optim.Polynomial", "optim.scheduler_config.params={power: 2.0}"]),
        (
            BASE,
            ["optim.scheduler_config.target=gm.training.optim.Linear", "optim.scheduler_config.params={warmup_share: 0.1}"],
        ),
        (
            BASE,
            ["optim.scheduler_config.target=gm.training.optim.Cosine", "optim.scheduler_config.params={final_factor: 0.1}"],
        ),
        (TEXT, ["optim.rates={text_encoder_1: 1.0e-5, text_encoder_2: 2.0e-5}"]),
        (TEXT, ["optim.rates={unet: 0.0}"]),
        (
            BASE,
            [
                f"{S}captions={{prefix: in front, suffix: behind, separator: ;, keep_tokens_separator: '|||', tag_dropout: 0.1}}"
            ],
        ),
    ],
)
def test_there_and_back_with(yaml, changes, tmp_path):
    config = load_config(yaml, tuple(changes), training=True)
    exported(config, tmp_path)
    assert comparable(again(tmp_path)[0]) == comparable(config)


def test_what_sd_scripts_has_nothing_for_is_said(tmp_path):
    changes = [
        "model.params.network_config.params.lora_targets=['input_blocks.4.*', 'middle_block.*']",
        "model.params.network_config.params.lora_dropout=0.1",
        "model.params.network_config.params.lora_parts=[{pattern: 'middle_block.*', dim: 8}]",
        f"{D}weighting_config.target={W}EDMWeighting",
        "optim.optimizer_config.target=mindspore.nn.AdamWeightDecay",
        "optim.scheduler_config.target=gm.training.optim.Linear",
        "optim.scheduler_config.params={final_factor: 0.1}",
        "optim.ema_decay=0.99",
        "data.shuffle=False",
        f"{S}captions={{trigger: sks, shuffle: True}}",
        f"{S}masks={{unmasked_weight: 0.2, normalise: True}}",
        f"{S}buckets={{max_buckets: 3}}",
    ]
    config = load_config(BASE, tuple(changes), training=True)
    subjects = [Subject(Path("dog"), (Path("a.jpg"),), None, 3, 0.5)]
    classes = [ClassFolder(Path("dogs"), "a dog")]
    flags = ["--prior_loss_weight", "0.5", "--class_data_path", "dogs", "--class_prompt", "a dog", "--save_every_minutes", "5"]
    flags += [
        "--infer_during_train",
        "True",
        "--seed",
        str(2**40),
        "--overflow_still_update",
        "True",
        "--weight",
        "a.ckpt,b.ckpt",
    ]
    out, training, data = exported(config, tmp_path, flags, classes, subjects)
    for words in (
        *(
            "lora_targets",
            "lora_dropout",
            "lora_parts",
            "EDMWeighting",
            "AdamWeightDecay",
            "final_factor",
            "ema_decay",
            "shuffle: False",
        ),
        *(
            "captions.trigger",
            "captions.variants",
            "captions.extensions",
            "masks:",
            "masks.normalise",
            "max_buckets",
            "random crops",
        ),
        *("weights of concepts", "class images", "losses x 2", "save_every_minutes", "progress pictures", "seed", "overflow"),
        *("MindSpore's file", "goes on from"),
    ):
        assert any(words in remark for remark in out.remarks), words
    assert training["prior_loss_weight"] == 0.5 and training["masked_loss"] is True
    (dataset,) = data["datasets"]
    assert dataset["batch_size"] == 2  # a photo and a class image
    assert [one.get("is_reg", False) for one in dataset["subsets"]] == [False, True]
    assert "class_tokens" not in dataset["subsets"][0] and dataset["subsets"][0]["alpha_mask"] is True
    assert data["general"]["caption_prefix"] == "sks,"


def test_rslora_is_another_alpha(tmp_path):
    changes = ["lora_rslora=True", "lora_dim=16", "lora_alpha=8", "lora_targets=linear"]
    config = load_config(BASE, tuple(f"model.params.network_config.params.{one}" for one in changes), training=True)
    _, training, _ = exported(config, tmp_path)
    assert (training["network_dim"], training["network_alpha"]) == (16, 32.0)  # 32 / 16 is 8 / sqrt(16)


def test_nothing_of_a_recipe_is_forgotten():
    """A new field of the YAML needs a line in gm/recipes/export_sd_scripts.py, or a remark there, and then one here."""
    known = {
        Config: "version model lora optim data raw weighting noise loss",
        LoraConfig: "rank alpha dropout merge_weights only_save_lora targets conv_rank conv_alpha parts neuron_dropout rank_dropout "
        "module_dropout kind rslora",
        OptimConfig: "base_learning_rate bias_correction beta1 beta2 eps weight_decay schedule warmup_steps final_factor warmup_share "
        "num_cycles power optimizer prodigy adafactor rates text_encoder_stop_share lora_plus_ratio scale_weight_norms ema_decay",
        DataConfig: "per_batch_size total_step num_parallel_workers shuffle target_size interpolation crop captions buckets masks "
        "concepts max_tokens",
        CaptionConfig: "extensions trigger prefix suffix separator keep_tokens keep_tokens_separator shuffle tag_dropout dropout variants",
        BucketConfig: "max_buckets step smallest largest upscale",
        MaskConfig: "unmasked_weight normalise prior_weight folder",
        NoiseConfig: "offset_noise_level multires_noise_iterations multires_noise_discount input_perturbation min_timestep max_timestep",
        LossConfig: "loss_type huber_c huber_schedule",
    }
    for kind, names in known.items():
        assert {one.name for one in fields(kind)} == set(names.split()), kind.__name__


def test_the_flag_writes_and_ends(tmp_path, shared, caplog):
    from train_dreambooth import main

    argv = ["--instance_data_path", str(shared / "data/dog"), "--instance_prompt", "a sks dog", "--prior_loss_weight", "0"]
    argv += ["--export_recipe", str(tmp_path / "new/run.toml")]
    with caplog.at_level("INFO"):
        main(argv, Ranks())
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"run.toml", "run_dataset.toml"}
    said = " ".join(record.getMessage() for record in caplog.records)
    assert "otherwise in sd-scripts: random crops" in said and "sdxl_train_network.py --config_file" in said
    with pytest.raises(UserError, match="is there already"):
        main(argv, Ranks())


@pytest.mark.parametrize("taken", ["run.toml", "run_dataset.toml"])
def test_nothing_is_overwritten(taken, tmp_path):
    (tmp_path / taken).write_text("mine")
    with pytest.raises(UserError, match="is there already"):
        recipe_files(str(tmp_path / "run.toml"))


@pytest.mark.parametrize(
    "flags, part",
    [
        (["--resume", "True"], "--resume cannot act"),
        (
            ["--stop_after_sampling", "True", "--class_data_path", "x", "--class_prompt", "x"],
            "--stop_after_sampling True cannot act",
        ),
    ],
)
def test_what_cannot_act_beside_it(flags, part):
    with pytest.raises(UserError, match=part):
        parse_train(["--instance_data_path", "dog", "--export_recipe", "run.toml", *flags])
    with pytest.raises(UserError, match="ends in .toml"):
        recipe_files("run.json")
