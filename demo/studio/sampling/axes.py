"""Grids: pictures over two axes, as seed, strength, steps, guidance or the step of a LoRA, and their labelled sheet."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable, Mapping, Optional, Sequence

import streamlit as st

from gm.checkpoint.weights import split_weight_argument
from gm.errors import UserError
from gm.evaluation.saved_run import open_run
from gm.options.parser import reader_of
from gm.options.sample import SampleOptions
from studio.choice import LARGEST_SEED, STRONGEST, WEAKEST
from studio.sampling.settings import Settings
from studio.words import later, say

MOST = 64  # pictures of a grid

Change = Callable[[SampleOptions, Any], SampleOptions]


@dataclass(frozen=True)
class Axis:
    """What changes along it."""

    label: str
    example: str
    read: Callable[[str], Any]  # ValueError with the end of a sentence
    change: Change


def _flag(name: str) -> tuple[Callable[[str], Any], Change]:
    def change(options: SampleOptions, value: Any) -> SampleOptions:
        return replace(options, **{name: value})

    return reader_of(SampleOptions, name), change


def _strength(options: SampleOptions, value: float) -> SampleOptions:
    """Of the first LoRA."""
    if not options.lora_scale:
        raise UserError(say("the grid is over the strength of a LoRA, but none is on: add one, or choose another axis"))
    return replace(options, lora_scale=(value, *options.lora_scale[1:]))


def _lora_step(options: SampleOptions, value: int) -> SampleOptions:
    """Another checkpoint of the run of the first LoRA."""
    base, paths = split_weight_argument(options.weight)
    if not paths:
        raise UserError(say("the grid is over the steps of a LoRA, but none is on: add one, or choose another axis"))
    loras = open_run(Path(paths[0]).parent, "the LoRA of")
    if value not in loras.loras:
        there = ", ".join(str(step) for step in loras.loras)
        raise UserError(say("{run} has no LoRA of step {step}: it has {there}", run=loras.folder, step=value, there=there))
    return replace(options, weight=",".join([base, str(loras.loras[value]), *paths[1:]]))


def _number_of_strength(text: str) -> float:
    value = reader_of(SampleOptions, "lora_scale")(text)[0]
    if not WEAKEST <= value <= STRONGEST:
        raise ValueError(f"{text} is not from {WEAKEST:g} to {STRONGEST:g}")
    return value


def _seed(text: str) -> int:
    value = reader_of(SampleOptions, "seed")(text)
    if not 0 <= value <= LARGEST_SEED:
        raise ValueError(f"{text} is not from 0 to {LARGEST_SEED}")
    return value


AXES: Mapping[str, Axis] = {
    "seed": Axis(later("Seed"), "1, 2, 3", _seed, _flag("seed")[1]),
    "strength": Axis(later("Strength of the LoRA"), "0, 0.5, 1", _number_of_strength, _strength),
    "lora_step": Axis(
        later("Training step of the LoRA"), "100, 200, 400", reader_of(SampleOptions, "sample_step"), _lora_step
    ),
    "sample_step": Axis(later("Sampling steps"), "10, 20, 40", *_flag("sample_step")),
    "guidance_scale": Axis(later("Guidance"), "2, 5, 8", *_flag("guidance_scale")),
    "sampler": Axis(later("Sampler"), "Euler, DPM++ 2M", *_flag("sampler")),
    "prompt": Axis(later("Prompt, with | between"), "a dog | a cat", *_flag("prompt")),
}


@dataclass(frozen=True)
class Grid:
    """Pictures row by row."""

    wanted: Sequence[SampleOptions]
    across: Sequence[str]  # labels of the columns
    down: Sequence[str]  # of the rows


def show(settings: Settings) -> None:
    """The fields of both axes."""
    left, right = st.columns(2)
    for place, name, label in ((left, "across", say("Across")), (right, "down", say("Down"))):
        key = settings.keyed(name)
        if st.session_state[key] not in ("", *AXES):
            st.session_state[key] = ""
        chosen = place.selectbox(
            label, ["", *AXES], key=key, format_func=lambda axis: say(AXES[axis].label) if axis else say("nothing")
        )
        settings.values[name] = chosen
        if chosen:
            settings.values[f"{name}_values"] = place.text_input(
                say("Values, {axis}", axis=say(AXES[chosen].label)),
                key=settings.keyed(f"{name}_values"),
                placeholder=AXES[chosen].example,
            )


def is_asked(settings: Settings) -> bool:
    return bool(settings.values["across"] or settings.values["down"])


def grid_of(settings: Settings, options: SampleOptions) -> Grid:
    """The pictures of the grid that is set; UserError naming the axis whose values cannot be read."""
    axes = [(name, _values(settings, name)) for name in ("across", "down") if settings.values[name]]
    if len({settings.values[name] for name, _ in axes}) < len(axes):
        raise UserError(say("both axes of the grid are the same: choose another one, or nothing"))
    across = next((values for name, values in axes if name == "across"), [None])
    down = next((values for name, values in axes if name == "down"), [None])
    if len(across) * len(down) > MOST:
        count = len(across) * len(down)
        raise UserError(say("the grid has {count} pictures: at most {most} can be made at once", count=count, most=MOST))
    wanted = [
        _changed(settings.values["across"], _changed(settings.values["down"], options, row), column)
        for row in down
        for column in across
    ]
    return Grid(wanted, _labels(settings.values["across"], across), _labels(settings.values["down"], down))


def _values(settings: Settings, name: str) -> list[Any]:
    chosen, text = settings.values[name], settings.values[f"{name}_values"] or ""
    axis = AXES[chosen]
    parts = [part.strip() for part in text.split("|" if chosen == "prompt" else ",") if part.strip()]
    if not parts:
        raise UserError(
            say("the grid has no values for {axis}: give some, as {example}", axis=say(axis.label), example=axis.example)
        )
    try:
        return list(dict.fromkeys(axis.read(part) for part in parts))
    except ValueError as error:
        raise UserError(say("{axis} of the grid: {reason}", axis=say(axis.label), reason=error)) from None


def _changed(axis: str, options: SampleOptions, value: Optional[Any]) -> SampleOptions:
    return AXES[axis].change(options, value) if axis else options


def _labels(axis: str, values: Sequence[Any]) -> list[str]:
    if not axis:
        return ["" for _ in values]
    return [str(value) if axis == "prompt" else f"{say(AXES[axis].label)} {value}" for value in values]
