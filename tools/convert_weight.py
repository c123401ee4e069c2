"""Convert SDXL base weights between the official .safetensors file, diffusers' folder and the MindSpore .ckpt.

What the input is is told by its content. Tensors are read, renamed and written one by one.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Sequence

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gm import ending

if __name__ == "__main__":  # what is imported below takes a while
    ending.catch_signals()

from gm import console
from gm.checkpoint.io import kind_of
from gm.checkpoint.single_file import FLOATS, new_output, write_single_file
from gm.checkpoint.weights import open_base
from gm.console import log
from gm.errors import UserError
from gm.options.parser import REQUIRED, option, parse


@dataclass(frozen=True)
class Options:
    """What was asked."""

    input: str = option(REQUIRED, "an official .safetensors file, diffusers' folder, or a MindSpore .ckpt", metavar="PATH")
    output: Path = option(REQUIRED, "a .safetensors or .ckpt file of another kind; it must not exist", metavar="FILE")
    dtype: str = option("keep", "number type of the output", choices=("keep", *FLOATS))


def main(argv: Optional[Sequence[str]] = None) -> None:
    """The command."""
    options = parse(Options, argv, "convert_weight.py", __doc__.splitlines()[0])
    output = options.output
    base = open_base(options.input)
    if kind_of(output) == base.file.kind:
        raise UserError(
            f"--output {output} is of the input's own kind: convert .safetensors to .ckpt or .ckpt to .safetensors"
        )
    if base.lora_names():
        raise UserError(f"--input {base.file.path} holds LoRA matrices: this command converts base weights only")
    write_single_file(new_output(output), base, options.dtype, base.file.metadata, "converting")
    log.info("%s: %d tensors, %.2f GB", output, len(base.stored), output.stat().st_size / 1e9)


if __name__ == "__main__":
    sys.exit(console.run_command(main))
