"""The pictures that a command asks for: everything is checked, then text is embedded, then the networks are loaded and sample.

base alone:     text -> load -> sample and decode
with a refiner: text, by both models -> the base's latents, in a process of its own -> load the refiner -> sample and decode
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Optional, Sequence

import numpy as np

from gm.config.types import Config, SampleSettings
from gm.encoding.source import Source, source_of
from gm.files import make_writable
from gm.options.sample import SampleOptions
from gm.runtime import Runtime
from gm.sampling.given import first_noise, graphs_of, larger, save_noise
from gm.sampling.jobs import Asked, Job, evenly, groups_of
from gm.sampling.making import Maker, sampled_apart
from gm.sampling.pipeline import Pipeline
from gm.sampling.stages import Refiner, refiner_of, told_scores
from gm.sampling.start import Start


@dataclass(frozen=True)
class Group:
    """Requests of one kind."""

    places: Sequence[int]  # among all requests
    one: Asked  # of them
    largest: SampleSettings  # of the passes of a picture
    size: int  # pictures at once


class Command:
    """Making it checks files, texts and memory, and writes nothing; `run` makes the pictures."""

    def __init__(
        self, options: SampleOptions, config: Config, second: Optional[Config], machine: Runtime, requests: Sequence[Asked]
    ):
        """`second`: of the refiner, where it makes the last steps."""
        self.options, self.multiple = options, config.model.unet.downsampling
        self.channels = config.model.vae.embed_dim
        if config.model.is_refiner:
            requests = [replace(one, settings=told_scores(one.settings, one.options.refiner_scores)) for one in requests]
        self.requests = list(requests)
        self.base = Pipeline(_source(options, config, machine))
        self.refiner: Optional[Refiner] = refiner_of(options, second, self.base.source) if second else None
        self.models = [self.base, self.refiner.pipeline] if self.refiner else [self.base]
        self.words = [text for one in requests for text in (one.words, one.options.negative_prompt) if text]
        self.base.require_readable(self.words)
        self.has_own_lora = self._tell_of_lora()
        if self.refiner:
            self._count_steps(self.refiner)
        self.groups = [self._group(places) for places in groups_of(self.requests)]

    def _tell_of_lora(self) -> bool:
        """Say which LoRA act; whether a prompt has its own."""
        self.base.tell_of_lora([one.words for one in self.requests])
        owns = list(filter(None, dict.fromkeys(one.lora for one in self.requests)))
        for own in owns:
            self.base.tell_of_lora([one.words for one in self.requests if one.lora == own], own)
        return bool(owns)

    def _count_steps(self, refiner: Refiner) -> None:
        """The bar counts the refiner's steps. UserError where a stage has none."""
        steps = {}
        for one in {one.kind: one for one in self.requests}.values():
            start, settings = Start(strength=one.options.last_strength), self._largest(one)
            refiner.check(settings, start)
            steps[one.kind] = refiner.steps(settings, start)
        self.requests = [replace(one, steps=steps[one.kind]) for one in self.requests]

    def _largest(self, one: Asked) -> SampleSettings:
        return larger(one.options, self.multiple) or one.settings

    def _group(self, places: Sequence[int]) -> Group:
        """UserError where not one picture fits into the memory."""
        one, count = self.requests[places[0]], len(places)
        largest = self._largest(one)
        size = evenly(count, self.options.batch_size or min(model.rows_that_fit(largest, count) for model in self.models))
        for model in self.models:
            model.require_memory([largest], size)
        return Group(places, one, largest, size)

    def run(self) -> Path:
        """Make the pictures under --save_path; returns their contact sheet."""
        folders = {"--save_path": self.options.save_path, "--compile_cache_dir": self.options.compile_cache_dir}
        make_writable(*((flag, Path(folder)) for flag, folder in folders.items() if folder))
        for model in self.models:
            if model is not self.base or not self.has_own_lora:  # else those of each batch, with its LoRA
                model.embed(self.words)
        places, sizes = zip(*((group.places, group.size) for group in self.groups))
        job = Job(self.requests, Path(self.options.save_path), self._save_noise)
        graphs = [(group.one.settings, group.size, graphs_of(group.one.options, self.multiple)) for group in self.groups]
        if not self.refiner:
            self.base.load(keep_text_encoders=self.has_own_lora)
            with self.base.keeping_graphs(graphs):
                return job.run(places, sizes, Maker(self.base, self.multiple))
        refiner, batches = self.refiner, list(job.batches(places, sizes))
        sampled = sampled_apart(self.base, batches, self.multiple, refiner.shares.first, graphs)
        refiner.pipeline.load()

        def make(batch: Sequence[Asked], what: str) -> list[np.ndarray]:
            return refiner(batch, [sampled[one] for one in batch], what)

        with refiner.pipeline.keeping_graphs([(group.largest, group.size) for group in self.groups]):
            return job.run(places, sizes, make)

    def _save_noise(self, one: Asked, path: Path) -> None:
        """Beside a picture."""
        if one.options.save_init_latent:
            save_noise(path.with_suffix(".npy"), first_noise(one.options, one.settings, one.column, self.channels))


def _source(options: SampleOptions, config: Config, machine: Runtime) -> Source:
    """Of --weight and what goes with it."""
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
