"""Write a LoRA as .safetensors in the layout that other tools read: diffusers, ComfyUI, A1111, sd-scripts."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Sequence

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gm import ending

if __name__ == "__main__":  # what is imported below takes a while
    ending.catch_signals()

from gm import console
from gm.checkpoint.lora_export import write_lora
from gm.checkpoint.single_file import new_output
from gm.console import log
from gm.errors import UserError
from gm.options.parser import REQUIRED, option, parse
from tools.lora_arguments import GivenLora, WrittenLora, base_reader, layout_of, open_given


@dataclass(frozen=True)
class Options(WrittenLora, GivenLora):
    """What was asked."""

    output: Path = option(REQUIRED, "the .safetensors to write; it must not exist", metavar="FILE", group="what is written")


def main(argv: Optional[Sequence[str]] = None) -> None:
    """The command."""
    options = parse(Options, argv, "export_lora.py", __doc__.splitlines()[0])
    if options.output.suffix != ".safetensors":
        raise UserError(f"--output {options.output} must end in .safetensors")
    layout = layout_of(options)
    file, model = open_given(options)
    output = new_output(options.output)
    with file:
        write_lora(file, output, layout, options.dtype, options.alpha, model, base_reader(options))
    log.info("%s: %d modules in the %s layout, %s", output, len(file.modules), layout, options.dtype)


if __name__ == "__main__":
    sys.exit(console.run_command(main))
