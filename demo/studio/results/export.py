"""Taking a LoRA along: what its file says, the file itself, the layouts of other tools, and sampling with it."""

import re
import shutil
from pathlib import Path
from typing import Mapping, Optional

import streamlit as st

from gm.checkpoint.lora_export import write_lora
from gm.checkpoint.lora_files import RECIPE, open_lora
from gm.checkpoint.lora_rules import LAYOUTS
from gm.checkpoint.weights import open_base
from gm.config.types import ModelConfig
from gm.errors import UserError
from studio.choice import config_of
from studio.errors import explained, in_plain_words
from studio.models import Model
from studio.results.checkpoints import chosen_step
from studio.results.compare import best_step
from studio.results.lora import Details, details_of, model_of, options_of
from studio.results.saved import HERE, Saved
from studio.shell import go_to
from studio.visit import Studio
from studio.words import later, say

FOLDER = "exports"  # of the visitor: the file that was written last
READERS = {  # layout -> who reads it
    "kohya": later("ComfyUI, A1111, sd-scripts and diffusers"),
    "kohya-diffusers": later("ComfyUI, A1111 and diffusers"),
    "peft": later("diffusers (PEFT)"),
    "diffusers": later("older scripts of diffusers"),
}
TYPES = {
    "float32": later("float32, as it was trained"),
    "float16": later("float16, half as large"),
    "bfloat16": later("bfloat16, half as large"),
}
MIB = 2**20
LARGE = 32 * MIB  # bytes


def render(studio: Studio, runs: Mapping[str, Saved], run: Saved) -> None:
    """The view as it is now."""
    steps = list(run.loras)
    step = steps[0]
    if len(steps) > 1:
        step = chosen_step(say("After so many updates"), steps, f"results_export_{run.name}", best_step(run))
    path, model = run.lora(step, studio), model_of(studio, run)
    config = config_of(options_of(studio, model)).model if model else None
    details = details_of(path, config)
    _about(path, details)
    _send(path, run, details, model)
    st.subheader(say("The file"))
    name = file_name(run, step)
    _download(path, f"{name}{path.suffix}", details.size)
    st.subheader(say("For other tools"))
    _other_layout(studio, path, name, details, model, config)


def file_name(run: Saved, step: int) -> str:
    """What a download is called, without its ending."""
    said = "" if run.name == HERE else run.name
    words = re.sub(r"[^\w-]+", "_", said or run.prompt or "lora").strip("_")[:60]
    return f"{words or 'lora'}_step{step}"


def _about(path: Path, details: Details) -> None:
    """The rank and so on; the whole metadata folded up."""
    said = details.said
    prompt = said.get("instance_prompt", said.get("modelspec.trigger_phrase", ""))
    network = say("DoRA") if details.is_dora else say("LoRA")
    lines = [
        say("Trigger prompt: {prompt}", prompt=in_plain_words(prompt))
        if prompt
        else say("It does not say its trigger prompt."),
        say(
            "{kind} of rank {ranks} and alpha {alphas} in {n} layers, {size} MB",
            kind=network,
            ranks=_listed(details.ranks),
            alphas=_listed(details.alphas),
            n=details.modules,
            size=f"{details.size / MIB:.1f}",
        ),
    ]
    if said.get("ss_learning_rate"):
        lines.append(
            say(
                "Trained on {base} with a learning rate of {rate}",
                base=in_plain_words(said.get("ss_sd_model_name", "?")),
                rate=in_plain_words(said["ss_learning_rate"]),
            )
        )
    st.markdown("\n".join(f"* {line}" for line in lines))
    with st.expander(say("All that the file says")):
        rest = {key: text for key, text in said.items() if key != RECIPE}
        st.code("\n".join(f"{key}: {text}" for key, text in rest.items()), language=None, wrap_lines=True)
        if said.get(RECIPE):
            st.code(said[RECIPE], language="yaml", wrap_lines=True)


def _listed(numbers) -> str:
    return f"{numbers[0]:g}" if len(numbers) == 1 else f"{numbers[0]:g} – {numbers[-1]:g}"


def _send(path: Path, run: Saved, details: Details, model: Optional[Model]) -> None:
    prompt = details.said.get("instance_prompt", run.prompt)
    arguments = str(path), prompt, model.name if model else ""
    st.button(say("Make pictures with it"), key="results_send", type="primary", on_click=send, args=arguments)


def send(path: str, prompt: str, model: str) -> None:
    """Show the sampling page with this LoRA on."""
    st.session_state["sampling_lora"] = [path]
    st.session_state["sampling_prompt"] = prompt
    if model:
        st.session_state["sampling_model"] = model
    go_to("sampling")


# -- files ---------------------------------------------------------------------------------------------------------------------


@st.fragment
def _download(path: Path, name: str, size: int) -> None:
    """The page holds in memory what can be downloaded: a large file only when it is asked for."""
    if size > LARGE and st.session_state.get("results_ready") != str(path):
        if not st.button(say("Read {name}", name=name), key="results_read"):
            return
        st.session_state["results_ready"] = str(path)
    with explained(st):
        _button(path, name, "results_native")


def _button(path: Path, name: str, key: str) -> None:
    with open(path, "rb") as file:
        st.download_button(
            say("Download {name}", name=name),
            file,
            name,
            "application/octet-stream",
            key=key,
            on_click="ignore",
            icon=":material/download:",
            type="primary",
        )


@st.fragment
def _other_layout(
    studio: Studio, path: Path, name: str, details: Details, model: Optional[Model], config: Optional[ModelConfig]
) -> None:
    left, right = st.columns(2)
    layout = left.selectbox(
        say("Layout"), list(LAYOUTS), format_func=lambda one: f"{one}: {say(READERS[one])}", key="results_layout"
    )
    dtype = right.selectbox(say("Numbers"), list(TYPES), format_func=lambda one: say(TYPES[one]), key="results_dtype")
    target = studio.folder / FOLDER / f"{name}_{layout}_{dtype}.safetensors"
    written = st.session_state.get("results_written") == (str(path), str(target))
    with explained(st):
        if not written or not target.is_file():
            if not st.button(say("Write the file"), key="results_write"):
                return
            with st.spinner(say("writing the file")):
                write(path, target, layout, dtype, details, model, config)
            st.session_state["results_written"] = str(path), str(target)
        _button(target, target.name, "results_other")


def write(
    path: Path, target: Path, layout: str, dtype: str, details: Details, model: Optional[Model], config: Optional[ModelConfig]
) -> None:
    """The LoRA in another layout, in place of the file that was written before. UserError for what cannot be written so."""
    if details.is_dora and layout.startswith("kohya") and (model is None or not model.is_there):
        raise UserError(
            say("a DoRA in this layout needs the base weights, which are not there: put them there, or choose another layout")
        )
    shutil.rmtree(target.parent, ignore_errors=True)
    target.parent.mkdir(parents=True)
    read_base = open_base(model.weight).read if details.is_dora and model and model.is_there else None
    with open_lora(path, config) as file:
        write_lora(file, target, layout, dtype, None, config, read_base)
