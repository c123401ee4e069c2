"""A mask painted over a picture by mouse, finger, pen or keyboard: `brush`. What runs in the browser is in static/."""

import base64
import hashlib
import io
import secrets
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Optional

import numpy as np
import streamlit as st
from PIL import Image
from streamlit import components

from gm.errors import UserError
from studio.words import say

LARGEST = 768  # pixels a side of what is painted on
LONGEST = 4_000_000  # characters of a mask that the browser sends; one of LARGEST pixels has some ten thousand
KEPT = 4  # paintings of a visit
PNG = "data:image/png;base64,"
STATIC = Path(__file__).parent / "static"


@dataclass
class _Painting:
    """What is known of a brush of this visit."""

    of: tuple[str, str] = ("", "")  # the picture and the mask that were begun with
    number: int = 0  # another one each time that something is begun
    picture: str = ""  # data URLs
    start: str = ""
    sent: str = ""  # what came last from the browser, and what it says
    mask: Optional[np.ndarray] = None
    returned: set[str] = field(default_factory=set)


def brush(picture: np.ndarray, mask: Optional[np.ndarray], key: str, label: str) -> Optional[np.ndarray]:
    """Let the visitor paint on `picture` (h, w, 3) uint8, beginning with `mask` (h, w) uint8 if there is one.

    Returns the mask (h, w) uint8, 0 or 255, as it is after the last stroke; None until something was painted. It may be given back
    as `mask` at the next run. Another picture or mask than that begins anew; so does `forget`. UserError when what the browser sent
    is no such mask.
    """
    all_of_it: dict[str, _Painting] = st.session_state.setdefault("brush_paintings", {})
    painting = all_of_it.pop(key, None) or _Painting()
    height, width = picture.shape[:2]
    scale = min(1.0, LARGEST / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    shown, begun = _digest(picture), _digest(mask)
    known = shown == painting.of[0] and (begun == painting.of[1] or begun in painting.returned)
    if not known or key not in st.session_state:  # the browser forgets what is not shown for a while
        painted = painting.mask if known else None
        start = mask if painted is None else painted
        painting = _Painting(
            of=(shown, begun),
            number=1 + secrets.randbelow(1 << 30),
            picture=_jpeg(picture, size),
            start="" if start is None else _png(Image.fromarray(start).resize(size, Image.Resampling.BILINEAR)),
            mask=painted,
        )
    all_of_it[key] = painting  # the last one
    for old in list(all_of_it)[:-KEPT]:
        del all_of_it[old]
    given = {
        "picture": painting.picture,
        "width": size[0],
        "height": size[1],
        "start": painting.start,
        "number": painting.number,
        "label": label,
        "words": _words(),
    }
    value = _in_the_browser(given, key)
    sent = _of_this_painting(value, painting.number)
    if not sent:
        return painting.mask
    if sent != painting.sent:
        small = _read(sent, size)
        painting.mask = np.where(np.asarray(small.resize((width, height), Image.Resampling.BILINEAR)) < 128, 0, 255).astype(
            np.uint8
        )
        painting.sent = sent
        painting.returned.add(_digest(painting.mask))
    return painting.mask


def forget(key: str) -> None:
    """Begin this brush anew, with what it is given at the next run."""
    st.session_state.get("brush_paintings", {}).pop(key, None)


def _in_the_browser(given: dict[str, Any], key: str) -> Any:
    """What it says of its last stroke."""
    if hasattr(components, "v2"):
        return _component()(data=given, key=key, on_painted_change=lambda: None).painted
    return _framed()(**given, key=key, default=None)


@lru_cache(maxsize=1)
def _component() -> Any:
    html, css, js = ((STATIC / f"brush.{kind}").read_text(encoding="utf-8") for kind in ("html", "css", "js"))
    return components.v2.component("brush", html=html, css=css, js=js)


@lru_cache(maxsize=1)
def _framed() -> Any:
    """The same for Streamlit before 1.51."""
    return components.v1.declare_component("brush", path=str(STATIC))


def _words() -> dict[str, str]:
    return {
        "paint": say("Paint"),
        "erase": say("Erase"),
        "size": say("Brush size"),
        "undo": say("Undo"),
        "clear": say("Clear"),
        "invert": say("Invert"),
        "help": say("With the keyboard: arrows move, the space bar paints, [ and ] change the size, E switches to the eraser"),
    }


def _digest(pixels: Optional[np.ndarray]) -> str:
    """Of what can be seen of a picture or mask in the browser."""
    if pixels is None:
        return ""
    step = max(1, max(pixels.shape[:2]) // LARGEST)
    seen = np.ascontiguousarray(pixels[::step, ::step])
    return hashlib.blake2b(seen.tobytes(), digest_size=12, salt=str(pixels.shape).encode()[:16]).hexdigest()


def _jpeg(picture: np.ndarray, size: tuple[int, int]) -> str:
    content = io.BytesIO()
    Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0).save(content, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()


def _png(mask: Image.Image) -> str:
    content = io.BytesIO()
    mask.save(content, "PNG")
    return PNG + base64.b64encode(content.getvalue()).decode()


def _of_this_painting(value: Any, number: int) -> str:
    """What the browser sent, if it is about what is painted on now."""
    if not isinstance(value, dict) or value.get("number") != number:
        return ""
    sent = value.get("mask")
    return sent if isinstance(sent, str) else ""


def _read(sent: str, size: tuple[int, int]) -> Image.Image:
    """The mask that the browser sent, which may be anything. UserError otherwise."""
    unread = UserError(say("the painted mask could not be read: paint it again"))
    if len(sent) > LONGEST or not sent.startswith(PNG):
        raise unread
    try:
        with Image.open(io.BytesIO(base64.b64decode(sent[len(PNG) :], validate=True)), formats=("PNG",)) as image:
            if image.size != size or getattr(image, "n_frames", 1) > 1:
                raise unread
            return image.convert("L")
    except UserError:
        raise
    except Exception:  # Pillow's decoder raises many kinds for broken files
        raise unread from None
