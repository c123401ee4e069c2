"""Write a LoRA of any layout as a native .ckpt, under the names of this suite."""

import argparse
import sys
from pathlib import Path
from typing import Optional, Sequence

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gm import console
from gm.checkpoint.lora_export import write_lora
from gm.checkpoint.lora_files import LoraFile, open_lora
from gm.checkpoint.single_file import new_output
from gm.config import ModelConfig
from gm.console import log
from gm.errors import UserError
from gm.schema import load_config


def main(argv: Optional[Sequence[str]] = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    add_common_arguments(parser, ".ckpt")
    options = parser.parse_args(argv)
    file, model = open_given(options, ".ckpt")
    output = new_output(Path(options.output))
    with file:
        write_lora(file, output, "native", alpha=options.alpha, model=model)
    log.info("%s: %d modules from the %s layout", output, len(file.modules), file.layout)


def add_common_arguments(parser: argparse.ArgumentParser, suffix: str) -> None:
    """What both directions need."""
    parser.add_argument("--lora", required=True, help="a LoRA of any layout, .ckpt or .safetensors")
    parser.add_argument("--output", required=True, help=f"the {suffix} to write; it must not exist")
    parser.add_argument("--alpha", type=float, help="alpha of a LoRA .ckpt that does not say it (default: its rank)")
    parser.add_argument("--config", metavar="YAML", help="the model, when its UNet has other blocks than SDXL's")


def open_given(options: argparse.Namespace, suffix: str) -> tuple[LoraFile, Optional[ModelConfig]]:
    """The LoRA, and the model of --config; UserError for options that do not fit, or an --output without the suffix."""
    if Path(options.output).suffix != suffix:
        raise UserError(f"--output {options.output} must end in {suffix}")
    model = load_config(options.config, training=False).model if options.config else None
    file = open_lora(options.lora, model)
    silent = all(pair.alpha is None for pair in file.modules.values())
    if options.alpha is not None and not silent:
        raise UserError(f"--alpha {options.alpha:g} was given, but {file.path} says its alpha: leave --alpha away")
    if options.alpha is not None and options.alpha <= 0:
        raise UserError(f"--alpha {options.alpha:g} must be above 0: give the lora_alpha of the YAML it was trained with")
    if options.alpha is None and silent:
        log.warning("%s does not say its alpha: it is taken to be the rank; --alpha says another", file.path)
    return file, model


if __name__ == "__main__":
    sys.exit(console.run_command(main))
