"""What people type or put into text files, read strictly and with bounds: numbers, prompts, paths, whole files. No MindSpore
import.

Functions that read one value raise ValueError with the end of a sentence ("'x' is not a whole number"); those that read a file
raise UserError with a whole one.
"""

import codecs
import os
import re
import stat
from pathlib import Path
from typing import Any, Optional

from gm.errors import UserError, shown

LARGEST = {int: 10**9, float: 1e9}  # of any number without a bound of its own, so that no product of a few overflows
LONGEST_PROMPT = 8000  # characters: more than any number of tokens holds
LARGEST_TEXT_FILE = 1_000_000  # bytes
_LONGEST_NUMBER = 40  # characters
_WHOLE = re.compile(r"[-+]?[0-9]+")
_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.?(nan|inf|infinity)", re.IGNORECASE)
_LONGEST_NAME, _LONGEST_PATH = 255, 4000  # bytes, of Linux's file systems


def number(
    text: str,
    kind: type,
    least: Optional[float] = None,
    above: Optional[float] = None,
    most: Optional[float] = None,
) -> Any:
    """A finite int or float within the bounds, in plain ASCII digits; ValueError with the reason otherwise."""
    if not (_WHOLE if kind is int else _NUMBER).fullmatch(text):
        if _NOT_FINITE.fullmatch(text):
            raise ValueError(f"{shown(text)} is not a finite number")
        raise ValueError(f"{shown(text)} is not {'a whole' if kind is int else 'a'} number")
    if len(text) > _LONGEST_NUMBER:
        raise ValueError(f"{shown(text)} has {len(text)} characters: give a number of at most {_LONGEST_NUMBER}")
    return bounded(kind(text), kind, text, least, above, most)


def bounded(
    value: Any,
    kind: type,
    text: str,
    least: Optional[float] = None,
    above: Optional[float] = None,
    most: Optional[float] = None,
) -> Any:
    """The number, called `text` in messages, when it is finite and within its bounds; without a bound of its own, within
    those of its kind."""
    if value - value != 0:
        raise ValueError(f"{text} is not a finite number")
    if least is None and above is None:
        least = -LARGEST[kind]
    most = LARGEST[kind] if most is None else most
    if least is not None and value < least:
        raise ValueError(f"{text} is too small: at least {in_digits(least)}")
    if above is not None and value <= above:
        raise ValueError(f"{text} is too small: more than {in_digits(above)}")
    if value > most:
        raise ValueError(f"{text} is too large: at most {in_digits(most)}")
    return value


def in_digits(bound: float) -> str:
    """A bound as people write it: 4096, 0.5, 1e-06."""
    return str(int(bound)) if bound == int(bound) else f"{bound:g}"


def require_text(text: str) -> None:
    """ValueError for bytes that are no UTF-8 (Python has them as surrogates) and for control characters other than white
    space."""
    if any("\ud800" <= c <= "\udfff" for c in text):
        raise ValueError(
            f"{shown(text)} is not UTF-8 text: set the terminal and its locale to UTF-8 (export LC_ALL=C.UTF-8), or rename what "
            "it names"
        )
    if any(c < " " and c not in "\t\n\r" or c == "\x7f" for c in text):
        raise ValueError(f"{shown(text)} holds control characters: take them out")


def prompt_text(text: str) -> str:
    """The prompt on one line; ValueError when it is empty, longer than any number of tokens, or no text."""
    if not text.strip():
        raise ValueError("the prompt is empty: say in words what the pictures show")
    return any_prompt(text)


def any_prompt(text: str) -> str:
    """`prompt_text` of one that may be empty."""
    require_prompt(text)
    return re.sub(r"[\t\n\r]+", " ", text)


def require_prompt(text: str) -> None:
    """ValueError for a prompt or caption that is longer than any number of tokens, or no text."""
    require_text(text)
    if len(text) > LONGEST_PROMPT:
        raise ValueError(
            f"the prompt has {len(text)} characters: give at most {LONGEST_PROMPT}, of which no more than 225 tokens, about "
            "1000 characters, count"
        )


def path_text(text: str) -> str:
    """The path; ValueError for one that no file can have."""
    if not text.strip():
        raise ValueError("the path is empty: give one, or leave it away")
    require_text(text)
    if any(c in text for c in "\t\n\r"):
        raise ValueError(f"{shown(text)} holds a line break or tab: rename it")
    longest = max((len(name.encode()) for name in text.split("/")), default=0)
    if longest > _LONGEST_NAME or len(text.encode()) > _LONGEST_PATH:
        raise ValueError(
            f"{shown(text)} is too long: a name may have {_LONGEST_NAME} bytes and a path {_LONGEST_PATH}, this has "
            f"{longest} and {len(text.encode())}"
        )
    return text


def read_text(path: Path, what: str, largest: int = LARGEST_TEXT_FILE) -> str:
    """The UTF-8 text of a file without its byte order mark. `what`: how messages begin, e.g. "--prompt a.txt".

    UserError unless it is a regular file, which may be reached through links, of at most `largest` bytes.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # opening a FIFO does not wait
        try:
            mode = os.fstat(handle).st_mode
            if not stat.S_ISREG(mode):
                raise UserError(f"{what} cannot be read: it is no file but a {_kind(mode)}, give a text file")
            with open(handle, "rb", closefd=False) as file:
                content = file.read(largest + 1)
        finally:
            os.close(handle)
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{what} cannot be read: it does not exist, give a text file") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{what} cannot be read ({reason}): give a text file that can be read") from None
    if len(content) > largest:
        raise UserError(f"{what} cannot be read: it has more than {largest} bytes, give a text file")
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UserError(f"{what} cannot be read: it is UTF-16, save it as UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{what} cannot be read: it is not UTF-8 (byte {error.start}), save it as UTF-8 text") from None
    if "\0" in text:
        raise UserError(f"{what} cannot be read: it holds bytes of 0, so it is no text, give a text file")
    return text


def _kind(mode: int) -> str:
    kinds = {stat.S_ISDIR: "folder", stat.S_ISFIFO: "pipe", stat.S_ISSOCK: "socket"}
    return next((name for is_kind, name in kinds.items() if is_kind(mode)), "device")
