"""The part "photos" of the page: what is trained on. Adding photos is adding.py, all of them overview.py, one of them editor.py;
what training will do with them is plan.py."""

import os

import streamlit as st

from gm.data.images import count_images
from studio.errors import explained
from studio.photos import adding, editor, overview, told
from studio.visit import Studio


def render(studio: Studio) -> None:
    """The part as it is now."""
    draft = studio.draft
    told.show()
    with explained(st):
        names = [photo.name for photo in count_images(draft.photos)] if os.path.isdir(draft.photos) else []
        if editor.chosen() in names:
            editor.show(studio, draft, editor.chosen(), names)
        else:
            adding.show(studio, draft, bool(names))
            overview.show(studio, draft)
