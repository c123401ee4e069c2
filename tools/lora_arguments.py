"""Flags that the commands on LoRA files share, and what they mean."""

from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Optional

import numpy as np

from gm.checkpoint.io import kind_of
from gm.checkpoint.lora_files import LoraFile, open_lora
from gm.checkpoint.lora_rules import LAYOUTS
from gm.checkpoint.single_file import FLOATS
from gm.checkpoint.weights import open_base
from gm.config.load import load_config
from gm.config.types import ModelConfig
from gm.console import log
from gm.errors import UserError
from gm.options.parser import REQUIRED, option

USUAL_LAYOUT = "kohya"  # which all tools read


@dataclass(frozen=True)
class OfAModel:
    """The model that a LoRA is for."""

    config: Optional[str] = option(
        None, "the model, when its UNet has other blocks than SDXL's", metavar="YAML", group="what is read"
    )


@dataclass(frozen=True)
class GivenLora(OfAModel):
    """The LoRA that is given."""

    lora: str = option(REQUIRED, "a LoRA of any layout, .ckpt or .safetensors", metavar="FILE", group="what is read")
    alpha: Optional[float] = option(None, "alpha of a LoRA .ckpt that does not say it", shown="its rank", group="what is read")
    base: Optional[str] = option(
        None, "the base weights: a DoRA needs them into and out of kohya's layouts", metavar="PATH", group="what is read"
    )


@dataclass(frozen=True)
class WrittenLora:
    """The LoRA that is written."""

    output: Path = option(
        REQUIRED,
        "the .ckpt (native) or .safetensors to write; it must not exist",
        metavar="FILE",
        group="what is written",
    )
    format: Optional[str] = option(
        None,
        "of a .safetensors; kohya: with sgm's blocks, read by all; kohya-diffusers: with diffusers' blocks; peft, "
        "diffusers: for diffusers",
        choices=LAYOUTS,
        shown=USUAL_LAYOUT,
        group="what is written",
    )
    dtype: str = option("float32", "number type", choices=FLOATS, group="what is written")


def model_of(options: OfAModel) -> Optional[ModelConfig]:
    """The model of --config; None for SDXL."""
    return load_config(options.config, training=False).model if options.config else None


def layout_of(options: WrittenLora) -> str:
    """The layout to write: native into a .ckpt, --format into a .safetensors. UserError when they do not fit."""
    if kind_of(options.output) == "safetensors":
        return options.format or USUAL_LAYOUT
    if options.format:
        raise UserError(f"--format {options.format} is for .safetensors, but --output is {options.output}: change one of them")
    return "native"


def base_reader(options: GivenLora) -> Optional[Callable[[str], np.ndarray]]:
    """What reads the weights of --base by native name, where it was given."""
    return open_base(options.base).read if options.base else None


def hint_at_sizes(file: LoraFile, model: Optional[ModelConfig]) -> None:
    """Say so when the LoRA is of another model than SDXL, or than that of --config."""
    if file.other_size:
        what = "SDXL has: give the YAML of its model with --config" if model is None else "the model of --config has"
        log.info("%s is of a wider or narrower model, e.g. in %s, than %s", file.path, file.other_size[0], what)


def open_given(options: GivenLora) -> tuple[LoraFile, Optional[ModelConfig]]:
    """The LoRA, and the model of --config; UserError for an --alpha that does not fit."""
    model = model_of(options)
    file = open_lora(options.lora, model)
    hint_at_sizes(file, model)
    silent = all(pair.alpha is None for pair in file.modules.values())
    if options.alpha is not None and not silent:
        raise UserError(f"--alpha {options.alpha:g} was given, but {file.path} says its alpha: leave --alpha away")
    if options.alpha is not None and options.alpha <= 0:
        raise UserError(f"--alpha {options.alpha:g} must be above 0: give the lora_alpha of the YAML it was trained with")
    if options.alpha is None and silent:
        log.warning("%s does not say its alpha: it is taken to be the rank; --alpha says another", file.path)
    return file, model
