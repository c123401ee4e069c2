"""The noise levels: SDXL's training schedule and the levels a sampler visits. Plain numpy.

sigma is the standard deviation of the noise beside a latent of unit weight; it grows with the timestep index.
"""

import numpy as np

BETA_FIRST, BETA_LAST, TRAIN_STEPS = 0.00085, 0.0120, 1000


def train_sigmas(num_timesteps: int = TRAIN_STEPS) -> np.ndarray:
    """Sigma of every timestep index, (num_timesteps,) float64, rising (sgm `LegacyDDPMDiscretization`, not flipped)."""
    betas = np.linspace(BETA_FIRST**0.5, BETA_LAST**0.5, num_timesteps, dtype=np.float64) ** 2
    alphas = np.cumprod(1.0 - betas)
    return np.sqrt((1.0 - alphas) / alphas)


def legacy_ddpm_sigmas(steps: int, num_timesteps: int = TRAIN_STEPS) -> np.ndarray:
    """`steps` sigmas of the training schedule, evenly spaced in index, falling, and a final 0: (steps + 1,)."""
    indices = np.linspace(num_timesteps - 1, 0, steps, endpoint=False).astype(int)
    return np.append(train_sigmas(num_timesteps)[indices], 0.0)


def edm_sigmas(steps: int, smallest: float = 0.0292, largest: float = 14.6146, rho: float = 7.0) -> np.ndarray:
    """Equation 5 of arXiv 2206.00364, falling, and a final 0: (steps + 1,). The bounds are SDXL's own."""
    ramp = np.linspace(0, 1, steps)
    sigmas = (largest ** (1 / rho) + ramp * (smallest ** (1 / rho) - largest ** (1 / rho))) ** rho
    return np.append(sigmas, 0.0)


DISCRETIZATIONS = {"LegacyDDPMDiscretization": legacy_ddpm_sigmas, "EDMDiscretization": edm_sigmas}


def nearest_timestep(sigma: float, table: np.ndarray) -> int:
    """The index whose sigma is nearest (sgm `DiscreteDenoiser.sigma_to_idx`)."""
    return int(np.abs(table - sigma).argmin())
