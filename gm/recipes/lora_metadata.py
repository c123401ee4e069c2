"""What a LoRA file says of its training (sd-scripts' ss_... names, its train_network.py) -> sd-scripts' arguments.

The number of updates is that which was trained. What is neither an argument nor of use for a recipe (hashes, times, tags) has a row
with words.
"""

import json
import re
from typing import Any, Mapping, Optional

from gm.errors import UserError
from gm.recipes.draft import TAKEN, Settings
from gm.recipes.sd_scripts import NETWORK, OPTIMIZER, expanded

PREFIX = "ss_"
RENAMED = {  # without its prefix -> argument
    "batch_size_per_device": "train_batch_size",
    "debiased_estimation": "debiased_estimation_loss",
    "masked_loss": "masked_loss",
    "num_epochs": "epoch",
    "sd_model_name": "pretrained_model_name_or_path",
    "vae_name": "vae",
    "max_train_steps": "updates_known",
}
_FACTS = "a fact of that run: has no effect on a recipe"
FACTS = (
    *(
        "session_id",
        "training_started_at",
        "training_finished_at",
        "epoch",
        "steps",
        "num_batches_per_epoch",
        "total_batch_size",
    ),
    *("base_model_version", "sd_scripts_commit_hash", "sd_model_hash", "new_sd_model_hash", "vae_hash", "new_vae_hash"),
    *("tag_frequency", "bucket_info", "num_validation_images", "dataset_dirs", "reg_dataset_dirs", "datasets", "optimizer"),
    *("prior_loss_weight_given", "dataset_dir", "output_name"),
)
_OPTIMIZER = re.compile(r"(?:[\w.]*\.)?(\w+)(?:\((.*)\))?")


def read_lora_metadata(metadata: Mapping[str, str], where: str) -> Settings:
    """The settings that a LoRA's metadata says. UserError when it says nothing of its training, or another model."""
    given = {name[len(PREFIX) :]: value for name, value in metadata.items() if name.startswith(PREFIX)}
    if not given:
        raise UserError(f"{where} says nothing of how it was trained (no ss_... in its metadata): give its recipe instead")
    base = given.get("base_model_version", "sdxl_base_v1-0")
    if not base.startswith("sdxl"):
        raise UserError(f"{where} was trained on {base}, not on SDXL: give a LoRA for SDXL")
    values, shown_as = _arguments(given)
    settings = Settings(expanded(values), "sd-scripts", where, shown_as)
    for name in FACTS:
        if name in given:
            words = "see optimizer_type and its arguments" if name == "optimizer" else _FACTS
            settings.row(PREFIX + name, given[name], TAKEN, words)
    others = [name for name in metadata if not name.startswith(PREFIX)]
    if others:
        settings.row("other metadata", ", ".join(others), TAKEN, "not of sd-scripts' training")
    return settings


def _arguments(given: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    values: dict[str, Any] = {}
    shown_as: dict[str, str] = {}

    def put(name: str, value: Any, source: str) -> None:
        if value not in (None, "None", "", "null"):
            values[name], shown_as[name] = value, source

    for name, value in given.items():
        if name in FACTS or name in ("network_args", "resolution", "text_encoder_lr"):
            continue
        put(RENAMED.get(name, name), value, PREFIX + name)
    for key, value in _json(given.get("network_args"), dict).items():
        put(NETWORK + key, str(value), f"ss_network_args: {key}")
    put("resolution", given.get("resolution", "").strip("()[]"), "ss_resolution")
    rates = given.get("text_encoder_lr", "None").strip("[]()")
    if rates != "None":
        put(
            "text_encoder_lr",
            [part.strip() for part in rates.split(",") if part.strip() not in ("", "None")] or None,
            "ss_text_encoder_lr",
        )
        if not any(float(part) for part in values.get("text_encoder_lr", [])):
            values["network_train_unet_only"] = True
            shown_as["network_train_unet_only"] = "ss_text_encoder_lr"
    elif given.get("unet_lr", "None") != "None":  # sd-scripts and its interface leave it out where only the UNet trained
        values["network_train_unet_only"], shown_as["network_train_unet_only"] = True, "ss_text_encoder_lr"
    _put_optimizer(given, put)
    _put_photos(given, put)
    return values, shown_as


def _put_optimizer(given: Mapping[str, str], put: Any) -> None:
    match = _OPTIMIZER.fullmatch(given.get("optimizer", "").strip())
    if not match:
        return
    put("optimizer_type", match[1], "ss_optimizer")
    for key, value in re.findall(r"(\w+)=(\([^)]*\)|\[[^\]]*\]|[^,]+)", match[2] or ""):
        put(OPTIMIZER + key, value.strip(), f"ss_optimizer: {key}")


def _put_photos(given: Mapping[str, str], put: Any) -> None:
    """The photos of an epoch, and what a dataset TOML had said."""
    datasets = _json(given.get("datasets"), list)
    first = datasets[0] if datasets and isinstance(datasets[0], dict) else {}
    for name in ("enable_bucket", "min_bucket_reso", "max_bucket_reso", "resize_interpolation"):
        put(name, first.get(name), f"ss_datasets: {name}")
    put("train_batch_size", first.get("batch_size_per_device"), "ss_datasets: batch_size_per_device")
    if isinstance(first.get("resolution"), list):
        put("resolution", first["resolution"], "ss_datasets: resolution")
    subsets = [
        one for dataset in datasets if isinstance(dataset, dict) for one in dataset.get("subsets", []) if isinstance(one, dict)
    ]
    for number, one in enumerate(subsets):
        for key in ("image_dir", "class_tokens", "num_repeats", "is_reg", "img_count", "metadata_file"):
            put(f"subsets.{number}.{key}", one.get(key), f"ss_datasets: subsets {number}: {key}")
    for key in (
        "shuffle_caption",
        "keep_tokens",
        "keep_tokens_separator",
        "caption_prefix",
        "caption_suffix",
        "random_crop",
        "flip_aug",
    ):
        put(key, subsets[0].get(key) if subsets else None, f"ss_datasets: {key}")
    folders = [one for one in _json(given.get("dataset_dirs"), dict).values() if isinstance(one, dict)]
    if folders and not subsets:
        put("distinct_images", sum(int(one.get("img_count", 0)) for one in folders), "ss_dataset_dirs")


def _json(text: Optional[str], kind: type) -> Any:
    """The value; an empty one of the kind for what is none."""
    try:
        found = json.loads(text or "")
    except ValueError:
        return kind()
    return found if isinstance(found, kind) else kind()
