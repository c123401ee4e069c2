"""One setting as a widget: shown as it counts now, checked when it is changed, and kept in the draft where it differs from what counts
without it."""

from dataclasses import dataclass
from typing import Any, Callable, Optional

import streamlit as st

from gm.errors import UserError
from gm.options.parser import as_given
from gm.texts import LARGEST, number
from studio.errors import in_plain_words
from studio.words import say

WRONG = "recipe_wrong"  # in the session: key of a widget -> the sentence about what stands there
_COUNTABLE = 2**53  # larger whole numbers are none in a browser


@dataclass(frozen=True)
class Control:
    """What a widget needs to know."""

    name: str
    label: str  # in the visitor's language
    help: str
    kind: Any  # int, float, bool or str
    value: Any  # None: not set
    choices: Optional[tuple] = None
    optional: bool = False  # whether it may be empty
    least: Optional[float] = None
    above: Optional[float] = None
    most: Optional[float] = None
    read: Optional[Callable[[str], Any]] = None  # of a text; ValueError with the end of a sentence

    @property
    def key(self) -> str:
        return f"recipe_{self.name}"

    @property
    def is_counted(self) -> bool:
        """Whether it is a whole number that has buttons to count by."""
        return self.kind is int and not self.optional and (self.most or LARGEST[int]) <= _COUNTABLE and self.read is None


Keep = Callable[[Any], None]  # takes the value; None: as nobody has set it


def draw(control: Control, keep: Keep) -> None:
    """The widget. What is typed and cannot be right stays there, with the sentence below it, and is not kept."""
    wrong = st.session_state.setdefault(WRONG, {})
    if control.key not in wrong:
        st.session_state[control.key] = _shown(control)
    more: dict[str, Any] = {"key": control.key, "help": control.help, "on_change": _take, "args": (control, keep)}
    if control.kind is bool:
        st.checkbox(control.label, **more)
    elif control.choices is not None:
        options = list(control.choices)
        options += [None] if control.optional and None not in options else []
        options += [control.value] if control.value not in options else []
        st.selectbox(control.label, options, format_func=_choice, **more)
    elif control.is_counted:
        most = int(control.most or LARGEST[int])
        least = int(control.least) if control.least is not None else -most
        st.session_state[control.key] = min(max(st.session_state[control.key], least), most)
        st.number_input(control.label, least, most, step=1, **more)
    else:
        st.text_input(control.label, placeholder=say("not set") if control.optional else None, **more)
    if control.key in wrong:
        st.error(in_plain_words(wrong[control.key]))


def _shown(control: Control) -> Any:
    if control.kind is bool or control.choices is not None or control.is_counted:
        return bool(control.value) if control.kind is bool else control.value
    return as_text(control.value)


def as_text(value: Any) -> str:
    """A value as people type it."""
    return "" if value is None else as_given(value)


def _choice(value: Any) -> str:
    """A choice by its own name, of a target its end."""
    if value is None:
        return say("not set")
    return str(value).rpartition(".")[2] if str(value).startswith(("gm.", "mindspore.")) else str(value)


def _take(control: Control, keep: Keep) -> None:
    """What was typed becomes the value, or a sentence."""
    wrong = st.session_state.setdefault(WRONG, {})
    try:
        keep(_read(control, st.session_state[control.key]))
        wrong.pop(control.key, None)
    except (UserError, ValueError) as error:
        wrong[control.key] = f"{control.label}: {error}"


def _read(control: Control, given: Any) -> Any:
    if not isinstance(given, str) or control.choices is not None:
        return given
    text = given.strip()
    if not text:
        if control.optional:
            return None
        raise ValueError(say("it is empty: give a value"))
    if control.read is not None:
        return control.read(text)
    if control.kind in (int, float):
        return number(text, control.kind, control.least, control.above, control.most)
    return text


def forget_mistakes() -> None:
    """What stands in the widgets is what counts again."""
    st.session_state[WRONG] = {}
