"""Prompts -> pictures: used for class images, for pictures during training and by both demos.

latent (B, z, h, w) float32, h = height / 8   context (77, c) and pooled (e,) of one prompt, float32
"""

import math
from typing import Callable, Iterator, Optional, Protocol, Sequence

import mindspore as ms
import numpy as np
from mindspore import Tensor

from gm.config.types import ModelConfig, SampleSettings
from gm.console import bar, log
from gm.data.pixels import to_pixels
from gm.diffusion.denoiser import Denoiser
from gm.diffusion.guidance import GUIDERS
from gm.diffusion.samplers import SAMPLERS
from gm.diffusion.schedule import DISCRETIZATIONS, nearest_timestep, sampling_sigmas
from gm.encoding.compiling import Compiling
from gm.encoding.text import TextEmbedding
from gm.errors import UserError
from gm.models.unet import UNet
from gm.models.vae import VAE, VAEDecode, require_sound
from gm.randomness import PICTURE_NOISE, generator
from gm.soundness import WEIGHTS, NotFinite, in_words, is_finite, require_finite

STRONG = 100.0  # a guidance scale from which on it may itself be what makes numbers that are not finite


class LatentSampler:
    """Runs a sampler; the denoiser graph is compiled once for each batch and picture size."""

    def __init__(self, unet: UNet, config: ModelConfig):
        self.denoiser = Compiling(Denoiser(unet, config), "compiling the sampling graph")
        self.table = sampling_sigmas(config.num_timesteps, config.zero_terminal_snr)

    def denoise(self, x: np.ndarray, sigma: float, context: Tensor, pooled: Tensor, sizes: np.ndarray) -> np.ndarray:
        """D(x; sigma) for rows of x (B, z, h, w), with a row of context, pooled and sizes (B, 6) each."""
        index = nearest_timestep(sigma, self.table)
        rows = len(x)
        return self.denoiser(
            x.astype(np.float32),
            np.full((rows, 1, 1, 1), self.table[index], np.float32),
            np.full(rows, index, np.float32),
            context,
            pooled,
            np.asarray(sizes, np.float32),
        )

    def __call__(
        self,
        text: TextEmbedding,
        negative: TextEmbedding,
        settings: SampleSettings,
        noise: np.ndarray,
        draw: Callable[[int], np.ndarray],
        what: str,
    ) -> np.ndarray:
        """Latents for unit-normal `noise` (B, z, h, w); `draw(i)` is the fresh noise of ancestral samplers. NotFinite, naming
        the step, where they are not finite."""
        count = len(noise)
        guide = GUIDERS[settings.guider]
        guided = guide is not None
        texts = ([negative] * count if guided else []) + [text] * count
        context, pooled = (ms.from_numpy(np.stack(rows)) for rows in zip(*texts))
        sizes = np.tile(np.asarray(settings.sizes, np.float32), (len(texts), 1))

        place = 0

        def progress(steps: range) -> Iterator[int]:
            nonlocal place
            for place in bar(steps, what, unit="step", leave=False):
                yield place

        def denoise(x: np.ndarray, sigma: float) -> np.ndarray:
            if not guided:
                return checked(self.denoise(x, sigma, context, pooled, sizes))
            both = checked(self.denoise(np.concatenate((x, x)), sigma, context, pooled, sizes))
            with np.errstate(all="ignore"):  # what comes of it is looked at
                found = guide(both[count:], both[:count], settings.guidance_scale)
            if not is_finite(found):
                raise UserError(f"guidance_scale {settings.guidance_scale:g} is too strong for any number: give 1 to 15")
            return found

        def checked(predicted: np.ndarray) -> np.ndarray:
            """At every step, as it takes a millionth of the step's time and the others would be in vain."""
            strong = guided and abs(settings.guidance_scale) > STRONG
            causes = f"guidance_scale {settings.guidance_scale:g} is too strong, give 1 to 15" if strong else WEIGHTS
            require_finite(f"step {place + 1} of {settings.steps} of the sampler", predicted, causes=causes)
            return predicted

        self.denoiser.cell.set_train(False)
        sigmas = DISCRETIZATIONS[settings.discretization](settings.steps, self.table)
        with np.errstate(over="ignore"):
            x = noise * np.float32(math.sqrt(1.0 + sigmas[0] ** 2))
            count_drawn = iter(range(settings.steps * 2 + 2))
            latents = SAMPLERS[settings.sampler](denoise, x, sigmas, lambda a, b: draw(next(count_drawn)), progress)
        return checked(latents)


def latent_noise(seed: int, settings: SampleSettings, channels: int = 4, step: int = 0) -> np.ndarray:
    """Unit-normal noise (z, h, w) of the picture with this seed; `step` > 0 for the fresh noise of ancestral samplers."""
    source = generator(seed, PICTURE_NOISE, step)
    return source.standard_normal((channels, settings.height // 8, settings.width // 8), np.float32)


class FullPrecision(Protocol):
    """Makes again in float32 what half precision was too small for (full_precision.py)."""

    decodes: bool  # whether the decoder was computed in float16 as well

    def pictures(
        self, text: TextEmbedding, negative: TextEmbedding, settings: SampleSettings, seeds: Sequence[int], what: str
    ) -> list[np.ndarray]:
        """As PictureSampler."""

    def decoded(self, latent: np.ndarray) -> np.ndarray:
        """latent (z, h, w) -> picture (h, w, 3) uint8."""


class PictureSampler:
    """Text and seeds -> pictures: noise, sampler, decoder."""

    def __init__(self, unet: UNet, vae: VAE, config: ModelConfig, again: Optional[FullPrecision] = None):
        """`again`: where computing is in half precision and can be done in float32 instead."""
        self.latents = LatentSampler(unet, config)
        self.decode = Compiling(VAEDecode(vae, config.scale_factor), "compiling the decoder")
        self.channels = config.unet.in_channels
        self.again = again

    def __call__(
        self, text: TextEmbedding, negative: TextEmbedding, settings: SampleSettings, seeds: Sequence[int], what: str
    ) -> list[np.ndarray]:
        """One picture (h, w, 3) uint8 per seed, in one batch. NotFinite where one does not become finite, which is tried in
        float32 as well."""

        def draw(step: int) -> np.ndarray:
            return np.stack([latent_noise(seed, settings, self.channels, step) for seed in seeds])

        try:
            latents = self.latents(text, negative, settings, draw(0), lambda i: draw(i + 1), what)
        except NotFinite as error:
            if self.again is None:
                raise
            log.warning("%s: once more in float32", in_words(error))
            return self.again.pictures(text, negative, settings, seeds, what)
        return [self._decoded(latent) for latent in latents]

    def _decoded(self, latent: np.ndarray) -> np.ndarray:
        try:
            return to_pixels(require_sound(self.decode(latent[None])[0], "a picture"))
        except NotFinite as error:
            if self.again is None or not self.again.decodes:
                raise
            log.warning("%s: once more in float32, on the CPU", in_words(error))
            return self.again.decoded(latent)
