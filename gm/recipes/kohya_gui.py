"""The JSON of kohya_ss' graphical interface -> sd-scripts' arguments, as the interface itself makes them (kohya_gui/lora_gui.py)."""

from typing import Any, Mapping

from gm.errors import UserError
from gm.recipes.command_line import command_of
from gm.recipes.draft import TAKEN, Settings
from gm.recipes.sd_scripts import NETWORK, expanded

RENAMED = {  # of the interface -> of sd-scripts
    "max_resolution": "resolution",
    "optimizer": "optimizer_type",
    "sdxl_no_half_vae": "no_half_vae",
    "sdxl_cache_text_encoder_outputs": "cache_text_encoder_outputs",
    "lora_network_weights": "network_weights",
    "LyCORIS_preset": NETWORK + "preset",
    "stop_text_encoder_training_pct": "stop_text_encoder_training",
    "save_as_bool": "use_safetensors",
    "constrain": NETWORK + "constraint",
}
_ARGUMENTS = (  # of the network
    *("conv_dim", "conv_alpha", "rank_dropout", "module_dropout", "use_tucker", "use_cp", "use_scalar", "rank_dropout_scale"),
    *("train_norm", "bypass_mode", "dora_wd", "factor", "decompose_both", "rescaled", "train_on_input", "unit", "block_size"),
    *("down_lr_weight", "mid_lr_weight", "up_lr_weight", "block_lr_zero_threshold", "block_dims", "block_alphas"),
    *("conv_block_dims", "conv_block_alphas", "loraplus_lr_ratio", "loraplus_unet_lr_ratio", "loraplus_text_encoder_lr_ratio"),
)
_BLOCKS = ("down_lr_weight", "mid_lr_weight", "up_lr_weight", "block_lr_zero_threshold", "block_dims", "block_alphas")
_BLOCKS += ("conv_block_dims", "conv_block_alphas", "rank_dropout", "module_dropout")
_PLUS = ("loraplus_lr_ratio", "loraplus_unet_lr_ratio", "loraplus_text_encoder_lr_ratio")
_CONV = ("conv_dim", "conv_alpha")
_LYCORIS = {  # type of the interface -> algorithm
    "LyCORIS/LoCon": "locon",
    "LoCon": "locon",
    "LyCORIS/LoHa": "loha",
    "LyCORIS/LoKr": "lokr",
    "LyCORIS/DyLoRA": "dylora",
    "LyCORIS/GLoRA": "glora",
    "LyCORIS/iA3": "ia3",
    "LyCORIS/BOFT": "boft",
    "LyCORIS/Diag-OFT": "diag-oft",
    "LyCORIS/Native Fine-Tuning": "full",
}
_PLAIN = {  # type -> module and the arguments that it takes
    "Standard": ("networks.lora", _BLOCKS),
    "Kohya LoCon": ("networks.lora", (*_BLOCKS, *_CONV)),
    "LoRA-FA": ("networks.lora_fa", _BLOCKS),
    "Kohya DyLoRA": ("networks.dylora", (*_BLOCKS, *_CONV, "unit")),
    "Kohya LoHa": ("networks.loha", (*_CONV, "rank_dropout", "module_dropout")),
    "Kohya LoKr": ("networks.lokr", (*_CONV, "rank_dropout", "module_dropout", "factor")),
}
_ZERO_IS_NONE = (
    "min_snr_gamma",
    "max_timestep",
    "min_timestep",
    "noise_offset",
    "unet_lr",
    "save_last_n_steps",
    "vae_batch_size",
)
_ZERO_IS_NONE += ("save_last_n_steps_state", "save_last_n_epochs", "max_train_steps", "max_train_epochs", "ip_noise_gamma")
_MODELS = {"flux1_checkbox": "FLUX.1", "sd3_checkbox": "Stable Diffusion 3", "lumina_checkbox": "Lumina"}
_MODELS |= {"hunyuan_image_checkbox": "HunyuanImage", "anima_checkbox": "Anima"}
_SWITCH = ("sdxl", "LoRA_type", "additional_parameters", "noise_offset_type", "lr_warmup")
_OTHERS = (  # beginnings of names of other models' settings, of other pages, and of the interface itself
    *(
        "flux1_",
        "flux_",
        "sd3_",
        "hunyuan_",
        "anima_",
        "lumina_",
        "t5",
        "clip_l",
        "clip_g",
        "img_",
        "txt_",
        "single_",
        "train_t5",
    ),
    *(
        "double_blocks",
        "pos_emb_random_crop",
        "save_clip",
        "save_t5xxl",
        "train_double",
        "train_single",
        "ggpo",
        "train_lora_ggpo",
    ),
    *(
        "discrete_flow_shift",
        "model_prediction_type",
        "timestep_sampling",
        "split_mode",
        "split_qkv",
        "train_blocks",
        "learning_rate_te",
    ),
    *("enable_all_linear", "guidance_scale", "mem_eff_save", "apply_t5_attn_mask", "show_timesteps", "in_dims", "model_type"),
    *("blockwise_fused", "fused_optimizer_groups", "headless", "print_only", "model_list", "training_preset", "dummy_"),
    *("stable_cascade", "effnet_checkpoint", "previewer_checkpoint", "sigmoid_scale", "enable_scaled_pos_embed", "attn_mode"),
)


def read_kohya_gui(given: Mapping[str, Any], where: str) -> Settings:
    """The settings, `expanded`, with rows for those that only the interface knows. UserError for another model."""
    other = next((words for name, words in _MODELS.items() if _is_on(given.get(name))), None)
    if other or "sdxl" in given and not _is_on(given["sdxl"]):
        raise UserError(
            f"{where} is for {other or 'Stable Diffusion 1 or 2'}, not for SDXL: give a preset with sdxl switched on"
        )
    if "LoRA_type" not in given and "network_dim" not in given:
        raise UserError(f"{where} is of another page of kohya_ss, for no LoRA: give a preset of its LoRA page")
    values: dict[str, Any] = {}
    shown_as: dict[str, str] = {}
    for name, value in given.items():
        if name in _SWITCH:
            continue
        own = RENAMED.get(name, NETWORK + name if name in _ARGUMENTS else name)
        if own != name:
            shown_as[own] = name
        values[own] = value
    said = _decided(given, values)
    extra = str(given.get("additional_parameters") or "")
    if extra:
        values |= command_of(f"sdxl_train_network.py {extra}")[1]
    return _with_rows(given, values, shown_as, said, where)


def _decided(given: Mapping[str, Any], values: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """What the interface does before it calls sd-scripts; changes `values`, and tells of settings that it leaves out."""
    said: dict[str, tuple[str, str]] = {}
    kind = str(given.get("LoRA_type", "Standard"))
    if kind in _LYCORIS:
        values["network_module"], values[NETWORK + "algo"] = "lycoris.kohya", _LYCORIS[kind]
        takes: tuple = (*_ARGUMENTS, "preset", "constraint")
    else:
        values["network_module"], takes = _PLAIN.get(kind, (kind, _BLOCKS))
        takes = (*takes, *_PLUS)
    for name in (*_ARGUMENTS, "preset", "constraint"):
        if NETWORK + name in values and name not in takes:
            said[NETWORK + name] = TAKEN, f"not given to sd-scripts with the type {kind}"
    for name in _BLOCKS + _PLUS:
        if not _is_on(values.get(NETWORK + name)) and NETWORK + name in values:
            said.setdefault(NETWORK + name, (TAKEN, "off, as here"))
    multires = str(given.get("noise_offset_type", "Original")) == "Multires"
    for name in ("noise_offset", "adaptive_noise_scale", "multires_noise_iterations", "multires_noise_discount"):
        if name in values and name.startswith("multires") != multires:
            said[name] = (
                TAKEN,
                f"not given to sd-scripts with the noise offset type {given.get('noise_offset_type', 'Original')}",
            )
    for name in _ZERO_IS_NONE:
        if name in values and not _is_on(values[name]):
            said.setdefault(name, (TAKEN, "not given, as 0 here means"))
    if not _is_on(values.get("seed", "0")):
        said["seed"] = TAKEN, "none is given: --seed 42, the default here"
    text, unet = _number(values.get("text_encoder_lr")), _number(values.get("unet_lr"))
    if not text and (unet or _number(values.get("learning_rate"))):
        values["network_train_unet_only"] = True
    elif text and not unet and values.get("unet_lr") is not None:
        values["network_train_text_encoder_only"] = True
    warmup = _number(given.get("lr_warmup"))
    if warmup and not _number(values.get("lr_warmup_steps")):
        values["lr_warmup_steps"] = warmup / 100
    if _number(values.get("max_token_length")) == 75:
        values["max_token_length"] = "75"
    return said


def _with_rows(given: Mapping, values: dict, shown_as: dict, said: dict, where: str) -> Settings:
    left_out = {name: values.pop(name) for name in said if name in values}
    for name in given:
        if name in values and _is_of_others(name):
            said[name] = TAKEN, "of another model, or of the interface itself: has no effect on SDXL"
            left_out[name] = values.pop(name)
    settings = Settings(expanded(values), "kohya_ss", where, shown_as)
    for name, value in left_out.items():
        settings.row(shown_as.get(name, name), value, *said[name])
    switches = {
        "sdxl": (TAKEN, "SDXL, as here"),
        "LoRA_type": (TAKEN, f"network_module {values.get('network_module')}, see there"),
        "additional_parameters": (TAKEN, "see each of them"),
        "noise_offset_type": (TAKEN, "says which kind of noise counts"),
        "lr_warmup": (TAKEN, "percent of the updates, see lr_warmup_steps"),
    }
    for name, (outcome, words) in switches.items():
        if given.get(name) not in (None, ""):
            settings.row(name, given[name], outcome, words)
    return settings


def _is_of_others(name: str) -> bool:
    return name == "ae" or name.startswith(_OTHERS) or name in _MODELS


def _is_on(value: Any) -> bool:
    return str(value).strip().lower() not in ("", "none", "false", "0", "0.0")


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return 0.0
