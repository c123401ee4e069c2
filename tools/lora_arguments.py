"""Flags that the commands on LoRA files share, and what they mean."""

import argparse
from pathlib import Path
from typing import Optional

from gm.checkpoint.io import kind_of
from gm.checkpoint.lora_files import LoraFile, open_lora
from gm.checkpoint.lora_rules import LAYOUTS
from gm.checkpoint.single_file import FLOATS
from gm.config.types import ModelConfig
from gm.console import log
from gm.errors import UserError
from gm.config.load import load_config


def add_lora(parser: argparse.ArgumentParser) -> None:
    """--lora --alpha --config: the LoRA that is given."""
    parser.add_argument("--lora", required=True, help="a LoRA of any layout, .ckpt or .safetensors")
    parser.add_argument("--alpha", type=float, help="alpha of a LoRA .ckpt that does not say it (default: its rank)")
    add_config(parser)


def add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="YAML", help="the model, when its UNet has other blocks than SDXL's")


def add_output(parser: argparse.ArgumentParser, suffixes: str = ".ckpt (native) or .safetensors") -> None:
    """--output --format --dtype: the LoRA that is written."""
    parser.add_argument("--output", required=True, help=f"the {suffixes} to write; it must not exist")
    parser.add_argument(
        "--format",
        choices=LAYOUTS,
        help="of a .safetensors; kohya: with sgm's blocks, read by all (default); kohya-diffusers: with diffusers' blocks; "
        "peft, diffusers: for diffusers",
    )
    parser.add_argument("--dtype", choices=FLOATS, default="float32", help="number type (default: float32)")


def model_of(options: argparse.Namespace) -> Optional[ModelConfig]:
    """The model of --config; None for SDXL."""
    return load_config(options.config, training=False).model if options.config else None


def layout_of(options: argparse.Namespace) -> str:
    """The layout to write: native into a .ckpt, --format into a .safetensors. UserError when they do not fit."""
    if kind_of(Path(options.output)) == "safetensors":
        return options.format or LAYOUTS[0]
    if options.format:
        raise UserError(
            f"--format {options.format} is for .safetensors, but --output is {options.output}: change one of them"
        )
    return "native"


def open_given(options: argparse.Namespace) -> tuple[LoraFile, Optional[ModelConfig]]:
    """The LoRA, and the model of --config; UserError for an --alpha that does not fit."""
    model = model_of(options)
    file = open_lora(options.lora, model)
    silent = all(pair.alpha is None for pair in file.modules.values())
    if options.alpha is not None and not silent:
        raise UserError(f"--alpha {options.alpha:g} was given, but {file.path} says its alpha: leave --alpha away")
    if options.alpha is not None and options.alpha <= 0:
        raise UserError(f"--alpha {options.alpha:g} must be above 0: give the lora_alpha of the YAML it was trained with")
    if options.alpha is None and silent:
        log.warning("%s does not say its alpha: it is taken to be the rank; --alpha says another", file.path)
    return file, model
