"""sd-scripts' TOML: a configuration, a dataset configuration, or both -> its arguments by name.

Sections of a configuration are headings only, as sd-scripts reads them (library/train_util.py, read_config_from_file). Of a dataset
configuration (library/config_util.py) what is said of a subset counts before its dataset's, and that before [general].
"""

from typing import Any, Mapping, Sequence

from gm.errors import UserError
from gm.recipes.draft import DIFFERS, Settings
from gm.recipes.sd_scripts import NETWORK, OPTIMIZER, expanded

_OF_SUBSET = ("image_dir", "class_tokens", "num_repeats", "is_reg", "metadata_file")
_RENAMED = {"batch_size": "train_batch_size"}
LORA_SCRIPTS = {  # what lora-scripts (Akegarasu) calls otherwise
    "lr_restart_cycles": "lr_scheduler_num_cycles",
    "lycoris_algo": NETWORK + "algo",
    "conv_dim": NETWORK + "conv_dim",
    "conv_alpha": NETWORK + "conv_alpha",
    "dropout": NETWORK + "dropout",
    "train_norm": NETWORK + "train_norm",
    "lokr_factor": NETWORK + "factor",
    "dylora_unit": NETWORK + "unit",
    "down_lr_weight": NETWORK + "down_lr_weight",
    "mid_lr_weight": NETWORK + "mid_lr_weight",
    "up_lr_weight": NETWORK + "up_lr_weight",
    "block_lr_zero_threshold": NETWORK + "block_lr_zero_threshold",
    "prodigy_d0": OPTIMIZER + "d0",
    "prodigy_d_coef": OPTIMIZER + "d_coef",
}
_LISTS = {"network_args_custom": "network_args", "optimizer_args_custom": "optimizer_args"}


def read_sd_scripts_toml(trees: Sequence[Mapping[str, Any]], where: str) -> Settings:
    """The settings of one training. UserError where there is nothing of a training in them."""
    values: dict[str, Any] = {}
    odd: list[tuple[str, Any, str]] = []
    for tree in trees:
        if "datasets" in tree:
            values |= _of_datasets(tree, odd, where)
        values |= flat({name: value for name, value in tree.items() if name not in ("datasets", "general")})
    if not values:
        raise UserError(f"{where} has no settings of a training: give sd-scripts' configuration")
    kind = str(values.get("model_train_type", "sdxl-lora"))
    if kind != "sdxl-lora":
        raise UserError(f"{where} is for {kind}, not a LoRA for SDXL: give one with model_train_type sdxl-lora")
    for custom, plain in _LISTS.items():
        values[plain] = [*(values.get(plain) or []), *(values.pop(custom, None) or [])]
    shown_as = {new: old for old, new in LORA_SCRIPTS.items() if old in values}
    settings = Settings(
        expanded({LORA_SCRIPTS.get(name, name): value for name, value in values.items()}), "sd-scripts", where, shown_as
    )
    for name, value, words in odd:
        settings.row(name, value, DIFFERS, words)
    return settings


def flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a configuration without the names of its sections."""
    result: dict[str, Any] = {}
    for name, value in tree.items():
        result |= flat(value) if isinstance(value, Mapping) else {name: value}
    return result


def _of_datasets(tree: Mapping[str, Any], odd: list[tuple[str, Any, str]], where: str) -> dict[str, Any]:
    datasets = tree["datasets"]
    if not isinstance(datasets, list) or not all(isinstance(one, Mapping) for one in datasets) or not datasets:
        raise UserError(f"{where}: datasets must be [[datasets]] with [[datasets.subsets]] below")
    subsets = [(one, dict(dataset)) for dataset in datasets for one in dataset.get("subsets", [])]
    if not subsets:
        raise UserError(f"{where} has no [[datasets.subsets]]: give at least one, with its image_dir")
    values: dict[str, Any] = {}
    merged = [{**dict(tree.get("general", {})), **dataset, **one} for one, dataset in subsets]
    for number, one in enumerate(merged):
        one.pop("subsets", None)
        values |= {f"subsets.{number}.{key}": one.pop(key) for key in _OF_SUBSET if key in one}
    for name in dict.fromkeys(key for one in merged for key in one):
        given = [one[name] for one in merged if name in one and not one.get("is_reg")]
        values[_RENAMED.get(name, name)] = given[0]
        different = [value for value in given if value != given[0]]
        if different:
            odd.append((name, given, f"{given[0]} for all photos: one value for all folders"))
    return values
