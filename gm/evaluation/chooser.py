"""Which checkpoint of a run is the best, from its figures (fidelity.py), and whether more updates bring anything.

The score of a checkpoint is the geometric mean of three shares from 0 to 1: how much of the subject is there, how much of the
prompts is still followed, and how much of the class is left. With a geometric mean what is lost wholly is not made good by
the rest. Numpy alone.
"""

from dataclasses import dataclass
from typing import Optional, Sequence

import numpy as np

from gm.evaluation.fidelity import Figures, way

# of the score: among checkpoints this near to the best one the earliest is taken. Less than the noise of 20 pictures of the
# subject and 20 of the class, which is about 0.01 between two checkpoints: a larger one would add to it (bench/chooser.md)
TOLERANCE = 0.005
BEHIND = 3  # checkpoints behind the knee before a run may end
SPAN = 1.0  # updates behind the knee before a run may end, as a share of those up to it (bench/chooser.md)
RISE = 0.005  # of the score over all updates behind the knee: with less the run does not get better
LEARNED = 0.5  # of the way from base to real: with less the subject is not there, however little else was lost
SHOWN = 0.005  # of prompt fidelity and PRES: smaller changes are not named


@dataclass(frozen=True)
class Point:
    """A checkpoint and its figures."""

    step: int  # optimizer updates
    figures: Figures


@dataclass(frozen=True)
class Choice:
    """The checkpoint to take."""

    step: int
    score: float  # 0 to 1
    reason: str  # in words and figures


def shares(figures: Figures, base: Figures, real: Figures) -> dict[str, float]:
    """The parts of the score, each from 0 to 1; one that cannot be told is left out.

    subject: the way from the base model's subject fidelity to that of real pictures. prompt: prompt fidelity over the base
    model's. class: 1 where PRES has not risen, 0 where pictures of the class are as like the subject as real pictures of it.
    """
    result = {}
    if real.subject > base.subject:
        result["subject"] = way(base.subject, figures.subject, real.subject)
    if figures.prompt is not None and base.prompt is not None and base.prompt > 0:
        result["prompt"] = figures.prompt / base.prompt
    if figures.pres is not None and base.pres is not None and real.subject > base.pres:
        result["class"] = 1 - way(base.pres, figures.pres, real.subject)
    return {name: float(np.clip(value, 0, 1)) for name, value in result.items()}


def score(figures: Figures, base: Figures, real: Figures) -> float:
    """One number of a checkpoint, from 0 to 1; the base model's is 0, because it knows nothing of the subject."""
    parts = list(shares(figures, base, real).values())
    return float(np.prod(parts) ** (1 / len(parts))) if parts else 0.0


def choose(base: Figures, real: Figures, points: Sequence[Point]) -> Choice:
    """The knee: the earliest checkpoint whose score is the best one, or at most TOLERANCE below it. At least one point.

    Those with LEARNED of the subject come before all others: a class that is lost soon does not make an early one the best.
    """
    points = sorted(points, key=lambda point: point.step)
    scores = [score(point.figures, base, real) for point in points]
    able = [i for i, point in enumerate(points) if _is_able(point, base, real)] or range(len(points))
    best = max(scores[i] for i in able)
    at = next(i for i in able if scores[i] >= best - TOLERANCE)
    return Choice(points[at].step, scores[at], _reason(points, scores, at))


def may_be_chosen(base: Figures, real: Figures, points: Sequence[Point]) -> frozenset[int]:
    """The steps that `choose` can name now or once there are later points: the choice, and those behind it that are better than all
    before them. What `choose` asks of a score only rises, so no other one can come into question again."""
    if not points:
        return frozenset()
    choice, best, found = choose(base, real, points).step, (False, -1.0), set()
    for point in sorted(points, key=lambda point: point.step):
        worth = _is_able(point, base, real), score(point.figures, base, real)
        if worth > best:
            best = worth
            found.add(point.step)
    return frozenset({choice} | {step for step in found if step > choice})


def _is_able(point: Point, base: Figures, real: Figures) -> bool:
    """Whether enough of the subject is there."""
    return _subject(point, base, real) >= LEARNED


def _subject(point: Point, base: Figures, real: Figures) -> float:
    """How much of the subject is there; 1 where that cannot be told."""
    return shares(point.figures, base, real).get("subject", 1.0)


def learned(base: Figures, real: Figures, points: Sequence[Point]) -> Optional[Choice]:
    """The choice, once the points behind the knee show that more updates bring nothing; None: go on.

    Behind it there must be BEHIND checkpoints and SPAN of its updates, over which the line through the scores gains less than
    RISE, so that a single low or high one, which is noise, does not decide; and enough of the subject must have been learned.
    """
    if not points:
        return None
    choice = choose(base, real, points)
    tail = sorted((point for point in points if point.step >= choice.step), key=lambda point: point.step)
    last = tail[-1].step
    if len(tail) - 1 < BEHIND or last < (1 + SPAN) * choice.step or not _is_able(tail[0], base, real):
        return None
    slope = np.polyfit([point.step for point in tail], [score(point.figures, base, real) for point in tail], 1)[0]
    return choice if slope * (last - choice.step) < RISE else None


def _reason(points: Sequence[Point], scores: Sequence[float], at: int) -> str:
    """Why the checkpoint number `at`: what the last one has gained and lost against it."""
    here, last = points[at], points[-1]
    if max(scores) == 0:
        return "no checkpoint is nearer to the subject than the base model"
    if len(points) == 1:
        return "it is the only checkpoint"
    if at == len(points) - 1:
        if scores[at] <= scores[at - 1]:
            return "it is the first with half of the subject; more updates may bring more"
        before = f"after {scores[at - 1]:.2f} at {points[at - 1].step}"
        return f"the score still rises: {scores[at]:.2f}, {before}; more updates may bring more"
    words = []
    for name, sign, field in (("subject", 1, "subject"), ("prompt", 1, "prompt"), ("class", -1, "pres")):
        before, after = getattr(here.figures, field), getattr(last.figures, field)
        change = None if before is None or after is None else sign * (after - before)
        if change is not None and (name == "subject" or abs(change) >= SHOWN):
            words.append(f"the {name} {'gains' if change >= 0 else 'loses'} {abs(change):.2f}")
    listed = " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]
    return f"after {here.step} {listed} (at {last.step})"
