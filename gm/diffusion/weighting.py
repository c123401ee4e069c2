"""How much the error at a noise level counts in the loss. Plain numpy.

The loss is the mean squared error of the network's output (denoiser.py): of the predicted noise, for which all levels count
alike (sgm's EpsWeighting), or of v (its VWeighting). A weighting is the factor beside that, sigma (B,) -> (B,), and is a part
of each row's weight: no graph depends on it. Each function gives the factor beside the error of the noise, which is that of
v divided by sqrt(sigma^2 + 1). SNR is sigma^-2.
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
    """min(SNR, gamma) / SNR: levels of little noise count less (arXiv 2303.09556, section 3.4)."""
    return np.minimum(1, gamma * sigma**2)


def debiased(sigma: np.ndarray) -> np.ndarray:
    """1 / sqrt(SNR), the SNR at most 1000 (arXiv 2310.08442; the bound is sd-scripts')."""
    return 1 / np.sqrt(_bounded_snr(sigma))


def debiased_v(sigma: np.ndarray) -> np.ndarray:
    """1 / (SNR + 1) beside the error of v, as sd-scripts has it, which is not `debiased` there."""
    return 1 / (_bounded_snr(sigma) + 1)


def _bounded_snr(sigma: np.ndarray) -> np.ndarray:
    return np.minimum(sigma**-2.0, 1000)


WEIGHTINGS: Mapping[str, Callable[..., np.ndarray]] = {
    "EpsWeighting": eps,
    "UnitWeighting": unit,
    "VWeighting": v,
    "EDMWeighting": edm,
    "MinSNRWeighting": min_snr,
    "DebiasedWeighting": debiased,
}
WEIGHTINGS_OF_V: Mapping[str, Callable[..., np.ndarray]] = {"DebiasedWeighting": debiased_v}  # beside the error of v itself


def parameters(name: str) -> dict[str, float]:
    """What may be set of a weighting, with its default; all of it above 0."""
    return {p.name: p.default for p in inspect.signature(WEIGHTINGS[name]).parameters.values() if p.name != "sigma"}


def level_weights(config: WeightingConfig, sigma: np.ndarray, prediction: str = "eps") -> np.ndarray:
    """The factor of every row's loss, (B,), for its noise level sigma (B,), where the output is this prediction."""
    if prediction == "v" and config.name in WEIGHTINGS_OF_V:
        return WEIGHTINGS_OF_V[config.name](sigma, **config.params)
    return WEIGHTINGS[config.name](sigma, **config.params) / (sigma**2 + 1 if prediction == "v" else 1)
