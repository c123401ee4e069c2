"""Train the judge of tools/toy/judge.py on pictures of the drawn world, and tell how well it sees new ones.

    python tools/train_judge.py --output judge.safetensors     about 8 minutes on one core

The training itself is tools/toy/judge_training.py.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Sequence

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gm import ending

if __name__ == "__main__":  # what is imported below takes a while
    ending.catch_signals()

import numpy as np

from gm import console, runtime
from gm.console import log, table
from gm.errors import UserError
from gm.options.parser import REQUIRED, option, parse
from tools.toy.judge_training import held_out_report, train
from tools.toy.scenes import PLACES


@dataclass(frozen=True)
class Options:
    """What was asked."""

    output: Path = option(REQUIRED, "the .safetensors to write; it must not exist", metavar="FILE")
    steps: int = option(3000, "updates", least=1)
    learning_rate: float = option(3e-3, "the highest, after a tenth of the steps", above=0)
    seed: int = option(0, "the same seed gives the same judge", least=0)


def main(argv: Optional[Sequence[str]] = None) -> None:
    """The command."""
    options = parse(Options, argv, "train_judge.py", __doc__.splitlines()[0])
    output = options.output
    if output.suffix != ".safetensors" or output.exists() or not output.parent.is_dir():
        raise UserError(f"--output {output} must be a new .safetensors in a folder that is there: give another name")
    runtime.start(runtime.CPU, options.seed)

    from gm.checkpoint.io import write_tensors
    from tools.toy import judge

    network = train(options.steps, options.learning_rate, options.seed)
    metadata = {
        "places": json.dumps(PLACES),
        "made_with": f"tools/train_judge.py --steps {options.steps} --learning_rate {options.learning_rate:g} "
        f"--seed {options.seed}",
    }
    items = [(name, array.astype(np.float16)) for name, array in sorted(judge.state(network).items())]
    write_tensors(output, items, metadata)
    log.info("%s written: %d numbers", output, sum(array.size for _, array in items))
    report = held_out_report(judge.Judge.load(output), options.seed)
    print(table(("held-out pictures", "", "figure"), report))


if __name__ == "__main__":
    sys.exit(console.run_command(main))
