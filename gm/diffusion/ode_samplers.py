"""Samplers without fresh noise (gm/diffusion/solver.py has the legend). Plain numpy."""

import math

import numpy as np

from gm.diffusion.solver import Denoise, Draw, Progress, euler_step

LMS_ORDER = 4
GAUSS = np.array([-0.5, 0.5]) / 3**0.5  # of an interval of length 1: the mean of a cubic is that at these two points


def euler_edm(denoise: Denoise, x: np.ndarray, sigmas: np.ndarray, draw: Draw, progress: Progress) -> np.ndarray:
    """Euler's method (arXiv 2206.00364, algorithm 1 without its second order and without churn)."""
    for i in progress(range(len(sigmas) - 1)):
        x = euler_step(x, denoise(x, sigmas[i]), sigmas[i], sigmas[i + 1])
    return x


def heun_edm(denoise: Denoise, x: np.ndarray, sigmas: np.ndarray, draw: Draw, progress: Progress) -> np.ndarray:
    """Heun's method (arXiv 2206.00364, algorithm 1 without churn): two calls a step, one in a step to 0."""
    for i in progress(range(len(sigmas) - 1)):
        step = np.float32(sigmas[i + 1] - sigmas[i])
        slope = (x - denoise(x, sigmas[i])) / np.float32(sigmas[i])
        guess = x + step * slope
        if sigmas[i + 1] > 0:
            slope = (slope + (guess - denoise(guess, sigmas[i + 1])) / np.float32(sigmas[i + 1])) / 2
        x = x + step * slope
    return x


def dpmpp_2m(denoise: Denoise, x: np.ndarray, sigmas: np.ndarray, draw: Draw, progress: Progress) -> np.ndarray:
    """DPM-Solver++(2M) (arXiv 2211.01095, algorithm 2), first order at both ends."""
    previous, step_before = None, 0.0
    for i in progress(range(len(sigmas) - 1)):
        denoised = denoise(x, sigmas[i])
        if sigmas[i + 1] == 0:
            return denoised
        step = math.log(sigmas[i] / sigmas[i + 1])  # in -log(sigma)
        target = denoised
        if previous is not None:
            ratio = np.float32(step / (2 * step_before))
            target = denoised + ratio * (denoised - previous)
        x = np.float32(sigmas[i + 1] / sigmas[i]) * x - np.float32(math.expm1(-step)) * target
        previous, step_before = denoised, step
    return x


def lms(denoise: Denoise, x: np.ndarray, sigmas: np.ndarray, draw: Draw, progress: Progress) -> np.ndarray:
    """Linear multistep of order 4 (k-diffusion `sample_lms`): the slope is integrated as the polynomial through the last
    slopes, fewer at the start."""
    slopes: list[np.ndarray] = []
    for i in progress(range(len(sigmas) - 1)):
        slopes = [*slopes[-(LMS_ORDER - 1) :], (x - denoise(x, sigmas[i])) / np.float32(sigmas[i])]
        known = sigmas[i + 1 - len(slopes) : i + 1]
        points = (sigmas[i] + sigmas[i + 1]) / 2 + GAUSS * (sigmas[i + 1] - sigmas[i])
        for j, slope in enumerate(slopes):
            others = np.delete(known, j)
            lagrange = np.prod((points[:, None] - others) / (known[j] - others), 1)  # 1 at known[j], 0 at the others
            x = x + np.float32(lagrange.mean() * (sigmas[i + 1] - sigmas[i])) * slope
    return x
