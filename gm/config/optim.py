"""The values of the `optim` section of a YAML -> OptimConfig."""

from typing import Any, Mapping

from gm.config import table as t
from gm.config.types import OptimConfig
from gm.errors import UserError


def read_optim(values: Mapping[str, Any], path: str) -> OptimConfig:
    """The optimizer and its schedule."""
    optimizer, schedule = values["optimizer_config"], values["scheduler_config"]
    p = optimizer["params"]
    if values["base_learning_rate"] <= 0 or p["eps"] <= 0 or p["beta1"] >= 1 or p["beta2"] >= 1:
        raise UserError(
            f"--config {path}: base_learning_rate {values['base_learning_rate']:g} and eps {p['eps']:g} must be above 0, "
            f"beta1 {p['beta1']:g} and beta2 {p['beta2']:g} below 1"
        )
    name, s = "constant", {}
    if schedule is not None:
        name, s = schedule["target"].rpartition(".")[2].lower(), schedule["params"]
    return OptimConfig(
        base_learning_rate=values["base_learning_rate"],
        bias_correction=optimizer["target"] == t.ADAMW,
        **p,
        schedule=name,
        **s,
    )
