"""Scoring the checkpoints of a run: a job of tools/evaluate.py in the same queue as trainings."""

import importlib.util
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import streamlit as st

from gm.data.images import list_images
from gm.errors import UserError
from gm.evaluation.saved_run import SavedRun, words_of
from gm.jobs import control
from gm.jobs.job import Job
from gm.jobs.state import state
from gm.options.evaluate import PLACES, SEEDS_OF_RUN
from gm.options.sample import SampleOptions
from studio.access import inside
from studio.choice import config_of
from studio.errors import explained, in_plain_words
from studio.models import Model
from studio.results.fields import whole_number
from studio.results.lora import config_at, model_of, options_of, same_sizes
from studio.results.saved import Saved
from studio.shell import go_to
from studio.visit import Studio
from studio.words import say

TOOL = "tools/evaluate.py"
SMALL = "configs/inference/small_sdxl.yaml"  # the model of the drawn world, which the judge knows
PHOTOS = "tools/features/clip_dino.py"  # compares photos
NETWORKS = {"CLIP_FOLDER": "checkpoints/clip-vit-base-patch32", "DINO_FOLDER": "checkpoints/dinov2-base"}  # that it needs
MOST_SEEDS = 16


@dataclass(frozen=True)
class Asked:
    """What is to be scored, and how."""

    run: Saved
    options: SampleOptions  # of the model
    features: str
    photos: Path
    subject: str
    class_prompt: str
    seeds: int  # pictures of each prompt

    @property
    def pictures(self) -> int:
        """That are made: of each prompt and as many of the class, for each checkpoint and the base model."""
        return (len(self.run.loras) + 1) * 2 * len(PLACES) * self.seeds

    @property
    def words(self) -> tuple[str, ...]:
        """The command, after python."""
        of_model = {"--config": self.options.config, "--size": min(self.options.size())}
        flags = {
            "--checkpoints": self.run.folder,
            **({} if self.run.file("config.yaml") else of_model),  # which the run says itself
            "--weight": self.options.weight,
            "--subject_photos": self.photos,
            "--subject": self.subject,
            "--class_prompt": self.class_prompt,
            "--num_seeds": self.seeds,
            "--sample_step": self.options.sample_step,
            "--features": self.features,
            "--device_target": self.options.device_target,
        }
        return (TOOL, *(str(word) for flag in flags.items() for word in flag))


def render(studio: Studio, run: Saved, scored: bool) -> None:
    """The button and what it needs; or how far the job is."""
    job = job_of(studio, run)
    now = state(job) if job is not None else None
    if job is not None and now is not None and not now.is_over:
        st.fragment(_waiting, run_every=3)(job)
        return
    if job is not None and now is not None and now.phase in ("failed", "lost"):
        _failed(job)
    model = model_of(studio, run)
    label = say("Score the checkpoints again") if scored else say("Score the checkpoints")
    with st.expander(label), explained(st):
        if model is None:
            st.caption(say("The page does not have the model that this run trained, so it cannot draw pictures with it."))
            return
        options = options_of(studio, model)
        features = features_of(options)
        if features is None:
            _explain(run, options)
            return
        asked = _asked(studio, run, model, options, features)
        if asked:
            start(studio, asked)
            st.rerun()


def features_of(options: SampleOptions) -> Optional[str]:
    """What can compare pictures of this model here: the judge for the drawn world; CLIP and DINO where they are."""
    if same_sizes(config_of(options).model, config_at(SMALL).model):
        return "judge"
    folders = all(Path(os.environ.get(name, folder)).is_dir() for name, folder in NETWORKS.items())
    packages = all(importlib.util.find_spec(name) for name in ("torch", "transformers"))
    return PHOTOS if folders and packages else None


def _explain(run: Saved, options: SampleOptions) -> None:
    st.caption(
        say(
            "The judge that comes with the project knows the drawn world alone. Photos are compared by CLIP and DINO: with torch, "
            "transformers and the folders {folders} this page can do it; the command says what is missing.",
            folders=in_plain_words(", ".join(NETWORKS.values())),
        )
    )
    words = ["python", TOOL, "--checkpoints", run.folder, "--weight", options.weight, "--subject_photos", "PHOTOS"]
    st.code(" ".join(map(str, [*words, "--features", PHOTOS])), language="bash", wrap_lines=True)


def _asked(studio: Studio, run: Saved, model: Model, options: SampleOptions, features: str) -> Optional[Asked]:
    """The fields; what they say when the button was pressed. UserError for what cannot be right."""
    if not model.is_there:
        raise UserError(say("the weights {path} are not there: put them there, then press again", path=model.weight))
    st.caption(
        say(
            "Every checkpoint draws the same pictures, which are compared with the photos: how much of the subject is there, whether "
            "the prompt is followed, and whether others of its class stay as they were."
        )
    )
    subject, class_prompt = _said(run)
    own = run.folder / "photos"
    photos = st.text_input(say("Folder of the photos"), str(own) if own.is_dir() else "", key=f"results_photos_{run.name}")
    left, middle, right = st.columns(3)
    subject = left.text_input(say("What the prompt calls the subject"), subject, key=f"results_subject_{run.name}")
    class_prompt = middle.text_input(say("Prompt for others of its class"), class_prompt, key=f"results_class_{run.name}")
    seeds = whole_number(right, say("Pictures of each prompt"), SEEDS_OF_RUN, 1, MOST_SEEDS, "results_num_seeds")
    if seeds is None:
        return None
    asked = Asked(run, options, features, Path(photos), subject.strip(), class_prompt.strip(), seeds)
    st.caption(say("{n} pictures are drawn for it.", n=asked.pictures))
    if not st.button(say("Start scoring"), key="results_score", type="primary"):
        return None
    if not photos.strip():
        raise UserError(say("the folder of the photos is empty: give the one that the run was trained on"))
    if not asked.subject or not asked.class_prompt:
        raise UserError(say("the subject or the prompt of its class is empty: say both, such as sks dog and A photo of a dog"))
    inside(photos, studio.roots)
    if len(list_images(asked.photos, say("the folder of the photos"))) < 2:
        raise UserError(say("one photo cannot be compared with itself: the folder needs at least two"))
    return asked


def _said(run: Saved) -> tuple[str, str]:
    """Subject and class prompt as the run's own prompt tells them; empty where it does not."""
    try:
        return words_of(SavedRun(run.folder, run.loras, run.prompt), None, None, None)
    except UserError:
        return "", ""


# -- the job -----------------------------------------------------------------------------------------------------------------


def start(studio: Studio, asked: Asked) -> Job:
    """Put it into the queue."""
    name = "score_" + (re.sub(r"[^\w-]+", "_", asked.run.name).strip("_") or "runs")
    return control.add(studio.runs, name, lambda folder: asked.words, asked.options.device_target, studio.options.jobs_at_once)


def job_of(studio: Studio, run: Saved) -> Optional[Job]:
    """The newest job that scores this run, or did; None where there is none."""
    return next((job for job in control.jobs(studio.runs) if job.words[0] == TOOL and str(run.folder) in job.words), None)


def _waiting(job: Job) -> None:
    """How far the job is; when it is over, the page shows what came of it."""
    now = state(job)
    if now.is_over:
        st.rerun()
    st.info(say("The scoring waits for its turn.") if now.phase == "waiting" else say("The checkpoints are being scored."))
    _see_button(job)


def _failed(job: Job) -> None:
    words = say("The last scoring did not come to its end.")
    st.warning(f"{in_plain_words(words)} {in_plain_words(state(job).sentence or '')}")
    _see_button(job)


def _see_button(job: Job) -> None:
    st.button(say("See the job"), key="results_see_job", on_click=_see, args=(job.folder.name,))


def _see(name: str) -> None:
    st.query_params["job"] = name
    go_to("run")
