"""The curves of a training: losses, smoothed, and its learning rate.

The numbers stand in a layer of the chart: Streamlit makes a table of Arrow of those at its top, and pyarrow may be one that does
not load beside this project's numpy.
"""

import time
from typing import Any, Mapping, Optional, Sequence

import streamlit as st

from gm.jobs.job import Job
from gm.jobs.progress import Progress
from gm.jobs.state import State
from studio.words import say

SECONDS = 4.0  # between two drawings of the curves of a training that goes on
HEIGHT = 240  # pixels
Records = Sequence[Mapping[str, Optional[float]]]


def curves(job: Job, now: State, done: Progress) -> None:
    """Both charts beside each other, or one above the other where it is narrow; drawn anew now and then."""
    if len(done.records) < 2:
        return
    about = (job.folder.name, done.total, now.phase, say("Loss"))
    kept = st.session_state.get("run_curves")
    if kept is None or kept[0] != about or time.monotonic() > kept[1] + SECONDS:
        specs = losses(done.records, done.total), rates(done.records, done.total)
        kept = st.session_state["run_curves"] = about, time.monotonic(), specs
    left, right = st.columns(2)
    left.vega_lite_chart(kept[2][0])
    right.vega_lite_chart(kept[2][1])


def losses(records: Records, total: Optional[int]) -> Mapping[str, Any]:
    """Of the subject and of its class: what each update had, faint, and the mean of those around it."""
    kinds = {"instance_loss": say("subject"), "class_loss": say("class")}
    values = [
        {"step": one["step"], "kind": name, "loss": one[key], "smooth": one[f"smooth_{key}"]}
        for key, name in kinds.items()
        for one in records
        if one[f"smooth_{key}"] is not None
    ]
    there = list(dict.fromkeys(value["kind"] for value in values))
    colour = {"field": "kind", "type": "nominal", "title": None, "sort": list(kinds.values())}
    colour |= {"legend": {"orient": "top"} if len(there) > 1 else None}

    def line(field: str, **mark: Any) -> Mapping[str, Any]:
        shown = [{"field": "step", "title": say("step")}, {"field": "kind", "title": say("loss of the")}]
        shown += [{"field": field, "title": say("loss"), "format": ".4f"}]
        y = {"field": field, "type": "quantitative", "title": None, "scale": {"zero": False}}
        return {"mark": {"type": "line", **mark}, "encoding": {"x": _steps(total), "y": y, "color": colour, "tooltip": shown}}

    layers = [line("loss", opacity=0.25, strokeWidth=1), line("smooth", strokeWidth=2.5)]
    return _chart(say("Loss"), values, layers)


def rates(records: Records, total: Optional[int]) -> Mapping[str, Any]:
    """The learning rate."""
    values = [{"step": one["step"], "lr": one["lr"]} for one in records if one["lr"] is not None]
    y = {"field": "lr", "type": "quantitative", "title": None, "axis": {"format": ".1e"}}
    shown = [{"field": "step", "title": say("step")}, {"field": "lr", "title": say("learning rate"), "format": ".3e"}]
    encoding = {"x": _steps(total), "y": y, "tooltip": shown}
    return _chart(say("Learning rate"), values, [{"mark": {"type": "line", "strokeWidth": 2.5}, "encoding": encoding}])


def _chart(title: str, values: Sequence[Mapping[str, Any]], layers: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    return {"title": title, "height": HEIGHT, "layer": [{"data": {"values": values}, "layer": layers}]}


def _steps(total: Optional[int]) -> Mapping[str, Any]:
    """The axis, as long as the training is to be."""
    scale = {"domain": [0, total], "clamp": True} if total else {"zero": True}
    return {"field": "step", "type": "quantitative", "title": say("step"), "scale": scale, "axis": {"tickMinStep": 1}}
