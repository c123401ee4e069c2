"""Pictures that are made while the page does other things: a task in a thread, on the model that all visitors share.

    task = workshop().make(studio.visit, "sampling", config, wanted, folder)
    task.paths, task.words, task.share, task.seconds_left ...   # from any later run of the page

It goes on when the page is loaded anew, or another part of it is shown. No Streamlit call is made in the thread.
"""

import threading
import time
import traceback
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Callable, Optional, Sequence

import numpy as np
import streamlit as st

from gm import console
from gm.checkpoint.lora_files import open_lora
from gm.checkpoint.weights import split_weight_argument
from gm.config.types import Config
from gm.errors import UserError
from gm.files import make_writable
from gm.options.prompts import is_prompt_file
from gm.options.sample import SampleOptions
from gm.pictures import numbered, save_new_png
from gm.process import Worker
from gm.sampling.given import require_given
from gm.sampling.jobs import OUT_OF_MEMORY, Asked, requests_of
from gm.sampling.output import about
from gm.sampling.shared_model import Choice, SharedModel
from studio.errors import in_plain_words
from studio.sampling.pace import Pace
from studio.words import later, say

TOO_LARGE = later("the memory is too small for one such picture: take a smaller size; what was made before is kept")
FAILED = later("this did not work, and should not have happened: the terminal that the page was started in says more")
Saved = Callable[[int, Path], None]  # the place of a picture, and its file
Finish = Callable[[Sequence[Optional[np.ndarray]]], Optional[Path]]  # of all pictures, None where one is not there


class Stopped(Exception):
    """The visitor wants no more pictures."""


class Task:
    """The pictures that were asked for with one click. Read it from anywhere; only its thread writes."""

    def __init__(self, wanted: Sequence[SampleOptions], asked: Sequence[Asked], labels: Sequence[str] = (), columns: int = 4):
        """`labels`: of each picture, and `columns`: of their grid, for whoever shows them."""
        self.wanted, self.asked = list(wanted), list(asked)
        self.labels, self.columns = list(labels or [str(one.seed) for one in wanted]), columns
        self.paths: list[Optional[Path]] = [None] * len(self.wanted)
        self.sheet: Optional[Path] = None  # what `finish` has made
        self.preview: Optional[Path] = None  # a JPEG of what the picture at work will be like, once it is there
        self.words = "starting"  # what is being done
        self.over = self.stopped = False
        self.error: Optional[str] = None  # a key of the words, or an English sentence
        self.seconds = 0.0  # since the model was there, until now or the end
        self._pace = Pace([one.steps for one in self.asked])
        self._stop = threading.Event()

    @property
    def share(self) -> Optional[float]:
        """Of all pictures, that is done; None before the first step."""
        return self._pace.share

    @property
    def seconds_left(self) -> Optional[float]:
        """Until all are there; None where that is not known yet."""
        return None if self.over else self._pace.seconds_left()

    @property
    def sentence(self) -> Optional[str]:
        """Why it ended before all pictures were there, as Markdown that shows it as it is; None where nothing went wrong."""
        return (
            None
            if self.error is None
            else in_plain_words(say(self.error) if self.error in (FAILED, TOO_LARGE) else self.error)
        )

    def stop(self) -> None:
        """Soon; what is finished is kept."""
        self._stop.set()

    # -- in its thread

    def see(self, words: str, share: Optional[float]) -> None:
        """The viewer of all that is done for it."""
        if self._stop.is_set():
            raise Stopped
        self.words = words
        self._pace.see(words, share)

    def make(self, model: SharedModel, choice: Choice, folder: Path, saved: Saved, finish: Optional[Finish]) -> None:
        """All of it; whatever goes wrong is in `error`."""
        pictures: list[Optional[np.ndarray]] = [None] * len(self.asked)
        try:
            with model.open(choice, self.see) as worker:
                self._make_all(worker, folder, saved, pictures)
        except Stopped:
            self.stopped = True
        except Exception as error:
            self.error = _sentence(error)
        try:
            if finish and any(picture is not None for picture in pictures):
                self.sheet = finish(pictures)
        except Exception as error:
            self.error = self.error or _sentence(error)
        with suppress(OSError):
            self._forget_preview()
        self.over = True

    def _forget_preview(self) -> None:
        if self.preview:
            self.preview.unlink(missing_ok=True)

    def _make_all(self, worker: Worker, folder: Path, saved: Saved, pictures: list[Optional[np.ndarray]]) -> None:
        worker.call(self.see, "require", self.asked)
        self._forget_preview()
        began = time.monotonic()
        for number, place in enumerate(_by_lora(self.asked), 1):
            one, what = self.asked[place], f"picture {number} of {len(self.asked)}"
            self._pace.begin(what, place)
            picture: np.ndarray = worker.call(self.see, "picture", one, what, self.preview)
            self._pace.end()
            text = about(one.options, one.settings, one.options.prompt, one.options.seed)
            path = save_new_png(numbered(folder), picture, text)
            self._forget_preview()
            self.paths[place], pictures[place] = path, picture
            self.seconds = time.monotonic() - began
            saved(place, path)


class Workshop:
    """Every visitor's tasks: one at a time for each part of the page."""

    def __init__(self) -> None:
        self.model = SharedModel()
        self._tasks: dict[tuple[str, str], Task] = {}
        self._lock = threading.Lock()

    def task(self, visit: str, key: str) -> Optional[Task]:
        """What this visitor asked for last in the part `key` of the page, at work or over."""
        return self._tasks.get((visit, key))

    def make(
        self,
        visit: str,
        key: str,
        model_config: Config,
        wanted: Sequence[SampleOptions],
        folder: Path,
        saved: Saved = lambda place, path: None,
        finish: Optional[Finish] = None,
        labels: Sequence[str] = (),
        columns: int = 4,
        preview: Optional[Path] = None,
    ) -> Task:
        """Begin with these pictures, one for each options with its own seed, all of one base model. `saved` and `finish` are called
        in the task's thread: after each picture, and at the end; `labels`, `columns` and `preview` are the task's. UserError for what
        cannot be made, and while an earlier task is at work."""
        self._require_free(visit, key)
        asked = [_asked(one, model_config) for one in wanted]
        choices = [Choice.of(one, model_config, split_weight_argument(one.weight)[0]) for one in wanted]
        if not wanted or any(choice != choices[0] for choice in choices):
            raise UserError(say("these pictures need more than one base model: ask for those of one at a time"))
        _require_files(asked, model_config)
        make_writable(("--save_path", folder))
        task = Task(wanted, asked, labels, columns)
        task.preview = preview
        with self._lock:
            self._require_free(visit, key)
            self._tasks[visit, key] = task
        arguments = (self.model, choices[0], folder, saved, finish)
        threading.Thread(target=task.make, args=arguments, daemon=True, name=f"pictures {key}").start()
        return task

    def _require_free(self, visit: str, key: str) -> None:
        before = self.task(visit, key)
        if before and not before.over:
            raise UserError(say("pictures are being made already: stop them, or wait for them"))

    @property
    def is_busy(self) -> bool:
        """Whether anybody's pictures are being made."""
        return any(not task.over for task in list(self._tasks.values()))


@st.cache_resource(show_spinner=False)
def workshop() -> Workshop:
    """The one of the server."""
    return Workshop()


def _asked(options: SampleOptions, config: Config) -> Asked:
    """The picture as the model is asked for it, with all its LoRA; UserError for what cannot be made."""
    if is_prompt_file(options.prompt):
        raise UserError(say("the prompt ends like the name of a file: say in words what the pictures show"))
    (asked,) = requests_of(replace(options, num_cols=1), config.model.unet.downsampling)
    _, paths = split_weight_argument(options.weight)
    strengths = asked.options.strengths.each(len(paths), options.weight)
    return replace(asked, lora=(*zip(paths, strengths), *asked.lora))


def _require_files(requests: Sequence[Asked], config: Config) -> None:
    """UserError for LoRA and given pictures that cannot be used, before a model is loaded."""
    modules = {}
    for path in dict.fromkeys(path for one in requests for path, _ in one.lora):
        with open_lora(path, config.model) as file:
            modules[path] = list(file.modules)
    for one in requests:
        _, paths = split_weight_argument(one.options.weight)
        one.options.strengths.check([modules[path] for path in paths], one.options.weight)
    for one in {one.kind: one for one in requests}.values():
        require_given(one.options, one.settings, config.model)


def _by_lora(requests: Sequence[Asked]) -> list[int]:
    """The places of the requests, those of the same LoRA together: the weights change seldom."""
    order = list(dict.fromkeys(one.lora for one in requests))
    return sorted(range(len(requests)), key=lambda place: order.index(requests[place].lora))


def _sentence(error: Exception) -> str:
    """For a person; what should not have happened goes to the terminal."""
    known = console.explain(error)
    if known is not None:
        return known[0]
    if isinstance(error, MemoryError) or OUT_OF_MEMORY.search(str(error)):
        return TOO_LARGE
    with suppress(OSError):
        traceback.print_exception(type(error), error, error.__traceback__)
    return FAILED
