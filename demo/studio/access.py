"""Who may open the page, and which files it may touch.

Streamlit listens on this machine alone (demo/.streamlit/config.toml). Where `--server.address` lets others in, the visitor must
know the token of the environment's STUDIO_TOKEN.
"""

import hmac
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Iterable, Sequence

import streamlit as st

from gm.errors import UserError, shown
from gm.options.parser import fields_of, option, parse
from gm.texts import path_text
from studio.words import say

TOKEN = "STUDIO_TOKEN"
LOCAL = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class PageOptions:
    """Flags of the page itself; all others are those of sampling_without_streamlit.py."""

    runs: Path = option(Path("runs"), "where trainings, uploads and drafts are kept", metavar="FOLDER")
    folders: tuple[Path, ...] = option(
        (), "a folder that photos and weights may be chosen from as well; repeatable", repeated=True, metavar="FOLDER"
    )
    jobs_at_once: int = option(1, "trainings that run at a time, each on a device of its own", least=1, most=64)


def page_options(argv: Sequence[str]) -> tuple[PageOptions, list[str]]:
    """The flags of the page, and what is left of the command line."""
    own, rest, words = [], [], list(argv)
    names = {f"--{name}" for name in fields_of(PageOptions)}
    while words:
        word = words.pop(0)
        target = own if word.split("=", 1)[0] in names else rest
        target.append(word)
        if target is own and "=" not in word and words:
            own.append(words.pop(0))
    return parse(PageOptions, own, "sampling.py", "The page."), rest


def admitted() -> bool:
    """Whether this visitor may see the page; shows what is missing otherwise."""
    if st.get_option("server.address") in LOCAL:
        return True
    token = os.environ.get(TOKEN, "")
    if not token:
        st.error(say("Others can reach this page, so it needs a token: start it with STUDIO_TOKEN=WORDS before the command"))
        return False
    given = st.query_params.get("token", "")
    if given and hmac.compare_digest(given.encode(), token.encode()):
        return True
    with st.form("token"):
        words = st.text_input(
            say("Token"), type="password", help=say("The words of STUDIO_TOKEN, which the page was started with")
        )
        pressed = st.form_submit_button(say("Open"), type="primary")
    if pressed or given:
        if words and hmac.compare_digest(words.encode(), token.encode()):
            st.query_params["token"] = token  # so that a reload finds it
            st.rerun()
        time.sleep(1.0)  # who tries many has to wait
        st.error(say("this is not the token that the page was started with"))
    return False


def inside(path: object, roots: Iterable[Path]) -> Path:
    """The path, links followed, where it is in one of the folders. UserError otherwise."""
    try:
        real = Path(os.path.realpath(path_text(str(path))))
    except ValueError as error:
        raise UserError(str(error)) from None
    roots = list(roots)
    if not any(real.is_relative_to(os.path.realpath(root)) for root in roots):
        folders = ", ".join(str(root) for root in roots)
        raise UserError(
            say("{path} is outside of the folders of this page: give one in {folders}", path=shown(str(path)), folders=folders)
        )
    return real
