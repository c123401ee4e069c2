"""The gradient of all trained LoRA matrices as one flat vector, which is what ranks all-reduce, what is clipped and checked.

The flat vector is in the order of `parameters`. What updates it is flat.py.
"""

from typing import Iterator, Optional, Sequence

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from gm.models.kernels import as_type, reshape


def clip_factor(norm: float, largest: Optional[float]) -> float:
    """What a gradient of this norm is multiplied by, so that its norm is at most `largest` (None: any), as PyTorch does."""
    return 1.0 if largest is None else min(1.0, largest / (norm + 1e-6))


_flat = ops.Concat(0)
_each = ops.HyperMap()  # a Python loop over a thousand parameters would take minutes to compile
_row = ops.MultitypeFuncGraph("row")


@_row.register("Tensor")
def _row_of(tensor: Tensor) -> Tensor:
    return reshape(tensor, (-1,))


_float_row = ops.MultitypeFuncGraph("float_row")


@_float_row.register("Tensor")
def _float_row_of(tensor: Tensor) -> Tensor:
    return as_type(reshape(tensor, (-1,)), ms.float32)


def flatten(tensors: tuple, of_one_type: bool = True) -> Tensor:
    """Tensors one after another, (n,) float32."""
    if of_one_type:
        return as_type(_flat(_each(_row, tensors)), ms.float32)
    return _flat(_each(_float_row, tensors))


def parts(flat: np.ndarray, parameters: Sequence[Parameter]) -> Iterator[tuple[Parameter, np.ndarray]]:
    """Every parameter with its part of `flat` (n,), in its shape."""
    start = 0
    for parameter in parameters:
        size = int(np.prod(parameter.shape))
        yield parameter, flat[start : start + size].reshape(parameter.shape)
        start += size


def deal(flat: np.ndarray, parameters: Sequence[Parameter]) -> None:
    """Set every parameter to its part of `flat` (n,) float32, in its own type."""
    for parameter, part in parts(flat, parameters):
        parameter.set_data(Tensor(part, parameter.dtype))


class FlatGradient(nn.Cell):
    """The gradient of one window of micro-batches, summed, and behind it `more` numbers that are summed with it;
    (n + more,) float32. Called with those of one micro-batch; the first of a window takes the place of the last window's.
    """

    def __init__(self, parameters: list[Parameter], more: int = 0):
        super().__init__(auto_prefix=False)
        self.size = sum(int(np.prod(p.shape)) for p in parameters)
        self.total = Parameter(Tensor(np.zeros(self.size + more, np.float32)), name="gradient.total", requires_grad=False)

    def construct(self, gradient: Tensor, first: bool) -> Tensor:
        return ops.assign(self.total, gradient) if first else ops.assign_add(self.total, gradient)

    def by_name(self, parameters: list[Parameter]) -> dict[str, np.ndarray]:
        """The gradient of every parameter, still times the loss scale."""
        return {parameter.name: part for parameter, part in parts(self.total.asnumpy(), parameters)}


class ReduceGradient(nn.Cell):
    """Sum over ranks, the gradient times 1 / loss scale; returns its norm and, behind it, the other numbers, (1 + more,): what
    the host reads of an update.

    One all-reduce of one buffer. An infinite or undefined gradient anywhere, on any rank, makes the norm infinite or
    undefined on all. Where `factors` (n,) of rates are given, the gradient of what has rate 0 is 0.
    """

    def __init__(self, gradient: FlatGradient, ranks: int, factors: Optional[Parameter] = None):
        super().__init__(auto_prefix=False)
        self.gradient = gradient
        self.has_factors = factors is not None
        if self.has_factors:
            self.factors = factors
        self.size = gradient.size
        self.ranks = ranks
        if ranks > 1:
            self.all_reduce = ops.AllReduce(ops.ReduceOp.SUM)

    def construct(self, inverse_scale: Tensor) -> Tensor:
        total = self.gradient.total
        if self.ranks > 1:
            total = self.all_reduce(total)
        gradient, more = total[: self.size] * inverse_scale, total[self.size :]
        if self.has_factors:
            gradient = ops.select(self.factors > 0, gradient, ops.zeros_like(gradient))
        ops.assign(self.gradient.total, _flat((gradient, more)))
        return _flat((reshape(ops.sqrt((gradient * gradient).sum()), (1,)), more))
