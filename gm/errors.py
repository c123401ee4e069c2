"""The one exception type that is shown to a person instead of a traceback, and how what was given is shown in it."""

import reprlib
import unicodedata
from typing import Any

LONGEST_SENTENCE = 4000  # characters of a message; what is in the middle of a longer one is left out
_SHOWN = 80  # characters of a value


class UserError(ValueError):
    """Bad input: the message is one sentence with what was wrong, what was given and what would do.

    Commands print it as ``error: <message>`` on standard error and end with status 2. Whatever names and values stand in it, it
    is one line that every terminal can show.
    """

    def __init__(self, message: str):
        super().__init__(shortened(one_line(message), LONGEST_SENTENCE))


def one_line(text: str) -> str:
    """The text with line breaks, control characters and bytes that are no UTF-8 written as in Python's quotes: \\n, \\x07."""
    return text if text.isprintable() else "".join(c if _is_visible(c) else repr(c)[1:-1] for c in text)


def _is_visible(character: str) -> bool:
    return character.isprintable() or unicodedata.category(character) == "Zs"


def shortened(text: str, longest: int) -> str:
    """The text, or its beginning and end when it has more characters than that."""
    if len(text) <= longest:
        return text
    half = (longest - 5) // 2
    return f"{text[:half]} ... {text[len(text) - half :]}"


class _Short(reprlib.Repr):
    """Shows a few items of lists and mappings, as deep as a person would read."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxlist, self.maxdict, self.maxstring, self.maxother, self.maxlong = (
            3,
            8,
            8,
            _SHOWN,
            _SHOWN,
            _SHOWN,
        )


def shown(value: Any) -> str:
    """repr of a value of any size, shortened: for a message."""
    return shortened(one_line(_Short().repr(value)), 3 * _SHOWN)


def require_multiple(what: str, pixels: int, multiple: int) -> None:
    """UserError unless the network can take so many pixels; `what` says whose number it is."""
    if pixels % multiple:
        lower = max(multiple, pixels // multiple * multiple)
        raise UserError(f"{what} {pixels} is not a multiple of {multiple}: take {lower} or {lower + multiple}")
