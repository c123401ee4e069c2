"""Add LoRA to base weights for good: one file that every tool reads without knowing of LoRA.

W + scale * alpha / rank * B A, computed in float32 and rounded to the output's type; all else is copied byte for byte.
"""

import argparse
import sys
from pathlib import Path
from typing import Optional, Sequence

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gm import console
from gm.options.commands import scale_list
from gm.checkpoint.single_file import FLOATS, new_output, write_single_file
from gm.console import log
from gm.errors import UserError
from gm.checkpoint.lora_stack import merged, open_weights
from tools.lora_arguments import add_config, model_of

ABOUT_LORA = ("lora_", "step", "instance_prompt")  # what a base + LoRA file says of its LoRA


def main(argv: Optional[Sequence[str]] = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument(
        "--weight",
        required=True,
        metavar="BASE,LORA[,LORA]",
        help="base weights (.safetensors, .ckpt or diffusers' folder), then LoRA of any tool, separated by commas",
    )
    parser.add_argument("--lora_scale", type=scale_list, default=(), metavar="NUMBER[,NUMBER]", help="strength of each (1)")
    parser.add_argument("--alpha", type=float, help="alpha of LoRA .ckpt files that do not say it (default: their rank)")
    parser.add_argument(
        "--output", required=True, help="the .safetensors (official names) or .ckpt (native) to write, a new file"
    )
    parser.add_argument("--dtype", choices=("keep", *FLOATS), default="keep", help="number type (keep: the base's)")
    add_config(parser)
    options = parser.parse_args(argv)
    base, stack = open_weights(options.weight, options.lora_scale, model_of(options), options.alpha)
    if not stack.files:
        raise UserError(
            f"--weight {options.weight} names no LoRA: give base,lora, or convert it with tools/convert_weight.py"
        )
    for file in stack.files:
        file.check_against_base(base.shapes)
    output = new_output(Path(options.output))
    about = {key: text for key, text in base.file.metadata.items() if not key.startswith(ABOUT_LORA)}
    about["merged_lora"] = ", ".join(f"{file.path.name} x {scale:g}" for file, scale in zip(stack.files, stack.scales))
    changed = {f"{module}.weight" for module in stack.ranks}
    write_single_file(output, base, options.dtype, about, "merging", merged(base.read, stack), changed)
    log.info("%s: %d weights with %s, %.2f GB", output, len(changed), about["merged_lora"], output.stat().st_size / 1e9)


if __name__ == "__main__":
    sys.exit(console.run_command(main))
