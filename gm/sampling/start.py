"""What a sampler starts from beside the noise, and which of the noise levels it visits. Plain numpy."""

from dataclasses import dataclass, replace
from typing import Optional, Sequence

import numpy as np

from gm.config.types import SampleSettings
from gm.diffusion.schedule import DISCRETIZATIONS, nearest_timestep
from gm.sampling.noise import NativeNoise


@dataclass(frozen=True)
class Start:
    """Noise alone, all the way down, where nothing else is said. Latents (B, z, h, w), or (1, z, h, w) for all of a batch."""

    latent: Optional[np.ndarray] = None  # of a given picture; None: noise alone
    spread: Optional[np.ndarray] = None  # standard deviation of the encoder's posterior, where `latent` is its mean
    strength: float = 1.0  # share of the steps that is done on `latent`, the last ones, as in diffusers
    mask: Optional[np.ndarray] = None  # (1, 1, h, w): 1 where it is painted anew, 0 where `latent` is kept
    masked: Optional[np.ndarray] = None  # latent of the picture without what is masked, for an inpainting UNet
    masked_spread: Optional[np.ndarray] = None  # as `spread`, of `masked`
    noise: Optional[np.ndarray] = None  # unit-normal, instead of the seed's
    until: float = 1.0  # share of the time after which another network goes on: the latent keeps its noise
    since: float = 0.0  # share of the time after which this network goes on: `latent` has its noise
    kept: Optional[np.ndarray] = None  # what a mask keeps, where that is not `latent`
    drawn: int = 0  # noises that another network has used of each seed's sequence, for what `kept` and `spread` say

    @property
    def is_of_noise(self) -> bool:
        """Whether the first latent is noise alone: with a mask at full strength as well, as in diffusers."""
        return self.latent is None or self.mask is not None and self.strength == 1.0


def drawn(start: Start, noises: Sequence[NativeNoise]) -> tuple[Start, Optional[np.ndarray]]:
    """The start with what the seeds draw from its posteriors, and their first noise (B, z, h, w), which is None where `latent` has
    its noise. In diffusers' order: the picture, the noise, the picture without what is masked."""
    if start.drawn:
        return _drawn_after(start, noises)
    latent = _sampled(start.latent, start.spread, noises)
    if start.since:
        return replace(start, latent=latent, spread=None), None
    first = np.stack([one.first() for one in noises])
    masked = start.masked
    if start.mask is not None:  # diffusers draws here for a UNet that does not look at it as well
        spread = np.zeros(1, np.float32) if start.masked is None else start.masked_spread
        masked = _sampled(masked, spread, noises)
    return replace(start, latent=latent, spread=None, masked=masked, masked_spread=None), (
        first if start.noise is None else start.noise
    )


def _drawn_after(start: Start, noises: Sequence[NativeNoise]) -> tuple[Start, Optional[np.ndarray]]:
    """As `drawn` for a second network: past what the first has drawn, so that no noise is there twice."""
    kept = _sampled(start.kept, start.spread, noises)
    for one in noises:
        one.first()
    if start.mask is not None:
        _sampled(None, np.zeros(1, np.float32), noises)
    for one in noises:
        for _ in range(start.drawn - 1):
            one.next()
    first = None if start.since and start.mask is None else np.stack([one.next() for one in noises])
    return replace(start, kept=kept, spread=None), first


def _sampled(mean: Optional[np.ndarray], spread: Optional[np.ndarray], noises: Sequence[NativeNoise]) -> Optional[np.ndarray]:
    """A sample for each seed (B, z, h, w), or the mean where their noise draws none."""
    if spread is None:
        return mean
    found = [sample for one in noises if (sample := one.posterior()) is not None]
    return mean if mean is None or not found else mean + spread * np.stack(found)


def levels(settings: SampleSettings, table: np.ndarray, start: Start) -> np.ndarray:
    """The sigmas that are visited, (n + 1,); `table`: those of the training schedule."""
    sigmas, first, last = span(settings, table, start)
    return sigmas[first : last + 1]


def span(settings: SampleSettings, table: np.ndarray, start: Start) -> tuple[np.ndarray, int, int]:
    """All sigmas of the schedule, and the places among them of the first and the last that are visited."""
    sigmas = DISCRETIZATIONS[settings.discretization](settings.steps, table)
    steps = len(sigmas) - 1
    first, last = steps - min(int(steps * start.strength), steps), steps
    if start.since or start.until < 1.0:
        times = np.array([nearest_timestep(sigma, table) for sigma in sigmas[:-1]])
        # diffusers `denoising_end` and `denoising_start`: the share is one of the training schedule
        first = max(first, int((times >= round(len(table) * (1.0 - start.since))).sum()) if start.since else 0)
        last = int((times >= round(len(table) * (1.0 - start.until))).sum()) if start.until < 1.0 else steps
    return sigmas, first, last


def first_latent(start: Start, noise: Optional[np.ndarray], sigma: float, strength: float) -> np.ndarray:
    """The latent at the first level: `noise` (B, z, h, w) on what is given; `strength`: of noise alone at this level."""
    if start.since:
        return np.asarray(start.latent, np.float32)
    if start.is_of_noise:
        return noise * np.float32(strength)
    return np.asarray(start.latent, np.float32) + noise * np.float32(sigma)
