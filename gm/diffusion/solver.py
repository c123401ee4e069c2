"""What the samplers have in common: their signature, and the split of a step into a way down and fresh noise.

x (B, z, h, w) float32, at the noise level of sigmas[0] when a sampler begins   sigmas (steps + 1,), falling, the last one 0,
or higher where another network goes on   D(x; sigma): the denoised latent
eta 0 ... 1: how much of a step's noise is fresh, 0: none   table (num_timesteps,): the sigmas of the training schedule
"""

import math
from typing import Callable, Iterable

import numpy as np

Denoise = Callable[[np.ndarray, float], np.ndarray]
Draw = Callable[[float, float], np.ndarray]  # (sigma before, sigma after) -> x-shaped unit-normal noise, in order
Progress = Callable[[range], Iterable[int]]
Sampler = Callable[[Denoise, np.ndarray, np.ndarray, Draw, Progress], np.ndarray]


def down_and_up(sigma: float, following: float, eta: float = 1.0) -> tuple[float, float]:
    """The level a step goes down to, and the noise added from there, so that both together have the variance following^2
    (k-diffusion `get_ancestral_step`). With eta 0 nothing is added."""
    if not eta:
        return following, 0.0
    up = min(following, eta * math.sqrt(max(following**2 * (sigma**2 - following**2) / sigma**2, 0.0)))
    return math.sqrt(max(following**2 - up**2, 0.0)), up


def euler_step(x: np.ndarray, denoised: np.ndarray, sigma: float, following: float) -> np.ndarray:
    """Along dx/dsigma = (x - D) / sigma (arXiv 2206.00364, equation 3)."""
    return x + np.float32(following - sigma) * ((x - denoised) / np.float32(sigma))


def exponential_step(x: np.ndarray, denoised: np.ndarray, sigma: float, following: float) -> np.ndarray:
    """With D held fixed along -log(sigma) (arXiv 2211.01095, equation 9 in the variables of arXiv 2206.00364)."""
    ratio = following / sigma
    return np.float32(ratio) * x + np.float32(1.0 - ratio) * denoised
