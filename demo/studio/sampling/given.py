"""The picture to begin with, and the mask on it: uploaded, taken from the gallery, or painted."""

import hashlib
import os
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any, Optional

import numpy as np
import streamlit as st
from PIL import Image

from gm.data.images import read_image
from gm.data.masks import read_grey
from gm.errors import UserError
from gm.files import replacing
from gm.options.start import TASKS
from studio.errors import explained
from studio.sampling.fields import BLUR, RESIZE, STRENGTH, show
from studio.sampling.settings import KEY, Settings
from studio.visit import Studio
from studio.words import later, say

LARGEST_UPLOAD = 100_000_000  # bytes
CALLED = {
    "txt2img": later("Pictures from words"),
    "img2img": later("From a picture"),
    "inpaint": later("Paint into a picture"),
}


def show_start(studio: Studio, settings: Settings) -> None:
    """What is begun with, and the fields that go with it."""
    key = settings.keyed("task")
    task = st.radio(
        say("What to make"),
        TASKS,
        format_func=lambda one: say(CALLED[one]),
        key=key,
        horizontal=True,
        label_visibility="collapsed",
    )
    settings.values["task"] = task
    if task == "txt2img":
        return
    _upload(studio, settings, "img", say("The picture to begin with"))
    picture = _picture(settings.values["img"])
    if picture is None:
        return
    if task == "img2img":
        st.image(_small(picture), width=min(picture.shape[1], 360))
    else:
        _paint(studio, settings, picture)
    left, middle, right = st.columns(3)
    show(settings, STRENGTH, left)
    show(settings, RESIZE, middle)
    if task == "inpaint":
        show(settings, BLUR, right)
    height, width = picture.shape[:2]
    st.button(
        say("Width and height as the picture, {width} × {height}", width=width, height=height),
        key=f"{KEY}as_picture",
        on_click=settings.change,
        kwargs={"width": None, "height": None},
    )


def take(studio: Studio, settings: Settings, path: Path, task: str) -> None:
    """Begin with this picture from now on, without a mask yet."""
    settings.change(task=task, img=str(path), mask=None, width=None, height=None)
    st.session_state["sampling.brushes"] = st.session_state.get("sampling.brushes", 0) + 1


def _upload(studio: Studio, settings: Settings, name: str, label: str) -> None:
    number = st.session_state.get(f"sampling.upload:{name}", 0)
    given = st.file_uploader(label, ["png", "jpg", "jpeg", "webp", "bmp"], key=f"{KEY}upload:{name}:{number}")
    if given is None or st.session_state.get(f"sampling.taken:{name}") == given.file_id:
        return
    st.session_state[f"sampling.taken:{name}"] = given.file_id
    with explained(st):
        path = keep(studio, given.getvalue(), given.name)
        if name == "img":
            take(studio, settings, path, settings.values["task"])
        else:
            settings.change(mask=str(path))
        st.rerun()


def keep(studio: Studio, content: bytes, called: str) -> Path:
    """The upload as a file of this visitor, where it is a picture that can be read; UserError otherwise."""
    if len(content) > LARGEST_UPLOAD:
        raise UserError(say("{name} is larger than 100 MB: give a smaller picture", name=called))
    digest = hashlib.blake2b(content, digest_size=8).hexdigest()
    path = studio.folder / "given" / f"{digest}.png"
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        upload = Path(folder) / "upload.png"
        upload.write_bytes(content)
        try:
            pixels = read_image(upload)
        except UserError as error:
            raise UserError(str(error).replace(str(upload), called)) from None
    with replacing(path) as unfinished:
        Image.fromarray(pixels).save(unfinished, format="PNG")
    return path


def _picture(path: Any) -> Optional[np.ndarray]:
    if not path:
        return None
    try:
        return _read(path, os.stat(path).st_mtime_ns)
    except (OSError, UserError):
        st.warning(say("the picture to begin with is gone: give it again"))
        return None


@lru_cache(maxsize=4)
def _read(path: str, *version: int) -> np.ndarray:
    return read_image(Path(path))


@lru_cache(maxsize=4)
def _read_mask(path: str, *version: int) -> np.ndarray:
    return read_grey(Path(path))


def _small(picture: np.ndarray) -> np.ndarray:
    image = Image.fromarray(picture)
    image.thumbnail((512, 512))
    return np.asarray(image)


def _paint(studio: Studio, settings: Settings, picture: np.ndarray) -> None:
    """The brush on the picture; what is painted becomes the mask."""
    from studio.brush import brush

    before = settings.values["mask"]
    mask: Optional[np.ndarray] = None
    if before and os.path.isfile(before):
        mask = _read_mask(before, os.stat(before).st_mtime_ns)
        if mask.shape != picture.shape[:2]:
            mask = np.asarray(Image.fromarray(mask).resize(picture.shape[1::-1]))
    number = st.session_state.get("sampling.brushes", 0)
    painted = brush(picture, mask, f"{KEY}brush:{number}", say("Paint over what is to change"))
    if painted is not None:
        settings.values["mask"] = str(_keep_mask(studio, painted)) if painted.any() else None
    with st.expander(say("A mask from a file")):
        st.caption(say("White is what is made anew."))
        _upload(studio, settings, "mask", say("The mask"))


def _keep_mask(studio: Studio, mask: np.ndarray) -> Path:
    digest = hashlib.blake2b(mask.tobytes(), digest_size=8).hexdigest()
    path = studio.folder / "given" / f"{digest}-mask.png"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as unfinished:
            Image.fromarray(mask).save(unfinished, format="PNG")
    return path
