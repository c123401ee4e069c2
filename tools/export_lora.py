"""Write a LoRA as .safetensors in the layout that other tools read: diffusers, ComfyUI, A1111, sd-scripts."""

import argparse
import sys
from pathlib import Path
from typing import Optional, Sequence

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gm import console
from gm.checkpoint.lora_export import write_lora
from gm.checkpoint.lora_rules import LAYOUTS
from gm.checkpoint.single_file import FLOATS, new_output
from gm.console import log
from tools.import_lora import add_common_arguments, open_given


def main(argv: Optional[Sequence[str]] = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    add_common_arguments(parser, ".safetensors")
    parser.add_argument(
        "--format",
        choices=LAYOUTS,
        default=LAYOUTS[0],
        help="kohya: with sgm's blocks, read by all; kohya-diffusers: with diffusers' blocks; peft, diffusers: for diffusers",
    )
    parser.add_argument("--dtype", choices=FLOATS, default="float32", help="number type")
    options = parser.parse_args(argv)
    file, model = open_given(options, ".safetensors")
    output = new_output(Path(options.output))
    with file:
        write_lora(file, output, options.format, options.dtype, options.alpha, model)
    log.info("%s: %d modules in the %s layout, %s", output, len(file.modules), options.format, options.dtype)


if __name__ == "__main__":
    sys.exit(console.run_command(main))
