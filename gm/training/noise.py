"""What is drawn at random in a step, on the host, keyed by (seed, global sample): the same on every device, for any
number of ranks, and in a resumed run."""

from typing import Sequence

import numpy as np

from gm.data.dreambooth import Draw
from gm.randomness import TRAINING_NOISE, generator


def draw_noise(
    draws: Sequence[Draw], seed: int, latent_shape: tuple[int, int, int], num_timesteps: int, offset: float = 0.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Timestep index (B,) int64, noise and posterior noise (B, z, h, w) float32, one row per draw.

    `offset` times one more number is added to all of a channel's noise, as in sd-scripts and diffusers (`noise_offset`).
    """
    indices, noise, posterior = [], [], []
    for draw in draws:
        source = generator(seed, TRAINING_NOISE, draw.kind, draw.position)
        indices.append(source.integers(num_timesteps))
        noise.append(source.standard_normal(latent_shape, np.float32))
        posterior.append(source.standard_normal(latent_shape, np.float32))
        if offset:
            noise[-1] += np.float32(offset) * source.standard_normal((latent_shape[0], 1, 1), np.float32)
    return np.array(indices), np.stack(noise), np.stack(posterior)
