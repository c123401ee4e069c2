"""The page of sampling.py: settings beside, pictures with their downloads in the middle.

Streamlit runs `main` again at every click. Pictures are made by the model of gm/sampling/shared_model.py, in another process.
"""

import re
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Iterable, Mapping, NamedTuple, Optional, Sequence

import numpy as np
import streamlit as st

from gm import console
from gm.checkpoint.embeddings import open_embeddings
from gm.checkpoint.lora_files import open_lora
from gm.checkpoint.lora_strength import Strength
from gm.checkpoint.weights import split_weight_argument
from gm.config.load import load_config
from gm.config.types import Config, DataConfig
from gm.diffusion.names import named_sampler
from gm.diffusion.samplers import SAMPLERS
from gm.errors import UserError
from gm.files import make_writable
from gm.models.prompt_chunks import in_words
from gm.options.lora_tags import own_lora
from gm.options.parser import number
from gm.options.prompts import is_prompt_file
from gm.options.sample import SampleOptions, parse_sample, sample_settings
from gm.options.start import StartOptions
from gm.pictures import contact_sheet, numbered, save_new_png, sheets
from gm.sampling.output import about
from gm.sampling.shared_model import Choice, SharedModel

RUNS = Path("runs")  # where LoRA files are looked for
MOST = 16  # pictures at a click
STRONGEST = 1.5  # what a LoRA may be multiplied by
LARGEST_SEED = 2**53 - 1  # whole numbers above it are not whole numbers in a browser
LONGEST_PROMPT = 10_000  # letters


class Picture(NamedTuple):
    seed: int
    path: Path
    pixels: np.ndarray  # (h, w, 3) uint8


@dataclass
class Result:
    """The pictures on the page. They stay there until the next click has made one."""

    prompt: str
    tokens: str  # in words: how many, and what is cut off
    lora: str  # in words
    wanted: int
    pictures: list[Picture] = field(default_factory=list)
    seconds: float = 0.0
    sheet: Optional[Path] = None


def main(versions: Mapping[str, Mapping[str, object]], argv: Sequence[str]) -> None:
    """The page as it is now, and the pictures that were asked for with this click. `versions`: name of a model -> flags of
    sampling_without_streamlit.py; `argv`: such flags that count more, and with --config or --weight are the only model."""
    st.set_page_config("SDXL DreamBooth", layout="wide")
    console.set_up()
    st.title("SDXL DreamBooth")
    status, gallery = st.empty(), st.empty()
    last: Optional[Result] = st.session_state.get("result")
    if last is None:
        status.caption("Say what the pictures show and press **Sample**. The first click also loads the model.")
    else:
        show(gallery, last, False)
    try:
        if _gives(argv, "--config", "--weight"):
            versions = {Path(split_weight_argument(options_of({}, argv).weight)[0]).stem: {}}
        with st.sidebar:
            options = options_of(versions[st.selectbox("Model", list(versions))], argv)
            config = load_config(options.config, options.set, training=False)
            asked = ask(options, config.model.unet.downsampling)
        if asked:
            make(asked, config, status, gallery)
            status.empty()
    except Exception as error:
        sentence = console.explain(error)
        if sentence is None:  # paths and code are for the terminal, not for everybody who may open the page
            traceback.print_exc()
            sentence = (
                "this did not work, and should not have happened: the terminal that the page was started in says more",
            )
        status.error(in_plain_words(sentence[0]))
    show(gallery, st.session_state.get("result"), True)


def _gives(argv: Sequence[str], *flags: str) -> bool:
    return any(word.split("=", 1)[0] in flags for word in argv)


def options_of(spec: Mapping[str, object], argv: Sequence[str]) -> SampleOptions:
    """The flags of the spec with those of the command line over them."""
    flags = [word for flag, value in spec.items() for word in (f"--{flag}", str(value))]
    options = parse_sample([*flags, *argv])
    if is_prompt_file(options.prompt):
        raise UserError(f"--prompt {options.prompt} is a file of prompts, but the page takes one in words: give the words")
    scales = options.lora_scale or ()
    if len(scales) > 1 or any(not 0 <= scale <= STRONGEST for scale in scales):
        given = ",".join(f"{scale:g}" for scale in scales)
        raise UserError(f"--lora_scale {given}: the page has one strength for all LoRA, give one from 0 to {STRONGEST}")
    if options.lora_schedule:
        raise UserError(f"--lora_schedule {options.lora_schedule}: the page adds LoRA to the weights, leave the schedule away")
    begun = [one.name for one in fields(StartOptions) if getattr(options, one.name) != one.default]
    begun += [name for name in ("like", "batch_size", "compile_cache_dir") if getattr(options, name) is not None]
    begun += ["add_pipeline"] if options.add_pipeline else []
    if begun:
        raise UserError(
            f"--{begun[0]} {getattr(options, begun[0])}: the page makes pictures from words, one by one: leave it away there"
        )
    if options.seed > LARGEST_SEED:
        raise UserError(f"--seed {options.seed} is more than a browser can count: give at most {LARGEST_SEED}")
    sampler, schedule = named_sampler(options.sampler)
    return replace(
        options, sampler=sampler, schedule=options.schedule or options.discretization or schedule, discretization=None
    )


# -- what is asked -----------------------------------------------------------------------------------------------------


def ask(options: SampleOptions, multiple: int) -> Optional[SampleOptions]:
    """The settings, `options` to begin with; what was chosen when the button was pressed. Sizes go in steps of `multiple`
    pixels. UserError for what cannot be right by itself."""
    base, given = split_weight_argument(options.weight)
    height, width = options.size()
    with st.form("settings", border=False):
        prompt = st.text_area("Prompt", options.prompt, height=90)
        negative = st.text_input("Negative prompt", options.negative_prompt, placeholder="what should not be seen")
        pressed = st.form_submit_button("Sample", type="primary", width="stretch")
        on = st.toggle("LoRA", bool(given))
        lora = st.selectbox(
            "LoRA file",
            list(dict.fromkeys([*([",".join(given)] if given else []), *lora_files(RUNS)])),
            accept_new_options=True,
            placeholder="choose one, or type a path",
            label_visibility="collapsed",
        )
        strength = st.slider("LoRA strength", 0.0, STRONGEST, (options.lora_scale or (1.0,))[0], 0.05)
        left, right = st.columns(2)
        # without bounds: a browser drops a number that is out of them without a word
        count = left.number_input("Pictures", value=min(options.num_cols, MOST))
        seed = right.number_input("Seed", value=options.seed)
        steps = left.number_input("Steps", value=options.sample_step)
        guidance = right.number_input("Guidance", value=options.guidance_scale, step=0.5, format="%.1f")
        with st.expander("Size and sampler"):
            left, right = st.columns(2)
            wide = left.number_input("Width", value=width, step=multiple)
            high = right.number_input("Height", value=height, step=multiple)
            samplers = list(dict.fromkeys([*SAMPLERS, options.sampler]))  # a name of the command may say the schedule as well
            sampler = st.selectbox("Sampler", samplers, samplers.index(options.sampler))
    if not Path(base).exists():
        raise UserError(f"the weights {base} are not there: checkpoints/README.md says where to get them")
    if not pressed:
        return None
    if not prompt.strip():
        raise UserError("the prompt is empty: say in words what the pictures show")
    if max(len(prompt), len(negative)) > LONGEST_PROMPT:
        raise UserError(f"the prompt is too long: {LONGEST_PROMPT} letters are more than a model reads")
    if on and not lora:
        raise UserError("the LoRA is on, but no file is chosen: choose one, type its path, or switch it off")
    return replace(
        options,
        prompt=" ".join(prompt.split()),
        negative_prompt=negative.strip(),
        weight=f"{base},{lora}" if on else base,
        lora_scale=(strength,) if on else None,
        seed=checked("Seed", seed, "seed", most=LARGEST_SEED),
        num_cols=checked("Pictures", count, "num_cols", most=MOST),
        sample_step=checked("Steps", steps, "sample_step"),
        guidance_scale=checked("Guidance", guidance, "guidance_scale"),
        width=checked("Width", wide, "width"),
        height=checked("Height", high, "height"),
        sampler=sampler,
    ).with_seed


def checked(label: str, value: object, flag: str, most: Optional[float] = None) -> Any:
    """The number of a field within the bounds that its flag has, and at most `most`; UserError naming the field."""
    if value is None:
        raise UserError(f"{label} is empty: give a number")
    (bounds,) = [one.metadata["flag"] for one in fields(SampleOptions) if one.name == flag]
    given = [limit for limit in (bounds.most, most) if limit is not None]
    try:
        return number(str(value), type(value), bounds.least, bounds.above, min(given, default=None))
    except ValueError as error:
        raise UserError(f"{label} {error}") from None


def lora_files(folder: Path) -> list[str]:
    """LoRA files under `folder` by their names, the newest first; of one written in two formats the native."""
    found = {}
    for path in folder.rglob("*lora*"):
        with suppress(OSError, UnicodeEncodeError):  # it has gone meanwhile; a name that a browser cannot be sent
            str(path).encode()
            if path.suffix in (".ckpt", ".safetensors") and path.is_file():
                found[path] = path.stat().st_mtime
    both = {path.with_suffix(".safetensors") for path in found if path.suffix == ".ckpt"}
    return [str(path) for path in sorted(found.keys() - both, key=found.__getitem__, reverse=True)]


# -- how it is made ----------------------------------------------------------------------------------------------------


@st.cache_resource(show_spinner=False)
def shared_model() -> SharedModel:
    """The model that all sessions share."""
    return SharedModel()


class Display:
    """Shows progress in a place of the page. Streamlit ends the run here when the session ends or is used anew."""

    def __init__(self, place):
        self.place, self.shown = place, 0.0

    def __call__(self, words: str, share: Optional[float]) -> None:
        now = time.monotonic()
        if share is None or now - self.shown > 0.05:  # weights load faster than a browser draws
            self.shown = now
            self.place.progress(share or 0.0, in_plain_words(words))


def make(options: SampleOptions, config: Config, status, gallery) -> None:
    """Sample what was asked for, and save it as the command line does; it is the session's result."""
    settings = sample_settings(options, config.model.unet.downsampling)
    base, paths = split_weight_argument(options.weight)
    modules = []
    for path in paths:
        with open_lora(path, config.model) as file:  # what is wrong with it is said before the model is loaded
            modules.append(file.modules)
    words, own = own_lora(options)
    for path, _ in own:
        with open_lora(path, config.model):
            pass
    lora = [*zip(paths, strengths_of(options, modules)), *own]
    folder = Path(options.save_path)
    make_writable(("--save_path", folder))
    with status.container():
        display = Display(st.empty())
        st.button("Stop", help="The pictures that are done stay.")
    of_text = options.max_tokens, options.prompt_style, options.clip_skip, options.embedding
    with shared_model().open(Choice(config, base, options.vae, options.machine, *of_text), display) as pipeline:
        start = time.monotonic()
        pipeline.call(display, "require_readable", [words, options.negative_prompt])
        pipeline.call(display, "require_memory", [settings])
        pipeline.call(display, "put_on", lora, [words, *filter(None, [options.negative_prompt])])
        named = ", ".join(f"{Path(path).name} x {strength}" for path, strength in lora)
        result = Result(
            options.prompt, tokens_of(words, options, config), f"LoRA {named}" if lora else "no LoRA", options.num_cols
        )
        for i in range(options.num_cols):
            seed, what = options.seed + i, f"picture {i + 1} of {options.num_cols}"
            pixels = pipeline.call(display, "sample", words, options.negative_prompt, settings, seed, what)
            path = save_new_png(numbered(folder), pixels, about(options, settings, options.prompt, seed))
            result.pictures.append(Picture(seed, path, pixels))
            result.seconds = time.monotonic() - start
            st.session_state["result"] = result
            show(gallery, result, False)
        rows = [[picture.pixels for picture in result.pictures[i : i + 4]] for i in range(0, options.num_cols, 4)]
        seeds = [picture.seed for picture in result.pictures]
        text = {"prompts": options.prompt, "seeds": seeds, "weight": options.weight}
        sheet = contact_sheet(rows, [options.prompt] + [""] * (len(rows) - 1))
        result.sheet = save_new_png(sheets(folder, result.pictures[0].path), sheet, text)


def tokens_of(prompt: str, options: SampleOptions, config: Config) -> str:
    """How many tokens the prompt has, and the negative one, and what of them is cut off."""
    most = options.max_tokens or (config.data or DataConfig()).max_tokens
    known = {word.name: range(word.count) for word in open_embeddings(options.embedding, config.model)}
    found = [in_words(one, options.prompt_style, most, known) for one in (prompt, options.negative_prompt)]
    return found[0] + (f" · negative {found[1]}" if options.negative_prompt else "")


def strengths_of(options: SampleOptions, modules: Sequence[Iterable[str]]) -> list[Strength]:
    """Of each LoRA that is chosen, where the page has one strength for all; `modules`: of each. UserError for what cannot act."""
    if not modules:
        return []
    given = replace(options, lora_scale=options.lora_scale * len(modules)).strengths
    given.check(modules, options.weight)
    return given.each(len(modules), options.weight)


# -- what is shown -----------------------------------------------------------------------------------------------------


def show(gallery, result: Optional[Result], finished: bool) -> None:
    """The pictures in a grid; with their buttons once no more are coming."""
    if result is None:
        return
    with gallery.container():
        words = f"{result.tokens} · {result.lora} · {result.seconds:.1f} s"
        if finished and len(result.pictures) < result.wanted:
            words += f" · stopped after {len(result.pictures)} of {result.wanted}"
        st.markdown(f"**{in_plain_words(result.prompt)}**  \n{in_plain_words(words)}")
        across = max(2, min(4, result.wanted))
        for start in range(0, len(result.pictures), across):
            for column, picture in zip(st.columns(across), result.pictures[start : start + across]):
                column.image(picture.pixels, width="stretch")
                if finished:
                    download(column, f"PNG, seed {picture.seed}", picture.path)
                else:  # in the place of the last picture's button, which would otherwise stay until the end
                    column.caption(f"seed {picture.seed}")
        if finished and result.sheet:
            download(st, "Contact sheet", result.sheet)
        else:
            st.empty()


def download(place, label: str, path: Path) -> None:
    with suppress(OSError):  # somebody has taken it away
        content, icon = path.read_bytes(), ":material/download:"
        place.download_button(label, content, path.name, "image/png", on_click="ignore", icon=icon)


def in_plain_words(text: str) -> str:
    """The text as Markdown that shows it as it is."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", text)
