"""Sample pictures from SDXL, with or without a LoRA, on the command line.

options -> requests -> gm/sampling/command.py. The steps of a sampler are gm/sampling/latents.py.
"""

import sys
from pathlib import Path
from typing import Sequence

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gm import ending

if __name__ == "__main__":  # what is imported below takes a while
    ending.catch_signals()

from gm import console, runtime
from gm.config.load import load_config
from gm.console import log
from gm.options.refiner import REFINER
from gm.options.sample import SampleOptions, parse_sample
from gm.sampling.given import require_given
from gm.sampling.jobs import requests_of
from gm.sampling.like import with_like


def main(argv: Sequence[str]) -> None:
    """The command: what --task says."""
    asked = parse_sample(with_like(argv))
    options = asked.with_seed
    if options.seed != asked.seed:
        log.info("--seed %d: drawn at random", options.seed)
    make_pictures(options)


def make_pictures(options: SampleOptions) -> None:
    """One PNG per picture and one contact sheet under --save_path."""
    runtime.quiet_environment()  # MindSpore is imported from here on
    config = load_config(options.config, options.set, training=False, inpainting=options.task == "inpaint")
    second = load_config(options.pipeline_config or REFINER, training=False) if options.add_pipeline else None
    options.check_scores(config.model.is_refiner)
    requests = requests_of(options, config.model.unet.downsampling)
    for one in {one.kind: one for one in requests}.values():
        require_given(one.options, one.settings, config.model)
    machine = runtime.start(options.machine, options.seed, [one.model for one in (config, second) if one])

    from gm.sampling.command import Command

    Command(options, config, second, machine, requests).run()


if __name__ == "__main__":
    sys.exit(console.run_command(main))
