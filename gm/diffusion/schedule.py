"""The noise levels: SDXL's training schedule and the levels a sampler visits. Plain numpy.

sigma is the standard deviation of the noise beside a latent of unit weight; it grows with the timestep index.
"""

from typing import Optional

import numpy as np

BETA_FIRST, BETA_LAST, TRAIN_STEPS = 0.00085, 0.0120, 1000
LAST_ALPHA_BAR = 4.8973451890853435e-08  # where sampling starts with zero terminal SNR: ComfyUI's number, sigma 4519


def train_sigmas(num_timesteps: int = TRAIN_STEPS, zero_terminal_snr: bool = False) -> np.ndarray:
    """Sigma of every timestep index, (num_timesteps,) float64, rising (sgm `LegacyDDPMDiscretization`, not flipped).

    With `zero_terminal_snr` (arXiv 2305.08891, algorithm 1) the last is infinite: noise alone.
    """
    betas = np.linspace(BETA_FIRST**0.5, BETA_LAST**0.5, num_timesteps, dtype=np.float64) ** 2
    alphas = np.cumprod(1.0 - betas)
    if zero_terminal_snr:
        roots = np.sqrt(alphas)
        alphas = ((roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])) ** 2
    with np.errstate(divide="ignore"):
        return np.sqrt((1.0 - alphas) / alphas)


def sampling_sigmas(num_timesteps: int = TRAIN_STEPS, zero_terminal_snr: bool = False) -> np.ndarray:
    """`train_sigmas` as a sampler can visit them: the last is finite."""
    sigmas = train_sigmas(num_timesteps, zero_terminal_snr)
    if zero_terminal_snr:
        sigmas[-1] = ((1.0 - LAST_ALPHA_BAR) / LAST_ALPHA_BAR) ** 0.5
    return sigmas


def alpha_and_std(sigma: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The weights of latent and noise in a noised latent of unit variance: 1 and sigma, divided by sqrt(sigma^2 + 1)."""
    return 1.0 / np.sqrt(1.0 + sigma**2), 1.0 / np.sqrt(1.0 + sigma**-2.0)


def legacy_ddpm_sigmas(steps: int, table: Optional[np.ndarray] = None) -> np.ndarray:
    """`steps` sigmas of the schedule `table` (SDXL's own by default), evenly spaced in index, falling, and a final 0:
    (steps + 1,)."""
    table = sampling_sigmas() if table is None else table
    indices = np.linspace(len(table) - 1, 0, steps, endpoint=False).astype(int)
    return np.append(table[indices], 0.0)


def edm_sigmas(steps: int, table: Optional[np.ndarray] = None, rho: float = 7.0) -> np.ndarray:
    """Equation 5 of arXiv 2206.00364 between the bounds of `table` (SDXL's own by default), falling, and a final 0:
    (steps + 1,)."""
    smallest, largest = np.round((sampling_sigmas() if table is None else table)[[0, -1]], 4)  # sgm: 0.0292, 14.6146
    ramp = np.linspace(0, 1, steps)
    sigmas = (largest ** (1 / rho) + ramp * (smallest ** (1 / rho) - largest ** (1 / rho))) ** rho
    return np.append(sigmas, 0.0)


DISCRETIZATIONS = {"LegacyDDPMDiscretization": legacy_ddpm_sigmas, "EDMDiscretization": edm_sigmas}


def nearest_timestep(sigma: float, table: np.ndarray) -> int:
    """The index whose sigma is nearest (sgm `DiscreteDenoiser.sigma_to_idx`)."""
    return int(np.abs(table - sigma).argmin())
