"""The LoRA of the page: which there are, what they are called, and the list of those that act."""

import os
from pathlib import Path
from typing import Any, Mapping, NamedTuple, Optional

import streamlit as st

from gm.errors import UserError
from gm.evaluation.saved_run import NAME, PROMPT
from gm.jobs.control import KEPT
from studio.access import inside
from studio.choice import STRONGEST, WEAKEST
from studio.errors import in_plain_words, sentence_of
from studio.files import metadata_of
from studio.sampling.settings import KEY, Settings
from studio.visit import Studio
from studio.words import say

TRIGGERS = (PROMPT, "modelspec.trigger_phrase")  # where a file says what to ask it for
LEFT_OUT = (*KEPT, "photos")  # folders of runs without LoRA
MOST = 8  # LoRA at once
LISTED = 500  # files to choose from


class Active(NamedTuple):
    """A LoRA that is on."""

    path: str
    strength: float


@st.cache_data(ttl=5, show_spinner=False)
def lora_files(folders: tuple[str, ...]) -> list[str]:
    """LoRA files under the folders, the newest first; of one written in two formats the native."""
    found: dict[Path, float] = {}
    for folder in folders:
        for place, inner, names in os.walk(folder):
            inner[:] = [name for name in inner if name not in LEFT_OUT and not name.startswith(".")]
            for name in names:
                path = Path(place, name)
                if "lora" not in name or path.suffix not in (".ckpt", ".safetensors"):
                    continue
                try:
                    str(path).encode()
                    if path.is_file():
                        found[path] = path.stat().st_mtime
                except (OSError, UnicodeEncodeError):  # it has gone meanwhile; a name that a browser cannot be sent
                    continue
    both = {path.with_suffix(".safetensors") for path in found if path.suffix == ".ckpt"}
    return [str(path) for path in sorted(found.keys() - both, key=found.__getitem__, reverse=True)][:LISTED]


def step_of(path: str) -> Optional[int]:
    """The updates after which this checkpoint of a run was saved."""
    named = NAME.fullmatch(Path(path).name)
    return int(named[1]) if named else None


def called(path: str) -> str:
    """What tells it from others comes first, because a narrow field cuts the end off."""
    step = step_of(path)
    if step is None:
        return f"{Path(path).name} · {Path(path).parent.name}"
    return say("step {step} · {run}", step=step, run=Path(path).parent.name)


def trigger_of(path: str) -> str:
    """What the file says that it is to be asked for; empty where it says nothing."""
    said = metadata_of(Path(path))
    return next((said[name] for name in TRIGGERS if said.get(name)), "")


def active(settings: Settings) -> list[Active]:
    """The LoRA that are on."""
    given = settings.values["lora"]
    return [Active(one["path"], float(one.get("strength", 1.0))) for one in given if one.get("on", True)]


def show(studio: Studio, settings: Settings) -> None:
    """The list, each with its switch and strength, and a field to add one."""
    given: list[dict[str, Any]] = settings.values["lora"]
    for place, one in enumerate(given):
        _show_one(settings, place, one)
    if len(given) < MOST:
        files = [path for path in lora_files(tuple(map(str, studio.roots))) if path not in {one["path"] for one in given}]
        st.selectbox(
            say("Add a LoRA"),
            files,
            index=None,
            format_func=called,
            key=f"{KEY}lora:add",
            accept_new_options=True,
            placeholder=say("choose one, or type a path"),
            on_change=_add,
            args=(studio, settings),
        )
    said = st.session_state.pop("sampling.lora_said", None)
    if said:
        st.error(said)


def _show_one(settings: Settings, place: int, one: dict[str, Any]) -> None:
    left, middle, right = st.columns([4, 4, 1], vertical_alignment="bottom")
    name = called(one["path"])
    one["on"] = left.toggle(in_plain_words(name), key=settings.keyed(f"lora:{place}:on", bool(one.get("on", True))))
    one["strength"] = middle.slider(
        say("Strength of {name}", name=in_plain_words(name)),
        WEAKEST,
        STRONGEST,
        step=0.05,
        key=settings.keyed(f"lora:{place}:strength", float(one.get("strength", 1.0))),
        disabled=not one["on"],
    )
    right.button(
        say("Remove"), key=f"{KEY}lora:{place}:remove", on_click=_remove, args=(settings, place), help=say("The file stays")
    )
    words = trigger_of(one["path"])
    state = "" if one["on"] else say("switched off") + " · "
    st.caption(state + in_plain_words(one["path"]))
    if words:
        left, right = st.columns([4, 2], vertical_alignment="center")
        left.caption(say("It was trained with the prompt **{words}**", words=in_plain_words(words)))
        if words.lower() not in (settings.values["prompt"] or "").lower():
            right.button(
                say("Put this into the prompt"), key=f"{KEY}lora:{place}:insert", on_click=_insert, args=(settings, words)
            )


def _add(studio: Studio, settings: Settings) -> None:
    path = st.session_state[f"{KEY}lora:add"]
    if not path:
        return
    try:
        add(studio, settings, path)
    except UserError as error:
        st.session_state["sampling.lora_said"] = sentence_of(error)
        st.session_state[f"{KEY}lora:add"] = None


def add(studio: Studio, settings: Settings, path: str) -> None:
    """Put it on, as strong as it was trained. UserError for a path outside of the folders of the page, or where nothing is."""
    inside(path, studio.roots)
    if not Path(path).is_file():
        raise UserError(say("there is no LoRA file {path}: choose one of the list", path=path))
    settings.change(lora=[*settings.values["lora"], {"path": path, "strength": 1.0, "on": True}])


def _remove(settings: Settings, place: int) -> None:
    settings.change(lora=[one for number, one in enumerate(settings.values["lora"]) if number != place])


def _insert(settings: Settings, words: str) -> None:
    before = (settings.values["prompt"] or "").strip()
    settings.change(prompt=f"{words}, {before}" if before else words)


def in_words(given: Mapping[str, float]) -> str:
    """Paths and strengths, for people."""
    return ", ".join(f"{called(path)} × {strength:g}" for path, strength in given.items())
