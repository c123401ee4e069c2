"""Words that several rules of the diagnosis have in common."""

import numpy as np

from gm.training.diagnosis.facts import Facts


def rate_times(f: Facts, times: float) -> str:
    """The option that makes the rate so many times what it was."""
    optim = f.config.optim if f.config else None
    if optim is not None and optim.optimizer == "Prodigy":
        return f"--set optim.optimizer_config.params.d_coef={times * optim.prodigy.d_coef:.2g}"
    if optim is not None and optim.adafactor.relative_step:
        return "with relative_step: False and a rate of your own"
    rates = f.rates[f.rates > 0]
    rate = optim.base_learning_rate if optim is not None else float(np.max(rates)) if rates.size else None
    return f"--set optim.base_learning_rate={times * rate:.2g}" if rate else "with --set optim.base_learning_rate"
