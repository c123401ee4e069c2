"""Adafactor (arXiv 1804.04235) as transformers.optimization.Adafactor has it: of the squared gradient only the means of rows
and of columns are kept.

Matrices of one shape stand side by side in the flat vectors (`by_shape`), so that a thousand of them are a handful of arrays
(count, ..., rows, columns) in the graph. A vector has no columns: its squares are kept whole, among the rows.
"""

from itertools import groupby
from math import prod
from typing import Sequence

import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from gm.config.types import OptimConfig
from gm.models.kernels import as_type, reshape
from gm.optimizers.flat import FlatOptimizer, scalars

_flat = ops.Concat(0)


def by_shape(parameters: Sequence[Parameter]) -> list[Parameter]:
    """Those of one shape side by side, otherwise in the order in which they are."""
    return sorted(parameters, key=lambda parameter: tuple(parameter.shape))


class _SameShape(nn.Cell):
    """The update of `count` matrices of one shape, as parts of the flat vectors; u, r, c, a as in Adafactor."""

    def __init__(self, shape: tuple[int, ...], count: int, config: OptimConfig):
        super().__init__(auto_prefix=False)
        own = config.adafactor
        self.shape, self.factored = (count, *shape), len(shape) > 1
        self.rows = self.shape[:-1] if self.factored else self.shape
        self.columns = (*self.shape[:-2], self.shape[-1]) if self.factored else ()
        self.axes, self.ones = tuple(range(1, len(self.shape))), (count, *(1 for _ in shape))
        self.sizes = prod(self.shape), prod(self.rows), prod(self.columns) if self.factored else 0
        self.eps1, self.eps2, self.threshold, self.scales = own.eps1, own.eps2, own.clip_threshold, own.scale_parameter
        self.decay, self.has_m, self.beta1 = config.weight_decay, own.beta1 is not None, own.beta1 or 0.0
        self.share1 = 1.0 - self.beta1

    def construct(self, p, g, r, c, m, factors, rate: Tensor, share: Tensor):
        """p, g, m, factors (count * size of a matrix,), r and c of their means; those that are None there are not."""
        p, g, r = reshape(p, self.shape), reshape(g, self.shape), reshape(r, self.rows)
        square = g * g + self.eps1
        if self.factored:
            r = (1.0 - share) * r + share * ops.mean(square, -1)
            c = (1.0 - share) * reshape(c, self.columns) + share * ops.mean(square, -2)
            relative = r / ops.mean(r, -1, True)
            u = g * ops.rsqrt(ops.expand_dims(relative, -1)) * ops.rsqrt(ops.expand_dims(c, -2))
            c = reshape(c, (-1,))
        else:
            r = (1.0 - share) * r + share * square
            u = g * ops.rsqrt(r)
        u = u / ops.maximum(self._rms(u) / self.threshold, 1.0)
        a = rate * ops.maximum(self._rms(p), self.eps2) if self.scales else rate
        if factors is not None:
            factors = reshape(reshape(factors, (self.shape[0], -1))[:, 0], self.ones)  # one for each matrix
            a = a * factors
        u = a * u
        if self.has_m:
            m = self.beta1 * reshape(m, self.shape) + self.share1 * u
            u = m if factors is None else m * as_type(factors > 0, m.dtype)  # what trains no longer has a past
            m = reshape(m, (-1,))
        if self.decay != 0:
            u = u + (self.decay * a) * p
        return reshape(p - u, (-1,)), reshape(r, (-1,)), c, m

    def _rms(self, x: Tensor) -> Tensor:
        """Of each matrix, (count, 1, ...)."""
        return ops.sqrt(ops.mean(x * x, self.axes, True))


class Adafactor(FlatOptimizer):
    """With r <- beta r + (1 - beta) (mean of g^2 + eps1 over a row), c the same of columns, beta = 1 - t^decay_rate:
    u = g / sqrt(r c / mean(r)), u <- u / max(1, rms(u) / clip_threshold), p <- p - a (u + weight_decay p),

    where a is the rate, and with scale_parameter times max(eps2, rms(p)) of the matrix. With beta1 it is the moving average of
    a u that is taken from p.
    """

    prefix = "adafactor"
    expects = 1e-5, 0.1, "near 5e-4, or 1e-3 to 1e-2 with scale_parameter"

    def _make_state(self) -> None:
        assert list(self.trained) == by_shape(self.trained), "not in the order of by_shape"
        same = [(shape, len(list(group))) for shape, group in groupby(tuple(p.shape) for p in self.trained)]
        self.steps = nn.CellList([_SameShape(shape, count, self.config) for shape, count in same])
        ends = np.cumsum([(0, 0, 0)] + [step.sizes for step in self.steps], 0).tolist()
        self.spans = tuple(tuple(zip(start, end)) for start, end in zip(ends, ends[1:]))  # of weights, rows and columns
        self.row, self.col = self.vector("row", ends[-1][1]), self.vector("col", max(ends[-1][2], 1))
        self.has_m = self.config.adafactor.beta1 is not None
        if self.has_m:
            self.m = self.vector("m")

    @classmethod
    def state_names(cls, config: OptimConfig) -> tuple[str, ...]:
        return ("row", "col", "m") if config.adafactor.beta1 is not None else ("row", "col")

    @classmethod
    def state_sizes(cls, config: OptimConfig, shapes: Sequence[tuple[int, ...]]) -> dict[str, int]:
        rows = sum(prod(shape[:-1]) if len(shape) > 1 else prod(shape) for shape in shapes)
        columns = sum(prod(shape[:-2]) * shape[-1] for shape in shapes if len(shape) > 1)
        return super().state_sizes(config, shapes) | {"row": rows, "col": max(columns, 1)}

    def construct(self, clip: Tensor, rate: Tensor, share: Tensor) -> Tensor:
        """`share`: 1 - beta. Returns the new weights (n,)."""
        gradient, p, row, col, m = self.gradient.total[: self.size] * clip, (), (), (), ()
        for i in range(len(self.steps)):
            (a, b), (r, s), (c, d) = self.spans[i]
            old = self.p[a:b], gradient[a:b], self.row[r:s], self.col[c:d] if d > c else None
            more = self.m[a:b] if self.has_m else None, self.factors[a:b] if self.has_factors else None
            new = self.steps[i](*old, *more, rate, share)
            p, row = p + (new[0],), row + (new[1],)
            if d > c:
                col = col + (new[2],)
            if self.has_m:
                m = m + (new[3],)
        ops.assign(self.row, _flat(row))
        if len(col) > 0:
            ops.assign(self.col, _flat(col))
        if self.has_m:
            ops.assign(self.m, _flat(m))
        p = _flat(p)
        ops.assign(self.p, p)
        return p

    def update(self, lr: float, clip: float, count: int) -> np.ndarray:
        return self(*scalars(clip, lr, float(count) ** self.config.adafactor.decay_rate)).asnumpy()
