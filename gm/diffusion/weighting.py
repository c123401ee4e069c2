"""How much the error at a noise level counts in the loss. Plain numpy.

The loss is the mean squared error of the predicted noise (denoiser.py), for which all levels count alike: sgm's EpsWeighting.
A weighting is the factor beside that, sigma (B,) -> (B,), and is a part of each row's weight: no graph depends on it.
"""

import inspect
from typing import Callable, Mapping

import numpy as np

from gm.config.types import WeightingConfig


def eps(sigma: np.ndarray) -> np.ndarray:
    """sgm `EpsWeighting`: sigma^-2 of the error of the denoised latent."""
    return np.ones_like(sigma)


def unit(sigma: np.ndarray) -> np.ndarray:
    """sgm `UnitWeighting`: 1 of the error of the denoised latent."""
    return sigma**2


def v(sigma: np.ndarray) -> np.ndarray:
    """sgm `VWeighting`: sigma^-2 + 1 of the error of the denoised latent, the error of v (arXiv 2202.00512)."""
    return 1 + sigma**2


def edm(sigma: np.ndarray, sigma_data: float = 0.5) -> np.ndarray:
    """sgm `EDMWeighting`: sigma^-2 + sigma_data^-2 of the error of the denoised latent (arXiv 2206.00364, table 1)."""
    return 1 + (sigma / sigma_data) ** 2


def min_snr(sigma: np.ndarray, gamma: float = 5.0) -> np.ndarray:
    """min(SNR, gamma) / SNR with SNR = sigma^-2: levels of little noise count less (arXiv 2303.09556, section 3.4)."""
    return np.minimum(1, gamma * sigma**2)


WEIGHTINGS: Mapping[str, Callable[..., np.ndarray]] = {
    "EpsWeighting": eps,
    "UnitWeighting": unit,
    "VWeighting": v,
    "EDMWeighting": edm,
    "MinSNRWeighting": min_snr,
}


def parameters(name: str) -> dict[str, float]:
    """What may be set of a weighting, with its default; all of it above 0."""
    return {p.name: p.default for p in inspect.signature(WEIGHTINGS[name]).parameters.values() if p.name != "sigma"}


def level_weights(config: WeightingConfig, sigma: np.ndarray) -> np.ndarray:
    """The factor of every row's loss, (B,), for its noise level sigma (B,)."""
    return WEIGHTINGS[config.name](sigma, **config.params)
