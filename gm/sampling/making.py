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

    def __init__(self, pictures: PictureSampler, multiple: int):
        """`multiple`: what a side must be a multiple of, in pixels."""
        self.pictures, self.multiple = pictures, multiple
        self._known: dict[tuple, Any] = {}

    def __call__(
        self, batch: Sequence[Asked], texts: Sequence[TextEmbedding], negatives: Sequence[TextEmbedding], what: str
    ) -> list[np.ndarray]:
        """One picture (h, w, 3) uint8 for each; the texts are each one's."""
        one, seeds = batch[0], [asked.options.seed for asked in batch]
        sampled = self.pictures.latents(texts, negatives, one.settings, seeds, what, self.start(batch))
        second = larger(one.options, self.multiple)
        if second:
            start = self._second_start(one, sampled, (second.height, second.width))
            sampled = self.pictures.latents(texts, negatives, second, seeds, f"{what}, enlarged", start)
        made = self.pictures.decoded(sampled)
        if one.options.mask:
            begun = self._given(one)
            made = [begun.kept(picture, one.options.blur) for picture in made]
        return made

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
