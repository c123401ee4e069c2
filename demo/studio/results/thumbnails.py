"""Pictures of runs as the page shows them."""

from pathlib import Path
from typing import Any

from studio.errors import in_plain_words
from studio.files import picture
from studio.words import say

LONGEST = 768  # pixels of a side
LONGEST_CAPTION = 160  # letters


def show_picture(place: Any, path: Path, caption: str = "", longest: int = LONGEST) -> None:
    """The picture in a place of the page; a few words where the file is none."""
    content = picture(path, longest)
    if content is None:
        place.caption(say("the file {name} is not a picture that can be read", name=in_plain_words(path.name)))
    else:
        kind = "PNG" if content.startswith(b"\x89PNG") else "JPEG"  # as it is, which Streamlit would make a JPEG of
        place.image(content, in_plain_words(caption) or None, width="stretch", output_format=kind)


def shortened(text: str) -> str:
    return text if len(text) <= LONGEST_CAPTION else text[:LONGEST_CAPTION] + "…"
