"""Sample pictures from SDXL, with or without a LoRA, on the command line.

options -> checks -> text -> UNet -> pictures. The sampling itself is gm/sampling/pictures.py.
"""

import sys
from pathlib import Path
from typing import Sequence

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gm import console, runtime
from gm.options.commands import SampleOptions, parse_sample, read_prompts
from gm.config.types import SampleSettings
from gm.console import log
from gm.errors import UserError
from gm.config.load import load_config
from gm.files import make_writable


def main(argv: Sequence[str]) -> None:
    """The command: one PNG per picture and one contact sheet under --save_path."""
    options = parse_sample(argv)
    runtime.quiet_environment()  # MindSpore is imported from here on
    config = load_config(options.config, options.set, training=False)
    prompts = read_prompts(options.prompt, "--prompt") if options.prompt.endswith(".txt") else [options.prompt]
    settings = sample_settings(options, config.model.unet.downsampling)
    machine = runtime.start(options.device_target, options.ms_mode, options.ms_amp_level, options.seed)
    folder = Path(options.save_path)

    from gm.encoding.source import source_of
    from gm.sampling.pipeline import Pipeline
    from gm.pictures import contact_sheet, save_png

    pipeline = Pipeline(source_of(config, options.weight, machine, scales=options.lora_scale or (), vae=options.vae))
    make_writable({"--save_path": folder})
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


def sample_settings(options: SampleOptions, multiple: int) -> SampleSettings:
    """SampleSettings from the options; UserError when the network cannot make that size."""
    height, width = options.size()
    for flag, pixels in (("height", height), ("width", width)):
        if pixels % multiple:
            lower = max(multiple, pixels // multiple * multiple)
            raise UserError(f"{flag} {pixels} is not a multiple of {multiple}: take {lower} or {lower + multiple}")
    given = lambda value, default: default if value is None else value  # noqa: E731
    sizes = (
        given(options.orig_height, height),
        given(options.orig_width, width),
        given(options.crop_coords_top, 0),
        given(options.crop_coords_left, 0),
        given(options.target_height, height),
        given(options.target_width, width),
    )
    return SampleSettings(
        height,
        width,
        sizes,
        options.sampler,
        options.sample_step,
        options.guider,
        options.guidance_scale,
        options.discretization,
    )


def next_number(folder: Path) -> int:
    """The first number no picture of `folder` has, so that nothing is overwritten."""
    numbers = [int(path.stem) for path in folder.glob("*.png") if path.stem.isdigit()]
    return max(numbers, default=-1) + 1


def about(options: SampleOptions, settings, prompt: str, seed: int) -> dict[str, object]:
    """What goes into a PNG's text chunks: enough to make it again."""
    return {
        "prompt": prompt,
        "negative_prompt": options.negative_prompt,
        "seed": seed,
        "sampler": settings.sampler,
        "steps": settings.steps,
        "guider": settings.guider,
        "guidance_scale": settings.guidance_scale,
        "discretization": settings.discretization,
        "size": f"{settings.width}x{settings.height}",
        "sizes": ",".join(str(number) for number in settings.sizes),
        "weight": options.weight,
        **({"vae": options.vae} if options.vae else {}),
        **({"lora_scale": ",".join(f"{scale:g}" for scale in options.lora_scale)} if options.lora_scale else {}),
    }


if __name__ == "__main__":
    sys.exit(console.run_command(main))
