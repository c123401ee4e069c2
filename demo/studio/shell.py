"""The page: who may open it, which of its parts is shown, and what all of them are given. Streamlit runs `main` again at every
click."""

from importlib import import_module
from typing import Mapping, Sequence

import streamlit as st

from gm import console
from studio import access
from studio.errors import explained
from studio.models import Model
from studio.visit import Studio, visit
from studio.words import later, say

# a part of the page -> its title; each is a module of studio with render(studio)
PARTS = {
    "sampling": later("Pictures"),
    "photos": later("Photos"),
    "recipe": later("Recipe"),
    "run": later("Run"),
    "results": later("Results"),
}


def main(models: Mapping[str, Model], argv: Sequence[str]) -> None:
    """The page as it is now."""
    st.set_page_config("SDXL DreamBooth", layout="wide")
    console.set_up()
    with explained(st):
        options, rest = access.page_options(argv)
        if not access.admitted():
            return
        studio = Studio(options, models, rest, visit())
        import_module(f"studio.{_part()}").render(studio)


def go_to(part: str) -> None:
    """Show another part from the next run on: for the callback of a button."""
    st.session_state["part"] = part


def _part() -> str:
    """The part that is shown: what was chosen last, also before a reload."""
    if st.session_state.get("part") not in PARTS:
        wanted = st.session_state.get("shown_part") or st.query_params.get("part")
        st.session_state["part"] = wanted if wanted in PARTS else "sampling"
    st.segmented_control(
        say("Part of the studio"),
        list(PARTS),
        format_func=lambda part: say(PARTS[part]),
        key="part",
        label_visibility="collapsed",
    )
    part = st.session_state["part"] or st.session_state.get("shown_part", "sampling")
    st.session_state["shown_part"] = part
    if st.query_params.get("part") != part:
        st.query_params["part"] = part
    return part
