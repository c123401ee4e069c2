"""Learning rates: schedules over the updates, and the rate of each trained matrix."""

import math
from typing import Callable, Mapping, Optional, Sequence

import numpy as np
from mindspore import Parameter, Tensor

from gm.config.types import AdafactorConfig, OptimConfig
from gm.models.adapters import NETWORKS

# factor of the rate when `share` of the updates after the warm-up are done, from 0 to below 1
SCHEDULES: Mapping[str, Callable[[OptimConfig, float], float]] = {
    "constant": lambda config, share: 1.0,
    "linear": lambda config, share: 1.0 - (1.0 - config.final_factor) * share,
    "cosine": lambda config, share: config.final_factor + (1.0 - config.final_factor) * _half_cosine(share),
    "cosine_restarts": lambda config, share: _half_cosine(config.num_cycles * share % 1.0),
    "polynomial": lambda config, share: config.final_factor + (1.0 - config.final_factor) * (1.0 - share) ** config.power,
}


def _half_cosine(share: float) -> float:
    """From 1 down to 0."""
    return 0.5 * (1.0 + math.cos(math.pi * share))


def learning_rate(config: OptimConfig, step: int, total_step: int, highest: Optional[float] = None) -> float:
    """The rate of update `step` (from 0) where it is `highest` (default: base_learning_rate) at its height: linear warm-up,
    then as SCHEDULES says. The warm-up's first update has 1 / warmup_steps of it, not 0 as in transformers, whose schedules
    these are but for that."""
    highest = config.base_learning_rate if highest is None else highest
    rising = warmup(config, total_step)
    if step < rising:
        return highest * (step + 1) / rising
    return highest * SCHEDULES[config.schedule](config, (step - rising) / max(total_step - rising, 1))


def warmup(config: OptimConfig, total_step: int) -> int:
    """Updates over which the rate rises."""
    return int(config.warmup_share * total_step) or config.warmup_steps


def relative_step(config: AdafactorConfig, count: int) -> float:
    """The rate that Adafactor makes for update `count` (from 1), arXiv 1804.04235, section 9, as transformers has it."""
    return min(1e-6 * count if config.warmup_init else 1e-2, 1.0 / math.sqrt(count))


def network_of(name: str) -> Optional[str]:
    """The network (a key of NETWORKS) that a parameter belongs to; None outside of them."""
    return next((network for network, prefix in NETWORKS.items() if name.startswith(prefix)), None)


def trains(config: OptimConfig, name: str) -> bool:
    """Whether the network that a parameter belongs to has a rate other than 0."""
    return config.rates.get(network_of(name) or "") != 0


class Rates:
    """The rate of every trained matrix: one number an update, times `factors` (n,) where they are not the same for all.

    `factors` is None where they are, and no graph knows of them. The text encoders' become 0 at update `stop`.
    """

    def __init__(self, config: OptimConfig, total_step: int, parameters: Sequence[Parameter]):
        self._config, self._total, self._parameters = config, total_step, parameters
        rates = [config.rates.get(network_of(p.name) or "", config.base_learning_rate) for p in parameters]
        self.highest = max(rates)  # of a lora_A
        ratios = [config.lora_plus_ratio if p.name.endswith(".lora_B.weight") else 1.0 for p in parameters]
        self._factors = [(rate / self.highest if rate else 1.0) * ratio for rate, ratio in zip(rates, ratios)]
        self.stop = round(config.text_encoder_stop_share * total_step) if config.text_encoder_stop_share < 1 else None
        self.stopped = False
        self.factors: Optional[Parameter] = None
        if self.stop is not None or set(self._factors) != {1.0}:
            self.factors = Parameter(self._flat(), name="rates.factors", requires_grad=False)

    def _flat(self) -> Tensor:
        sizes = [int(np.prod(p.shape)) for p in self._parameters]
        return Tensor(np.repeat(np.array(self._factors, np.float32), sizes))

    @property
    def stopping(self) -> Optional[Parameter]:
        """`factors` where some become 0."""
        return self.factors if self.stop is not None else None

    def moves(self, name: str) -> bool:
        """Whether this parameter is still trained."""
        return not (self.stopped and (network_of(name) or "").startswith("text_encoder"))

    def begin(self, step: int) -> None:
        """Make `factors` those of update `step`."""
        if self.stop is not None and step >= self.stop and not self.stopped:
            self.stopped = True
            self._factors = [f if self.moves(p.name) else 0.0 for p, f in zip(self._parameters, self._factors)]
            assert self.factors is not None
            self.factors.set_data(self._flat())

    def at(self, step: int, count: int) -> float:
        """The highest rate in update `step` (from 0), which is number `count` (from 1) of those that are applied."""
        if self._config.optimizer == "Adafactor" and self._config.adafactor.relative_step:
            return relative_step(self._config.adafactor, count)
        return learning_rate(self._config, step, self._total, self.highest)

    def by_network(self, rate: float) -> dict[str, float]:
        """The rate of each network's lora_A, where they differ; `rate`: the highest."""
        found = {
            network_of(p.name) or p.name: rate * factor
            for p, factor in zip(self._parameters, self._factors)
            if not p.name.endswith(".lora_B.weight")
        }
        return found if len(set(found.values())) > 1 else {}
