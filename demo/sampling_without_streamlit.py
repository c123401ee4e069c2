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

from gm import console, runtime
from gm.config.load import load_config
from gm.console import log
from gm.files import make_writable
from gm.options.sample import SampleOptions, parse_sample
from gm.sampling.given import first_noise, graphs_of, larger, require_given, save_noise
from gm.sampling.jobs import Asked, Job, evenly, groups_of, requests_of
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
    multiple, channels = config.model.unet.downsampling, config.model.vae.embed_dim
    requests = requests_of(options, multiple)
    for one in {one.kind: one for one in requests}.values():
        require_given(one.options, one.settings, config.model)
    machine = runtime.start(options.machine, options.seed, [config.model])

    from gm.encoding.source import source_of
    from gm.sampling.making import Maker
    from gm.sampling.pipeline import Pipeline

    given = {"scales": options.lora_scale or (), "vae": options.vae, "graphs": options.compile_cache_dir}
    pipeline = Pipeline(source_of(config, options.weight, machine, options.max_tokens, **given))

    def save_beside(one: Asked, path: Path) -> None:
        if one.options.save_init_latent:
            save_noise(path.with_suffix(".npy"), first_noise(one.options, one.settings, one.column, channels))

    job = Job(requests, Path(options.save_path), save_beside)
    groups = groups_of(requests)
    kinds = [requests[group[0]] for group in groups]
    largest = [larger(one.options, multiple) or one.settings for one in kinds]
    fit = [options.batch_size or pipeline.rows_that_fit(one, len(group)) for one, group in zip(largest, groups)]
    sizes = [evenly(len(group), most) for group, most in zip(groups, fit)]
    for one, size in zip(largest, sizes):
        pipeline.require_memory([one], size)
    folders = {"--save_path": options.save_path, "--compile_cache_dir": options.compile_cache_dir}
    make_writable(*((flag, Path(folder)) for flag, folder in folders.items() if folder))
    pipeline.embed([text for one in requests for text in (one.options.prompt, one.options.negative_prompt) if text])
    pipeline.load()

    def make(batch: Sequence[Asked], what: str) -> list:
        asked = [one.options for one in batch]
        texts = [one.prompt for one in asked], [one.negative_prompt for one in asked]
        return maker(batch, *pipeline.texts_of(*texts), what)

    maker = Maker(pipeline.pictures, multiple)
    batches = [(one.settings, size, graphs_of(one.options, multiple)) for one, size in zip(kinds, sizes)]
    with pipeline.keeping_graphs(batches):
        job.run(groups, sizes, make)


if __name__ == "__main__":
    sys.exit(console.run_command(main))
