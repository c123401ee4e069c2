"""Write a LoRA of any layout as a native .ckpt, under the names of this suite."""

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
from tools.lora_arguments import GivenLora, base_reader, open_given


@dataclass(frozen=True)
class Options(GivenLora):
    """What was asked."""

    output: Path = option(REQUIRED, "the .ckpt to write; it must not exist", metavar="FILE", group="what is written")


def main(argv: Optional[Sequence[str]] = None) -> None:
    """The command."""
    options = parse(Options, argv, "import_lora.py", __doc__.splitlines()[0])
    if options.output.suffix != ".ckpt":
        raise UserError(f"--output {options.output} must end in .ckpt")
    file, model = open_given(options)
    output = new_output(options.output)
    with file:
        write_lora(file, output, "native", alpha=options.alpha, model=model, read_base=base_reader(options))
    log.info("%s: %d modules from the %s layout", output, len(file.modules), file.layout)


if __name__ == "__main__":
    sys.exit(console.run_command(main))
