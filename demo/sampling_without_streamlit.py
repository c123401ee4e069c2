"""Sample pictures from SDXL, with or without a LoRA, on the command line.

options -> checks -> text -> UNet -> pictures. The sampling itself is gm/sampling/pictures.py.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Sequence

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gm import ending

if __name__ == "__main__":  # what is imported below takes a while
    ending.catch_signals()

from gm import console, runtime
from gm.config.load import load_config
from gm.config.types import Config
from gm.console import log
from gm.files import make_writable
from gm.options.refiner import REFINER
from gm.options.sample import SampleOptions, parse_sample
from gm.runtime import Runtime
from gm.sampling.given import first_noise, graphs_of, larger, require_given, save_noise
from gm.sampling.jobs import Asked, Job, evenly, groups_of, requests_of
from gm.sampling.like import with_like
from gm.sampling.start import Start


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
    multiple, channels = config.model.unet.downsampling, config.model.vae.embed_dim
    requests = requests_of(options, multiple)
    for one in {one.kind: one for one in requests}.values():
        require_given(one.options, one.settings, config.model)
    machine = runtime.start(options.machine, options.seed, [one.model for one in (config, second) if one])

    from gm.sampling.making import Maker, sampled_apart
    from gm.sampling.pipeline import Pipeline
    from gm.sampling.stages import refiner_of, told_scores

    if config.model.is_refiner:
        requests = [replace(one, settings=told_scores(one.settings, one.options.refiner_scores)) for one in requests]
    pipeline = Pipeline(source_for(options, config, machine))
    refiner = refiner_of(options, second, pipeline.source) if second else None
    models = [pipeline, refiner.pipeline] if refiner else [pipeline]
    words = [text for one in requests for text in (one.words, one.options.negative_prompt) if text]
    pipeline.require_readable(words)
    pipeline.tell_of_lora([one.words for one in requests])
    owns = dict.fromkeys(one.lora for one in requests)
    for own in filter(None, owns):
        pipeline.tell_of_lora([one.words for one in requests if one.lora == own], own)

    def save_beside(one: Asked, path: Path) -> None:
        if one.options.save_init_latent:
            save_noise(path.with_suffix(".npy"), first_noise(one.options, one.settings, one.column, channels))

    job = Job(requests, Path(options.save_path), save_beside)
    groups = groups_of(requests)
    kinds = [requests[group[0]] for group in groups]
    largest = [larger(one.options, multiple) or one.settings for one in kinds]
    sizes = []
    for group, one, settings in zip(groups, kinds, largest):
        fit = options.batch_size or min(model.rows_that_fit(settings, len(group)) for model in models)
        sizes.append(evenly(len(group), fit))
        for model in models:
            model.require_memory([settings], sizes[-1])
        if refiner:
            refiner.check(
                settings,
                Start(strength=one.options.second_strength if settings != one.settings else one.options.start_strength),
            )
    folders = {"--save_path": options.save_path, "--compile_cache_dir": options.compile_cache_dir}
    make_writable(*((flag, Path(folder)) for flag, folder in folders.items() if folder))
    for model in models:
        if model is not pipeline or not any(owns):  # else those of each batch, with its LoRA
            model.embed(words)
    if refiner:
        batches = [
            [requests[place] for place in group[i : i + size]]
            for group, size in zip(groups, sizes)
            for i in range(0, len(group), size)
        ]
        latents = sampled_apart(pipeline, batches, multiple, refiner.first)
        refiner.load()
    else:
        pipeline.load(keep_text_encoders=any(owns))
        maker = Maker(pipeline, multiple)

    def make(batch: Sequence[Asked], what: str) -> list:
        return refiner(batch, [latents[one] for one in batch], what) if refiner else maker(batch, what)

    graphs = [(one.settings, size, graphs_of(one.options, multiple)) for one, size in zip(kinds, sizes)]
    with models[-1].keeping_graphs(graphs):
        job.run(groups, sizes, make)


def source_for(options: SampleOptions, config: Config, machine: Runtime):
    """The Source of --weight and what goes with it."""
    from gm.encoding.source import source_of

    return source_of(
        config,
        options.weight,
        machine,
        options.max_tokens,
        strengths=options.strengths,
        vae=options.vae,
        graphs=options.compile_cache_dir,
        prompt_style=options.prompt_style,
        clip_skip=options.clip_skip,
        embeddings=options.embedding,
    )


if __name__ == "__main__":
    sys.exit(console.run_command(main))
