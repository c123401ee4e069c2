"""Size, sampler and what else is set about a picture: the fields below the pictures."""

from typing import Any, Mapping, Sequence

import streamlit as st

from gm.options.sample import SD_XL_BASE_RATIOS, SampleOptions
from studio.sampling import axes
from studio.sampling import fields as f
from studio.sampling.settings import KEY, Settings
from studio.words import say

FURTHER = (*f.OF_NOISE, *f.OF_GUIDANCE, *f.OF_TEXT, *f.OF_HIRES, *f.OF_SIZES)


def presets(start: SampleOptions, multiple: int) -> dict[str, tuple[int, int]]:
    """Label -> (width, height): the shapes SDXL was trained on, as large as what the model starts with."""
    height, width = start.size()
    scale = ((height * width) ** 0.5) / 1024
    found: dict[str, tuple[int, int]] = {}
    for ratio, (wide, high) in SD_XL_BASE_RATIOS.items():
        size = max(1, round(wide * scale / multiple)) * multiple, max(1, round(high * scale / multiple)) * multiple
        if "_" not in ratio:
            found.setdefault(f"{size[0]} × {size[1]}", size)
    return found


def show_main(settings: Settings) -> None:
    """The numbers that are changed most."""
    for place, field in zip(st.columns(4), (f.COUNT, f.SEED, f.STEPS, f.GUIDANCE)):
        f.show(settings, field, place)


def show_size_and_sampler(settings: Settings, start: SampleOptions, multiple: int) -> None:
    """Width, height, their presets, and how noise becomes a picture."""
    found = presets(start, multiple)
    now = (settings.values["width"], settings.values["height"])
    st.selectbox(
        say("Shape"),
        list(found),
        index=list(found.values()).index(now) if now in found.values() else None,
        key=f"{KEY}shape:{now}",
        placeholder=say("as the numbers say"),
        on_change=_take,
        args=(settings, found, f"{KEY}shape:{now}"),
    )
    left, right = st.columns(2)
    f.show(settings, f.WIDTH, left, multiple)
    f.show(settings, f.HEIGHT, right, multiple)
    f.show(settings, f.SAMPLER, left)
    f.show(settings, f.SCHEDULE, right)


def _take(settings: Settings, found: dict[str, tuple[int, int]], key: str) -> None:
    chosen = found.get(st.session_state[key])
    if chosen:
        settings.change(width=chosen[0], height=chosen[1])


def show_grid(settings: Settings) -> None:
    """The axes of a grid."""
    with st.expander(say("Grid of pictures"), expanded=axes.is_asked(settings)):
        st.caption(say("Pictures over two axes; the result is a labelled sheet and the single pictures."))
        axes.show(settings)


def show_further(settings: Settings, start: Mapping[str, Any]) -> None:
    """All that is seldom changed, when it is asked for or was changed: so many fields would slow every click. `start`: what the
    page began with."""
    is_changed = any((settings.values[one.name] or None) != (start[one.name] or None) for one in FURTHER)
    if not st.toggle(say("All settings"), key=settings.keyed("all", is_changed)):
        return
    with st.expander(say("Noise")):
        _several(settings, f.OF_NOISE)
    with st.expander(say("Guidance in detail")):
        _several(settings, f.OF_GUIDANCE)
    with st.expander(say("How prompts are read")):
        _several(settings, f.OF_TEXT)
    if settings.values["task"] == "txt2img":
        with st.expander(say("Larger, in two passes (hires fix)")):
            _several(settings, f.OF_HIRES)
    with st.expander(say("Sizes that SDXL is told")):
        _several(settings, f.OF_SIZES)


def _several(settings: Settings, fields: Sequence[f.Field]) -> None:
    for first in range(0, len(fields), 2):  # row by row, so that a phone has them in their order
        for place, field in zip(st.columns(2), fields[first : first + 2]):
            f.show(settings, field, place)
