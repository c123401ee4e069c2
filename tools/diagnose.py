"""Tell what went wrong in a run, in one paragraph: from its losses and gradients, its time and memory, its LoRA and, where
tools/evaluate.py --checkpoints has made it, its evaluation. A run that comes to its end says the same by itself.

    python tools/diagnose.py runs/dog
"""

import sys
from pathlib import Path
from typing import Optional, Sequence

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gm import ending

if __name__ == "__main__":  # what is imported below takes a while
    ending.catch_signals()

from gm import console
from gm.errors import UserError
from gm.options.diagnose import parse_diagnose
from gm.training.diagnosis.facts import CONFIG, TIMINGS, read_facts
from gm.training.diagnosis.paragraph import diagnose


def main(argv: Optional[Sequence[str]] = None) -> None:
    """The command."""
    options = parse_diagnose(argv)
    facts = read_facts(options.run, options.evaluation, options.device_memory_gb)
    if options.device_memory_gb is not None and (facts.peak_gb is None or facts.config is None):
        raise UserError(
            f"--device_memory_gb {options.device_memory_gb:g} was given, but {TIMINGS} and {CONFIG} in {options.run} do not say how much "
            "memory of a device was used for which batch: leave it away"
        )
    print(diagnose(facts))


if __name__ == "__main__":
    sys.exit(console.run_command(main))
