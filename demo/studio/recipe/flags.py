"""Which flags of train_dreambooth.py the page offers, by topic. Files and folders are the page's own affair, so that no visitor
names one."""

from dataclasses import fields
from functools import lru_cache
from typing import Mapping

from gm.options.parser import Flag, as_given, fields_of
from gm.options.train import TrainOptions
from studio.words import is_chinese, later
from studio.words.recipe_flags import HELP

GROUPS = {  # topic of the page -> flags in the order in which they are shown
    "updates": (
        "train_data_repeat",
        "gradient_accumulation_steps",
        "clip_grad",
        "max_grad_norm",
        "loss_scale_type",
        "loss_scale",
        "loss_scale_window",
        "overflow_still_update",
    ),
    "class images": ("num_class_images", "prior_loss_weight"),
    "progress pictures": ("infer_during_train", "infer_interval", "sample_step", "sample_batch_size"),
    "results": ("save_ckpt_interval", "save_every_minutes", "max_num_ckpt", "save_format", "log_interval"),
    "evaluation": ("evaluate_every", "features", "evaluate_seeds", "stop_when_learned"),
    "machine": (
        "seed",
        "ms_mode",
        "ms_amp_level",
        "jit_level",
        "max_device_memory",
        "cache_latents",
        "cache_text_products",
    ),
}
LABELS = {
    "train_data_repeat": later("Repeats of a photo"),
    "gradient_accumulation_steps": later("Batches of an update"),
    "clip_grad": later("Clip the gradient"),
    "max_grad_norm": later("Largest norm of the gradient"),
    "loss_scale_type": later("Loss scale"),
    "loss_scale": later("First loss scale"),
    "loss_scale_window": later("Updates until the scale doubles"),
    "overflow_still_update": later("Update after an overflow as well"),
    "num_class_images": later("Class images"),
    "prior_loss_weight": later("Weight of the class images"),
    "infer_during_train": later("Pictures while it trains"),
    "infer_interval": later("Updates between pictures"),
    "sample_step": later("Sampling steps of these pictures"),
    "sample_batch_size": later("Class images sampled at once"),
    "save_ckpt_interval": later("Updates between LoRA files"),
    "save_every_minutes": later("Minutes between LoRA files"),
    "max_num_ckpt": later("LoRA files that are kept"),
    "save_format": later("Another layout as well"),
    "log_interval": later("Updates between log lines"),
    "evaluate_every": later("Updates between scores"),
    "features": later("What compares pictures"),
    "evaluate_seeds": later("Pictures of a prompt for the scores"),
    "stop_when_learned": later("Stop when it has learned"),
    "seed": later("Seed"),
    "ms_mode": later("Mode of MindSpore"),
    "ms_amp_level": later("Precision"),
    "jit_level": later("Compilation for Ascend"),
    "max_device_memory": later("Memory of the device"),
    "cache_latents": later("Encode photos once"),
    "cache_text_products": later("Keep the products of the prompts"),
}
OF_EVALUATION = GROUPS["evaluation"]
FEATURES = ("judge", "tools/features/clip_dino.py")  # of --features: no file of a visitor is run


@lru_cache(maxsize=1)
def known() -> Mapping[str, Flag]:
    """Name -> flag, of those that the page offers."""
    wanted = {name for names in GROUPS.values() for name in names}
    return {name: flag for name, flag in fields_of(TrainOptions).items() if name in wanted}


@lru_cache(maxsize=1)
def usual() -> Mapping[str, str]:
    """Name -> the default, as it would be given."""
    defaults = {one.name: known()[one.name].default for one in fields(TrainOptions) if one.name in known()}
    return {name: as_given(value) for name, value in defaults.items() if value is not None and not callable(value)}


def acting(device: str) -> set[str]:
    """The flags that can be given on this device."""
    names = set(known())
    names -= {"jit_level"} if device != "Ascend" else set()
    return names - ({"max_device_memory"} if device == "CPU" else set())


def help_of(name: str) -> str:
    """What the flag does, in the visitor's language; the English is that of --help."""
    return HELP[name] if is_chinese() else known()[name].help
