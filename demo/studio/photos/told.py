"""What the last click did, said once at the top of the part: callbacks run before anything is shown."""

from typing import Any, Callable

import streamlit as st

from gm.errors import shortened
from studio.errors import in_plain_words, sentence_of
from studio.photos.intake import Taken
from studio.words import say

KEY = "photos_told"  # of the session: (kind, sentence)
MOST = 10  # sentences


def tell(kind: str, sentence: str) -> None:
    """Say this at the next run: kind is success, warning or error; the sentence is shown as it is."""
    st.session_state.setdefault(KEY, []).append((kind, in_plain_words(sentence)))


def tell_taken(taken: Taken) -> None:
    """What came in, and what did not."""
    if taken.names or taken.besides:
        tell(
            "success",
            say("{photos} photos, {besides} captions and masks added", photos=len(taken.names), besides=taken.besides),
        )
    for sentence in taken.refused[:MOST]:
        tell("warning", shortened(sentence, 500))
    if len(taken.refused) > MOST:
        tell("warning", say("and {n} more files were refused", n=len(taken.refused) - MOST))


def tried(action: Callable[..., Any], *words: Any) -> None:
    """Do this in a callback; an error is said at the next run."""
    try:
        action(*words)
    except Exception as error:
        st.session_state.setdefault(KEY, []).append(("error", sentence_of(error)))


def show() -> None:
    """All that was to be said."""
    for kind, sentence in st.session_state.pop(KEY, []):
        {"success": st.success, "warning": st.warning, "error": st.error}[kind](sentence)
