"""What a sampler starts from beside the noise, and which of the noise levels it visits. Plain numpy."""

from dataclasses import dataclass
from typing import Optional

import numpy as np

from gm.config.types import SampleSettings
from gm.diffusion.schedule import DISCRETIZATIONS, nearest_timestep


@dataclass(frozen=True)
class Start:
    """Noise alone, all the way down, where nothing else is said. Latents (B, z, h, w), or (1, z, h, w) for all of a batch."""

    latent: Optional[np.ndarray] = None  # of a given picture; None: noise alone
    strength: float = 1.0  # share of the steps that is done on `latent`, the last ones, as in diffusers
    mask: Optional[np.ndarray] = None  # (1, 1, h, w): 1 where it is painted anew, 0 where `latent` is kept
    masked: Optional[np.ndarray] = None  # latent of the picture without what is masked, for an inpainting UNet
    noise: Optional[np.ndarray] = None  # unit-normal, instead of the seed's
    until: float = 1.0  # share of the time after which another network goes on: the latent keeps its noise
    since: float = 0.0  # share of the time after which this network goes on: `latent` has its noise
    kept: Optional[np.ndarray] = None  # what a mask keeps, where that is not `latent`
    drawn: int = 0  # noises of the seed's sequence that were used before, by another network


def levels(settings: SampleSettings, table: np.ndarray, start: Start) -> np.ndarray:
    """The sigmas that are visited, (n + 1,); `table`: those of the training schedule."""
    sigmas = DISCRETIZATIONS[settings.discretization](settings.steps, table)
    steps = len(sigmas) - 1
    first, last = steps - min(int(steps * start.strength), steps), steps
    if start.since or start.until < 1.0:
        times = np.array([nearest_timestep(sigma, table) for sigma in sigmas[:-1]])
        # diffusers `denoising_end` and `denoising_start`: the share is one of the training schedule
        first = max(first, int((times >= round(len(table) * (1.0 - start.since))).sum()) if start.since else 0)
        last = int((times >= round(len(table) * (1.0 - start.until))).sum()) if start.until < 1.0 else steps
    return sigmas[first : last + 1]


def first_latent(start: Start, noise: Optional[np.ndarray], sigma: float, strength: float) -> np.ndarray:
    """The latent at the first level: `noise` (B, z, h, w) on what is given; `strength`: of noise alone at this level."""
    if start.since:
        return np.asarray(start.latent, np.float32)
    if start.latent is None:
        return noise * np.float32(strength)
    return np.asarray(start.latent, np.float32) + noise * np.float32(sigma)
