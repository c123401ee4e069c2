"""What went wrong, as one sentence on the page."""

import re
import traceback
from contextlib import contextmanager
from typing import Any, Iterator

from gm import console
from studio.words import say


@contextmanager
def explained(place: Any) -> Iterator[None]:
    """What the body raises is shown in `place` (streamlit itself, or a part of it) as one sentence; paths and code of what should
    not have happened go to the terminal."""
    try:
        yield
    except Exception as error:  # Streamlit's own signals are no Exception
        place.error(sentence_of(error))


def sentence_of(error: Exception) -> str:
    """The sentence for a person, as Markdown that shows it as it is."""
    known = console.explain(error)
    if known is not None:
        return in_plain_words(known[0])
    traceback.print_exception(type(error), error, error.__traceback__)  # Python 3.9 wants all three
    return say("this did not work, and should not have happened: the terminal that the page was started in says more")


def in_plain_words(text: str) -> str:
    """The text as Markdown that shows it as it is."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", text)
