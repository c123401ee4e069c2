"""Prompts -> pictures: used for class images, for pictures during training and by both demos.

latent (B, z, h, w) float32, h = height / 8   context (77, c) and pooled (e,) of one prompt, float32
"""

from typing import Optional, Protocol, Sequence

import numpy as np

from gm.config.types import ModelConfig, SampleSettings
from gm.console import log
from gm.data.pixels import to_pixels
from gm.diffusion.schedule import DISCRETIZATIONS
from gm.encoding.compiling import Compiling
from gm.models.unet import UNet
from gm.models.vae import VAE, VAEDecode, VAEEncode, require_sound
from gm.sampling.latents import LatentSampler, Texts
from gm.sampling.noise import NOISES
from gm.sampling.start import Start, drawn
from gm.soundness import NotFinite, in_words


class FullPrecision(Protocol):
    """Makes again in float32 what half precision was too small for (full_precision.py)."""

    decodes: bool  # whether the decoder was computed in float16 as well

    def latents(
        self, text: Texts, negative: Texts, settings: SampleSettings, seeds: Sequence[int], what: str, start: Start
    ) -> np.ndarray:
        """As PictureSampler."""

    def decoded(self, latent: np.ndarray) -> np.ndarray:
        """latent (z, h, w) -> picture (h, w, 3) uint8."""

    def encoded(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As PictureSampler."""


class PictureSampler:
    """Text and seeds -> pictures: noise, sampler, decoder; and given pictures -> latents."""

    def __init__(self, unet: UNet, vae: VAE, config: ModelConfig, again: Optional[FullPrecision] = None):
        """`again`: where computing is in half precision and can be done in float32 instead."""
        self.sampler = LatentSampler(unet, config)
        self.decode = Compiling(VAEDecode(vae, config.scale_factor), "compiling the decoder")
        self.encode = Compiling(VAEEncode(vae), "compiling the image encoder")
        self.channels, self.scale_factor = config.vae.embed_dim, config.scale_factor
        self.is_inpainting = config.unet.in_channels > config.vae.embed_dim
        self.again = again

    def __call__(
        self,
        text: Texts,
        negative: Texts,
        settings: SampleSettings,
        seeds: Sequence[int],
        what: str,
        start: Start = Start(),
    ) -> list[np.ndarray]:
        """One picture (h, w, 3) uint8 per seed, in one batch. NotFinite where one does not become finite, which is tried in
        float32 as well."""
        return self.decoded(self.latents(text, negative, settings, seeds, what, start))

    def latents(
        self,
        text: Texts,
        negative: Texts,
        settings: SampleSettings,
        seeds: Sequence[int],
        what: str,
        start: Start = Start(),
    ) -> np.ndarray:
        """The latents (B, z, h, w), one per seed, as `__call__`."""
        shape = self.channels, settings.height // 8, settings.width // 8
        noises = [NOISES[settings.noise](seed, shape) for seed in seeds]
        sigmas = DISCRETIZATIONS[settings.discretization](settings.steps, self.sampler.table)
        later = [one.of_steps(settings.sampler, sigmas) for one in noises]
        begin, first = drawn(start, noises)

        def draw(sigma: float, following: float) -> np.ndarray:
            return np.stack([one(sigma, following) for one in later])

        try:
            return self.sampler(text, negative, settings, first, draw, what, begin)
        except NotFinite as error:
            if self.again is None:
                raise
            log.warning("%s: once more in float32", in_words(error))
            return self.again.latents(text, negative, settings, seeds, what, start)

    def decoded(self, latents: np.ndarray) -> list[np.ndarray]:
        """Pictures (h, w, 3) uint8 of latents (B, z, h, w), one by one."""
        return [self._decoded(latent) for latent in latents]

    def _decoded(self, latent: np.ndarray) -> np.ndarray:
        try:
            return to_pixels(require_sound(self.decode(latent[None])[0], "a picture"))
        except NotFinite as error:
            if self.again is None or not self.again.decodes:
                raise
            log.warning("%s: once more in float32, on the CPU", in_words(error))
            return self.again.decoded(latent)

    def encoded(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """An image (3, H, W) in [-1, 1] -> mean and standard deviation (1, z, h, w) of its latent."""
        try:
            mean, logvar = require_sound(np.stack(self.encode(image[None])), "a given picture")
        except NotFinite as error:
            if self.again is None or not self.again.decodes:
                raise
            log.warning("%s: once more in float32, on the CPU", in_words(error))
            return self.again.encoded(image)
        return self.scale_factor * mean, self.scale_factor * np.exp(0.5 * logvar)
