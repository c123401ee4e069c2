"""A JSON of OneTrainer -> its settings by flat names, those of older versions by their names of today.

OneTrainer has two kinds of such files: presets, which say only what differs from its defaults, and saved configurations, which say
everything. Both are TrainConfig of its modules/util/config; what older versions called otherwise is renamed as its migrations do.
"""

from typing import Any, Mapping, Optional

from gm.errors import UserError, shown

HIDDEN = "(not shown)"  # in place of passwords and keys
_FLAT = ("optimizer", "unet", "text_encoder", "text_encoder_2", "vae")  # mappings with a row for each of their names
_OLD_PART = {"train_{}": "train", "train_{}_epochs": "stop_training_after", "{}_learning_rate": "learning_rate"} | {
    "{}_weight_dtype": "weight_dtype",
    "{}_model_name": "model_name",
}
_OLD_PARTS = ("unet", "prior", "text_encoder", "text_encoder_2", "vae", "effnet_encoder", "decoder")
_OLD = {  # name of an older version -> today's
    "lora_layers": "layer_filter",
    "lora_layer_preset": "layer_filter_preset",
    "lora_layers_regex": "layer_filter_regex",
    "save_after": "save_every",
    "save_after_unit": "save_every_unit",
    "embedding_model_names": "embedding",
    "token_count": "embedding",
    "initial_embedding_text": "embedding",
    **{old.format(part): f"{part}.{new}" for part in _OLD_PARTS for old, new in _OLD_PART.items()},
    "decoder_text_encoder_weight_dtype": "decoder_text_encoder.weight_dtype",
    "decoder_vqgan_weight_dtype": "decoder_vqgan.weight_dtype",
}
_BIAS_AROUND_0 = 4  # the version from which on noising_bias 0 is the middle


def expanded(values: Mapping[str, Any], concepts: Optional[list] = None) -> dict[str, Any]:
    """The settings by names such as unet.train and concepts.0.text.prompt_source. `concepts`: of a concepts.json, where the file has
    none itself. UserError for parts that are no mappings or lists."""
    flat: dict[str, Any] = {}
    for name, value in _renamed(values).items():
        if name == "secrets" or name.endswith("_token"):
            flat[name] = HIDDEN
        elif isinstance(value, Mapping) and name in _FLAT:
            flat |= {f"{name}.{key}": one for key, one in value.items()}
        elif name in ("concepts", "samples") and value is not None:
            flat |= _listed(name, value)
        else:
            flat[name] = value
    if concepts is not None and not any(name.startswith("concepts.") for name in flat):
        flat |= _listed("concepts", concepts)
    return flat


def is_concepts(value: Any) -> bool:
    """Whether it is a concepts.json: a list of mappings with a path each."""
    return isinstance(value, list) and bool(value) and all(isinstance(one, Mapping) and "path" in one for one in value)


def is_onetrainer(value: Any) -> bool:
    """Whether it is a preset or a configuration."""
    return isinstance(value, Mapping) and (
        "training_method" in value or "model_type" in value and "output_model_format" in value
    )


def _listed(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, list) or not all(isinstance(one, Mapping) for one in value):
        raise UserError(f"{name} of OneTrainer's settings is {shown(value)}: it must be a list of mappings")
    flat: dict[str, Any] = {name: []} if not value else {}
    for number, one in enumerate(value):
        for key, said in one.items():
            if isinstance(said, Mapping) and key in ("image", "text"):
                flat |= {f"{name}.{number}.{key}.{inner}": leaf for inner, leaf in said.items()}
            elif name == "concepts" and key == "validation_concept":  # of version 1
                flat[f"{name}.{number}.type"] = "VALIDATION" if said else "STANDARD"
            elif name == "concepts" and key == "repeats":  # of version 0
                flat[f"{name}.{number}.balancing"] = said
            else:
                flat[f"{name}.{number}.{key}"] = said
    return flat


def _renamed(values: Mapping[str, Any]) -> dict[str, Any]:
    """By today's names."""
    version = values.get("__version")
    result: dict[str, Any] = {}
    for name, value in values.items():
        new = _OLD.get(name, name)
        if name == "optimizer" and isinstance(value, str):
            new = "optimizer.optimizer"
        elif name.startswith("optimizer_") and name != "optimizer_defaults":
            new = "optimizer." + name.removeprefix("optimizer_")
        result[new] = value
        if new.endswith(".stop_training_after") and new != name:
            result[new + "_unit"] = "EPOCH"
    gamma = result.pop("min_snr_gamma", None)
    if gamma:
        result |= {"loss_weight_fn": "MIN_SNR_GAMMA", "loss_weight_strength": gamma}
    if isinstance(version, int) and version < _BIAS_AROUND_0:
        result |= _old_noising(result)
    return result


def _old_noising(values: Mapping[str, Any]) -> dict[str, Any]:
    weight = values.get("noising_weight") or 0.0
    if not weight:
        return {"timestep_distribution": "UNIFORM", "noising_weight": 0.0, "noising_bias": 0.0}
    return {"timestep_distribution": "SIGMOID", "noising_bias": values.get("noising_bias", 0.5) - 0.5}
