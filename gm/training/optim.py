"""The optimizer: AdamW over one flat vector of all trained LoRA matrices, and the learning-rate schedules.

The flat vector is in the order of `parameters`; it is also what ranks all-reduce, what is clipped and checked.
"""

import math
from typing import Callable, Iterator, Optional, Sequence

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from gm.config.types import OptimConfig
from gm.models.kernels import as_type, reshape


def learning_rate(config: OptimConfig, step: int, total_step: int) -> float:
    """The rate of update `step` (from 0): linear warm-up, then constant, or linear or cosine decay to final_factor."""
    if step < config.warmup_steps:
        return config.base_learning_rate * (step + 1) / config.warmup_steps
    share = (step - config.warmup_steps) / max(total_step - config.warmup_steps, 1)
    if config.schedule == "linear":
        factor = 1.0 - (1.0 - config.final_factor) * share
    elif config.schedule == "cosine":
        factor = config.final_factor + (1.0 - config.final_factor) * 0.5 * (1.0 + math.cos(math.pi * share))
    else:
        factor = 1.0
    return config.base_learning_rate * factor


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
    undefined on all.
    """

    def __init__(self, gradient: FlatGradient, ranks: int):
        super().__init__(auto_prefix=False)
        self.gradient = gradient
        self.size = gradient.size
        self.ranks = ranks
        if ranks > 1:
            self.all_reduce = ops.AllReduce(ops.ReduceOp.SUM)

    def construct(self, inverse_scale: Tensor) -> Tensor:
        total = self.gradient.total
        if self.ranks > 1:
            total = self.all_reduce(total)
        gradient, more = total[: self.size] * inverse_scale, total[self.size :]
        ops.assign(self.gradient.total, _flat((gradient, more)))
        return _flat((reshape(ops.sqrt((gradient * gradient).sum()), (1,)), more))


class AdamW(nn.Cell):
    """Adam with decoupled weight decay (arXiv 1711.05101, algorithm 2).

    With `bias_correction` it is torch.optim.AdamW's update; without it mindspore.nn.AdamWeightDecay's, in which the
    decay joins the update. Both are p <- p - lr * (m' / (sqrt(v') + eps) + weight_decay * p), m' and v' corrected or not.

    Its weights are one vector `p` in float32, which the host deals out to the LoRA matrices after an update, each in the type
    in which its network computes: a graph that assigns to so many takes 40 s to compile on a CPU, dealing them out 20 ms
    (1,120 matrices).
    """

    def __init__(
        self,
        parameters: list[Parameter],
        gradient: FlatGradient,
        config: OptimConfig,
        read: Optional[Callable[[str], np.ndarray]] = None,
    ):
        """`read(name)` gives the float32 matrices, where the networks hold them in float16."""
        super().__init__(auto_prefix=False)
        self.trained, self.read, self.size = tuple(parameters), read, gradient.size
        assert read or all(parameter.dtype == ms.float32 for parameter in parameters), "float16 has lost digits"
        self.gradient, self.config = gradient, config
        self.beta1, self.beta2 = config.beta1, config.beta2
        zeros = np.zeros(gradient.size, np.float32)
        self.p = Parameter(Tensor(self._matrices()), name="adam.p", requires_grad=False)
        self.m = Parameter(Tensor(zeros), name="adam.m", requires_grad=False)
        self.v = Parameter(Tensor(zeros), name="adam.v", requires_grad=False)
        self.adam = ops.Adam()  # one kernel: as single operators the update takes three times as long on a CPU

    def construct(self, clip: Tensor, rate: Tensor, eps: Tensor, kept: Tensor) -> Tensor:
        """p <- kept * p - rate * m / (sqrt(v) + eps), with the gradient times `clip`. Returns the new weights (n,)."""
        zero = ops.zeros_like(rate)  # the powers of beta: the correction is in rate and eps
        ops.assign(self.p, self.p * kept)
        gradient = self.gradient.total[: self.size] * clip
        done = self.adam(self.p, self.m, self.v, zero, zero, rate, self.beta1, self.beta2, eps, gradient)
        return ops.depend(self.p, done)

    def _matrices(self) -> np.ndarray:
        matrices = [self.read(p.name) if p.dtype != ms.float32 else p.asnumpy() for p in self.trained]
        return np.concatenate([np.asarray(matrix, np.float32).reshape(-1) for matrix in matrices])

    def by_name(self) -> dict[str, np.ndarray]:
        """The trained matrices in float32."""
        return {parameter.name: part for parameter, part in parts(self.p.asnumpy(), self.trained)}

    def set_state(self, m: np.ndarray, v: np.ndarray) -> None:
        """Continue with these moments (n,), from the LoRA matrices as they are now."""
        for parameter, value in ((self.p, self._matrices()), (self.m, m), (self.v, v)):
            parameter.set_data(Tensor(value))

    def apply(self, lr: float, clip: float, count: int) -> None:
        """Update number `count` (from 1) of the LoRA matrices, with the gradient times `clip`.

        sqrt(v') is sqrt(v) / root, so that m' / (sqrt(v') + eps) = root / (1 - beta1^count) * m / (sqrt(v) + root * eps).
        """
        config, root, rate = self.config, 1.0, lr
        if config.bias_correction:
            root = math.sqrt(1.0 - config.beta2**count)
            rate = lr * root / (1.0 - config.beta1**count)
        numbers = (clip, rate, root * config.eps, 1.0 - lr * config.weight_decay)
        weights = self(*(Tensor(number, ms.float32) for number in numbers)).asnumpy()
        deal(weights, self.trained)
