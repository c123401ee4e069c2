"""The fields of the page that are flags of the command: their labels and help, their widgets, and what they may hold."""

from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, Optional, Sequence, get_type_hints

import streamlit as st

from gm.diffusion.guidance import GUIDERS
from gm.diffusion.names import SAMPLER_NAMES, SCHEDULE_NAMES
from gm.diffusion.samplers import SAMPLERS
from gm.errors import UserError
from gm.options.parser import item_type
from gm.options.sample import SampleOptions
from gm.texts import in_digits
from studio.sampling.settings import Settings
from studio.words import later, say


@dataclass(frozen=True)
class Field:
    """One setting."""

    name: str  # of the flag
    label: str
    help: str = ""
    step: float = 0.05  # of numbers that are not whole


SEED = Field("seed", later("Seed"), later("The same seed gives the same picture; -1: one at random"))
COUNT = Field("num_cols", later("Number of pictures"), later("With the seeds seed, seed + 1, ..."))
STEPS = Field("sample_step", later("Sampling steps"), later("More take longer; 20 to 50 are usual"))
GUIDANCE = Field("guidance_scale", later("Guidance"), later("How strictly the prompt is followed; 1 is not at all"), 0.5)
WIDTH = Field("width", later("Width"), later("In pixels"))
HEIGHT = Field("height", later("Height"), later("In pixels"))
STRENGTH = Field(
    "strength", later("Change of the picture"), later("How much of the picture becomes another: the share of the steps")
)
BLUR = Field("mask_blur", later("Soft edge"), later("Pixels over which the painted becomes the picture"), 1.0)
RESIZE = Field(
    "resize_mode",
    later("Fitting the picture"),
    later("crop: its middle; fill: all of it, edges drawn out; stretch: distorted"),
)
SAMPLER = Field("sampler", later("Sampler"), later("How noise becomes a picture"))
SCHEDULE = Field("schedule", later("Noise schedule"), later("Which noise levels are visited"))
OF_NOISE = (
    Field("eta", later("Fresh noise"), later("The share of a step's noise that is fresh, of samplers that have some")),
    Field("noise", later("Noise as in"), later("Whose pictures a seed gives: native, diffusers (torch), A1111 or ComfyUI")),
    Field("init_latent_path", later("Noise from a file"), later("A .npy or .safetensors file instead of the seed's noise")),
)
OF_GUIDANCE = (
    Field("guider", later("Kind of guidance"), later("IdentityGuider: none, half the work of a step")),
    Field("guidance_rescale", later("Guidance rescale"), later("Keeps guidance from too much contrast, by this share")),
    Field("guidance_start", later("Guidance from"), later("Share of the steps before guidance begins")),
    Field("guidance_stop", later("Guidance until"), later("Share of the steps after which it ends")),
)
OF_TEXT = (
    Field("prompt_style", later("Prompts are read"), later("plain; a1111 and comfyui: (more) (word:1.3), of any length")),
    Field("max_tokens", later("Longest prompt"), later("Tokens that a plain prompt may have; longer ones are cut off")),
    Field("clip_skip", later("CLIP skip"), later("Layers of the text encoders that are left out, beside the last")),
    Field("embedding", later("Textual inversions"), later("Files, separated by commas; NAME=FILE gives the word")),
    Field("vae", later("Other VAE"), later("A file or diffusers' folder, instead of the model's own")),
)
OF_HIRES = (
    Field(
        "hires_scale",
        later("Enlarge by"),
        later("Hires fix: each picture is enlarged so many times and gone over again"),
        0.25,
    ),
    Field("hires_strength", later("Change of the second pass"), later("Share of its steps that is done; usually 0.5")),
    Field("hires_steps", later("Steps of the second pass"), later("Usually as many as of the first")),
    Field("hires_upscaler", later("Enlarged with"), later("latent, or a picture's own")),
)
OF_SIZES = (
    Field("orig_width", later("Original width")),
    Field("orig_height", later("Original height")),
    Field("crop_coords_left", later("Crop left")),
    Field("crop_coords_top", later("Crop top")),
    Field("target_width", later("Target width")),
    Field("target_height", later("Target height")),
    Field("negative_orig_width", later("Negative: original width")),
    Field("negative_orig_height", later("Negative: original height")),
    Field("negative_crop_coords_left", later("Negative: crop left")),
    Field("negative_crop_coords_top", later("Negative: crop top")),
    Field("negative_target_width", later("Negative: target width")),
    Field("negative_target_height", later("Negative: target height")),
)
CHECKED = (
    *(SEED, COUNT, STEPS, GUIDANCE, WIDTH, HEIGHT, STRENGTH, BLUR),
    *(*OF_NOISE, *OF_GUIDANCE, *OF_TEXT, *OF_HIRES, *OF_SIZES),
)


@lru_cache(maxsize=1)
def _kinds() -> dict[str, Any]:
    return {name: item_type(kind) for name, kind in get_type_hints(SampleOptions).items()}


def _flag(name: str):
    return next(one.metadata["flag"] for one in fields(SampleOptions) if one.name == name)


def show(settings: Settings, field: Field, place: Any = st, step: Optional[int] = None) -> None:
    """The widget of a setting in a place of the page. `step`: of a whole number."""
    label, words = say(field.label), say(field.help) if field.help else None
    choices = _choices(field.name)
    if choices is not None:
        _show_choice(settings, field, place, choices)
        return
    key, kind = settings.keyed(field.name), _kinds()[field.name]
    if kind in (int, float):
        if st.session_state[key] is not None:
            st.session_state[key] = kind(st.session_state[key])
        # without bounds: a browser drops a number that is out of them without a word
        form = {"step": step or 1, "format": "%d"} if kind is int else {"step": field.step, "format": "%g"}
        settings.values[field.name] = place.number_input(label, value=None, key=key, help=words, **form)
        return
    if st.session_state[key] is None:
        st.session_state[key] = ""
    settings.values[field.name] = place.text_input(label, key=key, help=words) or None


def _choices(name: str) -> Optional[Sequence[Any]]:
    found = {"sampler": list(SAMPLERS), "schedule": [None, *SCHEDULE_NAMES], "guider": list(GUIDERS)}.get(name)
    flag = _flag(name)
    if found is None and flag.choices is not None:
        found = [*([None] if flag.default is None else []), *flag.choices]
    return found


def _show_choice(settings: Settings, field: Field, place: Any, choices: Sequence[Any]) -> None:
    key = settings.keyed(field.name)
    if st.session_state[key] not in choices:
        st.session_state[key] = choices[0]
    settings.values[field.name] = place.selectbox(
        say(field.label),
        choices,
        format_func=_called,
        key=key,
        placeholder=say("as usual"),
        help=say(field.help) if field.help else None,
    )


def _called(choice: Any) -> str:
    """As people know it."""
    if choice is None:
        return say("as usual")
    names = SAMPLER_NAMES.get(choice) or SCHEDULE_NAMES.get(choice)
    return names[0] if names else str(choice)


def checked(field: Field, value: Any, most: Optional[float] = None, least: Optional[float] = None) -> Any:
    """The number within the bounds that its flag has, and at most `most`; UserError naming the field."""
    flag, label = _flag(field.name), say(field.label)
    if _kinds()[field.name] not in (int, float):
        return value
    if value is None:
        if flag.default is None and field not in (WIDTH, HEIGHT):
            return None
        raise UserError(say("{label} is empty: give a number", label=label))
    given = [limit for limit in (flag.most, most) if limit is not None]
    least = flag.least if least is None else least
    if least is not None and value < least:
        raise UserError(
            say("{label} {value} is too small: at least {bound}", label=label, value=value, bound=in_digits(least))
        )
    if flag.above is not None and value <= flag.above:
        bound = in_digits(flag.above)
        raise UserError(say("{label} {value} is too small: more than {bound}", label=label, value=value, bound=bound))
    if given and value > min(given):
        bound = in_digits(min(given))
        raise UserError(say("{label} {value} is too large: at most {bound}", label=label, value=value, bound=bound))
    return value
