"""The validation pictures of a training: a row for each step, the prompts beside each other.

Each row is one small picture, so that rows stay rows on a narrow screen, and little is sent.
"""

import io
from pathlib import Path
from typing import Mapping, Optional, Sequence

import streamlit as st

from gm.jobs.progress import Progress
from studio.errors import in_plain_words
from studio.words import say

SMALLEST, LARGEST = 160, 256  # pixels of a picture's longer side
GAP = 4  # pixels between two
SHOWN = 9  # rows, unless all are asked for
LONGEST = 200  # characters of a prompt

Version = tuple[Path, int, int]  # of a file: its path, time and size


def pictures(done: Progress) -> None:
    """The newest first."""
    steps = sorted(done.pictures, reverse=True)
    if not steps:
        return
    st.markdown(f"**{say('Validation pictures')}**")
    if len(steps) > SHOWN and not st.toggle(say("all {n} steps", n=len(steps)), key="run_all_steps"):
        steps = [*steps[: SHOWN - 1], steps[-1]]
    columns = 1 + max(number for row in done.pictures.values() for number in row)
    _prompts(done.pictures[steps[0]])
    with st.container(horizontal=True):
        for step in steps:
            row = done.pictures[step]
            made = strip(tuple(_version(row.get(number)) for number in range(columns)))
            if made:
                st.image(made, say("step {step}", step=step), width="content")


def _prompts(row: Mapping[int, Path]) -> None:
    """What they show, from left to right."""
    found = {number: _prompt(version) for number, path in row.items() if (version := _version(path))}
    if len(set(found.values())) == 1:
        found = dict([next(iter(found.items()))])
        st.caption(in_plain_words(next(iter(found.values()))))
    elif found:
        st.caption("  \n".join(f"{number + 1}: {in_plain_words(prompt)}" for number, prompt in found.items()))


def _version(path: Optional[Path]) -> Optional[Version]:
    try:
        found = path.stat() if path else None
    except OSError:
        return None
    return (path, found.st_mtime_ns, found.st_size) if path and found else None


@st.cache_data(max_entries=400, show_spinner=False)
def strip(row: Sequence[Optional[Version]]) -> bytes:
    """The pictures beside each other, small, as a JPEG; a gap where one is missing or none; nothing where all are."""
    from PIL import Image

    found = [_small(one[0]) if one else None for one in row]
    there = [one for one in found if one is not None]
    if not there:
        return b""
    width, height = max(one.width for one in there), max(one.height for one in there)
    sheet = Image.new("RGB", (len(found) * (width + GAP) - GAP, height), (128, 128, 128))
    for number, one in enumerate(found):
        if one is not None:
            sheet.paste(one, (number * (width + GAP), 0))
    file = io.BytesIO()
    sheet.save(file, "JPEG", quality=85)
    return file.getvalue()


def _small(path: Path):
    """The picture in the size of the grid, or None where it cannot be read."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            longer = max(image.size)
            share = min(max(longer, SMALLEST), LARGEST) / longer
            size = max(round(image.width * share), 1), max(round(image.height * share), 1)
            return image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


@st.cache_data(max_entries=400, show_spinner=False)
def _prompt(version: Version) -> str:
    from PIL import Image

    try:
        with Image.open(version[0]) as image:
            words = str(image.info.get("prompt", ""))
    except (OSError, ValueError, SyntaxError):
        return ""
    return words if len(words) <= LONGEST else f"{words[:LONGEST]}..."
