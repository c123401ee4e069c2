"""Samplers that can add fresh noise after a step (gm/diffusion/solver.py has the legend). Plain numpy."""

import math
from typing import Optional

import numpy as np

from gm.diffusion.schedule import nearest_timestep, sampling_sigmas
from gm.diffusion.solver import Denoise, Draw, Progress, down_and_up, euler_step, exponential_step


def euler_ancestral(
    denoise: Denoise, x: np.ndarray, sigmas: np.ndarray, draw: Draw, progress: Progress, eta: float = 1.0
) -> np.ndarray:
    """Euler with fresh noise after each step (k-diffusion `sample_euler_ancestral`)."""
    for i in progress(range(len(sigmas) - 1)):
        now, then = sigmas[i], sigmas[i + 1]
        down, up = down_and_up(now, then, eta)
        x = x + np.float32(down - now) * (x - denoise(x, now)) / np.float32(now)
        if then > 0:
            x = x + np.float32(up) * draw(now, then)
    return x


def ddim(
    denoise: Denoise,
    x: np.ndarray,
    sigmas: np.ndarray,
    draw: Draw,
    progress: Progress,
    eta: float = 0.0,
    table: Optional[np.ndarray] = None,
) -> np.ndarray:
    """DDIM (arXiv 2010.02502, equations 12 and 16). In these variables it is Euler's method with fresh noise, but that the last
    step goes to the first level of the training schedule, as in diffusers and A1111, and the latent is then scaled to unit
    variance."""
    last = _first_level(table)
    ends = sigmas[-1] == 0 and sigmas[-2] > last
    levels = np.append(sigmas[:-1], last) if ends else sigmas
    for i in progress(range(len(levels) - 1)):
        now, then = levels[i], levels[i + 1]
        down, up = down_and_up(now, then, eta)
        x = euler_step(x, denoise(x, now), now, down)
        if up > 0:
            x = x + np.float32(up) * draw(now, then)
    return x / np.float32(math.sqrt(1.0 + last**2)) if ends else x


def dpmpp_2s_ancestral(
    denoise: Denoise, x: np.ndarray, sigmas: np.ndarray, draw: Draw, progress: Progress, eta: float = 1.0
) -> np.ndarray:
    """DPM-Solver++(2S) with fresh noise after each step (k-diffusion `sample_dpmpp_2s_ancestral`): two calls a step, the second
    half way in -log(sigma)."""
    for i in progress(range(len(sigmas) - 1)):
        now, then = sigmas[i], sigmas[i + 1]
        down, up = down_and_up(now, then, eta)
        denoised = denoise(x, now)
        if down == 0:
            x = euler_step(x, denoised, now, down)
        else:
            middle = math.sqrt(now * down)
            half = exponential_step(x, denoised, now, middle)
            x = exponential_step(x, denoise(half, middle), now, down)
        if then > 0:
            x = x + np.float32(up) * draw(now, then)
    return x


def dpmpp_sde(
    denoise: Denoise, x: np.ndarray, sigmas: np.ndarray, draw: Draw, progress: Progress, eta: float = 1.0
) -> np.ndarray:
    """DPM-Solver++ for the stochastic equation (k-diffusion `sample_dpmpp_sde`, r 1/2): two calls a step, the second half way in
    -log(sigma), and fresh noise on both."""
    for i in progress(range(len(sigmas) - 1)):
        now, then = sigmas[i], sigmas[i + 1]
        denoised = denoise(x, now)
        if then == 0:
            return euler_step(x, denoised, now, then)
        middle = math.sqrt(now * then)
        down, up = down_and_up(now, middle, eta)
        half = exponential_step(x, denoised, now, down) + np.float32(up) * draw(now, middle)
        down, up = down_and_up(now, then, eta)
        x = exponential_step(x, denoise(half, middle), now, down) + np.float32(up) * draw(now, then)
    return x


def dpmpp_2m_sde(
    denoise: Denoise, x: np.ndarray, sigmas: np.ndarray, draw: Draw, progress: Progress, eta: float = 1.0
) -> np.ndarray:
    """DPM-Solver++(2M) for the stochastic equation, midpoint rule (k-diffusion `sample_dpmpp_2m_sde`), first order at both ends."""
    previous, step_before = None, 0.0
    for i in progress(range(len(sigmas) - 1)):
        now, then = sigmas[i], sigmas[i + 1]
        denoised = denoise(x, now)
        if then == 0:
            return denoised
        step = math.log(now / then)  # in -log(sigma)
        share = -math.expm1(-(1.0 + eta) * step)
        x = np.float32(then / now * math.exp(-eta * step)) * x + np.float32(share) * denoised
        if previous is not None:
            x = x + np.float32(0.5 * share * step / step_before) * (denoised - previous)
        if eta:
            x = x + np.float32(then * math.sqrt(-math.expm1(-2.0 * eta * step))) * draw(now, then)
        previous, step_before = denoised, step
    return x


def lcm(denoise: Denoise, x: np.ndarray, sigmas: np.ndarray, draw: Draw, progress: Progress) -> np.ndarray:
    """Latent consistency (arXiv 2310.04378, algorithm 3): every step goes to the end, and back with fresh noise. The boundary
    scaling, which differs from 1 by 1e-5 at most at the levels of its schedule, is left out, as in ComfyUI."""
    for i in progress(range(len(sigmas) - 1)):
        x = denoise(x, sigmas[i])
        if sigmas[i + 1] > 0:
            x = x + np.float32(sigmas[i + 1]) * draw(sigmas[i], sigmas[i + 1])
    return x


def tcd(
    denoise: Denoise,
    x: np.ndarray,
    sigmas: np.ndarray,
    draw: Draw,
    progress: Progress,
    eta: float = 0.3,
    table: Optional[np.ndarray] = None,
) -> np.ndarray:
    """Trajectory consistency (arXiv 2402.19159, algorithm 4, with gamma = eta; diffusers `TCDScheduler`): every step goes to the
    time step (1 - eta) times the next one, and back with fresh noise. The last ends as that of DDIM."""
    table = sampling_sigmas() if table is None else table
    last = _first_level(table)
    for i in progress(range(len(sigmas) - 1)):
        now, then = sigmas[i], sigmas[i + 1]
        denoised = denoise(x, now)
        if then == 0:
            return euler_step(x, denoised, now, last) / np.float32(math.sqrt(1.0 + last**2))
        down = min(float(table[math.floor((1.0 - eta) * nearest_timestep(then, table))]), then)
        x = euler_step(x, denoised, now, down)
        if eta:
            x = x + np.float32(math.sqrt(then**2 - down**2)) * draw(now, then)
    return x


def _first_level(table: Optional[np.ndarray]) -> float:
    """The smallest sigma of the training schedule."""
    return float((sampling_sigmas() if table is None else table)[0])
