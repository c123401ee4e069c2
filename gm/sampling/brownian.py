"""The noise of the SDE samplers of k-diffusion, A1111 and ComfyUI: increments of one Brownian motion over sigma.

torchsde's BrownianTree with its defaults, as k-diffusion's BrownianTreeNoiseSampler asks for it: the interval of all sigmas is
halved until a border is met, and what is in its left half is drawn with a seed that depends on the picture's seed and the place
in the tree alone. So the noise of a step does not depend on the other steps, and two that meet share their border.
"""

import math
from functools import reduce
from typing import Iterator

import numpy as np

from gm.sampling.torch_generator import TorchGenerator

DIGITS = 6  # to which a border is rounded: torchsde's tolerance of 1e-6
POOL = 24  # words of numpy's SeedSequence
KEPT = 48  # halves of the tree that are not drawn anew: the path to a border has 24


class BrownianNoise:
    """Unit-normal noise of one picture, (z, h, w) float32, between two sigmas of those it was made for."""

    def __init__(self, seed: int, shape: tuple[int, ...], sigmas: np.ndarray):
        """sigmas: those of the whole schedule; a 0 is left out."""
        self.seed, self.shape = seed, shape
        levels = np.asarray(sigmas, np.float32)  # what the others have sigmas in: it decides where the tree is halved
        lowest, highest = float(levels[levels > 0].min()), float(levels.max())
        self.borders = round(lowest, DIGITS), round(highest, DIGITS)
        self.whole = self._drawn(()) * np.float32(math.sqrt(highest - lowest))
        self.halves: dict[tuple[int, int], np.ndarray] = {}

    def __call__(self, sigma_from: float, sigma_to: float) -> np.ndarray:
        """The increment between the two, divided by the root of their distance; zeros where they are one."""
        first, last = np.float32(sigma_from), np.float32(sigma_to)
        start, end = (min(max(round(float(one), DIGITS), self.borders[0]), self.borders[1]) for one in sorted((first, last)))
        if start == end:
            return np.zeros(self.shape, np.float32)
        increment = reduce(np.add, self._parts(start, end, *self.borders, self.whole, 0, 0))
        return np.sign(last - first) * increment / np.sqrt(np.abs(last - first))

    def _parts(
        self, start: float, end: float, low: float, high: float, increment: np.ndarray, number: int, depth: int
    ) -> Iterator[np.ndarray]:
        """The increments from `start` to `end`, in pieces from left to right, of the node `number` of its depth, which goes
        from `low` to `high`."""
        if start == low and end == high:
            yield increment
            return
        middle = round(0.5 * (high + low), DIGITS)
        left = self._left_half(low, middle, high, increment, number, depth)
        if start < middle:
            yield from self._parts(start, min(end, middle), low, middle, left, 2 * number, depth + 1)
        if end > middle:
            yield from self._parts(max(start, middle), end, middle, high, increment - left, 2 * number + 1, depth + 1)

    def _left_half(self, low: float, middle: float, high: float, increment: np.ndarray, number: int, depth: int) -> np.ndarray:
        """A Brownian bridge: its mean is on the line, its variance (middle - low) (high - middle) / (high - low)."""
        key = number, depth
        if key not in self.halves:
            share = 1.0 / (high - low)
            spread = math.sqrt((middle - low) * (high - middle) * share)
            mean = np.float32(middle - low) * increment * np.float32(share)
            if len(self.halves) == KEPT:
                del self.halves[next(iter(self.halves))]
            self.halves[key] = mean + np.float32(spread) * self._drawn(key)
        return self.halves[key]

    def _drawn(self, key: tuple[int, ...]) -> np.ndarray:
        source = np.random.SeedSequence(self.seed, spawn_key=key, pool_size=POOL)
        return TorchGenerator(int(source.generate_state(1)[0])).normal(self.shape)
