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
    """Equation 5 of arXiv 2206.00364 between the bounds of `table` (SDXL's own by default) as sgm rounds them, falling, and a
    final 0: (steps + 1,)."""
    smallest, largest = np.round(_bounds(table), 4)  # sgm: 0.0292, 14.6146
    return np.append(_root_ramp(steps, smallest, largest, rho), 0.0)


def karras_sigmas(steps: int, table: Optional[np.ndarray] = None, rho: float = 7.0) -> np.ndarray:
    """`edm_sigmas` between the bounds themselves (k-diffusion `get_sigmas_karras`)."""
    smallest, largest = _bounds(table)
    return np.append(_root_ramp(steps, smallest, largest, rho), 0.0)


def exponential_sigmas(steps: int, table: Optional[np.ndarray] = None) -> np.ndarray:
    """Evenly spaced in log sigma between the bounds (k-diffusion `get_sigmas_exponential`)."""
    smallest, largest = np.log(_bounds(table))
    return np.append(np.exp(np.linspace(largest, smallest, steps)), 0.0)


def leading_sigmas(steps: int, table: Optional[np.ndarray] = None) -> np.ndarray:
    """diffusers' timestep_spacing "leading" with steps_offset 1, as its SDXL has it: the last time step is 1, the first below 999."""
    table = sampling_sigmas() if table is None else table
    between = len(table) // steps
    indices = np.arange(steps)[::-1] * between + (1 if steps < len(table) else 0)
    return np.append(table[indices], 0.0)


def leading_dpm_sigmas(steps: int, table: Optional[np.ndarray] = None) -> np.ndarray:
    """The same spacing in diffusers' DPM-Solver and UniPC: the levels of one step more, without the last."""
    table = sampling_sigmas() if table is None else table
    indices = np.arange(1, steps + 1)[::-1] * max(len(table) // (steps + 1), 1)
    return np.append(table[indices + min(1, len(table) - 1 - indices[0])], 0.0)


def trailing_sigmas(steps: int, table: Optional[np.ndarray] = None) -> np.ndarray:
    """diffusers' timestep_spacing "trailing": the first time step is 999, the last as far from 0 as the steps are from each other
    (for zero terminal SNR and distilled weights, arXiv 2305.08891, section 3.3)."""
    table = sampling_sigmas() if table is None else table
    indices = np.round(len(table) - np.arange(steps) * (len(table) / steps)).astype(int) - 1
    return np.append(table[indices], 0.0)


def normal_sigmas(steps: int, table: Optional[np.ndarray] = None) -> np.ndarray:
    """Evenly spaced in time step, both ends among them (k-diffusion `DiscreteSchedule.get_sigmas`; "normal" in ComfyUI)."""
    table = sampling_sigmas() if table is None else table
    return np.append(_at(np.linspace(len(table) - 1, 0, steps), table), 0.0)


def sgm_uniform_sigmas(steps: int, table: Optional[np.ndarray] = None) -> np.ndarray:
    """Evenly spaced in time step, without the last ("SGM Uniform" in A1111, "sgm_uniform" in ComfyUI)."""
    table = sampling_sigmas() if table is None else table
    return np.append(_at(np.linspace(len(table) - 1, 0, steps + 1)[:-1], table), 0.0)


def simple_sigmas(steps: int, table: Optional[np.ndarray] = None) -> np.ndarray:
    """Whole time steps, evenly spaced, the largest among them ("simple" in ComfyUI)."""
    table = sampling_sigmas() if table is None else table
    return np.append(table[[-(1 + int(i * len(table) / steps)) for i in range(steps)]], 0.0)


def align_your_steps_sigmas(steps: int, table: Optional[np.ndarray] = None) -> np.ndarray:
    """The ten steps that were found best for SDXL (arXiv 2404.14507), for another number between them in log sigma."""
    levels = [14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029]
    places = np.linspace(0, 1, len(levels))
    sigmas = np.exp(np.interp(np.linspace(0, 1, steps + 1), places, np.log(levels)))
    return np.append(sigmas[:-1], 0.0)


def lcm_sigmas(steps: int, table: Optional[np.ndarray] = None, origin: int = 50) -> np.ndarray:
    """Of the `origin` time steps that a latent consistency model was distilled on (diffusers `LCMScheduler`), evenly chosen."""
    table = sampling_sigmas() if table is None else table
    origin = max(origin, steps)
    known = (np.arange(1, origin + 1) * (len(table) // origin) - 1)[::-1]
    chosen = np.floor(np.linspace(0, origin, steps, endpoint=False)).astype(int)
    return np.append(table[known[chosen]], 0.0)


def beta_sigmas(steps: int, table: Optional[np.ndarray] = None, alpha: float = 0.6, beta: float = 0.6) -> np.ndarray:
    """Between the bounds, spaced as the quantiles of a beta distribution, dense at both ends (arXiv 2407.12173; A1111's "Beta",
    diffusers `use_beta_sigmas`)."""
    from scipy.stats import beta as distribution  # MindSpore requires it; 0.3 s that nobody else waits for

    smallest, largest = _bounds(table)
    return np.append(smallest + distribution.ppf(1.0 - np.linspace(0, 1, steps), alpha, beta) * (largest - smallest), 0.0)


def hyper_sd_sigmas(steps: int, table: Optional[np.ndarray] = None) -> np.ndarray:
    """`trailing_sigmas`, but a step alone begins at time step 800 (arXiv 2404.13686; the model card, for the UNet of one step)."""
    table = sampling_sigmas() if table is None else table
    return trailing_sigmas(steps, table) if steps > 1 else np.array([table[len(table) * 4 // 5], 0.0])


def _bounds(table: Optional[np.ndarray]) -> np.ndarray:
    """The smallest and the largest sigma."""
    return (sampling_sigmas() if table is None else table)[[0, -1]]


def _root_ramp(steps: int, smallest: float, largest: float, rho: float) -> np.ndarray:
    ramp = np.linspace(0, 1, steps)
    return (largest ** (1 / rho) + ramp * (smallest ** (1 / rho) - largest ** (1 / rho))) ** rho


def _at(timesteps: np.ndarray, table: np.ndarray) -> np.ndarray:
    """The sigmas at time steps that need not be whole, between two in log sigma."""
    return np.exp(np.interp(timesteps, np.arange(len(table)), np.log(table)))


DISCRETIZATIONS = {  # (steps, table) -> sigmas
    "LegacyDDPMDiscretization": legacy_ddpm_sigmas,
    "EDMDiscretization": edm_sigmas,
    "Karras": karras_sigmas,
    "Exponential": exponential_sigmas,
    "Leading": leading_sigmas,
    "LeadingDPM": leading_dpm_sigmas,
    "Trailing": trailing_sigmas,
    "Normal": normal_sigmas,
    "SGMUniform": sgm_uniform_sigmas,
    "Simple": simple_sigmas,
    "AlignYourSteps": align_your_steps_sigmas,
    "Beta": beta_sigmas,
    "LCM": lcm_sigmas,
    "HyperSD": hyper_sd_sigmas,
}
ROUNDED = ("LegacyDDPMDiscretization", "EDMDiscretization")  # whose levels sgm rounds to those of the training schedule


def nearest_timestep(sigma: float, table: np.ndarray) -> int:
    """The index whose sigma is nearest (sgm `DiscreteDenoiser.sigma_to_idx`)."""
    return int(np.abs(table - sigma).argmin())


def timestep_between(sigma: float, table: np.ndarray) -> float:
    """The time step of a sigma, between two in log sigma (k-diffusion `DiscreteSchedule.sigma_to_t`, diffusers `_sigma_to_t`)."""
    return float(np.interp(np.log(sigma), np.log(table), np.arange(len(table))))


def usual_level(discretization: str, sigma: float, table: np.ndarray) -> tuple[float, float]:
    """The level and the time step with which the network is asked at `sigma` where nobody else's picture is wanted: sgm takes the
    nearest of the training schedule for its own schedules; for all others it is asked at `sigma` itself, as in k-diffusion."""
    if discretization in ROUNDED:
        index = nearest_timestep(sigma, table)
        return float(table[index]), float(index)
    return float(sigma), timestep_between(sigma, table)
