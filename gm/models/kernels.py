"""Operators, and those that the CPU computes in a way of its own: each beside the stock one, with the reason.

The stock kernels are what an accelerator runs. What the CPU's were measured at is in bench/RESULTS.md ("What helped";
MindSpore 2.7.2, 2 cores): a kernel that broadcasts (Add, Mul or Sub with a vector) keeps four times its result in memory for
good, a Transpose twice its result, a sum over the last axis several times what it reads. Sums over a row and spreading a
number over a row are therefore products with ones. Operators are primitives (`ops.Reshape()`), not tensor methods: each use
of a method costs the compilation of a graph about ten times as much.
"""

import math
from functools import lru_cache

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from gm import runtime

reshape, transpose, cast, add, sub, mul = ops.Reshape(), ops.Transpose(), ops.Cast(), ops.Add(), ops.Sub(), ops.Mul()
_matmul, _matmul_first_transposed = ops.MatMul(), ops.MatMul(transpose_a=True)
_exp, _erf, _rsqrt, _zeros_like, _gather = ops.Exp(), ops.Erf(), ops.Rsqrt(), ops.ZerosLike(), ops.Gather()
_concat_last = ops.Concat(-1)


def as_type(x: Tensor, dtype: ms.Type) -> Tensor:
    """x as `dtype`; a cast that changes nothing would still be a node to compile and a kernel to run."""
    return x if x.dtype == dtype else cast(x, dtype)


def as_rows(x: Tensor) -> Tensor:
    """x (..., C) -> (N, C)."""
    return x if len(x.shape) == 2 else reshape(x, (-1, x.shape[-1]))


@ops.constexpr
@lru_cache(64)
def _ones(rows: int, columns: int) -> Tensor:
    return Tensor(np.ones((rows, columns), np.float32))


# -- adding a vector ---------------------------------------------------------------------------------------------------

bias_add = ops.BiasAdd()  # x (N, C) or (N, C, h, w) + b (C,); an Add would broadcast, and took 2.5 times as long


def add_over_image(x: Tensor, e: Tensor) -> Tensor:
    """x (B, C, h, w) + e (B, C), spread over the image before it is added: see above."""
    return add(x, ops.broadcast_to(reshape(e, e.shape + (1, 1)), x.shape))


# -- layer norm --------------------------------------------------------------------------------------------------------


def layer_norm(eps: float) -> nn.Cell:
    """x (N, C), gamma and beta (C,) -> y (N, C), and mean and variance (N, 1)."""
    return NormaliseRows(eps) if runtime.composes_kernels() else ops.LayerNorm(-1, -1, eps)


class NormaliseRows(nn.Cell):
    """ops.LayerNorm with a gradient of our own: forward and backward of (128, 1280) took 4.0 ms with the stock CPU kernel, 1.5
    with the first form of this.

    With r = 1 / sqrt(variance + eps) and means over a row, dx = r gamma dy + b x + c, where
    b = -r^3 (mean(gamma dy x) - mean mean(gamma dy)) and c = -r mean(gamma dy) - b mean. Summed over the rows,
    dgamma = r dy (x - mean) and dbeta = dy.
    """

    def __init__(self, eps: float):
        super().__init__()
        self.eps = eps
        self.norm = ops.LayerNorm(-1, -1, eps)

    def construct(self, x: Tensor, gamma: Tensor, beta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.norm(x, gamma, beta)

    def bprop(self, x, gamma, beta, out, dout):
        dy, mean, rows, channels = dout[0], out[1], x.shape[0], x.shape[1]
        ones, product = _ones(1, channels), mul(dy, x)
        column = reshape(mul(gamma, 1.0 / channels), (channels, 1))
        first, second = _matmul(dy, column), _matmul(product, column)
        r = _rsqrt(add(out[2], self.eps))
        b = mul(mul(mul(r, r), r), sub(mul(mean, first), second))
        c = sub(mul(mul(b, mean), -1.0), mul(r, first))
        dx = mul(dy, _matmul(r, reshape(gamma, (1, channels))))
        dx = add(add(dx, mul(x, _matmul(b, ones))), _matmul(c, ones))
        dgamma = sub(_matmul_first_transposed(r, product), _matmul_first_transposed(mul(r, mean), dy))
        dbeta = _matmul(_ones(1, rows), dy)
        return dx, reshape(dgamma, (channels,)), reshape(dbeta, (channels,))


# -- softmax -----------------------------------------------------------------------------------------------------------


def softmax() -> nn.Cell:
    """Over the last axis."""
    return Softmax() if runtime.composes_kernels() else ops.Softmax(-1)


class Softmax(nn.Cell):
    """ops.Softmax over the last axis with a gradient of our own, p (dy - sum(p dy)), whose sum and its spreading over the row
    are products."""

    def __init__(self):
        super().__init__()
        self.softmax = ops.Softmax(-1)

    def construct(self, x: Tensor) -> Tensor:
        return self.softmax(x)

    def bprop(self, x, out, dout):
        p, dy, ones = as_rows(out), as_rows(dout), _ones(1, x.shape[-1])
        sums = _matmul(mul(p, dy), reshape(ones, (-1, 1)))
        return (reshape(mul(p, sub(dy, _matmul(sums, ones))), x.shape),)


# -- axes that change places -------------------------------------------------------------------------------------------


class SwapAxes(nn.Cell):
    """x, as (batch, outer, inner, width) -> (batch, inner, outer, width): a transposition, or on the CPU a gathering of
    rows, since a Transpose keeps twice its result for good and takes twice the time (1.32 against 0.66 ms for 5.2 MB)."""

    def __init__(self, width: int):
        super().__init__()
        self.width = width
        self.by_rows = runtime.composes_kernels()
        self.reorder = _ReorderRows()

    def construct(self, x: Tensor, batch: int, outer: int, inner: int) -> Tensor:
        if outer == 1 or inner == 1:
            return reshape(x, (batch, inner, outer, self.width))
        if self.by_rows:
            order, back = _orders(batch, outer, inner)
            return self.reorder(reshape(x, (-1, self.width)), order, back)
        return transpose(reshape(x, (batch, outer, inner, self.width)), (0, 2, 1, 3))


@ops.constexpr
@lru_cache(64)
def _orders(batch: int, outer: int, inner: int) -> tuple[Tensor, Tensor]:
    """Which of the batch * outer * inner rows comes where when outer and inner change places, (batch, inner, outer); and
    where each has gone, (batch, outer, inner)."""
    order, back = (
        np.arange(batch * first * second, dtype=np.int32).reshape(batch, first, second).swapaxes(1, 2)
        for first, second in ((outer, inner), (inner, outer))
    )
    return Tensor(np.ascontiguousarray(order)), Tensor(np.ascontiguousarray(back))


class _ReorderRows(nn.Cell):
    """x (N, d) -> rows `order`, of its shape: (*order.shape, d); `back` (N rows in any shape) undoes it."""

    def construct(self, x: Tensor, order: Tensor, back: Tensor) -> Tensor:
        return _gather(x, order, 0)

    def bprop(self, x, order, back, out, dout):
        gradient = _gather(reshape(dout, x.shape), reshape(back, (-1,)), 0)
        return gradient, _zeros_like(order), _zeros_like(back)


# -- gated GELU --------------------------------------------------------------------------------------------------------


class GatedGelu(nn.Cell):
    """GEGLU's product (arXiv 2002.05202): x (N, 2 C) is value and gate -> value * gelu(gate) (N, C), the exact GELU.

    Its gradient is written out on every device, from what the forward pass keeps:
    gelu'(g) = Phi(g) + g exp(-g^2 / 2) / sqrt(2 pi).
    """

    def __init__(self):
        super().__init__()
        self.halves = ops.Split(-1, 2)

    def construct(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Also returns gelu(gate) and 2 Phi(gate), for the gradient."""
        value, gate = self.halves(x)
        twice = add(_erf(mul(gate, math.sqrt(0.5))), 1.0)
        active = mul(mul(gate, 0.5), twice)
        return mul(value, active), active, twice

    def bprop(self, x, out, dout):
        value, gate = self.halves(x)
        bell = mul(_exp(mul(mul(gate, gate), -0.5)), 1.0 / math.sqrt(2.0 * math.pi))
        slope = add(mul(out[2], 0.5), mul(gate, bell))
        return (_concat_last((mul(dout[0], out[1]), mul(mul(dout[0], value), slope))),)
