"""Rules of the diagnosis on the figures of a run's checkpoints."""

from typing import Optional

import numpy as np

from gm.evaluation.fidelity import way
from gm.training.diagnosis.facts import Evaluated, Facts
from gm.training.diagnosis.updates import (
    BEGUN,
    HARDLY,
    STILL,
    in_warm_up,
    prodigy_stuck,
    rate_too_high,
    rate_too_low,
)
from gm.training.diagnosis.words import rate_times

ENOUGH = 0.9  # of the way to real pictures: more updates are not asked for
RISES = 0.05  # of that way, between two checkpoints, is a rise
LOST, KEPT = 0.8, 0.9  # of the base model's prompt fidelity: less is lost, more is kept
DRIFTED = 0.6  # of the way of the class to real pictures of the subject
WORSE = 0.05  # of the score


def hardly_learned(f: Facts) -> Optional[str]:
    """The subject is hardly there, and no rule on the rate says why."""
    if f.come is None or f.come >= HARDLY or f.updates < BEGUN:
        return None
    if any(rule(f) for rule in (rate_too_high, rate_too_low, prodigy_stuck, in_warm_up)):
        return None
    moved = f" though its B is {f.moved:.0%} of its A" if f.moved is not None and f.moved > STILL else ""
    return (
        f"the LoRA draws hardly anything of the subject, {f.come:.0%} of the way from the base model to real pictures{moved}: see whether "
        "the evaluation's --subject is what --instance_prompt or the captions call it, and whether data.png shows it"
    )


def too_few_updates(f: Facts) -> Optional[str]:
    """The subject still rose, at least half as fast as on the whole, when the run ended."""
    if f.evaluation is None or f.come is None or rate_too_high(f) or rate_too_low(f):
        return None
    last, (gain, since) = f.evaluation.last, f.evaluation.gain
    if f.come >= ENOUGH or gain < RISES or last.step < 0.8 * f.updates:
        return None
    if gain / (last.step - since) < f.come / last.step / 2:
        return None
    return (
        f"too few updates: at {last.step} the subject had come {f.come:.0%} of the way from the base model to real pictures, {gain:.0%} "
        f"of it since {since}; go on with --resume True --set data.total_step={2 * f.updates}"
    )


def class_drift(f: Facts) -> Optional[str]:
    """Pictures of the class have become pictures of the subject."""
    if f.evaluation is None or f.evaluation.base.pres is None:
        return None
    base, real, last = f.evaluation.base, f.evaluation.real, f.evaluation.last

    def drift(point: Evaluated) -> float:
        return (point.figures.pres is not None and way(base.pres, point.figures.pres, real.subject)) or 0.0

    if drift(last) < DRIFTED:
        return None
    words = f"the class has turned into the subject: PRES rose from {base.pres:.2f} to {last.figures.pres:.2f}"
    if not np.isfinite(f.classes).any():
        return f"{words}, without class images: give --class_data_path and --class_prompt, with --prior_loss_weight 1"
    weight, before = f.number("ss_prior_loss_weight"), f.evaluation.latest(lambda point: drift(point) < DRIFTED)
    more = f"--prior_loss_weight {2 * weight:g}" if weight else "a larger --prior_loss_weight"
    return f"{words}: give {more}" + (f", or take step {before.step}, with {before.figures.pres:.2f}" if before else "")


def prompt_lost(f: Facts) -> Optional[str]:
    """Overfitting: the subject has come, and what a prompt asks for beside it is not drawn any more."""
    if f.evaluation is None or f.come is None or f.come < HARDLY:
        return None
    base, last = f.evaluation.base, f.evaluation.last.figures
    if not base.prompt or last.prompt is None or last.prompt >= LOST * base.prompt:
        return None
    words = (
        f"prompt fidelity fell from {base.prompt:.2f} to {last.prompt:.2f} while subject fidelity rose from {base.subject:.2f} to "
        f"{last.subject:.2f}, as where the photos' places are learned with the subject"
    )
    kept = f.evaluation.latest(lambda point: (point.figures.prompt or 0.0) >= KEPT * base.prompt)
    if kept:
        return f"{words}: take step {kept.step}, where it was {kept.figures.prompt:.2f}, or train no longer than that"
    lower = "" if rate_too_high(f) else f" or at a lower rate, {rate_times(f, 0.3)},"
    return f"{words}: train for fewer updates{lower} and name the places in captions of the photos"


def past_the_best(f: Facts) -> Optional[str]:
    """A checkpoint from before is better than the last."""
    choice = f.evaluation.choice if f.evaluation else None
    if f.evaluation is None or choice is None or choice.score is None:
        return None
    last = f.evaluation.last
    if last.score is None or last.step <= choice.step or last.score > choice.score - WORSE:
        return None
    reason = f" ({f.evaluation.reason})" if f.evaluation.reason else ""
    return f"take step {choice.step}, with a score of {choice.score:.2f} against {last.score:.2f} of the last{reason}"
