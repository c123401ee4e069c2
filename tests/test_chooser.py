"""Which checkpoint is the best: the score, the knee with its reason, and when a run has learned; on curves with known answers."""

from dataclasses import replace

import numpy as np
import pytest

from gm.evaluation import chooser
from gm.evaluation.chooser import Point, choose, learned, score, shares
from gm.evaluation.fidelity import Figures

REAL = Figures(0.98, None, None, None, None, None)
BASE = Figures(0.28, 1.0, 1.0, 0.30, 1.04, 0.4)


def figures(subject: float, prompt: float = 1.0, kept: float = 1.0) -> Figures:
    """By the shares that they are to have."""
    pres = BASE.pres + (1 - kept) * (REAL.subject - BASE.pres)
    return Figures(BASE.subject + subject * (REAL.subject - BASE.subject), prompt, None, pres, 1.0, 0.2)


def run(*rows: tuple, every: int = 100) -> list[Point]:
    return [Point(every * (i + 1), figures(*row)) for i, row in enumerate(rows)]


def of_scores(*scores: float, every: int = 100) -> list[Point]:
    """Points with these scores, of equal shares."""
    return run(*((value, value, value) for value in scores), every=every)


def test_score_is_the_geometric_mean_of_three_shares():
    assert shares(figures(0.5, 0.8, 0.25), BASE, REAL) == pytest.approx({"subject": 0.5, "prompt": 0.8, "class": 0.25})
    assert score(figures(0.5, 0.8, 0.25), BASE, REAL) == pytest.approx(0.1 ** (1 / 3))
    assert score(BASE, BASE, REAL) == 0.0 and score(figures(1.0), BASE, REAL) == pytest.approx(1.0)
    for lost in ((0.9, 0.9, 0.0), (0.9, 0.0, 0.9), (0.0, 0.9, 0.9)):  # the rest does not make good for it
        assert score(figures(*lost), BASE, REAL) == pytest.approx(0.0, abs=1e-4)
    # more than real pictures, or than the base model, is no more than all
    assert score(figures(1.2, 1.3, 1.1), BASE, REAL) == 1.0 and score(figures(-0.1), BASE, REAL) == 0.0


def test_figures_that_there_are_not_are_left_out():
    only = replace(figures(0.6), prompt=None, pres=None)
    assert shares(only, BASE, REAL) == pytest.approx({"subject": 0.6})
    assert score(only, BASE, REAL) == pytest.approx(0.6)
    assert score(figures(0.6, 0.5), replace(BASE, prompt=None), REAL) == pytest.approx(0.6**0.5)  # subject and class
    assert score(figures(0.6, -0.2), replace(BASE, prompt=-0.1), REAL) == pytest.approx(0.6**0.5)  # a cosine may be negative
    # a base model that knows the subject as well as photos do tells no way
    assert shares(figures(0.6, 0.5), replace(BASE, subject=0.99), REAL).keys() == {"prompt", "class"}
    assert score(replace(only, subject=0.5), replace(BASE, subject=0.99), REAL) == 0.0


def test_the_knee_is_the_earliest_of_the_best():
    """Gains below the tolerance do not move it, larger ones do."""
    choice = choose(BASE, REAL, of_scores(0.3, 0.6, 0.8, 0.803, 0.804, 0.8))
    assert choice.step == 300 and choice.score == pytest.approx(0.8)
    assert choose(BASE, REAL, of_scores(0.3, 0.6, 0.8, 0.81, 0.8)).step == 400
    shuffled = of_scores(0.3, 0.6, 0.8, 0.804)[::-1]
    assert choose(BASE, REAL, shuffled).step == 300


def test_the_reason_tells_gain_and_loss():
    points = [
        Point(400, replace(figures(0.8), subject=0.80, pres=0.40)),
        Point(800, replace(figures(0.8), subject=0.81, pres=0.48)),
    ]
    points.insert(0, Point(200, figures(0.4)))
    assert choose(BASE, REAL, points).reason == "after 400 the subject gains 0.01 and the class loses 0.08 (at 800)"
    forgets = [*points[:2], Point(800, replace(points[2].figures, subject=0.7, prompt=0.9))]
    assert choose(BASE, REAL, forgets).reason == (
        "after 400 the subject loses 0.10, the prompt loses 0.10 and the class loses 0.08 (at 800)"
    )
    quiet = [*points[:2], Point(800, replace(points[1].figures, subject=0.803))]
    assert choose(BASE, REAL, quiet).reason == "after 400 the subject gains 0.00 (at 800)"


# of the small model with prior preservation and without, 3 seeds of 5 prompts and 15 pictures of the class, a rate of 2e-3:
# subject, PRES
WITHOUT = {
    50: (0.619, 0.541),
    100: (0.717, 0.697),
    200: (0.850, 0.931),
    300: (0.878, 0.941),
    400: (0.862, 0.934),
    500: (0.869, 0.955),
}
RECORDED = {
    50: (0.571, 0.534),
    100: (0.685, 0.568),
    200: (0.768, 0.598),
    300: (0.824, 0.552),
    400: (0.845, 0.577),
    500: (0.850, 0.494),
    600: (0.819, 0.523),
    700: (0.844, 0.534),
    800: (0.829, 0.518),
}


def recorded(curve: dict) -> tuple[Figures, Figures, list[Point]]:
    base, real = Figures(0.292, 1.0, 1.0, 0.285, 1.089, 0.288), Figures(0.981, None, None, None, None, None)
    points = [Point(step, Figures(subject, 1.0, 1.0, pres, None, None)) for step, (subject, pres) in curve.items()]
    return base, real, points


def test_a_recorded_run():
    """The best of it; neither its falling at 400 nor 300 updates without a rise are the end."""
    base, real, points = recorded(RECORDED)
    choice = choose(base, real, points)
    assert choice.step == 500 and choice.score == pytest.approx(0.827, abs=0.001)
    assert choice.reason == "after 500 the subject loses 0.02 and the class loses 0.02 (at 800)"
    ended = [points[count - 1].step for count in range(1, 10) if learned(base, real, points[:count])]
    assert ended == []  # 500 updates behind the knee would be wanted, and there are 300


def test_a_class_that_is_lost_at_once():
    """The score of the first is the highest, because half of the class is left, but it has not half of the subject."""
    base, real, points = recorded(WITHOUT)
    scores = [score(point.figures, base, real) for point in points]
    assert scores == sorted(scores[:2], reverse=True) + scores[2:] and shares(points[0].figures, base, real)["subject"] < 0.5
    assert choose(base, real, points).step == 100
    assert choose(base, real, points[:1]).step == 50  # where there is no other
    assert choose(base, real, points[:2]).reason == "it is the first with half of the subject; more updates may bring more"
    assert [learned(base, real, points[:count]) is None for count in range(1, 7)] == [True] * 4 + [False] * 2
    assert learned(base, real, points).reason == "after 100 the subject gains 0.15 and the class loses 0.26 (at 500)"


def test_one_point_rising_and_falling_curves():
    alone = choose(BASE, REAL, of_scores(0.5))
    assert (alone.step, alone.reason) == (100, "it is the only checkpoint")
    rising = choose(BASE, REAL, of_scores(0.3, 0.5, 0.7))
    assert (
        rising.step == 300 and rising.reason == "the score still rises: 0.70, after 0.50 at 200; more updates may bring more"
    )
    falling = choose(BASE, REAL, of_scores(0.7, 0.5, 0.2))
    assert falling.step == 100 and falling.reason.startswith("after 100 the subject loses")
    nothing = choose(BASE, REAL, run((0.0,), (-0.1,), (0.0,)))
    assert nothing.score == 0 and nothing.reason == "no checkpoint is nearer to the subject than the base model"


# -- when to stop ------------------------------------------------------------------------------------------------------


def stopped_at(points: list[Point]):
    """The step after which a run that is evaluated at these would have ended, and its choice."""
    for count in range(1, len(points) + 1):
        choice = learned(BASE, REAL, points[:count])
        if choice:
            return points[count - 1].step, choice.step
    return None


def test_a_run_ends_once_the_knee_is_behind_it():
    assert learned(BASE, REAL, []) is None
    assert stopped_at(of_scores(0.4, 0.7, 0.8, 0.8, 0.8, 0.8, 0.8)) == (600, 300)  # three points behind it
    assert stopped_at(of_scores(0.4, 0.7, 0.8, 0.75, 0.7, 0.65, 0.6)) == (600, 300)
    # evaluated often, as many updates are wanted behind the knee as up to it
    dense = [0.8 * min(1, (i + 1) / 40) for i in range(90)]
    step, knee = stopped_at(of_scores(*dense, every=10))
    assert knee == 400 and step == 800


def test_a_run_goes_on_while_it_learns():
    assert stopped_at(of_scores(*np.linspace(0.1, 0.9, 20))) is None
    slow = of_scores(*np.linspace(0.6, 0.65, 26))  # 0.002 each time, less than the tolerance
    assert stopped_at(slow) is None
    assert stopped_at(of_scores(*[0.42, 0.41, 0.43, 0.42, 0.42] * 3)) is None  # it has not begun
    late = run(*[(0.05, 1.0, 1.0)] * 6, (0.3,), (0.6,), (0.8,), (0.9,))  # flat, but nothing of the subject is there
    assert score(late[0].figures, BASE, REAL) > 0.3 and stopped_at(late) is None


def curve(step: float) -> float:
    """A score that is at its best, 0.8, near 600, and falls by 0.1 in every 400 updates after it."""
    return 0.8 * (1 - np.exp(-step / 130)) - 0.1 * max(0, (step - 600) / 400)


@pytest.mark.parametrize("noise", [0.005, 0.01])
def test_noise_neither_stops_early_nor_hides_the_knee(noise):
    """200 runs with noise: how good what is chosen really is, when all is known and when the run ends by itself."""
    best, losses, stops = max(curve(s) for s in range(1001)), [], []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        points = of_scores(*(curve(s) + noise * rng.standard_normal() for s in range(50, 1501, 50)), every=50)
        losses.append(best - curve(choose(BASE, REAL, points).step))
        ended = stopped_at(points)
        assert ended, "it falls in the end, so it has to stop"
        stops.append((ended[0], best - curve(ended[1])))
    assert np.mean(losses) < 0.01 and max(losses) < 0.03
    assert min(step for step, _ in stops) >= 400 and np.mean([loss for _, loss in stops]) < 0.015
    assert max(loss for _, loss in stops) < 0.05


def test_noise_would_show(monkeypatch):
    """With one point behind the knee instead of three, runs end on noise."""
    monkeypatch.setattr(chooser, "BEHIND", 1)
    monkeypatch.setattr(chooser, "SPAN", 0.0)
    early = 0
    for seed in range(50):
        rng = np.random.default_rng(seed)
        points = of_scores(*(curve(s) + 0.015 * rng.standard_normal() for s in range(50, 1001, 50)), every=50)
        early += stopped_at(points)[0] < 400
    assert early > 5
