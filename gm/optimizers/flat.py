"""What every optimizer is: float32 weights and state as flat vectors (n,) in the order of `parameters`, updated by one small
graph; and those whose update needs nothing else, AdamW and Lion."""

import math
from typing import Callable, Mapping, Optional, Sequence

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from gm.config.types import OptimConfig
from gm.errors import UserError
from gm.optimizers.gradient import FlatGradient, deal, parts


class FlatOptimizer(nn.Cell):
    """Its weights are one vector `p` in float32, which the host deals out to the LoRA matrices after an update, each in the
    type in which its network computes: a graph that assigns to so many takes 40 s to compile on a CPU, dealing them out 20 ms
    (1,120 matrices).

    A subclass has a construct that updates `p`, its state and returns `p`, and an `update` that calls it.
    """

    prefix = ""  # of the names of its parameters
    expects: Optional[tuple[float, float, str]] = None  # from the least to the highest usual rate, and that in words

    def __init__(
        self,
        parameters: list[Parameter],
        gradient: FlatGradient,
        config: OptimConfig,
        read: Optional[Callable[[str], np.ndarray]] = None,
        factors: Optional[Parameter] = None,
    ):
        """`read(name)` gives the float32 matrices, where the networks hold them in float16; `factors` (n,) of the rate, where
        they are not all 1."""
        super().__init__(auto_prefix=False)
        self.trained, self.read, self.size = tuple(parameters), read, gradient.size
        assert read or all(parameter.dtype == ms.float32 for parameter in parameters), "float16 has lost digits"
        self.gradient, self.config = gradient, config
        self.has_factors = factors is not None
        if self.has_factors:
            self.factors = factors
        self.p = Parameter(Tensor(self._matrices()), name=f"{self.prefix}.p", requires_grad=False)
        self._make_state()

    def _make_state(self) -> None:
        raise NotImplementedError

    @classmethod
    def state_names(cls, config: OptimConfig) -> tuple[str, ...]:
        """What `state()` has."""
        raise NotImplementedError

    @classmethod
    def state_sizes(cls, config: OptimConfig, shapes: Sequence[tuple[int, ...]]) -> dict[str, int]:
        """The size of each of them, where matrices of these shapes are trained."""
        return dict.fromkeys(cls.state_names(config), sum(map(math.prod, shapes)))

    def vector(self, name: str, size: Optional[int] = None) -> Parameter:
        """A part of the state, at first zeros (n,)."""
        zeros = np.zeros(self.size if size is None else size, np.float32)
        return Parameter(Tensor(zeros), name=f"{self.prefix}.{name}", requires_grad=False)

    def _matrices(self) -> np.ndarray:
        matrices = [self.read(p.name) if p.dtype != ms.float32 else p.asnumpy() for p in self.trained]
        return np.concatenate([np.asarray(matrix, np.float32).reshape(-1) for matrix in matrices])

    def by_name(self) -> dict[str, np.ndarray]:
        """The trained matrices in float32."""
        return {parameter.name: part for parameter, part in parts(self.p.asnumpy(), self.trained)}

    def put(self, weights: np.ndarray) -> None:
        """Make these (n,) the weights, which the networks do not see before they are dealt out."""
        self.p.set_data(Tensor(weights))

    def update(self, lr: float, clip: float, count: int) -> np.ndarray:
        """Update number `count` (from 1) with the gradient times `clip`; the new weights (n,), which are not to be changed."""
        raise NotImplementedError

    def apply(self, lr: float, clip: float, count: int) -> None:
        """`update`, and deal the weights out."""
        deal(self.update(lr, clip, count), self.trained)

    def numbers(self) -> dict[str, float]:
        """What metrics.jsonl should have of the last update."""
        return {}

    def state(self) -> dict[str, np.ndarray]:
        """What `set_state` continues from, beside the weights."""
        return {name: getattr(self, name).asnumpy() for name in self.state_names(self.config)}

    def set_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Continue with this state, from the LoRA matrices as they are now. UserError when it is of other matrices."""
        for name, value in self.state().items():
            if state[name].shape != value.shape:
                raise UserError(
                    f"the training state has {state[name].size} numbers of {name!r}, but this run needs {value.size}: other "
                    "networks train now, so resume with the YAML of the first run"
                )
        self.put(self._matrices())
        self._continue(state)

    def _continue(self, state: Mapping[str, np.ndarray]) -> None:
        for name in self.state_names(self.config):
            getattr(self, name).set_data(Tensor(state[name]))


def scalars(*numbers: float) -> tuple[Tensor, ...]:
    """What a graph is given of an update."""
    return tuple(Tensor(number, ms.float32) for number in numbers)


class AdamW(FlatOptimizer):
    """Adam with decoupled weight decay (arXiv 1711.05101, algorithm 2).

    With `bias_correction` it is torch.optim.AdamW's update; without it mindspore.nn.AdamWeightDecay's, in which the
    decay joins the update. Both are p <- p - lr * (m' / (sqrt(v') + eps) + weight_decay * p), m' and v' corrected or not.
    """

    prefix = "adam"

    def _make_state(self) -> None:
        self.beta1, self.beta2 = self.config.beta1, self.config.beta2
        self.share1, self.share2 = 1.0 - self.beta1, 1.0 - self.beta2
        self.m, self.v = self.vector("m"), self.vector("v")
        self.adam = ops.Adam()  # one kernel: as single operators the update takes three times as long on a CPU

    @classmethod
    def state_names(cls, config: OptimConfig) -> tuple[str, ...]:
        return "m", "v"

    def construct(self, clip: Tensor, rate: Tensor, eps: Tensor, kept: Tensor) -> Tensor:
        """p <- kept * p - rate * m / (sqrt(v) + eps), with the gradient times `clip`. Returns the new weights (n,).

        Where there are factors f of the rate, `kept` is 1 - kept, which float32 holds with all its digits: then
        p <- p - f * (kept * p + rate * m / (sqrt(v) + eps))."""
        if self.has_factors:
            return self._grouped(clip, rate, eps, kept)
        zero = ops.zeros_like(rate)  # the powers of beta: the correction is in rate and eps
        ops.assign(self.p, self.p * kept)
        gradient = self.gradient.total[: self.size] * clip
        done = self.adam(self.p, self.m, self.v, zero, zero, rate, self.beta1, self.beta2, eps, gradient)
        return ops.depend(self.p, done)

    def _grouped(self, clip: Tensor, rate: Tensor, eps: Tensor, decay: Tensor) -> Tensor:
        gradient = self.gradient.total[: self.size] * clip
        m = self.beta1 * self.m + self.share1 * gradient
        v = self.beta2 * self.v + self.share2 * (gradient * gradient)
        p = self.p - self.factors * (rate * m / (ops.sqrt(v) + eps) + decay * self.p)
        ops.assign(self.m, m)
        ops.assign(self.v, v)
        ops.assign(self.p, p)
        return p

    def update(self, lr: float, clip: float, count: int) -> np.ndarray:
        """sqrt(v') is sqrt(v) / root, so that m' / (sqrt(v') + eps) = root / (1 - beta1^count) * m / (sqrt(v) + root * eps)."""
        config, root, rate = self.config, 1.0, lr
        if config.bias_correction:
            root = math.sqrt(1.0 - config.beta2**count)
            rate = lr * root / (1.0 - config.beta1**count)
        decay = lr * config.weight_decay
        return self(*scalars(clip, rate, root * config.eps, decay if self.has_factors else 1.0 - decay)).asnumpy()


class Lion(FlatOptimizer):
    """p <- p - lr * (sign(beta1 * m + (1 - beta1) * g) + weight_decay * p), then m <- beta2 * m + (1 - beta2) * g
    (arXiv 2302.06675, algorithm 2)."""

    prefix = "lion"
    expects = 1e-7, 3e-4, "from a tenth to a third of AdamW's, such as 3e-5"

    def _make_state(self) -> None:
        self.beta1, self.beta2 = self.config.beta1, self.config.beta2
        self.share1, self.share2 = 1.0 - self.beta1, 1.0 - self.beta2
        self.m = self.vector("m")

    @classmethod
    def state_names(cls, config: OptimConfig) -> tuple[str, ...]:
        return ("m",)

    def construct(self, clip: Tensor, rate: Tensor, decay: Tensor) -> Tensor:
        gradient = self.gradient.total[: self.size] * clip
        moved = rate * ops.sign(self.beta1 * self.m + self.share1 * gradient) + decay * self.p
        if self.has_factors:
            moved = self.factors * moved
        p = self.p - moved
        ops.assign(self.m, self.beta2 * self.m + self.share2 * gradient)
        ops.assign(self.p, p)
        return p

    def update(self, lr: float, clip: float, count: int) -> np.ndarray:
        return self(*scalars(clip, lr, lr * self.config.weight_decay)).asnumpy()
