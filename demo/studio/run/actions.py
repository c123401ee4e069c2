"""The buttons of a training."""

from typing import Any, Callable

import streamlit as st

from gm.jobs import control
from gm.jobs.job import Job
from gm.jobs.progress import Progress
from gm.jobs.state import State
from studio.errors import sentence_of
from studio.shell import go_to
from studio.visit import Studio
from studio.words import say

PROBLEM, ASKED = "run_problem", "run_delete"  # in the session: (folder, sentence); the folder that is to be deleted
MOST = 1_000_000  # steps


def buttons(studio: Studio, job: Job, now: State, done: Progress) -> None:
    """What can be done with it now, and what was wrong with what was done last."""
    folder, sentence = st.session_state.get(PROBLEM, ("", ""))
    with st.container():
        if folder == job.folder.name:
            st.error(sentence)
    with st.container(horizontal=True):
        if now.is_over:
            _go_on(studio, job, now, done)
        else:
            _while_it_runs(job, now)
        if st.button(say("Clone"), key="run_clone", help=say("the same again from the start, as a new job")):
            _do(job, _clone, job, studio)
        if now.is_over and st.button(say("Delete"), key="run_delete_button"):
            st.session_state[ASKED] = job.folder.name
            st.rerun()
    with st.container():
        if now.is_over and st.session_state.get(ASKED) == job.folder.name:
            _delete(studio, job)
    with st.container():
        if now.is_over and job.is_training and done.step:
            _more(job, done)


def _while_it_runs(job: Job, now: State) -> None:
    if now.phase == "stopping":
        lost = say("what it has learned since it saved last is lost")
        if st.button(say("End at once"), key="run_kill", help=lost):
            _do(job, control.stop, job, True)
    elif now.phase == "waiting":
        if st.button(say("Leave the queue"), key="run_stop", type="primary"):
            _do(job, control.stop, job)
    elif now.phase == "running" and job.is_training:
        if st.button(say("Stop and save"), key="run_stop", type="primary"):
            _do(job, control.stop, job)
        if st.button(say("Save now"), key="run_save", help=say("a LoRA file after this update, without stopping")):
            _do(job, control.save_now, job, said=say("It saves after this update."))
        drawn = say("the validation pictures after this update; the first time takes longer")
        if st.button(say("Sample now"), key="run_sample", help=drawn):
            _do(job, control.sample_now, job, said=say("It draws its pictures after this update."))
    elif st.button(say("Stop"), key="run_stop", type="primary"):
        _do(job, control.stop, job)


def _go_on(studio: Studio, job: Job, now: State, done: Progress) -> None:
    if now.phase != "done" and st.button(say("Resume"), key="run_resume", type="primary"):
        _do(job, control.resume, job)
    if done.saved and st.button(
        say("See the results"), key="run_results", type="primary", on_click=_to_results, args=(job.folder.name,)
    ):
        st.rerun()


def _to_results(folder: str) -> None:
    st.session_state["results_run"] = folder
    go_to("results")


def _more(job: Job, done: Progress) -> None:
    """Go on beyond its end."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        before = max(done.total or 0, done.step)
        total = st.number_input(
            say("Steps in all"),
            min_value=done.step + 1,
            max_value=MOST,
            value=min(before + max(before // 2, 1), MOST),
            key=f"run_total_{job.folder.name}_{before}",
            width=200,
        )
        if st.button(say("Continue for more steps"), key="run_more"):
            _do(job, control.more, job, int(total))


def _delete(studio: Studio, job: Job) -> None:
    st.warning(say("Delete this job with its photos, pictures and LoRA files? This cannot be undone."))
    with st.container(horizontal=True):
        if st.button(say("Delete for good"), key="run_delete_yes", type="primary"):
            _do(job, _deleted, job, studio)
        if st.button(say("Keep it"), key="run_delete_no"):
            st.session_state.pop(ASKED, None)
            st.rerun()


def _deleted(job: Job, studio: Studio) -> None:
    st.session_state.pop(ASKED, None)
    control.delete(job, studio.runs)
    st.query_params.pop("job", None)


def _clone(job: Job, studio: Studio) -> None:
    st.query_params["job"] = control.clone(job, studio.runs).folder.name


def _do(job: Job, action: Callable[..., None], *given: Any, said: str = "") -> None:
    """Do it and show the whole page anew; what goes wrong is said there."""
    try:
        action(*given)
    except Exception as error:  # Streamlit's own signals are no Exception
        st.session_state[PROBLEM] = (job.folder.name, sentence_of(error))
    else:
        st.session_state.pop(PROBLEM, None)
        if said:
            st.toast(said)
    st.rerun()
