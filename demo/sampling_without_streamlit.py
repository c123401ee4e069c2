"""Sample pictures from SDXL, with or without a LoRA, on the command line.

options -> checks -> text -> UNet -> pictures. The sampling itself is gm/sampling/pictures.py.
"""

import sys
from pathlib import Path
from typing import Sequence

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gm import ending

if __name__ == "__main__":  # what is imported below takes a while
    ending.catch_signals()

import numpy as np

from gm import console, runtime
from gm.config.load import load_config
from gm.console import log
from gm.files import make_writable
from gm.options.prompts import is_prompt_file, read_prompt_lines
from gm.options.sample import SampleOptions, parse_sample, sample_settings
from gm.sampling.output import about


def main(argv: Sequence[str]) -> None:
    """The command: what --task says."""
    options = parse_sample(argv)
    {"txt2img": text_to_image}[options.task](options)


def text_to_image(options: SampleOptions) -> None:
    """One PNG per picture and one contact sheet under --save_path."""
    runtime.quiet_environment()  # MindSpore is imported from here on
    config = load_config(options.config, options.set, training=False)
    multiple = config.model.unet.downsampling
    is_file = is_prompt_file(options.prompt)
    asked = [options.of(line) for line in read_prompt_lines(options.prompt, "--prompt", multiple)] if is_file else [options]
    settings = [sample_settings(one, multiple) for one in asked]
    machine = runtime.start(options.machine, options.seed, [config.model])
    folder = Path(options.save_path)

    from gm.encoding.source import source_of
    from gm.pictures import contact_sheet, numbered, save_new_png, sheets
    from gm.sampling.pipeline import Pipeline

    given = {"strengths": options.strengths, "vae": options.vae}
    pipeline = Pipeline(source_of(config, options.weight, machine, options.max_tokens, **given))
    pipeline.require_memory(settings)
    make_writable(("--save_path", folder))
    pipeline.embed([text for one in asked for text in (one.prompt, one.negative_prompt) if text])
    pipeline.load()

    rows: list[list[np.ndarray]] = []
    paths = []
    for number, (one, how) in enumerate(zip(asked, settings)):
        rows.append([])
        for column in range(one.num_cols):
            done, seed = number * one.num_cols + column, one.seed + column
            what = f"sampling {done + 1}/{len(asked) * one.num_cols}"
            picture = pipeline.sample(one.prompt, one.negative_prompt, how, seed, what)
            rows[-1].append(picture)
            paths.append(save_new_png(numbered(folder), picture, about(one, how, one.prompt, seed)))
            log.info("%s: seed %d, %r", paths[-1], seed, one.prompt)
    prompts = [one.prompt for one in asked]
    seeds = list(dict.fromkeys(one.seed + column for one in asked for column in range(one.num_cols)))
    text = {"prompts": "\n".join(prompts), "seeds": seeds, "weight": options.weight}
    sheet = save_new_png(sheets(folder, paths[0]), contact_sheet(rows, prompts), text)
    log.info("contact sheet: %s", sheet)


if __name__ == "__main__":
    sys.exit(console.run_command(main))
