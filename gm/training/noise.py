"""What is drawn at random in a step, on the host, keyed by (seed, global sample): the same on every device, for any
number of ranks, and in a resumed run."""

from functools import lru_cache
from typing import NamedTuple, Sequence

import numpy as np

from gm.config.types import NoiseConfig
from gm.data.dreambooth import Draw
from gm.randomness import TRAINING_NOISE, generator


class Drawn(NamedTuple):
    """A row per draw."""

    timestep: np.ndarray  # (B,) int64, index of the noise level
    noise: np.ndarray  # (B, z, h, w) float32
    posterior_noise: np.ndarray  # (B, z, h, w) float32, unit normal
    input_noise: np.ndarray  # (B, z, h, w) float32, what the network sees of `noise`: the same without `input_perturbation`


def draw_noise(
    draws: Sequence[Draw],
    seed: int,
    latent_shape: tuple[int, int, int],
    num_timesteps: int,
    config: NoiseConfig = NoiseConfig(),
) -> Drawn:
    """The random numbers of these draws.

    `offset_noise_level` times one more number is added to all of a channel's noise, then layers of coarser noise, as in
    sd-scripts and diffusers (`noise_offset`) and sd-scripts (`multires_noise`); what is added then is a part of what the
    network learns to tell. `input_perturbation` (sd-scripts' `ip_noise_gamma`, arXiv 2301.11706) is not.
    """
    indices, noise, posterior, seen = [], [], [], []
    for draw in draws:
        source = generator(seed, TRAINING_NOISE, draw.kind, draw.position)
        indices.append(source.integers(config.min_timestep, min(config.max_timestep, num_timesteps)))
        noise.append(source.standard_normal(latent_shape, np.float32))
        posterior.append(source.standard_normal(latent_shape, np.float32))
        if config.offset_noise_level:
            numbers = source.standard_normal((latent_shape[0], 1, 1), np.float32)
            noise[-1] += np.float32(config.offset_noise_level) * numbers
        if config.multires_noise_iterations:
            noise[-1] = _multires(noise[-1], source, config)
        if config.input_perturbation:
            more = source.standard_normal(latent_shape, np.float32)
            seen.append(noise[-1] + np.float32(config.input_perturbation) * more)
    whole = np.stack(noise)
    return Drawn(np.array(indices), whole, np.stack(posterior), np.stack(seen) if seen else whole)


def _multires(noise: np.ndarray, source: np.random.Generator, config: NoiseConfig) -> np.ndarray:
    """The noise (z, h, w) with layers i = 0, 1, ... of noise that is about 3^i times as coarse, each times discount^i, until
    a side is one pixel; of unit variance again. sd-scripts' `pyramid_noise_like`, which has one coarseness and one variance
    for a whole batch: here each sample has its own, so that it does not depend on the others."""
    channels, *size = noise.shape
    for layer in range(config.multires_noise_iterations):
        times = (2 + 2 * source.random()) ** layer
        coarse = tuple(max(1, int(side / times)) for side in size)
        rows, columns = (_stretch(few, side) for few, side in zip(coarse, size))
        added = rows @ source.standard_normal((channels, *coarse), np.float32) @ columns.T
        noise = noise + np.float32(config.multires_noise_discount**layer) * added
        if 1 in coarse:
            break
    return noise / noise.std(ddof=1)


@lru_cache(256)
def _stretch(few: int, many: int) -> np.ndarray:
    """The matrix (many, few) that interpolates linearly between the centres of pixels, as torch's `interpolate` does."""
    place = np.clip((np.arange(many) + 0.5) * few / many - 0.5, 0, few - 1)
    below = np.minimum(place.astype(int), max(few - 2, 0))
    matrix = np.zeros((many, few), np.float32)
    matrix[np.arange(many), below] = 1 - (place - below)
    matrix[np.arange(many), np.minimum(below + 1, few - 1)] += (place - below).astype(np.float32)
    return matrix
