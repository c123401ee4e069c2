"""Teach SDXL a subject from a few photos: DreamBooth (arXiv 2208.12242) with LoRA (arXiv 2106.09685).

Inputs are checked (gm/training/inputs.py), MindSpore is started (gm/runtime.py), and the run goes from class images to the
LoRA file (gm/training/run.py). The loss is gm/diffusion/denoiser.py, the update gm/training/step.py.
"""

import sys
from typing import Sequence

from gm import ending

if __name__ == "__main__":  # what is imported below takes a while
    ending.catch_signals()

from gm import runtime
from gm.parallel.launch import run_command
from gm.parallel.ranks import Ranks
from gm.training.exporting import export
from gm.training.inputs import check_inputs


def main(argv: Sequence[str], ranks: Ranks = Ranks()) -> None:
    """The command, on one of the ranks."""
    inputs = check_inputs(argv, ranks)
    options = inputs.options
    if options.export_recipe:
        return export(inputs, ranks)
    models = [inputs.config.model, inputs.class_config.model]
    machine = runtime.start(options.machine, options.seed, models, ranks, options.master_addr, options.join_timeout)
    from gm.training.run import run  # imports MindSpore

    run(inputs, machine, ranks)


if __name__ == "__main__":
    sys.exit(run_command(main))
