"""Train a small SDXL on the drawn world, from nothing or from --init.

Pictures -> first stage -> posteriors -> UNet and text encoders.

Every part is kept in --output, so that the same command goes on where it was stopped. The losses are
tools/toy/first_stage.py and gm/diffusion/denoiser.py, the loop is that of fine-tuning.
"""

import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Optional, Sequence

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gm import ending

if __name__ == "__main__":  # what is imported below takes a while
    ending.catch_signals()

import numpy as np

from gm import console, runtime
from gm.checkpoint.weights import open_base
from gm.config.load import load_config
from gm.config.types import Config, DataConfig, OptimConfig
from gm.console import log
from gm.errors import UserError, require_multiple
from gm.options.parser import REQUIRED, option, parse
from gm.randomness import WORLD, generator
from tools.toy.scenes import caption
from tools.toy.training_pictures import drawn, scene_of, varied

FIRST_STAGE_RATE = 2e-4  # the highest learning rate of the VAE


@dataclass(frozen=True)
class Options:
    """What was asked."""

    config: str = option("configs/inference/small_sdxl.yaml", "YAML of the model", metavar="YAML")
    output: Path = option(Path("runs/pretraining"), "everything that is kept on the way", metavar="FOLDER")
    weight: Path = option(REQUIRED, "the .safetensors to write at the end; it must not exist", metavar="FILE")
    init: Optional[str] = option(None, "weights to go on from, of the same sizes", metavar="FILE", shown="random ones")
    pictures: int = option(6000, "how many pictures are drawn to train on", least=1)
    size: int = option(64, "pixels, height and width", least=1)
    first_stage_steps: int = option(6000, "updates of the first stage (VAE)", least=1)
    steps: int = option(3400, "updates of UNet and text encoders", least=1)
    batch: int = option(24, "pictures in an update of UNet and text encoders", least=1)
    learning_rate: float = option(8e-4, "of UNet and text encoders, falling as a cosine", least=0)
    save_interval: int = option(250, "updates between what a stopped run goes on from", least=1)
    infer_interval: int = option(500, "updates between progress pictures", least=1)
    seed: int = option(0, "the same seed gives the same weights", least=0)


def main(argv: Optional[Sequence[str]] = None) -> None:
    """The command."""
    options = parse(Options, argv, "pretrain.py", __doc__.splitlines()[0])
    weight, folder = options.weight, options.output
    if weight.suffix != ".safetensors" or weight.exists():
        raise UserError(f"--weight {weight} must be a new .safetensors file: give another name or remove it")
    model = load_config(options.config, [], training=False).model
    require_multiple("--size", options.size, model.unet.downsampling)
    folder.mkdir(parents=True, exist_ok=True)

    initial = open_base(options.init) if options.init else None
    pixels = drawn(folder / "pictures.npy", options.pictures, options.size, options.seed)
    machine = runtime.start(runtime.CPU, options.seed)
    from gm.models.sdxl import expected_shapes
    from tools.toy.curves import plot_curves
    from tools.toy.pretraining import Pretraining

    if initial:
        initial.check(expected_shapes(model)[0], "--init")
    optim = OptimConfig(options.learning_rate, weight_decay=0.01, schedule="cosine", warmup_steps=100, final_factor=0.02)
    data = DataConfig(total_step=options.steps, target_size=options.size, per_batch_size=options.batch)
    config = Config(version="SDXL-base-1.0", model=model, lora={}, optim=optim, data=data, raw="")
    run = Pretraining(config, machine, folder, options.seed, initial)

    first_optim = replace(optim, base_learning_rate=FIRST_STAGE_RATE, beta2=0.95, weight_decay=0.0)
    picture = partial(varied, options.size)
    first_stage = run.first_stage(picture, pixels, first_optim, options.first_stage_steps, options.save_interval)
    posteriors = run.encode(pixels, first_stage)
    scenes = [scene_of(options.seed, number) for number in range(options.pictures)]

    def words(number: int, random: np.random.Generator) -> tuple[str, str]:
        return caption(scenes[number], random), scenes[number].look.kind

    vocabulary = [words(number, generator(options.seed, WORLD, number))[0] for number in range(len(scenes))]
    run.text_to_image(posteriors, words, vocabulary, first_stage, options.save_interval, options.infer_interval)
    run.write(weight, first_stage)
    plot_curves(folder, folder / "curves.png")
    log.info("done: %s, %.1f MB", weight, weight.stat().st_size / 1e6)


if __name__ == "__main__":
    sys.exit(console.run_command(main))
