"""What a command makes with a loaded model: pictures from words, from a picture or into one; and the second pass of a hires fix."""

from dataclasses import replace
from typing import Any, Callable, Sequence

import numpy as np

from gm.data.pixels import to_network
from gm.encoding.text import TextEmbedding
from gm.sampling.enlarging import OF_LATENTS, enlarged_latents, enlarged_picture
from gm.sampling.given import LATENT, Given, given, init_latents, larger
from gm.sampling.jobs import Asked
from gm.sampling.pictures import PictureSampler
from gm.sampling.start import Start

Posterior = tuple[np.ndarray, np.ndarray]  # mean and standard deviation (1, z, h, w)


class Maker:
    """Pictures that are asked for, in batches of one kind. A given picture is encoded once for each size."""

    def __init__(self, pictures: PictureSampler, multiple: int, last: Callable[[Start], Start] = lambda start: start):
        """`multiple`: what a side must be a multiple of, in pixels. `last`: what the last pass begins with, of what it would begin
        with alone, where another network goes on."""
        self.pictures, self.multiple, self.last = pictures, multiple, last
        self._known: dict[tuple, Any] = {}

    def __call__(
        self, batch: Sequence[Asked], texts: Sequence[TextEmbedding], negatives: Sequence[TextEmbedding], what: str
    ) -> list[np.ndarray]:
        """One picture (h, w, 3) uint8 for each; the texts are each one's."""
        latents, _ = self.latents(batch, texts, negatives, what)
        return self.finished(batch, self.pictures.decoded(latents))

    def latents(
        self, batch: Sequence[Asked], texts: Sequence[TextEmbedding], negatives: Sequence[TextEmbedding], what: str
    ) -> tuple[np.ndarray, Start]:
        """The latents (B, z, h, w), and what the last pass would have begun with alone."""
        one, seeds, start = batch[0], [asked.options.seed for asked in batch], self.start(batch)
        second = larger(one.options, self.multiple)
        first = start if second else self.last(start)
        found = self.pictures.latents(texts, negatives, one.settings, seeds, what, first)
        if second:
            start = self._second_start(one, found, (second.height, second.width))
            found = self.pictures.latents(texts, negatives, second, seeds, f"{what}, enlarged", self.last(start))
        return found, start

    def finished(self, batch: Sequence[Asked], made: list[np.ndarray]) -> list[np.ndarray]:
        """The pictures, those with a mask put into the given one."""
        if not batch[0].options.mask:
            return made
        begun = self._given(batch[0])
        return [begun.kept(picture, batch[0].options.blur) for picture in made]

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
