"""Add LoRA to base weights for good: one file that every tool reads without knowing of LoRA.

W + scale * alpha / rank * B A, computed in float32 and rounded to the output's type; all else is copied byte for byte.
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
from gm.checkpoint.lora_stack import merged, open_weights
from gm.checkpoint.single_file import FLOATS, new_output, write_single_file
from gm.console import log
from gm.errors import UserError
from gm.options.lora import LoraStrengthOptions
from gm.options.parser import REQUIRED, option, parse
from tools.lora_arguments import OfAModel, model_of

ABOUT_LORA = ("lora_", "step", "instance_prompt", "ss_", "recipe_")  # what a base + LoRA file says of its LoRA


@dataclass(frozen=True)
class Options(LoraStrengthOptions, OfAModel):
    """What was asked."""

    weight: str = option(
        REQUIRED,
        "base weights (.safetensors, .ckpt or diffusers' folder), then LoRA of any tool, separated by commas",
        metavar="BASE,LORA[,LORA]",
        group="what is read",
    )
    lora_scale: tuple[float, ...] = option(
        (), "strength of each", metavar="NUMBER[,NUMBER]", shown="1 each", group="LoRA"
    )  # without a sampler's bounds: the weights of the result are looked at
    alpha: Optional[float] = option(
        None, "alpha of LoRA .ckpt files that do not say it", shown="their rank", group="what is read"
    )
    output: Path = option(
        REQUIRED,
        "the .safetensors (official names) or .ckpt (native) to write, a new file",
        metavar="FILE",
        group="what is written",
    )
    dtype: str = option("keep", "number type; keep: the base's", choices=("keep", *FLOATS), group="what is written")


def main(argv: Optional[Sequence[str]] = None) -> None:
    """The command."""
    options = parse(Options, argv, "merge_lora.py", __doc__.splitlines()[0])
    base, stack = open_weights(options.weight, options.strengths, model_of(options), options.alpha)
    if not stack.files:
        raise UserError(f"--weight {options.weight} names no LoRA: give base,lora, or convert it with tools/convert_weight.py")
    for file in stack.files:
        file.check_against_base(base.shapes)
    about = {key: text for key, text in base.file.metadata.items() if not key.startswith(ABOUT_LORA)}
    about["merged_lora"] = ", ".join(f"{file.path.name} x {strength}" for file, strength in zip(stack.files, stack.strengths))
    changed = {f"{module}.weight" for module in stack.ranks}
    with new_output(options.output) as output:
        write_single_file(output, base, options.dtype, about, "merging", merged(base.read, stack), changed)
    log.info("%s: %d weights with %s, %.2f GB", output, len(changed), about["merged_lora"], output.stat().st_size / 1e9)


if __name__ == "__main__":
    sys.exit(console.run_command(main))
