"""A Trainer on a few small matrices, whose gradients are given."""

from typing import Mapping, Optional

import numpy as np
from mindspore import Parameter, Tensor

from gm.config.types import OptimConfig
from gm.graph_cache import GraphCache
from gm.optimizers.table import ordered
from gm.parallel.ranks import Ranks
from gm.training.step import LossScale, Trainer

SHAPES: Mapping[str, tuple] = {"p0": (4, 3), "p1": (5,)}


def start(shapes: Mapping[str, tuple] = SHAPES) -> list[Parameter]:
    rng = np.random.default_rng(0)
    return [Parameter(Tensor(rng.standard_normal(s).astype(np.float32)), name=name) for name, s in shapes.items()]


def gradients(step: int, shapes: Mapping[str, tuple] = SHAPES) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(100 + step)
    return tuple(rng.standard_normal(s).astype(np.float32) for s in shapes.values())


class ToyTrainer(Trainer):
    """A Trainer whose micro-step adds given gradients instead of a network's."""

    overflows = 0  # that the device remembers

    def __init__(
        self,
        config: OptimConfig,
        scale: LossScale,
        max_grad_norm: Optional[float] = None,
        overflow_still_update: bool = False,
        shapes: Mapping[str, tuple] = SHAPES,
        scales: Mapping[str, float] = {},
    ):
        """`scales` of the modules' B A."""
        self.given, self.cells = start(shapes), []
        self.parameters = ordered(config, self.given)
        self.config = type("C", (), {"optim": config, "data": type("D", (), {"total_step": 10})})
        self.loss_scale, self.max_grad_norm, self.overflow_still_update = scale, max_grad_norm, overflow_still_update
        self.step, self.applied, self.skipped = 0, 0, 0
        self.updates, self.graphs = 0, GraphCache(None)
        self.ranks, self.reductions = Ranks(), 0
        self._make_optimizer(dict(scales))

    def accumulate(self, batch, first, spread):
        of = {parameter.name: g for parameter, g in zip(self.given, batch)}
        flat = np.concatenate([of[p.name].reshape(-1) for p in self.parameters]) * np.float32(self.loss_scale.value * spread)
        self.gradient(Tensor(np.concatenate([flat, np.array([0, 0, 1, 0, 0, self.overflows], np.float32)])), first)

    def values(self):
        return [p.asnumpy().copy() for p in self.given]
