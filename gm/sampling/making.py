"""What a command makes with a loaded model: pictures from words, from a picture or into one; and the second pass of a hires fix."""

from dataclasses import replace
from typing import Any, Callable, NamedTuple, Sequence

import numpy as np

from gm.config.types import SampleSettings
from gm.data.pixels import to_network
from gm.encoding.source import Source
from gm.process import run_in_subprocess
from gm.sampling.enlarging import OF_LATENTS, enlarged_latents, enlarged_picture
from gm.sampling.given import LATENT, Given, given, init_latents, larger
from gm.sampling.jobs import Asked
from gm.sampling.pipeline import Pipeline
from gm.sampling.start import Start

Posterior = tuple[np.ndarray, np.ndarray]  # mean and standard deviation (1, z, h, w)


class Sampled(NamedTuple):
    """What the base has made of one picture that is asked for, and how it was begun."""

    latent: np.ndarray  # (z, h, w)
    settings: SampleSettings  # of the last pass
    start: Start  # of the last pass, without what another network would add to it


class Maker:
    """Pictures that are asked for, in batches of one kind, with a loaded pipeline. A given picture is encoded once for each size."""

    def __init__(self, pipeline: Pipeline, multiple: int, last: Callable[[Start], Start] = lambda start: start):
        """`multiple`: what a side must be a multiple of, in pixels. `last`: how the last pass of a picture is begun, where another
        network goes on."""
        self.pipeline, self.pictures, self.multiple, self.last = pipeline, pipeline.pictures, multiple, last
        self._known: dict[tuple, Any] = {}

    def __call__(self, batch: Sequence[Asked], what: str) -> list[np.ndarray]:
        """One picture (h, w, 3) uint8 for each."""
        made = self.pictures.decoded(np.stack([one.latent for one in self.sampled(batch, what)]))
        return [kept(asked, picture) for asked, picture in zip(batch, made)]

    def sampled(self, batch: Sequence[Asked], what: str) -> list[Sampled]:
        """The latent of each, after all passes."""
        one, seeds = batch[0], [asked.options.seed for asked in batch]
        texts = [asked.words for asked in batch], [asked.options.negative_prompt for asked in batch]
        if self.pipeline.embedder:  # which is kept where prompts have LoRA of their own
            self.pipeline.put_on(one.lora, [*texts[0], *filter(None, texts[1])])
        embedded = self.pipeline.texts_of(*texts)
        settings, start = one.settings, self.start(batch)
        second = larger(one.options, self.multiple)
        if second:
            first = self.pictures.latents(*embedded, settings, seeds, what, start)
            settings, what = second, f"{what}, enlarged"
            start = self._second_start(one, first, (second.height, second.width))
        latents = self.pictures.latents(*embedded, settings, seeds, what, self.last(start))
        return [Sampled(latent, settings, start) for latent in latents]

    def start(self, batch: Sequence[Asked]) -> Start:
        """What these pictures begin with."""
        one, options = batch[0], batch[0].options
        found = Start(strength=options.start_strength)
        noise = self._once("noise", one, lambda: init_latents(options, one.settings, self.pictures.channels))
        if noise is not None:
            rows = [asked.column if len(noise) > 1 else 0 for asked in batch]
            found = replace(found, noise=noise[rows])
        if options.img is None:
            return found
        begun = self._given(one)
        if options.mask:
            found = replace(found, mask=begun.latent_mask)
        if options.mask and self.pictures.is_inpainting:
            mean, spread = self._once("masked", one, lambda: self.pictures.encoded(begun.image_without_mask))
            found = replace(found, masked=mean, masked_spread=spread)
            if options.start_strength == 1.0:  # as in diffusers, which does not look at the picture then
                return found
        mean, spread = self._once("picture", one, lambda: self.pictures.encoded(begun.image))
        return replace(found, latent=mean, spread=spread)

    def _given(self, one: Asked) -> Given:
        return self._once("given", one, lambda: given(one.options, one.settings))

    def _once(self, what: str, one: Asked, make: Callable[[], Any]) -> Any:
        """What `make` gives, kept for all requests of this size."""
        key = what, one.settings.height, one.settings.width
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]

    def _second_start(self, one: Asked, latents: np.ndarray, size: tuple[int, int]) -> Start:
        """The second pass of a hires fix: img2img from what the first has made, enlarged to `size` in pixels."""
        name, strength = one.options.hires_upscaler or "latent", one.options.second_strength
        if name in OF_LATENTS:
            return Start(latent=enlarged_latents(latents, (size[0] // LATENT, size[1] // LATENT), name), strength=strength)
        images = [to_network(enlarged_picture(picture, size, name)) for picture in self.pictures.decoded(latents)]
        mean, spread = (np.concatenate(parts) for parts in zip(*(self.pictures.encoded(image) for image in images)))
        return Start(latent=mean, spread=spread, strength=strength)


def kept(asked: Asked, picture: np.ndarray) -> np.ndarray:
    """A picture that was made, with the given one where its mask is black."""
    if not asked.options.mask:
        return picture
    return given(asked.options, asked.settings).kept(picture, asked.options.blur)


def sampled_apart(
    base: Pipeline, batches: Sequence[Sequence[Asked]], multiple: int, last: Callable[[Start], Start], graphs: Sequence[tuple]
) -> dict[Asked, Sampled]:
    """`Maker.sampled` of all batches in a process of its own, whose memory is free afterwards; the prompts must have been embedded,
    unless they have LoRA of their own. `graphs`: as Pipeline.keeping_graphs."""
    source = replace(base.source, machine=base.source.machine.beside())
    found = run_in_subprocess(_sampled, source, base.texts, list(batches), multiple, last, list(graphs))
    return {asked: one for batch, latents in zip(batches, found) for asked, one in zip(batch, latents)}


def _sampled(source: Source, texts, batches, multiple: int, last, graphs) -> list[list[Sampled]]:
    source.machine.enter()
    pipeline = Pipeline(source)
    pipeline.texts = texts
    pipeline.load(keep_text_encoders=any(batch[0].lora for batch in batches))
    maker = Maker(pipeline, multiple, last)
    with pipeline.keeping_graphs(graphs):
        return [maker.sampled(batch, f"base {number}/{len(batches)}") for number, batch in enumerate(batches, 1)]
