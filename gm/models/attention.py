"""Scaled dot-product attention: the one place that may choose a fused kernel."""

from functools import lru_cache

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from gm import runtime
from gm.models.layers import add, as_rows, as_type, mul, reshape, sub, transpose

_gather, _zeros_like, _matmul = ops.Gather(), ops.ZerosLike(), ops.MatMul()


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


class ReorderRows(nn.Cell):
    """x (N, d) -> rows `order`, of its shape: (*order.shape, d); `back` (N rows in any shape) undoes it.

    On the CPU it stands for a transposition, whose kernel keeps twice its result for good and takes twice the time.
    """

    def construct(self, x: Tensor, order: Tensor, back: Tensor) -> Tensor:
        return _gather(x, order, 0)

    def bprop(self, x, order, back, out, dout):
        gradient = _gather(reshape(dout, x.shape), reshape(back, (-1,)), 0)
        return gradient, _zeros_like(order), _zeros_like(back)


@ops.constexpr
@lru_cache(64)
def _ones(columns: int) -> Tensor:
    return Tensor(np.ones((1, columns), np.float32))


class Softmax(nn.Cell):
    """ops.Softmax over the last axis with a gradient of our own, p (dy - sum(p dy)): a row's sum and spreading it are
    products, since on the CPU a reduction and a broadcasting kernel keep several times what they read for good."""

    def __init__(self):
        super().__init__()
        self.softmax = ops.Softmax(-1)

    def construct(self, x: Tensor) -> Tensor:
        return self.softmax(x)

    def bprop(self, x, out, dout):
        p, dy, ones = as_rows(out), as_rows(dout), _ones(x.shape[-1])
        sums = _matmul(mul(p, dy), reshape(ones, (-1, 1)))
        return (reshape(mul(p, sub(dy, _matmul(sums, ones))), x.shape),)


class Attention(nn.Cell):
    """softmax(q k^T / sqrt(d) + mask) v for `heads` heads; q (B, n, heads*d), k and v (B, m, heads*d) -> the shape of q.
    Each may also come as rows, (B*n, heads*d).

    `kind` "vanilla" is written out below, the softmax in float32. "flash-attention" is Ascend's fused kernel
    (`mindspore.ops.flash_attention_score`, layout BSH, float16 or bfloat16 inputs, no mask): not run on Ascend here.
    """

    def __init__(self, heads: int, head_width: int, kind: str = "vanilla"):
        super().__init__()
        self.heads = heads
        self.head_width = head_width
        self.scale = head_width**-0.5
        self.flash = kind == "flash-attention"
        self.scores = ops.BatchMatMul(transpose_b=True)
        self.mix = ops.BatchMatMul()
        self.by_rows = runtime.composes_kernels()
        self.softmax = Softmax() if self.by_rows else ops.Softmax(-1)
        self.reorder = ReorderRows()

    def _swap(self, x: Tensor, batch: int, outer: int, inner: int) -> Tensor:
        """x, as (batch, outer, inner, head_width) -> (batch, inner, outer, head_width)."""
        if outer == 1 or inner == 1:
            return reshape(x, (batch, inner, outer, self.head_width))
        if self.by_rows:
            order, back = _orders(batch, outer, inner)
            return self.reorder(reshape(x, (-1, self.head_width)), order, back)
        return transpose(reshape(x, (batch, outer, inner, self.head_width)), (0, 2, 1, 3))

    def _split(self, x: Tensor, batch: int) -> Tensor:
        return self._swap(x, batch, x.size // (batch * self.heads * self.head_width), self.heads)

    def construct(self, q: Tensor, k: Tensor, v: Tensor, batch: int, mask: Tensor = None) -> Tensor:
        if self.flash:
            rows = (batch, -1, self.heads * self.head_width)
            q3, k3, v3 = reshape(q, rows), reshape(k, rows), reshape(v, rows)
            out = ops.flash_attention_score(q3, k3, v3, self.heads, scalar_value=self.scale, input_layout="BSH")
            return reshape(out, q.shape)
        scores = as_type(self.scores(mul(self._split(q, batch), self.scale), self._split(k, batch)), ms.float32)
        if mask is not None:
            scores = add(scores, mask)
        out = self.mix(as_type(self.softmax(scores), v.dtype), self._split(v, batch))
        return reshape(self._swap(out, batch, self.heads, out.shape[2]), q.shape)
