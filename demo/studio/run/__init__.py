"""The part "run" of the page: the trainings, the one that is looked at, and what can be done with it.

The address names the one that is looked at (`?job=NAME`), so that a reload shows it again.
"""

from typing import Optional, Sequence

import streamlit as st

from gm.jobs.control import jobs
from gm.jobs.job import Job
from gm.jobs.state import state
from studio.errors import explained
from studio.run.joblist import job_list
from studio.run.live import live
from studio.shell import go_to
from studio.visit import Studio
from studio.words import say

SECONDS = 1.5  # between two looks at a job that is at work
SECONDS_OF_LIST = 3.0


def render(studio: Studio) -> None:
    """The part as it is now."""
    with explained(st):
        found = jobs(studio.runs)
        job = _chosen(found)
        if job is None:
            st.info(say("No training yet: choose photos and a recipe, and start it there."))
            st.button(say("To the recipe"), key="run_to_recipe", type="primary", on_click=go_to, args=("recipe",))
            return
        st.fragment(job_list, run_every=SECONDS_OF_LIST)(studio)
        now = state(job)
        st.fragment(live, run_every=None if now.is_over else SECONDS)(studio, job.folder.name, now.is_over)


def _chosen(found: Sequence[Job]) -> Optional[Job]:
    """The job of the address; else the newest that runs, else the newest."""
    named = st.query_params.get("job")
    job = next((one for one in found if one.folder.name == named), None)
    job = job or next((one for one in found if state(one).phase in ("starting", "running")), None)
    job = job or next(iter(found), None)
    if job is not None and job.folder.name != named:
        st.query_params["job"] = job.folder.name
    return job
