"""UniPC: a multistep predictor, and a corrector that takes no further call (arXiv 2302.04867). Plain numpy.

gm/diffusion/solver.py has the legend.
"""

import math
from typing import Optional, Sequence

import numpy as np

from gm.diffusion.solver import Denoise, Draw, Progress, exponential_step


def unipc(denoise: Denoise, x: np.ndarray, sigmas: np.ndarray, draw: Draw, progress: Progress) -> np.ndarray:
    """Order 2 with B(h) = e^h - 1 (diffusers `UniPCMultistepScheduler` as it is set up without more)."""
    return _solved(denoise, x, sigmas, progress, 2, False)


def unipc_bh1(denoise: Denoise, x: np.ndarray, sigmas: np.ndarray, draw: Draw, progress: Progress) -> np.ndarray:
    """Order 3 with B(h) = h ("uni_pc" in ComfyUI)."""
    return _solved(denoise, x, sigmas, progress, 3, True)


def unipc_bh2(denoise: Denoise, x: np.ndarray, sigmas: np.ndarray, draw: Draw, progress: Progress) -> np.ndarray:
    """Order 3 with B(h) = e^h - 1 ("uni_pc_bh2" in ComfyUI)."""
    return _solved(denoise, x, sigmas, progress, 3, False)


def _solved(denoise: Denoise, x: np.ndarray, sigmas: np.ndarray, progress: Progress, most: int, is_bh1: bool) -> np.ndarray:
    """Algorithms 5 and 7: what was predicted is corrected by the network's next answer. `most`: the order, lower at both ends."""
    steps = len(sigmas) - 1
    answers: list[np.ndarray] = []  # D at the levels before, the newest last
    start, order = x, 0  # of the step before
    for i in progress(range(steps)):
        denoised = denoise(x, sigmas[i])
        if i > 0:
            x = _step(start, answers, sigmas[: i + 1], order, is_bh1, denoised)
        answers = [*answers, denoised][-most:]
        start, order = x, min(most, i + 1, steps - i)
        x = _step(start, answers, sigmas[: i + 2], order, is_bh1)
    return x


def _step(
    x: np.ndarray,
    answers: Sequence[np.ndarray],
    sigmas: np.ndarray,
    order: int,
    is_bh1: bool,
    after: Optional[np.ndarray] = None,
) -> np.ndarray:
    """x at the last of the levels, from that before it. `answers`: D up to there; `after`: D at the last level, where it is known
    and corrects what was found without it."""
    *before, now, then = (float(sigma) for sigma in sigmas)
    found = exponential_step(x, answers[-1], now, then)
    if order == 1 and after is None:
        return found
    h = math.log(then / now)  # the step in log(sigma): negative
    places = [math.log(before[-k] / now) / h for k in range(1, order)]  # of the other answers, as shares of the step
    others = [answers[-1 - k] for k in range(1, order)]
    if after is not None:
        places, others = [*places, 1.0], [*others, after]
    whole = h if is_bh1 else math.expm1(h)  # B(h)
    for weight, place, other in zip(_weights(places, h, whole), places, others):
        found = found - np.float32(whole * weight / place) * (other - answers[-1])
    return found


def _weights(places: Sequence[float], h: float, whole: float) -> np.ndarray:
    """Of the differences from the newest answer: they fulfil the conditions of the order (theorem 3.1). One alone has 1/2, as
    upstream."""
    if len(places) == 1:
        return np.array([0.5])
    phi, factorial, sides = math.expm1(h) / h - 1.0, 1, []
    for k in range(1, len(places) + 1):
        sides.append(phi * factorial / whole)
        factorial *= k + 1
        phi = phi / h - 1.0 / factorial
    return np.linalg.solve(np.vander(places, increasing=True).T, sides)
