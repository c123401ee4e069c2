"""Samplers that add fresh noise after a step (gm/diffusion/solver.py has the legend). Plain numpy."""

import math

import numpy as np

from gm.diffusion.schedule import nearest_timestep, sampling_sigmas, train_sigmas
from gm.diffusion.solver import Denoise, Draw, Progress, down_and_up, euler_step, exponential_step

GAMMA = 0.3  # of TCD: how far below the next level a step goes


def euler_ancestral(denoise: Denoise, x: np.ndarray, sigmas: np.ndarray, draw: Draw, progress: Progress) -> np.ndarray:
    """Euler with fresh noise after each step (k-diffusion `sample_euler_ancestral`, eta 1)."""
    for i in progress(range(len(sigmas) - 1)):
        now, then = sigmas[i], sigmas[i + 1]
        down, up = down_and_up(now, then)
        x = x + np.float32(down - now) * (x - denoise(x, now)) / np.float32(now)
        if then > 0:
            x = x + np.float32(up) * draw(now, then)
    return x


def dpmpp_2s_ancestral(denoise: Denoise, x: np.ndarray, sigmas: np.ndarray, draw: Draw, progress: Progress) -> np.ndarray:
    """DPM-Solver++(2S) with fresh noise after each step (k-diffusion `sample_dpmpp_2s_ancestral`, eta 1): two calls a step, the
    second half way in -log(sigma)."""
    for i in progress(range(len(sigmas) - 1)):
        now, then = sigmas[i], sigmas[i + 1]
        down, up = down_and_up(now, then)
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


def dpmpp_sde(denoise: Denoise, x: np.ndarray, sigmas: np.ndarray, draw: Draw, progress: Progress) -> np.ndarray:
    """DPM-Solver++ for the stochastic equation (k-diffusion `sample_dpmpp_sde`, eta 1, r 1/2): two calls a step, the second half
    way in -log(sigma), and fresh noise on both."""
    for i in progress(range(len(sigmas) - 1)):
        now, then = sigmas[i], sigmas[i + 1]
        denoised = denoise(x, now)
        if then == 0:
            return euler_step(x, denoised, now, then)
        middle = math.sqrt(now * then)
        down, up = down_and_up(now, middle)
        half = exponential_step(x, denoised, now, down) + np.float32(up) * draw(now, middle)
        down, up = down_and_up(now, then)
        x = exponential_step(x, denoise(half, middle), now, down) + np.float32(up) * draw(now, then)
    return x


def dpmpp_2m_sde(denoise: Denoise, x: np.ndarray, sigmas: np.ndarray, draw: Draw, progress: Progress) -> np.ndarray:
    """DPM-Solver++(2M) for the stochastic equation, midpoint rule (k-diffusion `sample_dpmpp_2m_sde`, eta 1), first order at both
    ends."""
    previous, step_before = None, 0.0
    for i in progress(range(len(sigmas) - 1)):
        now, then = sigmas[i], sigmas[i + 1]
        denoised = denoise(x, now)
        if then == 0:
            return denoised
        step = math.log(now / then)  # in -log(sigma)
        share = -math.expm1(-2 * step)
        x = np.float32(then / now * math.exp(-step)) * x + np.float32(share) * denoised
        if previous is not None:
            x = x + np.float32(0.5 * share * step / step_before) * (denoised - previous)
        x = x + np.float32(then * math.sqrt(share)) * draw(now, then)
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


def tcd(denoise: Denoise, x: np.ndarray, sigmas: np.ndarray, draw: Draw, progress: Progress) -> np.ndarray:
    """Trajectory consistency (arXiv 2402.19159, algorithm 4, gamma 0.3; diffusers `TCDScheduler`): every step goes to the time
    step (1 - gamma) times the next one, and back with fresh noise. The last ends as that of DDIM."""
    table, last = sampling_sigmas(), float(train_sigmas()[0])
    for i in progress(range(len(sigmas) - 1)):
        now, then = sigmas[i], sigmas[i + 1]
        denoised = denoise(x, now)
        if then == 0:
            return euler_step(x, denoised, now, last) / np.float32(math.sqrt(1.0 + last**2))
        down = float(table[math.floor((1.0 - GAMMA) * nearest_timestep(then, table))])
        x = euler_step(x, denoised, now, down) + np.float32(math.sqrt(max(then**2 - down**2, 0.0))) * draw(now, then)
    return x
