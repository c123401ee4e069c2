"""Rules of the diagnosis on the losses, gradients and rates of single updates, and on how far the LoRA has come by them."""

import math
from dataclasses import dataclass
from typing import Optional

import numpy as np

from gm.training.diagnosis.facts import Facts
from gm.training.diagnosis.words import rate_times

SURE = 4.0  # standard errors of a rise that is no chance
FELL = 2.0  # and of a fall that may be none
ROSE, SHAKEN = 1.5, 10.0  # times as high: the loss, the gradient
BEGUN = 100  # updates by which a LoRA should have come somewhere
HARDLY, HALF = 0.2, 0.5  # of the way to real pictures
STILL, STRAIGHT = 0.3, 0.65  # less of `moved` is a beginning, more of `growth` is straight on


@dataclass(frozen=True)
class Change:
    """From the beginning of a curve to its end."""

    before: float  # geometric mean at the beginning
    after: float  # and at the end
    sure: float  # standard errors of their difference, on a log scale (Welch's t): above 0 where it rises

    @property
    def times(self) -> float:
        return self.after / self.before


def change(values: np.ndarray, share: float = 0.2) -> Optional[Change]:
    """Between the first `share` and the last fifth of the numbers above 0; None for fewer than 10 in either."""
    logs = np.log(values[values > 0])  # NaN is not above 0
    first, last = max(10, int(share * len(logs))), max(10, len(logs) // 5)
    if len(logs) < first + last:
        return None
    before, after = logs[:first], logs[-last:]
    error = math.sqrt(before.var(ddof=1) / first + after.var(ddof=1) / last)
    difference = float(after.mean() - before.mean())
    return Change(math.exp(before.mean()), math.exp(after.mean()), difference / error if error else 0.0)


def unfinished(f: Facts) -> Optional[str]:
    """It was killed, or still runs."""
    if f.ended or f.total is None or f.updates >= f.total:
        return None
    return "the run did not come to its end; if it was stopped, the same command with --resume True goes on"


def not_finite(f: Facts) -> Optional[str]:
    """Updates were skipped, and not only while a dynamic loss scale was finding its value."""
    bad = np.diff(f.skipped, prepend=0.0) > 0
    bad |= np.isnan(f.photos) & np.isfinite(f.photos).any()
    late = int(bad[len(bad) // 2 :].sum())
    if bad.sum() < 3 or late < 0.02 * len(bad):
        return None
    words = (
        f"{bad.sum()} updates came to nothing because their loss or gradient was not finite, {late} of them in the second half"
    )
    scales = f.scales[bad & (f.scales > 1)]
    if not scales.size:
        return f"{words}: lower the rate, {rate_times(f, 0.1)}, and see whether the base weights sample good pictures"
    least, varies = float(scales.min()), len(np.unique(f.scales[f.scales > 0])) > 1
    if not varies:
        smaller = max(1.0, least / 16)
        return f"{words}, at a loss scale of {least:.0f}: give --loss_scale_type dynamic, or --loss_scale {smaller:.0f}"
    return (
        f"{words}, at loss scales from {least:.0f} on: begin with --loss_scale {max(1.0, least / 2):.0f}, and with a larger "
        "--loss_scale_window double it less often"
    )


def rate_too_high(f: Facts) -> Optional[str]:
    """The loss of the photos rises, which training on them lowers at any rate that is not too high; or the gradient does."""
    loss, norm = change(f.photos, 0.05), change(f.norms)
    rose = loss is not None and loss.sure > SURE and loss.times > ROSE
    shaken = norm is not None and norm.sure > SURE and norm.times > SHAKEN
    if not rose and not shaken:
        return None
    words = []
    if loss is not None and rose:
        empty = f.config is not None and f.config.model.prediction == "eps" and 0.9 < loss.after < 1.1
        nothing = " (a network that predicts nothing has 1)" if empty else ""
        words.append(f"the loss of the photos rose from {loss.before:.2g} to {loss.after:.2g}{nothing}")
    if norm is not None:
        highest = f", at most {float(np.nanmax(f.norms)):.3g}"
        words.append(f"the norm of the gradient went from {norm.before:.2g} to {norm.after:.2g}{highest}")
    return f"the rate is too high: {' and '.join(words)}; try {rate_times(f, 0.1 if rose else 0.3)}"


def prodigy_stuck(f: Facts) -> Optional[str]:
    """Prodigy has not found its step size."""
    sizes = f.sizes[np.isfinite(f.sizes)]
    if len(sizes) < 50 or sizes[-1] >= 10 * sizes[0]:
        return None
    own = f.config.optim.prodigy if f.config and f.config.optim else None
    give = f"--set optim.optimizer_config.params.d0={100 * sizes[0]:.2g}, for a larger beginning"
    if own and own.growth_rate is not None:
        give = f"leave growth_rate away, which lets it grow by {own.growth_rate:g} an update, or train for longer"
    elif own and own.d_coef < 1:
        give = "--set optim.optimizer_config.params.d_coef=1"
    return f"Prodigy's step size d hardly moved, from {sizes[0]:.2g} to {sizes[-1]:.2g}, so the LoRA did not either: {give}"


def in_warm_up(f: Facts) -> Optional[str]:
    """The rate still rose in the last updates."""
    last, optim = f.rates[-10:], f.config.optim if f.config else None
    if len(last) < 10 or (optim and optim.adafactor.relative_step) or not (np.diff(last) > 0).all():
        return None
    of = f" of {optim.base_learning_rate:.2g}" if optim else ""
    return (
        f"the rate was still in its warm-up at the end, at {last[-1]:.2g}{of}: give that fewer updates, --set "
        f"optim.scheduler_config.params.warmup_steps={max(1, f.updates // 20)}, or train for longer"
    )


def rate_too_low(f: Facts) -> Optional[str]:
    """Neither the loss of the photos nor the LoRA has come anywhere, nor the subject, where there is an evaluation."""
    if f.updates < BEGUN or prodigy_stuck(f) or in_warm_up(f) or rate_too_high(f):
        return None
    loss, come = change(f.photos), f.come
    straight = f.growth is not None and f.growth > STRAIGHT
    if f.moved is None or loss is None or loss.sure < -FELL or (come is not None and come > HALF):
        return None
    if f.moved >= (STILL if straight or (come is not None and come < HARDLY) else STILL / 3):
        return None
    words = f"the loss of the photos has not surely fallen ({loss.before:.2g}, at the end {loss.after:.2g})"
    if come is not None:
        words += f", the subject has come {come:.0%} of the way from the base model to real pictures"
    words += f", and the LoRA's B, which begins at 0, is {f.moved:.0%} of its A"
    words += " and still grows straight on" if straight else ""
    return f"the rate is too low for so few updates: {words}; try {rate_times(f, 5)}, or train for longer"


def clipped(f: Facts) -> Optional[str]:
    """Nearly every gradient was cut."""
    longest = f.number("ss_max_grad_norm")
    norms = f.norms[np.isfinite(f.norms)]
    if longest is None or longest <= 0 or len(norms) < 20 or (norms > longest).mean() < 0.9:
        return None
    return (
        f"{(norms > longest).mean():.0%} of the gradients were clipped to {longest:g}, half of them from more than "
        f"{float(np.median(norms)):.2g}, so that large and small ones counted alike: give --max_grad_norm "
        f"{float(np.quantile(norms, 0.9)):.1g}"
    )
