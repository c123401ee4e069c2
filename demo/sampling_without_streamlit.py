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
from gm.console import log
from gm.files import make_writable
from gm.options.refiner import REFINER
from gm.options.sample import SampleOptions, parse_sample
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

    from gm.encoding.source import source_of
    from gm.sampling.making import Maker
    from gm.sampling.pipeline import Pipeline
    from gm.sampling.stages import first_latents, refiner_of, told_scores

    if config.model.is_refiner:
        requests = [replace(one, settings=told_scores(one.settings, one.options.refiner_scores)) for one in requests]
    given = {"strengths": options.strengths, "vae": options.vae, "graphs": options.compile_cache_dir}
    pipeline = Pipeline(source_of(config, options.weight, machine, options.max_tokens, **given))
    refiner = refiner_of(options, second, pipeline.source) if second else None
    models = [pipeline, refiner.pipeline] if refiner else [pipeline]

    pipeline.tell_of_lora([one.words for one in requests])
    owns = dict.fromkeys(one.lora for one in requests)
    has_own = any(owns)
    for own in filter(None, owns):
        pipeline.tell_of_lora([one.words for one in requests if one.lora == own], own)

    groups = groups_of(requests)
    kinds = [requests[group[0]] for group in groups]
    largest = [larger(one.options, multiple) or one.settings for one in kinds]
    if refiner:
        begin = [Start(strength=one.options.last_strength) for one in kinds]
        for settings, start in zip(largest, begin):
            refiner.check(settings, start)
        steps = [refiner.steps(settings, start) for settings, start in zip(largest, begin)]
        of_kind = dict(zip([one.kind for one in kinds], steps))
        requests = [replace(one, steps=of_kind[one.kind]) for one in requests]
    fit = [
        options.batch_size or min(model.rows_that_fit(one, len(group)) for model in models)
        for one, group in zip(largest, groups)
    ]
    sizes = [evenly(len(group), most) for group, most in zip(groups, fit)]
    for model in models:
        for one, size in zip(largest, sizes):
            model.require_memory([one], size)

    def save_beside(one: Asked, path: Path) -> None:
        if one.options.save_init_latent:
            save_noise(path.with_suffix(".npy"), first_noise(one.options, one.settings, one.column, channels))

    job = Job(requests, Path(options.save_path), save_beside)
    folders = {"--save_path": options.save_path, "--compile_cache_dir": options.compile_cache_dir}
    make_writable(*((flag, Path(folder)) for flag, folder in folders.items() if folder))
    if not has_own:  # else those of each batch, with its LoRA
        for model in models:
            model.embed([text for one in requests for text in (one.words, one.options.negative_prompt) if text])
    graphs = [(one.settings, size, graphs_of(one.options, multiple)) for one, size in zip(kinds, sizes)]
    begun = {}
    if refiner:
        begun = first_latents(pipeline, list(job.batches(groups, sizes)), refiner.shares, multiple, graphs)
        graphs = [(one, size) for one, size in zip(largest, sizes)]
    models[-1].load(keep_text_encoders=has_own)
    maker = Maker(models[-1].pictures, multiple)

    def make(batch: Sequence[Asked], what: str) -> list:
        texts = [one.words for one in batch], [one.options.negative_prompt for one in batch]
        if has_own:
            pipeline.put_on(batch[0].lora, [*texts[0], *filter(None, texts[1])])
        if not refiner:
            return maker(batch, *pipeline.texts_of(*texts), what)
        settings = larger(batch[0].options, multiple) or batch[0].settings
        seeds = [one.options.seed for one in batch]
        return maker.finished(batch, refiner([begun[one] for one in batch], *texts, settings, seeds, what))

    with models[-1].keeping_graphs(graphs):
        job.run(groups, sizes, make)


if __name__ == "__main__":
    sys.exit(console.run_command(main))
