"""Pictures of several LoRA side by side, with the same seeds: what to compare, making it, and looking at it by sliders."""

from dataclasses import replace
from typing import Any, Mapping, Sequence

import streamlit as st

from gm.config.bounds import MOST_STEPS
from gm.errors import UserError
from gm.options.sample import sample_settings
from gm.texts import require_prompt
from studio.choice import config_of
from studio.errors import explained, in_plain_words
from studio.files import metadata_of
from studio.models import Model
from studio.results.checkpoints import chosen_step
from studio.results.comparison import (
    FOLDER,
    MOST_RUNS,
    MOST_SEEDS,
    STRENGTHS,
    Comparison,
    load,
    save,
    with_keys,
    with_pictures,
)
from studio.results.curves import course_of
from studio.results.fields import whole_number
from studio.results.lora import details_of, model_of, options_of
from studio.results.saved import Saved, title
from studio.results.thumbnails import show_picture
from studio.visit import Studio
from studio.waiting import duration, progress_words
from studio.words import say

KEY = "compare"  # of the task in the workshop
LARGEST_SEED = 2**53 - MOST_SEEDS  # whole numbers above it are not whole numbers in a browser
USUAL_TOKENS = "75"
LARGEST = 1024  # pixels of a picture's longer side as it is shown
EVERY = 1.0  # seconds between two looks at pictures that are being made


def render(studio: Studio, runs: Mapping[str, Saved], run: Saved) -> None:
    """The view as it is now."""
    kept = load(studio.folder)
    task = _task(studio)
    st.subheader(say("What to compare"))
    model = model_of(studio, run)
    if model is None:
        st.caption(say("The page does not have the model that this run trained, so it cannot draw pictures with it."))
    else:
        with explained(st):
            _ask(studio, runs, run, model, kept)
    st.fragment(_board, run_every=EVERY if _at_work(task) else None)(studio)


def _task(studio: Studio) -> Any:
    from studio.sampling.workshop import workshop

    return workshop().task(studio.visit, KEY)


def _at_work(task: Any) -> bool:
    return task is not None and not task.over


# -- asking --------------------------------------------------------------------------------------------------------------------


def _ask(studio: Studio, runs: Mapping[str, Saved], run: Saved, model: Model, kept: Comparison) -> None:
    """The fields, and making the pictures when the button was pressed."""
    options = options_of(studio, model)
    known = kept if run.name in kept.runs else Comparison(prompt=run.prompt or options.prompt, runs={run.name: ()})
    of = run.name  # fields start anew for another run
    prompt = st.text_area(say("Prompt"), known.prompt, height=80, key=f"results_prompt_{of}")
    names = st.multiselect(
        say("LoRA"),
        list(runs),
        [name for name in known.runs if name in runs],
        format_func=title,
        max_selections=MOST_RUNS,
        key=f"results_runs_{of}",
    )
    chosen = {name: _steps(runs[name], known) for name in names}
    base = st.toggle(say("The base model beside them"), known.base, key=f"results_base_{of}")
    strengths = st.multiselect(
        say("Strengths"),
        STRENGTHS,
        [strength for strength in known.strengths if strength in STRENGTHS],
        format_func="{:g}".format,
        key=f"results_strengths_{of}",
    )
    left, middle, right = st.columns(3)
    seed = whole_number(left, say("First seed"), known.seed, 0, LARGEST_SEED, f"results_seed_{of}")
    seeds = whole_number(middle, say("Seeds"), known.seeds, 1, MOST_SEEDS, f"results_seeds_{of}")
    usual = known.sample_step or options.sample_step
    steps = whole_number(right, say("Sampling steps"), usual, 1, MOST_STEPS, f"results_sample_step_{of}")
    negative = st.text_input(say("Negative prompt"), known.negative, key=f"results_negative_{of}")
    if seed is None or seeds is None or steps is None:
        return
    wanted = Comparison(
        model=model.name,
        prompt=prompt,
        negative=negative,
        runs=chosen,
        base=base,
        strengths=tuple(sorted(strengths)),
        seed=seed,
        seeds=seeds,
        sample_step=steps,
        pictures=kept.pictures,
    )
    st.caption(say("{n} pictures.", n=wanted.count))
    if st.button(say("Make the pictures"), type="primary", key="results_make", disabled=_at_work(_task(studio))):
        make(studio, runs, model, wanted)
        st.rerun()


def _steps(run: Saved, known: Comparison) -> Sequence[int]:
    """Which of its steps; to begin with, those of before, the one that the chooser took, or the last."""
    steps = list(run.loras)
    before = [step for step in known.runs.get(run.name, ()) if step in steps]
    if len(steps) == 1:
        return steps
    label = say("Steps of {name}", name=title(run.name))
    return sorted(st.multiselect(label, steps, before or [best_step(run)], key=f"results_steps_{run.name}"))


def best_step(run: Saved) -> int:
    """The one that the chooser took, where it did; the last one otherwise."""
    try:
        course = course_of(run)
    except (OSError, UserError):
        course = None
    choice = course.choice if course else None
    return run.nearest(choice.step if choice else None)


def make(studio: Studio, runs: Mapping[str, Saved], model: Model, wanted: Comparison) -> None:
    """Begin with the pictures that are not there yet. UserError for what cannot be made."""
    from studio.sampling.workshop import workshop

    wanted.check()
    try:
        require_prompt(wanted.prompt)
    except ValueError as error:
        raise UserError(str(error)) from None
    if not model.is_there:
        raise UserError(say("the weights {path} are not there: put them there, then press again", path=model.weight))
    options = options_of(studio, model)
    config = config_of(options)
    sample_settings(options, config.model.unet.downsampling)
    for name, steps in wanted.runs.items():
        for step in steps:  # what is wrong with a file is said before anything is loaded
            path = runs[name].lora(step, studio)
            if not details_of(path, config.model).fits:
                raise UserError(
                    say(
                        "{path} was made for another model than {model}: compare LoRA of one model",
                        path=path,
                        model=model.name,
                    )
                )
    lengths = [
        metadata_of(runs[name].loras[step]).get("ss_max_token_length", "") for name, of in wanted.runs.items() for step in of
    ]
    longer = [int(length) for length in lengths if length.isascii() and length.isdigit() and length != USUAL_TOKENS]
    if longer and options.max_tokens is None:  # one that learned long captions reads long prompts
        options = replace(options, max_tokens=max(longer))
    comparison, of_cells = with_keys(wanted, options, runs, studio)
    missing = {cell.key: one for cell, one in zip(comparison.cells, of_cells) if comparison.picture(cell) is None}
    if missing:
        folder = studio.folder / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        workshop().make(studio.visit, KEY, config, list(missing.values()), folder)
    save(studio.folder, replace(comparison, making=tuple(missing)))


# -- looking -------------------------------------------------------------------------------------------------------------------


def _board(studio: Studio) -> None:
    """The pictures as far as they are there; runs again by itself while some are made, and when a slider is moved."""
    task, comparison = _task(studio), _up_to_date(studio)
    if not comparison.cells:
        return
    st.subheader(say("Side by side"))
    st.markdown(f"**{in_plain_words(comparison.prompt)}**")
    with explained(st):
        _how_far(studio, task)
        _pictures(comparison)
    if st.session_state.get("results_at_work") and not _at_work(task):
        st.session_state["results_at_work"] = False
        st.rerun()  # nothing more to wait for
    st.session_state["results_at_work"] = _at_work(task)


def _up_to_date(studio: Studio) -> Comparison:
    """The visitor's comparison with the pictures that the task has made by now, which is kept."""
    task, comparison = _task(studio), load(studio.folder)
    if task is None or len(task.paths) != len(comparison.making):
        return comparison
    newer = with_pictures(comparison, comparison.making, task.paths)
    if newer is not comparison:
        save(studio.folder, newer)
    return newer


def _how_far(studio: Studio, task: Any) -> None:
    """One bar over all pictures while they are made; why some are missing afterwards."""
    if task is None:
        return
    if _at_work(task):
        words = in_plain_words(progress_words(task.words))
        if task.seconds_left is not None:
            words += in_plain_words(" · " + say("{time} left", time=duration(task.seconds_left)))
        st.progress(min(max(task.share or 0.0, 0.0), 1.0), words)
        if st.button(say("Stop"), key="results_stop", help=say("The pictures that are done stay.")):
            task.stop()
    elif task.sentence:
        st.error(task.sentence)  # Markdown already


def _pictures(comparison: Comparison) -> None:
    """A column for the base model and for each LoRA, a row for each seed; the sliders say of which step and strength."""
    strengths = sorted({cell.strength for cell in comparison.cells if cell.run})
    strength = chosen_number(say("Strength"), strengths, "results_strength_shown")
    names = [*([""] if comparison.base else []), *comparison.runs]
    waiting = len(comparison.missing)
    for column, name in zip(st.columns(len(names)), names):
        with column:
            step = 0
            if name:
                steps = sorted(comparison.runs[name])
                label = say("Step of {name}", name=title(name))
                step = chosen_step(label, steps, f"results_step_shown_{name}") if len(steps) > 1 else steps[0]
                heading = f"{title(name)} · " + say("step {step}, strength {strength}", step=step, strength=f"{strength:g}")
            else:
                heading = say("base model")
            st.markdown(f"**{in_plain_words(heading)}**")
            for seed in range(comparison.seed, comparison.seed + comparison.seeds):
                path = comparison.picture(comparison.cell(name, step, strength, seed))
                if path is None:
                    st.caption(say("seed {seed}: not there yet", seed=seed))
                else:
                    show_picture(st, path, say("seed {seed}", seed=seed), longest=LARGEST)
    if waiting:
        st.caption(say("{n} of {all} pictures are not there.", n=waiting, all=len(comparison.cells)))


def chosen_number(label: str, numbers: Sequence[float], key: str) -> float:
    """One of several numbers by a slider, the one nearest to 1 to begin with."""
    if len(numbers) < 2:
        return numbers[0] if numbers else 1.0
    if st.session_state.get(key) not in numbers:
        st.session_state[key] = min(numbers, key=lambda number: abs(number - 1))
    return st.select_slider(label, list(numbers), key=key, format_func="{:g}".format)
