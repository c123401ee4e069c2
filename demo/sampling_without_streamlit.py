"""Sample pictures from SDXL, with or without a LoRA, on the command line.

options -> checks -> text -> UNet -> pictures. The sampling itself is gm/sampling/pictures.py.
"""

import sys
from dataclasses import replace
from itertools import chain
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
from gm.options.refiner import REFINER
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
    second = load_config(options.pipeline_config or REFINER, training=False) if options.add_pipeline else None
    options.check_scores(config.model.is_refiner)
    requests = requests_of(options, config.model.unet.downsampling)
    machine = runtime.start(options.machine, options.seed, [one.model for one in (config, second) if one])

    from gm.encoding.source import source_of
    from gm.sampling.pipeline import Pipeline
    from gm.sampling.stages import Pass, first_latents, refiner_of, told_scores

    if config.model.is_refiner:
        requests = [replace(one, settings=told_scores(one.settings, one.options.refiner_scores)) for one in requests]
    given = {"scales": options.lora_scale or (), "vae": options.vae, "graphs": options.compile_cache_dir}
    pipeline = Pipeline(source_of(config, options.weight, machine, options.max_tokens, **given))
    refiner = refiner_of(options, second, pipeline.source) if second else None
    models = [pipeline, refiner.pipeline] if refiner else [pipeline]
    job = Job(requests, Path(options.save_path))
    groups = groups_of(requests)
    sizes = [
        evenly(
            len(group), options.batch_size or min(one.rows_that_fit(requests[group[0]].settings, len(group)) for one in models)
        )
        for group in groups
    ]
    for group, size in zip(groups, sizes):
        for one in models:
            one.require_memory([requests[group[0]].settings], size)
        if refiner:
            refiner.check(requests[group[0]].settings)
    folders = {"--save_path": options.save_path, "--compile_cache_dir": options.compile_cache_dir}
    make_writable(*((flag, Path(folder)) for flag, folder in folders.items() if folder))
    for one in models:
        one.embed([text for asked in requests for text in (asked.options.prompt, asked.options.negative_prompt) if text])

    def asked_of(batch: Sequence[Asked]) -> tuple:
        asked = [one.options for one in batch]
        texts = [one.prompt for one in asked], [one.negative_prompt for one in asked]
        return *texts, batch[0].settings, [one.seed for one in asked]

    def make(batch: Sequence[Asked], what: str) -> list:
        if refiner:
            return refiner(np.stack([latents[one] for one in batch]), *asked_of(batch), what)
        return pipeline.sample_batch(*asked_of(batch), what)

    if refiner:
        batches = [
            [requests[place] for place in group[i : i + size]]
            for group, size in zip(groups, sizes)
            for i in range(0, len(group), size)
        ]
        passes = [Pass(*asked_of(batch), f"base {i + 1}/{len(batches)}", refiner.first()) for i, batch in enumerate(batches)]
        latents = dict(zip(chain(*batches), chain(*first_latents(pipeline, passes))))
    models[-1].load()
    with models[-1].keeping_graphs([(requests[group[0]].settings, size) for group, size in zip(groups, sizes)]):
        job.run(groups, sizes, make)


if __name__ == "__main__":
    sys.exit(console.run_command(main))
