"""What the page says, in the language of the browser: `say("{n} photos", n=5)`.

The English text is the key; its Chinese is in the dictionary of the file beside this one that belongs to the part of the page.
"""

from functools import lru_cache
from importlib import import_module

import streamlit as st

PARTS = ("shell", "photos", "recipe", "run", "results", "sampling")


def say(text: str, **values: object) -> str:
    """The text in the visitor's language, with the values in its places."""
    spoken = _chinese().get(text, text) if is_chinese() else text
    return spoken.format(**values) if values else spoken


def later(text: str) -> str:
    """The text itself: marks one in a table, which is said by `say(variable)` later."""
    return text


def is_chinese() -> bool:
    """Whether the visitor's browser asks for Chinese."""
    return (st.context.locale or "").lower().startswith("zh")


@lru_cache(maxsize=1)
def _chinese() -> dict[str, str]:
    found: dict[str, str] = {}
    for part in PARTS:
        found |= import_module(f"studio.words.{part}").CHINESE
    return found
