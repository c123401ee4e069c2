"""Samplers without fresh noise (gm/diffusion/solver.py has the legend). Plain numpy."""

import math

import numpy as np

from gm.diffusion.schedule import train_sigmas
from gm.diffusion.solver import Denoise, Draw, Progress, euler_step, exponential_step

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


def ddim(denoise: Denoise, x: np.ndarray, sigmas: np.ndarray, draw: Draw, progress: Progress) -> np.ndarray:
    """DDIM (arXiv 2010.02502, equation 12 with no fresh noise). In these variables it is Euler's method, but that the last step
    goes to the first level of the training schedule, as in diffusers and A1111, and the latent is then scaled to unit variance."""
    last = float(train_sigmas()[0])
    if sigmas[-1] > 0 or sigmas[-2] <= last:
        return euler_edm(denoise, x, sigmas, draw, progress)
    x = euler_edm(denoise, x, np.append(sigmas[:-1], last), draw, progress)
    return x / np.float32(math.sqrt(1.0 + last**2))


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


def unipc(denoise: Denoise, x: np.ndarray, sigmas: np.ndarray, draw: Draw, progress: Progress) -> np.ndarray:
    """UniPC of order 2 with B(h) = e^h - 1 (arXiv 2302.04867, algorithms 5 and 7; diffusers `UniPCMultistepScheduler`, "bh2"):
    what was predicted is corrected by the network's next answer, at no further call; first order at both ends."""
    steps = len(sigmas) - 1
    answers: list[np.ndarray] = []  # D at the levels before, the newest last
    start, order = x, 0  # of the step before
    for i in progress(range(steps)):
        denoised = denoise(x, sigmas[i])
        if i > 0:
            x = _corrected(start, answers, denoised, sigmas[: i + 1], order)
        answers = [*answers[-1:], denoised]
        start = x
        order = min(2, i + 1, steps - i)
        x = _predicted(x, answers, sigmas[: i + 2], order)
    return x


def _ratio(sigmas: np.ndarray) -> float:
    """The step before over the last step of these levels, both in -log(sigma), and negative."""
    return math.log(sigmas[-3] / sigmas[-2]) / -math.log(sigmas[-2] / sigmas[-1])


def _predicted(x: np.ndarray, answers: list[np.ndarray], sigmas: np.ndarray, order: int) -> np.ndarray:
    """x at the last of the levels, from that before it."""
    now, then = sigmas[-2:]
    found = exponential_step(x, answers[-1], now, then)
    if order == 2 and then > 0:
        change = (answers[-2] - answers[-1]) / np.float32(_ratio(sigmas))
        found = found + np.float32(0.5 * (1.0 - then / now)) * change
    return found


def _corrected(
    start: np.ndarray, answers: list[np.ndarray], denoised: np.ndarray, sigmas: np.ndarray, order: int
) -> np.ndarray:
    """x at the last of the levels once more, as the network's answer there is known; `start`: x at the level before it."""
    now, then = sigmas[-2:]
    fixed = exponential_step(start, answers[-1], now, then)
    whole = then / now - 1.0  # B(h)
    if order == 1:
        return fixed - np.float32(0.5 * whole) * (denoised - answers[-1])
    step, ratio = math.log(then / now), _ratio(sigmas)
    first = (whole / step - 1.0) / whole
    second = 2.0 * ((whole / step - 1.0) / step - 0.5) / whole
    rest = (first - second) / (1.0 - ratio)  # of both conditions: rest + now = first, ratio * rest + now = second
    change = np.float32(rest) * (answers[-2] - answers[-1]) / np.float32(ratio)
    return fixed - np.float32(whole) * (change + np.float32(first - rest) * (denoised - answers[-1]))
