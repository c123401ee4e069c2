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
from gm.sampling.jobs import Asked, Job, evenly, groups_of, requests_of
from gm.sampling.like import with_like


def main(argv: Sequence[str]) -> None:
    """The command: what --task says."""
    asked = parse_sample(with_like(argv))
    options = asked.with_seed
    if options.seed != asked.seed:
        log.info("--seed %d: drawn at random", options.seed)
    {"txt2img": text_to_image}[options.task](options)


def text_to_image(options: SampleOptions) -> None:
    """One PNG per picture and one contact sheet under --save_path."""
    runtime.quiet_environment()  # MindSpore is imported from here on
    config = load_config(options.config, options.set, training=False)
    requests = requests_of(options, config.model.unet.downsampling)
    machine = runtime.start(options.machine, options.seed, [config.model])

    from gm.encoding.source import source_of
    from gm.sampling.pipeline import Pipeline

    given = {"strengths": options.strengths, "vae": options.vae, "graphs": options.compile_cache_dir}
    pipeline = Pipeline(source_of(config, options.weight, machine, options.max_tokens, **given))
    job = Job(requests, Path(options.save_path))
    groups = groups_of(requests)
    sizes = [
        evenly(len(group), options.batch_size or pipeline.rows_that_fit(requests[group[0]].settings, len(group)))
        for group in groups
    ]
    for group, size in zip(groups, sizes):
        pipeline.require_memory([requests[group[0]].settings], size)
    folders = {"--save_path": options.save_path, "--compile_cache_dir": options.compile_cache_dir}
    make_writable(*((flag, Path(folder)) for flag, folder in folders.items() if folder))
    pipeline.embed([text for one in requests for text in (one.options.prompt, one.options.negative_prompt) if text])
    pipeline.load()

    def make(batch: Sequence[Asked], what: str) -> list:
        asked = [one.options for one in batch]
        texts = [one.prompt for one in asked], [one.negative_prompt for one in asked]
        return pipeline.sample_batch(*texts, batch[0].settings, [one.seed for one in asked], what)

    with pipeline.keeping_graphs([(requests[group[0]].settings, size) for group, size in zip(groups, sizes)]):
        job.run(groups, sizes, make)


if __name__ == "__main__":
    sys.exit(console.run_command(main))
