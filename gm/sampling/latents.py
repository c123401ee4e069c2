"""Noise and text -> latents: runs a sampler on the network, step by step.

latent (B, z, h, w) float32, h = height / 8   context (77, c) and pooled (e,) of one prompt, float32
"""

from typing import Callable, Iterator, Optional, Sequence, Union

import mindspore as ms
import numpy as np
from mindspore import Tensor

from gm.config.types import ModelConfig, SampleSettings
from gm.console import bar
from gm.diffusion.denoiser import Denoiser
from gm.diffusion.guidance import guided, is_guided
from gm.diffusion.samplers import sampler_of
from gm.diffusion.schedule import sampling_sigmas
from gm.diffusion.solver import Draw
from gm.encoding.compiling import Compiling
from gm.encoding.text import TextEmbedding, same_length
from gm.errors import UserError
from gm.models.unet import UNet
from gm.sampling.noise import NOISES
from gm.sampling.start import Start, first_latent, span
from gm.soundness import WEIGHTS, is_finite, require_finite

STRONG = 100.0  # a guidance scale from which on it may itself be what makes numbers that are not finite
Texts = Union[TextEmbedding, Sequence[TextEmbedding]]  # one for all pictures of a batch, or one each


class LatentSampler:
    """Runs a sampler; the denoiser graph is compiled once for each number of rows and picture size."""

    # called with latents as the network sees them without their noise, and the share of the steps that are done
    watcher: Optional[Callable[[np.ndarray, float], None]] = None

    def __init__(self, unet: UNet, config: ModelConfig):
        self.denoiser = Compiling(Denoiser(unet, config), "compiling the sampling graph")
        self.table = sampling_sigmas(config.num_timesteps, config.zero_terminal_snr)
        self.before_step: Callable[[float], None] = lambda share: None  # called with the share of the steps that are done

    def __call__(
        self,
        text: Texts,
        negative: Texts,
        settings: SampleSettings,
        noise: Optional[np.ndarray],
        draw: Draw,
        what: str,
        start: Start = Start(),
    ) -> np.ndarray:
        """Latents for unit-normal `noise` (B, z, h, w), which only a start that has its noise does without; `draw` gives the noise
        of later steps. NotFinite, naming the step, where they are not finite."""
        return _Run(self, text, negative, settings, noise, start)(draw, what)

    def denoise(self, x: np.ndarray, level: tuple[float, float], *conditions: Union[np.ndarray, Tensor]) -> np.ndarray:
        """D(x; sigma) for rows of x (B, z, h, w), with a row of context, pooled and sizes each. `level`: sigma and time step."""
        rows = len(x)
        sigma, timestep = np.full((rows, 1, 1, 1), level[0], np.float32), np.full(rows, level[1], np.float32)
        return self.denoiser(x.astype(np.float32), sigma, timestep, *conditions)


class _Run:
    """One batch on its way through the steps."""

    def __init__(self, sampler: LatentSampler, text: Texts, negative: Texts, settings: SampleSettings, noise, start: Start):
        self.sampler, self.settings, self.start = sampler, settings, start
        self.noise_of = NOISES[settings.noise]
        sigmas, first, last = span(settings, sampler.table, start)
        self.sigmas = sigmas[first : last + 1]
        strength = self.noise_of.strength(settings.sampler, settings.discretization, self.sigmas[0])
        self.noise = noise
        self.x = first_latent(start, noise, self.sigmas[0], strength)
        self.count = len(self.x)
        self.left_out = first  # steps of the schedule before the first that is done
        self.place = 0  # of the step, in the whole schedule
        self.is_untouched = start.is_of_noise  # nothing of the picture is in x yet
        self.texts, self.negatives = (self._each(one) for one in (text, negative))
        self.rows: dict[bool, tuple] = {}  # guided or not -> context, pooled, sizes

    def _each(self, texts: Texts) -> list[TextEmbedding]:
        return [texts] * self.count if isinstance(texts, TextEmbedding) else list(texts)

    def __call__(self, draw: Draw, what: str) -> np.ndarray:
        self.sampler.denoiser.cell.set_train(False)

        def progress(steps: range) -> Iterator[int]:
            for step in bar(steps, what, unit="step", leave=False):
                self.place = self.left_out + step
                self.sampler.before_step(self.place / self.settings.steps)
                yield step

        run = sampler_of(self.settings.sampler, self.sampler.table, self.settings.eta)
        with np.errstate(over="ignore"):
            latents = run(self.denoise, self.x, self.sigmas, draw, progress)
        if self.start.mask is not None and self.start.until == 1.0:
            latents = self._kept(latents, 0.0)
        return self._checked(latents)

    def denoise(self, x: np.ndarray, sigma: float) -> np.ndarray:
        """D(x; sigma), guided; what a mask keeps is put back before and after."""
        x = x if self.is_untouched else self._kept(x, sigma)
        self.is_untouched = False
        found = self._kept(self._guided(x, sigma), 0.0)
        if self.sampler.watcher:
            self.sampler.watcher(found, self.place / self.settings.steps)
        return found

    def _kept(self, x: np.ndarray, sigma: float) -> np.ndarray:
        """x with the given picture, at the level sigma, where the mask is 0."""
        if self.start.mask is None or self.start.masked is not None:  # an inpainting UNet sees what is to be kept
            return x
        given = self.start.latent if self.start.kept is None else self.start.kept
        given = given + self.noise * np.float32(sigma)
        return self.start.mask * x + (1.0 - self.start.mask) * given

    def _guided(self, x: np.ndarray, sigma: float) -> np.ndarray:
        how = self.settings.sampler, self.settings.discretization
        level = self.noise_of.asked(*how, sigma, self.sampler.table)
        if not is_guided(self.settings, self.place):
            return self._checked(self.sampler.denoise(x, level, *self._conditions(False)))
        both = self._checked(self.sampler.denoise(np.concatenate((x, x)), level, *self._conditions(True)))
        with np.errstate(all="ignore"):  # what comes of it is looked at
            found = guided(self.settings, x, level[0], both[self.count :], both[: self.count])
        if not is_finite(found):
            raise UserError(f"guidance_scale {self.settings.guidance_scale:g} is too strong for any number: give 1 to 15")
        return found

    def _conditions(self, both: bool) -> tuple:
        """Context, pooled and sizes of the rows, the negative prompts' first, on the device from the first call on; and what an
        inpainting UNet is given."""
        if both not in self.rows:
            texts = (self.negatives if both else []) + self.texts
            contexts, pooled = zip(*texts)
            context, pooled = (ms.from_numpy(np.stack(rows)) for rows in (same_length(contexts), pooled))
            sizes = self.settings.sizes
            told = ([self.settings.negative_sizes or sizes] * self.count if both else []) + [sizes] * self.count
            self.rows[both] = context, pooled, np.asarray(told, np.float32), *self._given(len(texts))
        return self.rows[both]

    def _given(self, rows: int) -> tuple[Tensor, ...]:
        mask, masked = self.start.mask, self.start.masked
        if mask is None or masked is None:
            return ()
        given = np.concatenate([np.broadcast_to(one, (self.count, *one.shape[1:])) for one in (mask, masked)], 1)
        return (ms.from_numpy(np.concatenate([given] * (rows // self.count)).astype(np.float32)),)

    def _checked(self, predicted: np.ndarray) -> np.ndarray:
        """At every step, as it takes a millionth of the step's time and the others would be in vain."""
        scale = self.settings.guidance_scale
        strong = is_guided(self.settings, self.place) and abs(scale) > STRONG
        causes = f"guidance_scale {scale:g} is too strong, give 1 to 15" if strong else WEIGHTS
        require_finite(f"step {self.place + 1} of {self.settings.steps} of the sampler", predicted, causes=causes)
        return predicted
