"""All trainings, the newest first, as buttons that choose the one that is looked at."""

import time
from typing import Sequence

import streamlit as st

from gm.jobs.control import jobs
from gm.jobs.curves import curves_of
from gm.jobs.job import Job
from gm.jobs.progress import total_of
from gm.jobs.state import METRICS, state
from studio.errors import explained, in_plain_words
from studio.visit import Studio
from studio.words import later, say

SHOWN = 6  # the newest; what is older is behind a fold
PHASES = {
    "waiting": later("waiting"),
    "starting": later("starting"),
    "running": later("running"),
    "stopping": later("stopping"),
    "stopped": later("stopped"),
    "done": later("done"),
    "failed": later("failed"),
    "lost": later("interrupted"),
}
ICONS = {
    "waiting": ":material/hourglass_empty:",
    "starting": ":material/rocket_launch:",
    "running": ":material/play_circle:",
    "stopping": ":material/pending:",
    "stopped": ":material/stop_circle:",
    "done": ":material/check_circle:",
    "failed": ":material/error:",
    "lost": ":material/error:",
}


def job_list(studio: Studio) -> None:
    """The list as it is now."""
    with explained(st):
        found = jobs(studio.runs)
        _rows(found[:SHOWN])
        if len(found) > SHOWN:
            with st.expander(say("{n} older", n=len(found) - SHOWN)):
                _rows(found[SHOWN:])


def _rows(found: Sequence[Job]) -> None:
    chosen = st.query_params.get("job")
    for job in found:
        now = state(job)
        pressed = st.button(
            f"{in_plain_words(job.name)} · {_where(job, now.phase)}",
            key=f"run_choose_{job.folder.name}",
            help=say("begun on {date}, in {folder}", date=_date(job.created), folder=in_plain_words(str(job.folder))),
            icon=ICONS[now.phase],
            type="primary" if job.folder.name == chosen else "secondary",
            width="stretch",
        )
        if pressed:
            st.query_params["job"] = job.folder.name
            st.session_state.pop("run_problem", None)
            st.rerun()


def _where(job: Job, phase: str) -> str:
    """The phase, and the step where there is one."""
    words, step, total = say(PHASES[phase]), curves_of(job.folder / METRICS).step, total_of(job)
    if not step:
        return words
    return f"{words} · {say('step {step} of {total}', step=step, total=total)}" if total else f"{words} · {step}"


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
