"""Sample pictures from SDXL, with or without a LoRA, on the command line.

options -> checks -> text -> UNet -> pictures. The sampling itself is gm/sampling/pictures.py.
"""

import sys
from pathlib import Path
from typing import Sequence

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gm import console, runtime
from gm.config.load import load_config
from gm.console import log
from gm.files import make_writable
from gm.options.prompts import read_prompts
from gm.options.sample import SampleOptions, parse_sample, sample_settings
from gm.sampling.output import about, next_number


def main(argv: Sequence[str]) -> None:
    """The command: what --task says."""
    options = parse_sample(argv)
    {"txt2img": text_to_image}[options.task](options)


def text_to_image(options: SampleOptions) -> None:
    """One PNG per picture and one contact sheet under --save_path."""
    runtime.quiet_environment()  # MindSpore is imported from here on
    config = load_config(options.config, options.set, training=False)
    prompts = read_prompts(options.prompt, "--prompt") if options.prompt.endswith(".txt") else [options.prompt]
    settings = sample_settings(options, config.model.unet.downsampling)
    machine = runtime.start(options.machine, options.seed, [config.model])
    folder = Path(options.save_path)

    from gm.encoding.source import source_of
    from gm.pictures import contact_sheet, save_png
    from gm.sampling.pipeline import Pipeline

    pipeline = Pipeline(source_of(config, options.weight, machine, scales=options.lora_scale or (), vae=options.vae))
    make_writable(("--save_path", folder))
    pipeline.embed([*prompts, *([options.negative_prompt] if options.negative_prompt else [])])
    pipeline.load()

    start = next_number(folder)
    rows = []
    seeds = [options.seed + column for column in range(options.num_cols)]
    for number, prompt in enumerate(prompts):
        rows.append([])
        for column, seed in enumerate(seeds):
            done = number * len(seeds) + column
            what = f"sampling {done + 1}/{len(prompts) * len(seeds)}"
            picture = pipeline.sample(prompt, options.negative_prompt, settings, seed, what)
            rows[-1].append(picture)
            path = folder / f"{start + done:05d}.png"
            save_png(path, picture, about(options, settings, prompt, seed))
            log.info("%s: seed %d, %r", path, seed, prompt)
    sheet = folder / f"sheet_{start:05d}.png"
    save_png(sheet, contact_sheet(rows, prompts), {"prompts": "\n".join(prompts), "seeds": seeds, "weight": options.weight})
    log.info("contact sheet: %s", sheet)


if __name__ == "__main__":
    sys.exit(console.run_command(main))
