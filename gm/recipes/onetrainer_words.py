"""OneTrainer's settings that need no arithmetic: name -> what became of it, in words."""

from typing import Mapping

from gm.recipes.draft import DIFFERS, TAKEN, UNSUPPORTED, Settings

_NONE = "has no effect on the result"
_OTHER = "of another model, has no effect on SDXL"
_LOGS = "metrics.jsonl, loss.png and the log, always"
_ONE_FOLDER = "one folder for all: --save_path"
_MEMORY = "saves memory there; here use_recompute: True does"
_INPAINTING = "of inpainting models: " + _NONE
_WORDS = "no words are learned here, LoRA alone"
_KEPT_APART = "no photos are kept apart: --evaluate_every judges pictures instead"
_PROCESSES = "here mpirun -n N and --is_parallel True start a process a device"
_PARTS = ("unet", "text_encoder", "text_encoder_2", "vae")
_OTHER_PARTS = ("prior", "transformer", "unconditional_transformer", "text_encoder_3", "text_encoder_4", "effnet_encoder")
OTHER_PARTS = (*_OTHER_PARTS, "decoder", "decoder_text_encoder", "decoder_vqgan")  # of other models

SAID: Mapping[str, tuple[str, str]] = {
    "__version": (TAKEN, "of the file's form"),
    "training_method": (TAKEN, "LoRA"),
    "model_type": (TAKEN, "SDXL"),
    # machine
    **dict.fromkeys(("debug_mode", "debug_dir", "only_cache"), (UNSUPPORTED, "data.png shows what is trained on")),
    "workspace_dir": (TAKEN, _ONE_FOLDER),
    "huggingface_cache_dir": (TAKEN, "nothing is downloaded: weights are files"),
    "offline_mode": (TAKEN, "nothing is downloaded, as here"),
    **dict.fromkeys(("tensorboard", "tensorboard_expose", "tensorboard_always_on", "tensorboard_port"), (TAKEN, _LOGS)),
    "samples_to_tensorboard": (TAKEN, "pictures are files in --save_path"),
    **dict.fromkeys(("validation", "validate_after", "validate_after_unit"), (UNSUPPORTED, _KEPT_APART)),
    "continue_last_backup": (
        UNSUPPORTED,
        "a backup of OneTrainer cannot be continued here; a run of this suite can: --resume True",
    ),
    "prevent_overwrites": (TAKEN, "--save_path_with_time True gives each run a folder of its own"),
    "include_train_config": (TAKEN, "config.yaml is always written"),
    **dict.fromkeys(("multi_gpu", "device_indexes"), (UNSUPPORTED, f"one device: {_PROCESSES}")),
    **dict.fromkeys(
        ("gradient_reduce_precision", "fused_gradient_reduce", "async_gradient_reduce", "async_gradient_reduce_buffer"),
        (TAKEN, f"of several devices, in float32: {_PROCESSES}"),
    ),
    **dict.fromkeys(("dataloader_threads", "clear_cache_before_training", "enable_autocast_cache"), (TAKEN, _NONE)),
    **dict.fromkeys(("train_device", "temp_device"), (TAKEN, "--device_target: found out")),
    "fallback_train_dtype": (TAKEN, "of the VAE, which is always float32"),
    **dict.fromkeys(("async_offloading", "enable_async_offloading"), (TAKEN, _MEMORY)),
    **dict.fromkeys(("enable_activation_offloading", "layer_offload_fraction"), (TAKEN, _MEMORY)),
    "compile": (TAKEN, "graphs are always compiled"),
    "attention_mechanism": (TAKEN, "fused attention is spatial_transformer_attn_type of the 910B's YAML"),
    "optimizer_defaults": (TAKEN, "what its window remembers of other optimizers: " + _NONE),
    "cloud": (UNSUPPORTED, "trains where the command runs"),
    "secrets": (TAKEN, "not read and not written: " + _NONE),
    "quantization": (UNSUPPORTED, "the base is float16, or float32 on a CPU"),
    # models
    **dict.fromkeys(OTHER_PARTS, (TAKEN, _OTHER)),
    **dict.fromkeys(("text_encoder_3_layer_skip", "text_encoder_4_layer_skip"), (TAKEN, _OTHER)),
    **dict.fromkeys(("text_encoder_sequence_length", "text_encoder_2_sequence_length", "frames"), (TAKEN, _OTHER)),
    "force_circular_padding": (UNSUPPORTED, "pictures with edges: convolutions do not go around"),
    **{f"{part}.model_name": (TAKEN, _OTHER) for part in _PARTS[:3]},
    **{f"{part}.include": (TAKEN, "SDXL has it") for part in _PARTS},
    **{f"{part}.attention_mask": (TAKEN, _OTHER) for part in _PARTS},
    **{f"{part}.guidance_scale": (TAKEN, _OTHER) for part in _PARTS},
    **{f"{part}.train_embedding": (TAKEN, _WORDS) for part in _PARTS},
    **{f"{part}.offload_fraction": (TAKEN, _MEMORY) for part in _PARTS},
    **{f"{part}.activation_offloading": (TAKEN, _MEMORY) for part in _PARTS},
    **{f"{part}.gradient_checkpointing": (TAKEN, "of the UNet's use_recompute alone") for part in _PARTS[1:]},
    **{f"{part}.__version": (TAKEN, "of the file's form") for part in (*_PARTS, "optimizer")},
    **{f"unet.{name}": (TAKEN, "of text encoders: " + _NONE) for name in ("dropout_probability",)},
    "vae.weight_dtype": (TAKEN, "the VAE is always float32"),
    **{
        f"vae.{name}": (TAKEN, "the VAE stays as it is, there as here")
        for name in ("train", "learning_rate", "stop_training_after", "stop_training_after_unit", "dropout_probability")
    },
    # embeddings
    **dict.fromkeys(("embedding", "embeddings", "embedding_learning_rate", "preserve_embedding_norm"), (TAKEN, _WORDS)),
    **dict.fromkeys(("embedding_weight_dtype", "bundle_additional_embeddings"), (TAKEN, _WORDS)),
    # network
    "lora_decompose_norm_epsilon": (TAKEN, "keeps a division by 0 away, as here"),
    **dict.fromkeys(("oft_block_size", "oft_block_share", "oft_scaled", "oft_coft", "coft_eps"), (TAKEN, "of OFT: " + _NONE)),
    **{
        f"lokr_{name}": (TAKEN, "of LoKr: " + _NONE)
        for name in ("dim", "decompose_both", "decompose_factor", "use_tucker", "weight_decompose", "dora_on_output")
        + ("full_matrix", "vec_trick")
    },
    # loss, photos
    "vb_loss_strength": (TAKEN, _OTHER),
    "dynamic_timestep_shifting": (TAKEN, _OTHER),
    **dict.fromkeys(("unmasked_probability", "custom_conditioning_image"), (TAKEN, _INPAINTING)),
    **{
        f"align_prop{name}": (UNSUPPORTED, "the loss of the noise alone")
        for name in ("", "_loss", "_probability", "_weight", "_steps", "_truncate_steps", "_cfg_scale")
    },
    # saving, pictures
    "backup_before_save": (TAKEN, "training_state.ckpt is always saved beside the newest LoRA"),
    "save_filename_prefix": (UNSUPPORTED, "files are called SDXL_base_1.0_<step>_lora, in --save_path"),
    **dict.fromkeys(("sample_image_format", "sample_video_format", "sample_audio_format"), (TAKEN, "pictures are PNG")),
    "non_ema_sampling": (TAKEN, "pictures are those of the weights that are saved"),
    "output_dtype": (TAKEN, "LoRA files are float32: tools/export_lora.py --precision fp16 makes smaller ones"),
}

# of a concept, and of its parts image and text
CONCEPT: Mapping[str, tuple[str, str]] = {
    "__version": (TAKEN, "of the file's form"),
    "image.__version": (TAKEN, "of the file's form"),
    "text.__version": (TAKEN, "of the file's form"),
    "name": (TAKEN, "a remark"),
    "seed": (DIFFERS, "--seed is of the whole run"),
    "concept_stats": (TAKEN, _NONE),
    "image_variations": (DIFFERS, "each repeat of a photo has a crop of its own"),
    "image.resolution_override": (TAKEN, "acts with enable_resolution_override alone"),
    "image.enable_resolution_override": (UNSUPPORTED, "one size for all photos: target_size"),
    **{
        f"image.enable_{way}_{kind}": (UNSUPPORTED, words)
        for kind, words in (
            ("flip", "photos are not mirrored: most subjects are not symmetric"),
            ("rotate", "photos are not turned"),
            ("brightness", "colours stay as they are"),
            ("contrast", "colours stay as they are"),
            ("saturation", "colours stay as they are"),
            ("hue", "colours stay as they are"),
        )
        for way in ("random", "fixed")
    },
    "image.random_rotate_max_angle": (TAKEN, "photos are not turned"),
    **{
        f"image.random_{kind}_max_strength": (TAKEN, "colours stay as they are")
        for kind in ("brightness", "contrast", "saturation", "hue")
    },
    **dict.fromkeys(
        ("image.enable_random_circular_mask_shrink", "image.enable_random_mask_rotate_crop"),
        (UNSUPPORTED, "masks stay as they are painted"),
    ),
    "text.prompt_path": (TAKEN, "acts with prompt_source concept alone"),
    **{
        f"text.caps_randomize_{name}": (TAKEN, "acts with caps_randomize_enable alone")
        for name in ("mode", "probability", "lowercase")
    },
    "text.caps_randomize_enable": (UNSUPPORTED, "letters stay as they are"),
    "text.tag_dropout_special_tags": (TAKEN, "acts with tag_dropout_special_tags_mode alone"),
    "text.tag_dropout_special_tags_regex": (TAKEN, "acts with tag_dropout_special_tags_mode alone"),
}

# of a sample
SAMPLE: Mapping[str, tuple[str, str]] = {
    "__version": (TAKEN, "of the file's form"),
    **dict.fromkeys(("frames", "length", "transformer_attention_mask", "text_encoder_3_layer_skip"), (TAKEN, _OTHER)),
    **dict.fromkeys(("text_encoder_4_layer_skip", "text_encoder_1_sequence_length"), (TAKEN, _OTHER)),
    "text_encoder_2_sequence_length": (TAKEN, _OTHER),
    **dict.fromkeys(
        ("text_encoder_1_layer_skip", "text_encoder_2_layer_skip"), (UNSUPPORTED, "SDXL's own layer of the text encoders")
    ),
    "force_last_timestep": (TAKEN, "follows zero_terminal_snr"),
    **dict.fromkeys(("sample_inpainting", "base_image_path", "mask_image_path"), (TAKEN, _INPAINTING)),
    "random_seed": (UNSUPPORTED, "the same seed every time, so that pictures can be compared"),
    **dict.fromkeys(
        ("negative_prompt", "height", "width", "seed", "diffusion_steps", "cfg_scale"),
        (
            UNSUPPORTED,
            "--infer_prompts takes a file with them: PROMPT --n NEGATIVE --w 1024 --h 1024 --d SEED --s STEPS --l SCALE",
        ),
    ),
    "noise_scheduler": (UNSUPPORTED, "Euler; --ss in a line of --infer_prompts names another"),
}


def say_words(settings: Settings, said: Mapping[str, tuple[str, str]], beginning: str = "") -> None:
    """The rows of a table, of names with this beginning. Switches that are off need no words of what they would do."""
    for name, (outcome, words) in said.items():
        given = str(settings.values.get(beginning + name)).lower()
        if outcome == UNSUPPORTED and given in ("false", "0", "0.0", "[]", "{}"):
            settings.off(beginning + name)
        settings.say(outcome, beginning + name, words)
