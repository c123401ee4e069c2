"""Write a LoRA as .safetensors in the layout that other tools read: diffusers, ComfyUI, A1111, sd-scripts."""

import argparse
import sys
from pathlib import Path
from typing import Optional, Sequence

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gm import console
from gm.checkpoint.lora_export import write_lora
from gm.checkpoint.single_file import new_output
from gm.console import log
from gm.errors import UserError
from tools.lora_arguments import add_lora, add_output, layout_of, open_given


def main(argv: Optional[Sequence[str]] = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    add_lora(parser)
    add_output(parser, ".safetensors")
    options = parser.parse_args(argv)
    if Path(options.output).suffix != ".safetensors":
        raise UserError(f"--output {options.output} must end in .safetensors")
    layout = layout_of(options)
    file, model = open_given(options)
    output = new_output(Path(options.output))
    with file:
        write_lora(file, output, layout, options.dtype, options.alpha, model)
    log.info("%s: %d modules in the %s layout, %s", output, len(file.modules), layout, options.dtype)


if __name__ == "__main__":
    sys.exit(console.run_command(main))
