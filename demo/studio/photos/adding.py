"""How photos are added: uploaded, copied from a folder, or drawn to try the page with."""

from typing import Any, Callable

import streamlit as st

from studio.draft import Draft
from studio.photos import intake
from studio.photos.told import tell_taken, tried
from studio.visit import Studio
from studio.words import say

KINDS = ["jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "txt", "caption"]


def show(studio: Studio, draft: Draft, some: bool) -> None:
    """The ways to add; open where there is no photo yet."""
    if not some:
        st.info(
            say(
                "Add 5 to 20 photos of one person, animal, thing or style: sharp, from several sides, in several places, with nothing "
                "else in common"
            )
        )
    with st.expander(say("Add photos"), expanded=not some):
        _uploads(draft)
        _folder(studio, draft)
        if intake.can_draw() and st.button(
            say("Five drawn photos of a dog"), key="photos_draw", help=say("To try everything with, quickly")
        ):
            _now(_draw, draft)


def _now(action: Callable[..., None], *words: Any) -> None:
    """Do this while the page shows that it is done, then show the page as it is after it."""
    with st.spinner(say("looking at the photos")):
        tried(action, *words)
    st.rerun()


def _uploads(draft: Draft) -> None:
    times = st.session_state.setdefault("photos_times_uploaded", 0)
    uploads = st.file_uploader(
        say("Photos, with captions (NAME.txt) and masks (NAME-masklabel.png) if there are any"),
        KINDS,
        accept_multiple_files=True,
        key=f"photos_uploads_{times}",
        help=say("At most {photos} photos, each of at most {size} MB", photos=intake.MOST, size=intake.LARGEST // 10**6),
    )
    if uploads:
        st.session_state["photos_times_uploaded"] = times + 1  # an empty uploader
        _now(_take_uploads, draft, uploads)


def _take_uploads(draft: Draft, uploads: list) -> None:
    tell_taken(intake.take_uploads(draft.photos, uploads))


def _folder(studio: Studio, draft: Draft) -> None:
    folders = _folders(studio, tuple(map(str, studio.roots)))
    chosen = st.selectbox(
        say("Or from a folder of this machine"),
        folders,
        index=None,
        key="photos_folder",
        placeholder=say("choose, or type a path"),
        accept_new_options=True,
        help=say("In {roots}; --folders FOLDER after the page's command allows more", roots=", ".join(map(str, studio.roots))),
    )
    if chosen and st.button(say("Copy its photos"), key="photos_copy"):
        _now(_copy, studio, draft, chosen)


@st.cache_data(ttl=20, show_spinner=False)
def _folders(_studio: Studio, roots: tuple[str, ...]) -> list[str]:
    """Those with photos; the first argument is not part of the key."""
    return [str(folder) for folder in intake.folders_with_photos(_studio)]


def _copy(studio: Studio, draft: Draft, folder: str) -> None:
    tell_taken(intake.take_folder(studio, draft.photos, folder))


def _draw(draft: Draft) -> None:
    tell_taken(intake.take_drawn(draft.photos))
    if not draft.settings().instance_prompt:
        draft.change(instance_prompt=intake.DRAWN_PROMPT)
