"""OneTrainer's presets and saved configurations become this suite's settings, and none is dropped."""

import json

import pytest

from gm.errors import UserError
from gm.recipes.draft import DIFFERS, TAKEN, UNKNOWN
from gm.recipes.layers import choose_layers, patterns_of, unet_layers
from gm.recipes.updates import Hints
from recipes import at, every_setting_has_a_row, imported, loaded, outcomes, words_of

UNET = "model.params.network_config.params."
DATA = "data.dataset_config.params."
SDXL = {"training_method": "LORA", "model_type": "STABLE_DIFFUSION_XL_10_BASE", "resolution": "1024"}
OFF = {"text_encoder": {"train": False}, "text_encoder_2": {"train": False}}
SMALL = {**OFF, "epochs": 10, "batch_size": 2}

# the fields of its TrainConfig (23df383), version 11, and of the configurations in it
FIELDS = """
additional_embeddings aspect_ratio_bucketing async_gradient_reduce async_gradient_reduce_buffer async_offloading
attention_mechanism backup_after backup_after_unit backup_before_save base_model_name batch_size bundle_additional_embeddings
cache_dir clear_cache_before_training clip_grad_norm cloud compile concept_file_name continue_last_backup
custom_conditioning_image custom_learning_rate_scheduler dataloader_threads debug_dir debug_mode decoder decoder_text_encoder
decoder_vqgan device_indexes dropout_probability dynamic_timestep_shifting effnet_encoder ema ema_decay
ema_update_step_interval embedding embedding_learning_rate embedding_weight_dtype enable_autocast_cache epochs
fallback_train_dtype force_circular_padding force_epsilon_prediction force_v_prediction frames fused_gradient_reduce
generalized_offset_noise gradient_accumulation_steps gradient_reduce_precision huber_delta huber_strength
huggingface_cache_dir include_train_config latent_caching layer_filter layer_filter_preset layer_filter_regex learning_rate
learning_rate_cycles learning_rate_min_factor learning_rate_scaler learning_rate_scheduler learning_rate_warmup_steps
log_cosh_strength lokr_decompose_both lokr_decompose_factor lokr_dim lokr_dora_on_output lokr_full_matrix lokr_use_tucker
lokr_vec_trick lokr_weight_decompose lora_alpha lora_decompose lora_decompose_norm_epsilon lora_decompose_output_axis
lora_model_name lora_rank lora_weight_dtype loss_scaler loss_weight_fn loss_weight_strength mae_strength
masked_prior_preservation_weight masked_training max_noising_strength min_noising_strength model_type mse_strength multi_gpu
noising_bias noising_weight non_ema_sampling normalize_masked_area_loss offline_mode offset_noise_weight oft_block_share
oft_block_size oft_scaled only_cache optimizer_defaults output_dtype output_model_destination output_model_format peft_type
perturbation_noise_weight preserve_embedding_norm prevent_overwrites prior quantization
rescale_noise_scheduler_to_zero_terminal_snr resolution rolling_backup rolling_backup_count sample_after sample_after_unit
sample_audio_format sample_definition_file_name sample_image_format sample_skip_first sample_video_format
samples_to_tensorboard save_every save_every_unit save_filename_prefix save_skip_first scheduler_params secrets temp_device
tensorboard tensorboard_always_on tensorboard_expose tensorboard_port text_encoder_2_layer_skip text_encoder_2_sequence_length
text_encoder_3 text_encoder_3_layer_skip text_encoder_4 text_encoder_4_layer_skip text_encoder_layer_skip
text_encoder_sequence_length timestep_distribution timestep_shift train_device train_dtype training_method transformer
unconditional_transformer unmasked_probability unmasked_weight validate_after validate_after_unit validation vb_loss_strength
workspace_dir
""".split()
OPTIMIZER = """
MuonWithAuxAdam Simplified_AdEMAMix accelerated_ns adam_debias adam_w_mode adanorm alpha alpha_grad ams_bound amsgrad
approx_mars auto_kappa_p beta1 beta1_warmup beta2 beta2_normuon beta3 beta3_ema bias_correction block_wise capturable cautious
cautious_wd centered clip_threshold compile d0 d_coef d_limiter dampening decay_rate decouple decoupled_decay
degenerated_to_sgd differentiable eps eps2 factored factored_fp32 fixed_decay foreach fsdp_in_use fused fused_back_pass
growth_rate initial_accumulator initial_accumulator_value is_paged k kourkoutas_beta log_every low_rank_ortho lr_decay
max_unorm maximize min_8bit_size min_beta1 momentum muon_adam_config muon_adam_lr muon_adam_regex muon_hidden_layers
muon_te1_adam_lr muon_te2_adam_lr n_sma_threshold nesterov nnmf_factor no_prox normuon_variant ns_steps optim_bits optimizer
ortho_rank orthogonal_gradient percentile_clipping prodigy_steps quant_block_size r rectify relative_step rms_rescaling
safeguard_warmup scale_parameter schedulefree_c slice_p split_groups split_groups_mean stochastic_rounding use_AdEMAMix
use_adopt use_atan2 use_bias_correction use_cautious use_grams use_orthograd use_schedulefree use_speed use_stableadamw
use_triton warmup_init weight_decay weight_decay_by_lr weight_lr_power xi
""".split()
PART = """
activation_offloading attention_mask dropout_probability gradient_checkpointing guidance_scale include learning_rate
model_name offload_fraction stop_training_after stop_training_after_unit train train_embedding weight_dtype
""".split()
CONCEPT = """
balancing balancing_strategy concept_stats enabled image.enable_crop_jitter image.enable_fixed_brightness
image.enable_fixed_contrast image.enable_fixed_flip image.enable_fixed_hue image.enable_fixed_rotate
image.enable_fixed_saturation image.enable_random_brightness image.enable_random_circular_mask_shrink
image.enable_random_contrast image.enable_random_flip image.enable_random_hue image.enable_random_mask_rotate_crop
image.enable_random_rotate image.enable_random_saturation image.enable_resolution_override
image.random_brightness_max_strength image.random_contrast_max_strength image.random_hue_max_strength
image.random_rotate_max_angle image.random_saturation_max_strength image.resolution_override image_variations
include_subdirectories loss_weight name path seed text.caps_randomize_enable text.caps_randomize_lowercase
text.caps_randomize_mode text.caps_randomize_probability text.enable_tag_shuffling text.keep_tags_count text.prompt_path
text.prompt_source text.tag_delimiter text.tag_dropout_enable text.tag_dropout_mode text.tag_dropout_probability
text.tag_dropout_special_tags text.tag_dropout_special_tags_mode text.tag_dropout_special_tags_regex text_variations type
""".split()
SAMPLE = """
base_image_path cfg_scale diffusion_steps enabled force_last_timestep frames height length mask_image_path negative_prompt
noise_scheduler prompt random_seed sample_inpainting seed text_encoder_1_layer_skip text_encoder_1_sequence_length
text_encoder_2_layer_skip text_encoder_2_sequence_length text_encoder_3_layer_skip text_encoder_4_layer_skip
transformer_attention_mask width
""".split()
VALUES = {  # of fields whose value must be of a kind
    **SDXL,
    **{
        "peft_type": "LORA",
        "layer_filter": "attentions",
        "layer_filter_preset": "custom",
        "loss_weight_fn": "CONSTANT",
        "ema": "GPU",
    },
    **{
        "learning_rate_scheduler": "COSINE",
        "learning_rate_scaler": "BATCH",
        "loss_scaler": "BOTH",
        "train_dtype": "BFLOAT_16",
    },
    **{
        "save_every_unit": "EPOCH",
        "backup_after_unit": "MINUTE",
        "sample_after_unit": "STEP",
        "timestep_distribution": "UNIFORM",
    },
    **{"optimizer": "PRODIGY", "weight_dtype": "FLOAT_16", "stop_training_after_unit": "NEVER", "min_noising_strength": 0.1},
    **{"masked_training": True, "dropout_probability": 0.1, "ema_decay": 0.9, "unmasked_weight": 0.1, "growth_rate": "inf"},
    **dict.fromkeys(("beta1", "beta2", "beta3", "eps", "d0"), 0.5),
    **{"rescale_noise_scheduler_to_zero_terminal_snr": False, "force_v_prediction": False, "text.prompt_source": "sample"},
}


def read(folder, settings, *more, hints=Hints(num_photos=10)):
    texts = [json.dumps(one) for one in ({**SDXL, **settings}, *more)]
    return imported(folder, "preset.json", *texts, hints=hints)


def nested(names):
    """A mapping with these dotted names."""
    tree = {}
    for name in names:
        above, _, last = name.rpartition(".")
        (tree.setdefault(above, {}) if above else tree)[last] = VALUES.get(name, VALUES.get(last, 1))
    return tree


def test_every_field_of_one_trainer_has_a_row(tmp_path):
    parts = ("unet", "text_encoder", "text_encoder_2", "vae")
    tree = {
        **nested(FIELDS),
        **{"optimizer": nested(OPTIMIZER), **{part: nested(PART) for part in parts}},
        **{"samples": [nested(SAMPLE)], "concepts": [nested(CONCEPT), {**nested(CONCEPT), "type": "PRIOR_PREDICTION"}]},
        "__version": 11,
    }
    tree["concepts"][0]["type"] = "STANDARD"
    tree["unet"]["dropout_probability"] = 0
    recipe = read(tmp_path, tree)
    names = [*FIELDS, "__version", *(f"optimizer.{name}" for name in OPTIMIZER), *(f"samples.0.{name}" for name in SAMPLE)]
    names += [f"{part}.{name}" for part in parts for name in PART] + [
        f"concepts.{i}.{name}" for i in (0, 1) for name in CONCEPT
    ]
    assert every_setting_has_a_row(recipe, names)
    assert UNKNOWN not in outcomes(recipe).values()
    loaded(recipe, tmp_path)


def test_what_it_does_not_have_is_unknown(tmp_path):
    recipe = read(
        tmp_path, {"lora_rnak": 8, "unet": {"trian": True}, "optimizer": {"bata1": 1}, "concepts": [{"path": "a", "pth": "b"}]}
    )
    found = outcomes(recipe)
    assert [found[name] for name in ("lora_rnak", "unet.trian", "optimizer.bata1", "concepts.0.pth")] == [UNKNOWN] * 4
    assert found["concepts.0.path"] == TAKEN


def test_its_preset_for_sdxl(tmp_path, shared):
    recipe = imported(tmp_path, "a.json", (shared / "recipes" / "OneTrainer__sdxl_1.0_LoRA.json").read_text())
    config = loaded(recipe, tmp_path)
    lora = config.lora["unet"]
    assert set(config.lora) == {"unet"} and (lora.rank, lora.alpha, lora.targets, lora.kind) == (16, 1.0, "linear", "lora")
    optim, data = config.optim, config.data
    assert (optim.optimizer, optim.base_learning_rate, optim.weight_decay, optim.eps) == ("AdamW", 3e-4, 0.01, 1e-8)
    assert (optim.schedule, optim.warmup_steps) == ("constant", 200)
    assert (data.per_batch_size, data.total_step, data.target_size, data.crop) == (
        4,
        200,
        1024,
        "random",
    )  # 2 full batches x 100
    assert (data.buckets.step, data.buckets.smallest, data.buckets.largest, data.buckets.upscale) == (64, 512, 2048, True)
    assert config.model.unet.use_recompute and config.weighting.name == "EpsWeighting" and config.noise.offset_noise_level == 0
    flags = recipe.draft.flags
    expected = {
        "prior_loss_weight": 0,
        "clip_grad": True,
        "max_grad_norm": 1.0,
        "save_every_minutes": 10,
        "save_format": "kohya",
    }
    assert {name: flags[name] for name in expected} == expected
    assert UNKNOWN not in outcomes(recipe).values() and outcomes(recipe)["aspect_ratio_bucketing"] == DIFFERS
    assert "10 samples an epoch / batch 4 = 2 full batches, x 100 epochs = 200 updates" in " ".join(recipe.draft.notes)


def test_defaults_that_are_others_here_are_written_out(tmp_path):
    recipe = read(tmp_path, {})
    config = loaded(recipe, tmp_path)
    assert set(config.lora) == {"unet", "text_encoder_1", "text_encoder_2"}
    assert config.lora["unet"].targets == "all" and config.lora["text_encoder_1"].targets == "linear"
    assert config.optim.base_learning_rate == 3e-6 and config.optim.text_encoder_stop_share == 0.3  # 30 of 100 epochs
    assert config.data.total_step == 1000 and config.data.per_batch_size == 1
    given = {row.name: row.given for row in recipe.settings.rows}
    for name in (
        "learning_rate",
        "lora_rank",
        "lora_alpha",
        "layer_filter_preset",
        "text_encoder.train",
        "clip_grad_norm",
        "epochs",
    ):
        assert given[name].endswith("(its default)"), name
    assert outcomes(recipe)["layer_filter_preset"] == DIFFERS  # conv_in and others have no LoRA here


def test_concepts_of_a_second_file(tmp_path):
    photos = tmp_path / "dog"
    photos.mkdir()
    for number in range(4):
        (photos / f"{number}.jpg").write_bytes(b"")
    (tmp_path / "prompts.txt").write_text("a photo of a sks dog\nmy sks dog\n")
    text = {"prompt_source": "concept", "prompt_path": str(tmp_path / "prompts.txt")}
    tags = {"enable_tag_shuffling": True, "keep_tags_count": 2, "tag_dropout_enable": True, "tag_dropout_mode": "RANDOM"}
    one = {
        "path": str(photos),
        "balancing": 2.5,
        "text_variations": 3,
        "text": {**text, **tags, "tag_dropout_probability": 0.2},
    }
    recipe = read(tmp_path, SMALL, [one, {"path": "off", "enabled": False}], hints=Hints())
    flags, captions = recipe.draft.flags, at(recipe.draft.tree, DATA + "captions")
    assert flags["instance_data_path"] == str(photos) and flags["instance_prompt"] == "a photo of a sks dog"
    assert flags["train_data_repeat"] == 2 and at(recipe.draft.tree, "data.total_step") == 50  # 10 samples / 2 x 10
    assert captions == {"extensions": [], "shuffle": True, "tag_dropout": 0.2, "keep_tokens": 2, "variants": 3}
    assert outcomes(recipe)["concepts.0.balancing"] == DIFFERS and outcomes(recipe)["concepts.1.enabled"] == TAKEN
    loaded(recipe, tmp_path)


def test_several_concepts_and_one_of_the_class(tmp_path):
    concepts = [
        {"path": "dog", "balancing": 3, "loss_weight": 0.5},
        {"path": "cat", "balancing_strategy": "SAMPLES", "balancing": 20},
        {"path": "animals", "type": "PRIOR_PREDICTION", "loss_weight": 0.7},
    ]
    recipe = read(tmp_path, {**SMALL, "batch_size": 4, "concepts": concepts})
    found = at(recipe.draft.tree, DATA + "concepts")
    assert found[0] == {"instance_data_path": "dog", "repeats": 3, "weight": 0.5, "class_data_path": "animals"}
    assert found[1]["repeats"] == 2 and recipe.draft.flags["prior_loss_weight"] == 0.7
    assert at(recipe.draft.tree, "data.per_batch_size") == 2
    # 30 + 20 + 10 samples / 4 = 15 batches x 10 with 4 x 50 / 60 photos each; 2 here
    assert at(recipe.draft.tree, "data.total_step") == 250
    assert outcomes(recipe)["concepts.2.type"] == DIFFERS
    loaded(recipe, tmp_path)


@pytest.mark.parametrize(
    "given, message",
    [
        ({"model_type": "FLUX_DEV_1"}, "is for the model FLUX_DEV_1, not for SDXL"),
        ({"model_type": "STABLE_DIFFUSION_XL_10_BASE_INPAINTING"}, "not for SDXL"),
        ({"training_method": "FINE_TUNE"}, "has the training_method FINE_TUNE, but this suite trains LoRA"),
        ({"training_method": "EMBEDDING"}, "this suite trains LoRA"),
        ({"layer_filter": "atention"}, "matches no layer of SDXL's UNet"),
        ({"layer_filter": "(", "layer_filter_regex": True}, "no list of regular expressions"),
        ({**OFF, "unet": {"train": False}}, "trains neither the UNet nor a text encoder"),
        ({"lora_rank": "many"}, "lora_rank"),
        ({"min_noising_strength": float("nan")}, "min_noising_strength"),
        ({"epochs": 0}, "must be at least 1"),
        ({"resolution": "large"}, "it must be a number of pixels"),
        ({"concepts": ["a"]}, "it must be a list of mappings"),
        ({"concepts": [{"path": "a", "enabled": False}]}, "has no concept of photos"),
        ({"unet": {"train": "perhaps"}}, "it must be true or false"),
    ],
)
def test_bad_files_end_with_one_sentence(tmp_path, given, message):
    with pytest.raises(UserError, match=message) as found:
        read(tmp_path, given)
    assert "\n" not in str(found.value)


def test_passwords_are_not_shown(tmp_path):
    recipe = read(tmp_path, {"secrets": {"huggingface_token": "hf_12345", "cloud": {"password": "sesame"}}})
    shown = " ".join(row.given + row.words for row in recipe.settings.rows)
    assert "hf_12345" not in shown and "sesame" not in shown and "secrets" in outcomes(recipe)


def test_patterns_match_what_was_chosen_and_nothing_else():
    layers = unet_layers()
    assert len(layers) == 722 + 66  # as sd-scripts' LoRA, and what its LoCon adds
    for part in ("to_k", "resnets", "down_blocks.2", "ff.net.0", "conv", "up_blocks.0.attentions.1", "mid_block"):
        chosen = [name for name, diffusers in layers.items() if part in diffusers]
        patterns = patterns_of(chosen, list(layers))
        assert len(patterns) < 20
        assert choose_layers(lambda name, part=part: part in name).count == len(chosen)
    assert patterns_of(["a.1.x"], ["a.1.x", "a.2.x"]) == ["a.1.*"]
    assert "conv_in" in words_of_full()


def words_of_full() -> str:
    return choose_layers(lambda name: True).words


def test_words_say_what_differs(tmp_path):
    recipe = read(tmp_path, {**SMALL, "ema": "CPU", "perturbation_noise_weight": 0.1})
    assert words_of(recipe, "ema_decay") == "optim.ema_decay: 0.9998, each update; there 0.999, each 5 updates"
    assert "1.005 times as large" in words_of(recipe, "perturbation_noise_weight")
