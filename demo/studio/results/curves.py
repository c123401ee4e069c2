"""Curves as specifications of Vega-Lite, without colours of their own, so that they follow the page's theme; and what they are
drawn from: metrics.jsonl and the chooser's figures."""

import math
from functools import lru_cache
from pathlib import Path
from typing import Any, Optional, Sequence

from gm.evaluation.checkpoints import PANELS, Course, read_course
from gm.evaluation.fidelity import Figures
from gm.pictures import running_mean
from gm.training.records import read_records
from studio.files import stamp
from studio.results.saved import Saved
from studio.words import later, say

MOST = 300  # points of a curve
HEIGHT = 220  # pixels
LOSSES = {"instance_loss": later("photos"), "class_loss": later("class images")}
TITLES = {  # panel of gm/evaluation/checkpoints.py -> its title
    "score": later("Score: higher is better"),
    "subject": later("Subject fidelity: higher is better"),
    "prompt": later("Prompt fidelity: higher is better"),
    "pres": later("Likeness of the class to the subject (PRES): lower is better"),
    "div": later("Variety of the class (DIV): higher is better"),
}
Row = dict[str, Any]
Spec = dict[str, Any]


# -- training ------------------------------------------------------------------------------------------------------------


def records_of(run: Saved) -> Optional[Sequence[Row]]:
    """The lines of metrics.jsonl, thinned; None where there are none."""
    path = run.file("metrics.jsonl")
    try:
        return _records(stamp(path)) if path else None
    except OSError:
        return None


@lru_cache(maxsize=16)
def _records(of: tuple[str, int, int]) -> Sequence[Row]:
    """With running means of the losses, of every so many updates one."""
    records, _ = read_records(Path(of[0]))
    means = {name: _means([record.get(name) for record in records]) for name in (*LOSSES, "loss")}
    every = max(1, math.ceil(len(records) / MOST))
    wanted = [number for number in range(len(records)) if number % every == 0 or number == len(records) - 1]
    return [
        {"step": records[number]["step"], "lr": records[number].get("lr"), **{name: means[name][number] for name in means}}
        for number in wanted
    ]


def _means(values: Sequence[object]) -> Sequence[Optional[float]]:
    """Running means; None for all where no value is a number."""
    numbers = [float(value) if isinstance(value, (int, float)) else math.nan for value in values]
    known = [number for number in numbers if math.isfinite(number)]
    if not known:
        return [None] * len(numbers)
    last, filled = known[0], []
    for number in numbers:
        last = number if math.isfinite(number) else last
        filled.append(last)
    return running_mean(filled)


def losses(records: Sequence[Row]) -> Spec:
    """The smoothed loss, of photos and class images apart."""
    kinds = [name for name in LOSSES if any(record[name] is not None for record in records)]
    named = {name: say(LOSSES[name]) for name in kinds} if kinds else {"loss": say("loss")}
    values = [
        {"step": record["step"], "value": record[name], "kind": kind}
        for name, kind in named.items()
        for record in records
        if record[name] is not None
    ]
    color = {"field": "kind", "type": "nominal", "title": None, "legend": {"orient": "bottom"}}
    return _chart(values, {"type": "line"}, say("loss, smoothed"), color=color)


def rates(records: Sequence[Row]) -> Spec:
    """The learning rate."""
    values = [{"step": record["step"], "value": record["lr"]} for record in records if isinstance(record["lr"], (int, float))]
    return _chart(values, {"type": "line"}, say("learning rate"))


# -- the chooser -----------------------------------------------------------------------------------------------------------


def course_of(run: Saved) -> Optional[Course]:
    """The figures of the run's checkpoints. UserError for a file that says nothing."""
    path = run.file("evaluation", "checkpoints.json")
    if path is None:
        return None
    found = _course(stamp(path))
    return found if found and found.steps else None


@lru_cache(maxsize=16)
def _course(of: tuple[str, int, int]) -> Optional[Course]:
    return read_course(Path(of[0]).parent)


def panels(course: Course) -> dict[str, Spec]:
    """Title -> curve: a point for each checkpoint and the base model at 0, lines for the base model and real photos, the chosen one
    marked. The score comes first."""
    found = {}
    for name in PANELS:
        if name == "score" or getattr(course.base, name) is not None:
            found[say(TITLES[name])] = _panel(course, name)
    return found


def _panel(course: Course, name: str) -> Spec:
    def value(figures: Figures) -> Optional[float]:
        return course.score(figures) if name == "score" else getattr(figures, name)

    rows = {0: course.base, **{one.step: one.figures for one in course.steps}}
    values = [{"step": step, "value": value(row)} for step, row in sorted(rows.items()) if value(row) is not None]
    layers: list[Spec] = [{"data": {"values": values}, "mark": {"type": "line", "point": True}, "encoding": _places("")}]
    if name != "score":
        lines = {say("base model"): value(course.base), say("real photos"): value(course.real)}
        kept = [{"value": number, "kind": kind} for kind, number in lines.items() if number is not None]
        layers.append(
            {
                "data": {"values": kept},
                "mark": {"type": "rule"},
                "encoding": {
                    "y": {"field": "value", "type": "quantitative"},
                    "strokeDash": {"field": "kind", "type": "nominal", "title": None, "legend": {"orient": "bottom"}},
                },
            }
        )
    choice = course.choice
    chosen = [row for row in values if choice and row["step"] == choice.step]
    layers.append(
        {
            "data": {"values": chosen},
            "mark": {"type": "point", "size": 260, "strokeWidth": 3, "shape": "diamond"},
            "encoding": _places(""),
        }
    )
    return {"height": HEIGHT, "layer": layers}


def _chart(values: Sequence[Row], mark: Spec, title: str, **more: Spec) -> Spec:
    layer = {"data": {"values": values}, "mark": mark, "encoding": {**_places(title), **more}}
    return {"height": HEIGHT, "layer": [layer]}  # Streamlit makes a table of what is no layer's, which needs pyarrow


def _places(title: str) -> Spec:
    """Updates to the right, values upwards."""
    return {
        "x": {"field": "step", "type": "quantitative", "title": say("updates"), "axis": {"tickMinStep": 1}},
        "y": {"field": "value", "type": "quantitative", "title": title or None, "scale": {"zero": False}},
        "tooltip": [
            {"field": "step", "type": "quantitative", "title": say("updates")},
            {"field": "value", "type": "quantitative", "title": title or say("value"), "format": ".4"},
        ],
    }
