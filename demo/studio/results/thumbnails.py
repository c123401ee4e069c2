"""Pictures of runs as the page shows them: small, read once for each version of a file."""

import io
from functools import lru_cache
from pathlib import Path
from typing import Any, Mapping, Optional

from PIL import Image

from gm.errors import UserError
from gm.pictures import text_of
from studio.errors import in_plain_words
from studio.results.saved import stamp
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


def picture(path: Path, longest: int = LONGEST) -> Optional[bytes]:
    """An encoded picture, at most so many pixels wide and high; None where it cannot be read."""
    try:
        return _small(stamp(path), longest)
    except (OSError, ValueError, Image.DecompressionBombError):  # also what Pillow says of a damaged file
        return None


@lru_cache(maxsize=512)
def _small(of: tuple[str, int, int], longest: int) -> bytes:
    with Image.open(of[0]) as image:
        if max(image.size) <= longest:
            return Path(of[0]).read_bytes()
        image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
        target = io.BytesIO()
        image.convert("RGB").save(target, "JPEG", quality=90)
        return target.getvalue()


def texts(path: Path) -> Mapping[str, str]:
    """The text chunks of a picture; empty where it cannot be read."""
    try:
        return _texts(stamp(path))
    except (OSError, UserError):
        return {}


@lru_cache(maxsize=1024)
def _texts(of: tuple[str, int, int]) -> Mapping[str, str]:
    return text_of(Path(of[0]))


def shortened(text: str) -> str:
    return text if len(text) <= LONGEST_CAPTION else text[:LONGEST_CAPTION] + "…"
