"""One training while it goes on: where it stands, its numbers, curves, pictures and log."""

import time
from pathlib import Path
from typing import Optional

import streamlit as st

from gm.jobs.job import LOG, Job, read_job
from gm.jobs.log import as_shown, last_lines
from gm.jobs.progress import Progress, progress
from gm.jobs.state import State, state
from studio.errors import explained, in_plain_words
from studio.run.actions import buttons
from studio.run.charts import curves
from studio.run.grid import pictures
from studio.run.joblist import PHASES
from studio.visit import Studio
from studio.words import later, say

LINES = 200  # of the log
AT_ONCE = 1 << 20  # bytes of a log that is ready for download without being asked for
WHY = {
    "killed": later(
        "the process was killed from outside, most likely for want of memory: close other programs, or train with smaller pictures, "
        "and resume"
    ),
    "lost": later("it was interrupted, as when the machine is switched off: resume goes on after what was saved last"),
    "left": later("its runner was killed: it saves and ends"),
    "never began": later("it left the queue before it began"),
}


def live(studio: Studio, name: str, was_over: bool) -> None:
    """The job of this folder as it is now; the whole page is shown anew when it has ended meanwhile."""
    with explained(st):
        job = read_job(studio.runs / name)
        if job is None:  # somebody has deleted it
            st.rerun()
            return
        now, done = state(job), progress(job)
        if now.is_over != was_over:
            st.rerun()
        st.subheader(in_plain_words(job.name), anchor=False)
        _where(job, now, done)
        buttons(studio, job, now, done)
        if job.is_training:
            _numbers(now, done)
            curves(job, now, done)
            pictures(done)
        _diagnosis(job)
        _log(job)


def _where(job: Job, now: State, done: Progress) -> None:
    """Its phase, what it waits for, or why it has ended."""
    phase, step = say(PHASES[now.phase]), ""
    if done.step and done.total:
        step = say("step {step} of {total}", step=done.step, total=done.total)
    left = say("about {time} left", time=_time(done.eta)) if done.eta is not None and now.phase == "running" else ""
    words = " · ".join(part for part in (phase, step, left) if part)
    st.progress(min(done.step / done.total, 1.0) if done.total else 0.0, words)
    place = st.container()  # always there, so that what comes below keeps its place
    with place:
        if now.phase == "waiting":
            n = now.ahead
            st.caption(say("It waits for {n} trainings before it.", n=n) if n else say("It is its turn now."))
        elif now.phase == "starting":
            last = last_lines(job.folder / LOG, 1, now.log_start)
            st.caption(say("It prepares, which can take minutes: {words}", words=in_plain_words(last[0] if last else "...")))
        elif now.phase == "stopping":
            st.caption(_why(now) or say("It finishes the update, saves and ends."))
        elif now.phase == "stopped":
            st.info(_stopped(now, done))
        elif now.phase in ("failed", "lost"):
            st.error(_why(now) or in_plain_words(now.sentence))
        else:
            st.caption(_took(now))


def _why(now: State) -> str:
    """Why, in the visitor's language where that is known."""
    return say(WHY[now.why]) if now.why in WHY else ""


def _stopped(now: State, done: Progress) -> str:
    if now.why in WHY:
        return _why(now)
    if done.saved and done.saved[-1] == done.step:
        return say("stopped after step {step}, which is saved: resume goes on from there", step=done.step)
    return in_plain_words(now.sentence)


def _took(now: State) -> str:
    """How long it has taken so far, or took in the end."""
    if not now.began:
        return ""
    took = _time((now.ended or time.time()) - now.began)
    return say("ended after {time}", time=took) if now.ended else say("for {time} now", time=took)


def _numbers(now: State, done: Progress) -> None:
    """What a person asks after first; they stand beside each other where there is room."""
    with st.container(horizontal=True, gap="medium"):
        _number(say("Step"), f"{done.step} / {done.total}" if done.total else str(done.step))
        _number(say("Time left"), _time(done.eta) if done.eta is not None else "–")
        _number(say("Seconds per step"), f"{done.seconds:.3g}" if done.seconds is not None else "–")
        most = say("of all its processes on this machine; {peak} at most so far", peak=_bytes(done.peak))
        _number(say("Memory"), _bytes(done.memory or done.peak), most)
        _number(say("Learning rate"), f"{done.lr:.3g}" if done.lr is not None else "–")
        _number(say("Skipped updates"), str(done.skipped), say("their gradient was not finite, so nothing was applied"))
    if done.saved:
        steps = ", ".join(str(step) for step in done.saved[-8:])
        st.caption(say("LoRA files saved after the steps {steps}", steps=steps))


def _number(label: str, value: str, more: Optional[str] = None) -> None:
    st.metric(label, value, help=more, width="content")


def _diagnosis(job: Job) -> None:
    path = job.folder / "diagnosis.txt"
    try:
        found = path.stat()
        text = _read(path, found.st_mtime_ns, found.st_size)
    except OSError:
        return
    with st.expander(say("What the numbers of the run say"), expanded=True):
        st.code(text, language=None, wrap_lines=True)


def _log(job: Job) -> None:
    path = job.folder / LOG
    with st.expander(say("Log")):
        lines = last_lines(path, LINES)
        if not lines:
            st.caption(say("Nothing was said yet."))
            return
        st.code("\n".join(lines), language=None, wrap_lines=True, height=320)
        found = path.stat()
        if found.st_size > AT_ONCE and not st.button(say("Prepare the whole log"), key=f"run_log_{job.folder.name}"):
            return
        st.download_button(
            say("Download the whole log"),
            _read(path, found.st_mtime_ns, found.st_size),
            f"{job.folder.name}_log.txt",
            "text/plain",
            key=f"run_download_{job.folder.name}",
            on_click="ignore",
        )


@st.cache_data(max_entries=8, show_spinner=False)
def _read(path: Path, changed: int, size: int) -> str:
    """The last two tell one version of the file from another."""
    return as_shown(path.read_text(encoding="utf-8", errors="replace"))


def _time(seconds: float) -> str:
    """As 1:02:03 or 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _bytes(number: int) -> str:
    return f"{number / 1e9:.1f} GB" if number else "–"
