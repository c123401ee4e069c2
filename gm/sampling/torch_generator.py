"""The normal numbers of PyTorch's CPU generator, without PyTorch: a Mersenne twister and Box-Muller's transform.

From 16 numbers on PyTorch computes in float32, with polynomials of Cephes for the logarithm, the sine and the cosine (ATen's
DistributionTemplates.h and avx_mathfun.h). They are followed here operation by operation, with the fused products and sums of
its AVX2 build: a processor with AVX2 or AVX-512 gives the same bits. PyTorch for other processors uses the C library's
functions instead, its numbers differ by up to 2e-6.
"""

import math

import numpy as np

BLOCK = 16  # numbers made at a time: 8 radii and 8 angles
LOG = (7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1, -1.6668057665e-1)
LOG += (2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1)
LN2 = (0.693359375, -2.12194440e-4)  # in two parts, as is pi / 4 in three
QUARTER_PI = (0.78515625, 2.4187564849853515625e-4, 3.77489497744594108e-8)
SINE = (-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1)
COSINE = (2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2)


class TorchGenerator:
    """torch.Generator("cpu").manual_seed(seed); `normal` is torch.randn(..., generator=it) in float32."""

    def __init__(self, seed: int):
        """seed: of its up to 64 bits the twister takes the lower 32."""
        self._twister = np.random.RandomState(seed & 0xFFFFFFFF)
        self._kept: list[float] = []  # the second number of a pair that was made one by one

    def normal(self, shape: tuple[int, ...]) -> np.ndarray:
        """The next unit-normal numbers, float32 of this shape."""
        count = math.prod(shape)
        if count < BLOCK:
            return np.array([self._single() for _ in range(count)], np.float32).reshape(shape)
        numbers = self._uniform(count)
        whole = count // BLOCK * BLOCK
        numbers[:whole] = _box_muller(numbers[:whole])
        if whole < count:
            numbers[-BLOCK:] = _box_muller(self._uniform(BLOCK))  # drawn anew, with the last of the block before
        return numbers.reshape(shape)

    def words(self) -> np.ndarray:
        """The twister's 624 words, as in torch.Generator.get_state, and the place in them."""
        _, words, place, *_ = self._twister.get_state(legacy=True)
        return np.append(words, place)

    def _bits(self, count: int) -> np.ndarray:
        return self._twister.randint(0, 2**32, count, np.uint32)

    def _uniform(self, count: int) -> np.ndarray:
        """From 0 up to 1, of 24 bits, float32."""
        return (self._bits(count) & 0xFFFFFF).astype(np.float32) * np.float32(2.0**-24)

    def _single(self) -> float:
        """One number, computed in float64 from 53 bits; the other of its pair is the next."""
        if self._kept:
            return self._kept.pop()
        words = self._bits(4).astype(np.uint64)
        first, second = (((words[::2] << np.uint64(32)) | words[1::2]) & np.uint64(2**53 - 1)).astype(np.float64) * 2.0**-53
        radius, angle = math.sqrt(-2.0 * math.log1p(-second)), 2.0 * math.pi * first
        self._kept.append(radius * math.sin(angle))
        return radius * math.cos(angle)


def _box_muller(uniform: np.ndarray) -> np.ndarray:
    """uniform (16 n,) -> unit normal (16 n,), in blocks of 8 cosines and 8 sines."""
    blocks = uniform.reshape(-1, 2, BLOCK // 2)
    radius = np.sqrt(np.float32(-2.0) * _log(np.float32(1.0) - blocks[:, 0]))
    sine, cosine = _sine_and_cosine(np.float32(2.0 * math.pi) * blocks[:, 1])
    return np.stack((radius * cosine, radius * sine), 1).ravel()


def _fused(a: np.ndarray, b, c) -> np.ndarray:
    """a b + c rounded to float32 once. float64 holds the product exactly, and of the sum all but one in a billion."""
    return (a.astype(np.float64) * b + c).astype(np.float32)


def _polynomial(x: np.ndarray, coefficients: tuple[float, ...]) -> np.ndarray:
    """By Horner's rule, the coefficient of the highest power first."""
    result = np.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        result = _fused(result, x, np.float32(coefficient))
    return result


def _log(x: np.ndarray) -> np.ndarray:
    """Natural logarithm of 0 < x <= 1 (Cephes' logf)."""
    mantissa, exponent = np.frexp(x)
    low = mantissa < np.float32(math.sqrt(0.5))
    m = np.where(low, mantissa + mantissa, mantissa) - np.float32(1.0)
    e = (exponent - low).astype(np.float32)
    square = m * m
    tail = _fused(_polynomial(m, LOG) * m, square, e * np.float32(LN2[1]))
    tail = _fused(square, -0.5, tail)
    return _fused(e, np.float32(LN2[0]), m + tail)


def _sine_and_cosine(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of x >= 0 (Cephes' sinf and cosf): the nearest even multiple of pi / 4 is taken off."""
    octant = (x * np.float32(4.0 / math.pi)).astype(np.int32)
    octant = (octant + 1) & ~1
    for part in QUARTER_PI:
        x = _fused(octant.astype(np.float32), -np.float32(part), x)
    square = x * x
    cosine = _fused(_polynomial(square, COSINE) * square, square, square * np.float32(-0.5)) + np.float32(1.0)
    sine = _fused(_polynomial(square, SINE) * square, x, x)
    swapped = (octant & 2) != 0
    sine, cosine = np.where(swapped, cosine, sine), np.where(swapped, sine, cosine)
    return np.where(octant & 4, -sine, sine), np.where((octant + 2) & 4, -cosine, cosine)
