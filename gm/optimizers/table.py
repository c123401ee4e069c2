"""The optimizers that a YAML may name, and what is asked of all of them."""

from math import prod
from typing import Iterable, Mapping, Optional, Sequence

from mindspore import Parameter

from gm.config.types import OptimConfig
from gm.optimizers.adafactor import Adafactor, by_shape
from gm.optimizers.flat import AdamW, FlatOptimizer, Lion
from gm.optimizers.prodigy import Prodigy

OPTIMIZERS: Mapping[str, type[FlatOptimizer]] = {"AdamW": AdamW, "Prodigy": Prodigy, "Adafactor": Adafactor, "Lion": Lion}


def ordered(config: OptimConfig, parameters: list[Parameter]) -> list[Parameter]:
    """The order of the flat vectors."""
    return by_shape(parameters) if config.optimizer == "Adafactor" else parameters


def state_names(config: OptimConfig) -> set[str]:
    """The names of the optimizer's state, and of the average where there is one."""
    return set(OPTIMIZERS[config.optimizer].state_names(config)) | ({"ema"} if config.ema_decay is not None else set())


def state_sizes(config: OptimConfig, shapes: Sequence[tuple[int, ...]]) -> dict[str, int]:
    """How many numbers each of `state_names` has, where matrices of these shapes are trained."""
    sizes = OPTIMIZERS[config.optimizer].state_sizes(config, shapes)
    return sizes | ({"ema": sum(map(prod, shapes))} if config.ema_decay is not None else {})


def optimizer_of(names: Iterable[str]) -> Optional[str]:
    """The optimizer whose state has these names."""
    found = frozenset(names) - {"ema"}
    of = {frozenset(optimizer.state_names(OptimConfig())): name for name, optimizer in OPTIMIZERS.items()}
    of[frozenset(("row", "col", "m"))] = "Adafactor"  # with beta1
    return of.get(found)


def unusual_rate(config: OptimConfig, rate: float) -> Optional[str]:
    """A sentence when the rate, the highest of all networks, is far from what the optimizer expects."""
    least, highest, words = OPTIMIZERS[config.optimizer].expects or (0.0, float("inf"), "")
    if (config.optimizer == "Adafactor" and config.adafactor.relative_step) or least <= rate <= highest:
        return None
    outcome = "nothing" if rate < least else "noise"
    return f"{config.optimizer} expects a rate {words}, but --config gives {rate:g}: it may learn {outcome}"
