"""How a run went: which checkpoint to take and why, pictures by step, the curves of the training and what it said in the end."""

from pathlib import Path
from typing import Mapping, Optional, Sequence

import streamlit as st

from gm.evaluation.checkpoints import SHEET, Course
from gm.texts import read_text
from gm.training.progress_files import FOLDER, NAMED
from studio.errors import explained, in_plain_words
from studio.files import texts_of
from studio.results import curves, scoring
from studio.results.reasons import in_words
from studio.results.saved import Saved
from studio.results.thumbnails import shortened, show_picture
from studio.visit import Studio
from studio.words import say

ACROSS = 4  # pictures beside each other
LARGEST_SHEET = 2000  # pixels of the longer side


def render(studio: Studio, runs: Mapping[str, Saved], run: Saved) -> None:
    """The view as it is now."""
    course = None
    with explained(st):
        course = curves.course_of(run)
    if course is not None:
        _choice(run, course)
    _progress(run)
    if course is not None:
        _figures(run, course)
    scoring.render(studio, run, course is not None)
    _training(run)


def _choice(run: Saved, course: Course) -> None:
    choice = course.choice
    if choice is None:
        return
    words = say("Take step {step}: score {score}", step=choice.step, score=f"{choice.score:.3f}")
    if choice.step not in run.loras:
        words += " · " + say("its file is not there any more")
    st.success(f"**{in_plain_words(words)}**  \n{in_plain_words(in_words(choice.reason))}")


# -- pictures ----------------------------------------------------------------------------------------------------------------


def pictures_by_step(run: Saved) -> dict[int, list[Path]]:
    """The pictures that were drawn during the training, in their order."""
    found: dict[int, list[Path]] = {}
    folder = run.folder / FOLDER
    if folder.is_dir() and not folder.is_symlink():
        for path in sorted(folder.iterdir()):
            match = NAMED.fullmatch(path.name)
            if match and run.file(FOLDER, path.name):
                found.setdefault(int(match[1]), []).append(path)
    return found


@st.fragment
def _progress(run: Saved) -> None:
    """A slider over the steps; only this part runs again when it is moved."""
    st.subheader(say("Pictures on the way"))
    found = pictures_by_step(run)
    if not found:
        st.caption(say("This run drew no pictures while it trained. Compare draws some now."))
        return
    steps = list(found)
    step = steps[-1]
    if len(steps) > 1:
        step = chosen_step(say("After so many updates"), steps, f"results_progress_{run.name}")
    for start in range(0, len(found[step]), ACROSS):
        for column, path in zip(st.columns(min(ACROSS, len(found[step]))), found[step][start : start + ACROSS]):
            show_picture(column, path, shortened(texts_of(path).get("prompt", "")))


def chosen_step(label: str, steps: Sequence[int], key: str, usual: Optional[int] = None) -> int:
    """One of several steps by a slider, the last one to begin with. A step that is gone meanwhile is forgotten."""
    if st.session_state.get(key) not in steps:
        st.session_state[key] = usual if usual in steps else steps[-1]
    return st.select_slider(label, list(steps), key=key)


# -- figures -----------------------------------------------------------------------------------------------------------------


def _figures(run: Saved, course: Course) -> None:
    st.subheader(say("Scores of the checkpoints"))
    st.caption(say("A point is a checkpoint, at 0 the base model; the diamond marks the one to take."))
    first, *others = curves.panels(course).items()
    _drawn(st, *first)
    with st.expander(say("What the score is made of")):
        for start in range(0, len(others), 2):
            for column, panel in zip(st.columns(2), others[start : start + 2]):
                _drawn(column, *panel)
    sheet = run.file("evaluation", SHEET)
    if sheet:
        with st.expander(say("Pictures of all checkpoints")):
            show_picture(st, sheet, longest=LARGEST_SHEET)


def _drawn(place, title: str, spec: curves.Spec) -> None:
    place.markdown(f"**{title}**")
    place.vega_lite_chart(spec)


# -- training ----------------------------------------------------------------------------------------------------------------


def _training(run: Saved) -> None:
    records = curves.records_of(run)
    if records:
        st.subheader(say("Training"))
        left, right = st.columns(2)
        _drawn(left, say("Loss"), curves.losses(records))
        _drawn(right, say("Learning rate"), curves.rates(records))
    diagnosis, data = run.file("diagnosis.txt"), run.file("data.png")
    if diagnosis:
        with st.expander(say("What went well or wrong"), expanded=True):
            st.text(read_text(diagnosis, say("the diagnosis")))
    if data:
        with st.expander(say("What was trained on")):
            show_picture(st, data, longest=LARGEST_SHEET)
