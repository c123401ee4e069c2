"""The part "results" of the page: the runs that have saved LoRA, how good their checkpoints are, comparing and taking them."""

from typing import Mapping

import streamlit as st

from studio.errors import explained, in_plain_words
from studio.results import checkpoints, compare, export
from studio.results.lora import model_of
from studio.results.saved import Saved, saved_runs, title
from studio.shell import go_to
from studio.visit import Studio
from studio.words import later, say

# view -> its title and what shows it
VIEWS = {
    "checkpoints": (later("Checkpoints"), checkpoints.render),
    "compare": (later("Compare"), compare.render),
    "export": (later("Take along"), export.render),
}


def render(studio: Studio) -> None:
    """The part as it is now."""
    runs = saved_runs(studio.runs)
    if not runs:
        st.info(say("No run has saved a LoRA yet. Choose photos and start a training, its results appear here."))
        st.button(say("Go to the photos"), key="results_to_photos", on_click=go_to, args=("photos",))
        return
    run = runs[_chosen(runs)]
    with explained(st):
        _heading(studio, run)
        view = _view()
        VIEWS[view][1](studio, runs, run)


def _chosen(runs: Mapping[str, Saved]) -> str:
    """The name of the run that is shown: another part may ask for one, the address has it for a reload."""
    state = st.session_state
    wanted = state.get("results_run") or st.query_params.get("run")
    if wanted == state.get("results_shown"):  # nobody asked for another, the visitor may have
        wanted = state.get("results_choice", wanted)
    if wanted not in runs:
        wanted = next(iter(runs))
    state["results_choice"] = state["results_run"] = state["results_shown"] = wanted
    if st.query_params.get("run") != wanted:
        st.query_params["run"] = wanted
    st.selectbox(say("Run"), list(runs), format_func=title, key="results_choice")
    return wanted


def _heading(studio: Studio, run: Saved) -> None:
    steps, model = list(run.loras), model_of(studio, run)
    words = [say("prompt of the photos: {prompt}", prompt=run.prompt)] if run.prompt else []
    words.append(say("1 checkpoint, step {step}", step=steps[0]))
    if len(steps) > 1:
        words[-1] = say("{n} checkpoints, steps {first} to {last}", n=len(steps), first=steps[0], last=steps[-1])
    words.append(say("model: {name}", name=model.name) if model else say("of a model that this page does not have"))
    st.caption(in_plain_words(" · ".join(words)))


def _view() -> str:
    """What is shown of the run; it stays when another part was looked at in between, and over a reload."""
    state = st.session_state
    wanted = state.get("results_view") or state.get("results_shown_view") or st.query_params.get("view")
    state["results_view"] = state["results_shown_view"] = wanted if wanted in VIEWS else "checkpoints"
    st.segmented_control(
        say("What to see of the run"),
        list(VIEWS),
        format_func=lambda view: say(VIEWS[view][0]),
        key="results_view",
        label_visibility="collapsed",
    )
    view = state["results_view"] or state["results_shown_view"]
    if st.query_params.get("view") != view:
        st.query_params["view"] = view
    return view
