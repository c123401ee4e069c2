"""The pictures that were asked for last: one bar over all of them with the time left, then the pictures with their downloads."""

from contextlib import suppress
from pathlib import Path
from typing import Callable, Sequence

import streamlit as st

from gm.errors import shortened
from studio.errors import explained, in_plain_words
from studio.files import picture, texts_of
from studio.sampling.gallery import AT_ONCE, LARGEST_THUMBNAIL, described, download, speaking_name
from studio.sampling.settings import KEY
from studio.sampling.workshop import Task
from studio.waiting import progress_words
from studio.words import say

AGAIN_AFTER = 0.7  # seconds between two looks at a task
WIDE = 4  # pictures of a row
LONGEST_HEADING = 300  # letters of the prompt


def show(task: Task, labels: Sequence[str], columns: int, details: Callable[[Path, str], None]) -> None:
    """The task as it is now, and again and again until it is over. `details`: the buttons of a picture, its key given."""
    if task.over:
        _live(task, labels, columns, details, False)
    else:
        st.fragment(_live, run_every=AGAIN_AFTER)(task, labels, columns, details, True)


def _live(task: Task, labels: Sequence[str], columns: int, details: Callable[[Path, str], None], was_at_work: bool) -> None:
    with explained(st):  # a fragment is not in the body of its page
        _show(task, labels, columns, details, was_at_work)


def _show(task: Task, labels: Sequence[str], columns: int, details: Callable[[Path, str], None], was_at_work: bool) -> None:
    prompt = in_plain_words(shortened(task.wanted[0].prompt, LONGEST_HEADING))
    st.markdown(f"**{prompt}**")
    if not task.over:
        st.progress(task.share or 0.0, in_plain_words(progress_words(task.words, task.seconds_left)))
        st.button(say("Stop"), key=f"{KEY}stop", on_click=task.stop, help=say("The pictures that are done stay."))
        _preview(task)
    elif was_at_work:
        st.rerun()  # the whole page, which looks no more
    else:
        st.caption(in_plain_words(_ended(task)))
        if task.sentence:
            st.error(task.sentence)
    _pictures(task, labels, columns, details)
    if task.over and task.sheet and any(task.paths):
        name = "sheet_" + speaking_name(texts_of(next(path for path in task.paths if path)))
        download(st, say("Contact sheet"), task.sheet, name, f"{KEY}sheet")


def _preview(task: Task) -> None:
    """What the picture at work will be like."""
    with suppress(OSError):
        if task.preview:
            st.image(task.preview.read_bytes(), caption=say("on its way"), width=160)


def _pictures(task: Task, labels: Sequence[str], columns: int, details: Callable[[Path, str], None]) -> None:
    places = [place for place, path in enumerate(task.paths) if path]
    small = sum(_size(path) for path in task.paths if path) <= AT_ONCE
    across = min(WIDE, columns)
    for first in range(0, len(task.paths), across):
        shown = [place for place in range(first, min(first + across, len(task.paths))) if place in places]
        for column, place in zip(st.columns(max(3, across)), shown):
            path = task.paths[place]
            content = picture(path, LARGEST_THUMBNAIL) if path else None
            if path is None or content is None:
                continue
            column.image(content, width="stretch")
            texts = texts_of(path)
            if not task.over:  # no buttons that a browser would have to keep while others come
                column.caption(in_plain_words(labels[place]))
                continue
            own = "" if labels[place] == say("seed {seed}", seed=texts.get("seed")) else f"{labels[place]} · "
            column.caption(in_plain_words(own + described(texts)))
            if small:
                download(column, f"PNG, {labels[place]}", path, speaking_name(texts), f"{KEY}png:{place}")
            with column:
                details(path, f"now:{place}")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _ended(task: Task) -> str:
    """How many pictures there are, and how long they took."""
    there, wanted = sum(path is not None for path in task.paths), len(task.paths)
    if there < wanted and task.stopped:
        return say("stopped after {there} of {wanted} pictures, {seconds} s", there=there, wanted=wanted, seconds=_of(task))
    return say("{there} of {wanted} pictures, {seconds} s", there=there, wanted=wanted, seconds=_of(task))


def _of(task: Task) -> str:
    return f"{task.seconds:.1f}"
