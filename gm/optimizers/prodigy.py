"""Prodigy: Adam that finds its step size d by itself (arXiv 2306.06101), with the options of prodigyopt 1.1.

g gradient (times d it enters Adam's moments m, v)   p0 the weights at the start   s the sum of gradients, each with its step
`d` is one for all matrices; the numbers it is estimated from are kept on the host in float64.
"""

import math
from typing import Mapping, Sequence

import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from gm.config.types import OptimConfig
from gm.optimizers.flat import FlatOptimizer, scalars


class _Estimate(nn.Cell):
    """Take the gradient into m, v and s; returns (<g, p0 - p>, sum |s|), (2,)."""

    def __init__(self, prodigy: "Prodigy"):
        super().__init__(auto_prefix=False)
        self.gradient, self.size, config = prodigy.gradient, prodigy.size, prodigy.config
        self.beta1, self.beta2, self.beta3 = config.beta1, config.beta2, prodigy.beta3
        self.p, self.p0, self.m, self.v, self.s = prodigy.p, prodigy.p0, prodigy.m, prodigy.v, prodigy.s
        self.decay = 0.0 if config.prodigy.decouple else config.weight_decay  # that is a part of the gradient
        self.has_factors = prodigy.has_factors
        if self.has_factors:
            self.factors = prodigy.factors

    def construct(self, clip: Tensor, share1: Tensor, share2: Tensor, step: Tensor) -> Tensor:
        """`share1`, `share2` of g and g^2 in m and v, `step` of g in s."""
        g = self.gradient.total[: self.size] * clip
        if self.decay != 0:
            g = g + self.decay * self.p
        if self.has_factors:  # 1, or 0 for what trains no longer
            g = g * self.factors
        ops.assign(self.m, self.beta1 * self.m + share1 * g)
        ops.assign(self.v, self.beta2 * self.v + share2 * (g * g))
        s = self.beta3 * self.s + step * g
        ops.assign(self.s, s)
        counted = s * self.factors if self.has_factors else s
        return ops.stack(((g * (self.p0 - self.p)).sum(), ops.abs(counted).sum()))


class Prodigy(FlatOptimizer):
    """p <- p - d lr b (m / (sqrt(v) + d eps) + weight_decay p), b the bias correction, with d from before the update in the
    first place and the new one beside eps.

    After each gradient num <- beta3 num + (d / d0) d lr b <g, p0 - p> and s <- beta3 s + (d / d0) d lr b g (with
    safeguard_warmup (d / d0) d g); d_coef num / sum |s| is the estimate, and d the largest estimate so far.
    """

    prefix = "prodigy"
    expects = 0.1, 5.0, "near 1, because it finds the step size by itself"

    def _make_state(self) -> None:
        own = self.config.prodigy
        self.beta3 = math.sqrt(self.config.beta2) if own.beta3 is None else own.beta3
        self.m, self.v, self.s = self.vector("m"), self.vector("v"), self.vector("s")
        self.p0 = Parameter(Tensor(self.p.asnumpy()), name="prodigy.p0", requires_grad=False)
        self.step_size, self.largest, self.numerator, self.count = own.d0, own.d0, 0.0, 0
        self.estimate = _Estimate(self)

    @classmethod
    def state_names(cls, config: OptimConfig) -> tuple[str, ...]:
        return "m", "v", "s", "p0", "d"

    @classmethod
    def state_sizes(cls, config: OptimConfig, shapes: Sequence[tuple[int, ...]]) -> dict[str, int]:
        return super().state_sizes(config, shapes) | {"d": 4}

    def construct(self, rate: Tensor, eps: Tensor, decay: Tensor) -> Tensor:
        if self.has_factors:
            rate, decay = rate * self.factors, decay * self.factors
        # the decay by itself: while d is near 1e-6 the last digits of p decide how d is estimated
        p = self.p - decay * self.p
        p = p - rate * self.m / (ops.sqrt(self.v) + eps)
        ops.assign(self.p, p)
        return p

    def update(self, lr: float, clip: float, count: int) -> np.ndarray:
        config, own, d = self.config, self.config.prodigy, self.step_size
        rate = d * lr
        if config.bias_correction:
            rate *= math.sqrt(1.0 - config.beta2 ** (self.count + 1)) / (1.0 - config.beta1 ** (self.count + 1))
        relative = d / own.d0  # so that the sums are not too small for float32
        step = relative * (d if own.safeguard_warmup else rate)
        numbers = scalars(clip, (1.0 - config.beta1) * d, (1.0 - config.beta2) * d * d, step)
        product, sum_s = (float(x) for x in self.estimate(*numbers).asnumpy())
        if sum_s == 0:  # nothing has ever had a gradient: there is no estimate yet
            return self.p.asnumpy()
        self.numerator = self.beta3 * self.numerator + relative * rate * product
        estimate = own.d_coef * self.numerator / sum_s
        self.largest = max(self.largest, estimate)
        bound = max(d, estimate) if d == own.d0 else d  # what the first estimate is need not grow
        self.step_size = self.largest if own.growth_rate is None else min(self.largest, bound * own.growth_rate)
        self.count += 1
        decay = rate * config.weight_decay if own.decouple else 0.0
        if config.beta1 == 0:  # m is the gradient times d: in prodigyopt already times the new one
            rate *= self.step_size / d
        return self(*scalars(rate, self.step_size * config.eps, decay)).asnumpy()

    def numbers(self) -> dict[str, float]:
        return {"d": self.step_size}

    def state(self) -> dict[str, np.ndarray]:
        d = np.array([self.step_size, self.largest, self.numerator, self.count], np.float64)
        return {name: getattr(self, name).asnumpy() for name in ("m", "v", "s", "p0")} | {"d": d}

    def _continue(self, state: Mapping[str, np.ndarray]) -> None:
        for name in ("m", "v", "s", "p0"):
            getattr(self, name).set_data(Tensor(state[name]))
        self.step_size, self.largest, self.numerator = (float(x) for x in state["d"][:3])
        self.count = int(state["d"][3])
