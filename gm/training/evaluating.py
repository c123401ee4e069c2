"""A run that scores itself while it trains, as tools/evaluate.py does afterwards: --evaluate_every.

`<save_path>/evaluation/` has the pictures, `step 200/00_a_sks_dog_in_the_snow_00042.png`, and checkpoints.json, checkpoints.png
and checkpoints_sheet.png (gm/evaluation/checkpoints.py), which are written anew after every evaluation.
"""

import json
import re
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Callable, ContextManager, Mapping, Optional, Sequence

import numpy as np

from gm.config.types import SampleSettings
from gm.console import bar, counting_steps, log, waiting
from gm.encoding.text import TextEmbedding
from gm.errors import UserError
from gm.evaluation import chooser
from gm.evaluation.checkpoints import CURVES, JSON, SHEET, Course, Evaluated, Sheet, read_course, row_name, write_course
from gm.evaluation.chooser import Choice
from gm.evaluation.features import load_features
from gm.evaluation.fidelity import Figures
from gm.evaluation.measure import Measure, Photos, read_photos
from gm.evaluation.report import BASE
from gm.evaluation.samples import Gallery, Plan, Row
from gm.sampling.latents import Texts
from gm.training.drawing import Drawing, without_lora
from gm.training.evaluation_inputs import ToEvaluate
from gm.training.inputs import Inputs
from gm.training.setting import Setting
from gm.training.step import Trainer

FOLDER = "evaluation"
MOST_PHOTOS = 100  # that are compared with; of more, so many evenly chosen


class Painter:
    """What a Gallery samples with, as gm/sampling/pipeline.py: the networks as they are now, whatever LoRA a row names."""

    embedder = object()  # the networks are loaded

    def __init__(self, drawing: Drawing):
        self.drawing = drawing
        self.texts: Mapping[str, TextEmbedding] = {}

    def load(self, keep_text_encoders: bool = False) -> None:
        """They are."""

    def change_lora(self, paths: Sequence[str], strength: float = 1.0) -> None:
        """What was embedded is of other weights."""
        self.texts = {}

    def embed(self, prompts: Sequence[str]) -> None:
        self.texts = self.drawing.texts(prompts)

    def pictures(
        self, text: Texts, negative: Texts, settings: SampleSettings, seeds: Sequence[int], what: str
    ) -> list[np.ndarray]:
        return self.drawing.sampler(text, negative, settings, seeds, what)


class Evaluation:
    """Scores a run after some of its updates. What a run that goes on in the same folder has judged is not judged again."""

    def __init__(
        self,
        folder: Path,
        plan: Plan,
        measure: Measure,
        painter: Painter,
        as_base: Callable[[], ContextManager[None]],
        as_saved: Callable[[], ContextManager[None]],
        source: Mapping[str, object],
        settings: Mapping[str, object],
        stops: bool = False,
    ):
        """`folder`: of the results. `as_base` and `as_saved`: in their bodies the painter's networks are the base model, and the
        run's as it is saved. `source`: as in Gallery. `settings`: all that figures depend on besides the weights that train."""
        self.folder, self.plan, self.measure, self.painter = folder, plan, measure, painter
        self.as_base, self.as_saved, self.stops = as_base, as_saved, stops
        self.settings: dict[str, object] = json.loads(json.dumps(settings, default=str))
        self.gallery, self.sheet = Gallery(folder, plan, source), Sheet(plan.prompts, plan.class_prompt)
        self.real = measure.real_pictures()
        self.base: Optional[Figures] = None
        self.steps: dict[int, Evaluated] = {}

    def __call__(self, step: int, lora: Optional[Path]) -> None:
        """Score the run after `step` updates as it is saved in `lora`, and the base model, each unless that is done. Without a file
        only the base model."""
        if self.base is None:
            with self.as_base():
                self.base, seconds = self._figures(0, None)
            log.info("base model: %s, %.1f s; real pictures: subject %.2f", in_words(self.base), seconds, self.real.subject)
            self._write()
        if step == 0 or step in self.steps or lora is None or not lora.exists():
            return
        with self.as_saved():
            figures, seconds = self._figures(step, lora)
        self.steps[step] = Evaluated(step, figures, round(seconds, 2))
        course, choice = self.course, self.choice
        assert course is not None and choice is not None
        best = "best so far" if choice.step == step else f"best so far: step {choice.step}"
        log.info("step %d: %s, score %.2f (%s), %.1f s", step, in_words(figures), course.score(figures), best, seconds)
        self._write()

    @property
    def course(self) -> Optional[Course]:
        """None as long as the base model has not been scored."""
        return Course(self.real, self.base, list(self.steps.values())) if self.base is not None else None

    @property
    def choice(self) -> Optional[Choice]:
        """The checkpoint to take; None as long as none is scored."""
        return self.course.choice if self.course else None

    def learned(self) -> Optional[Choice]:
        """The choice, where it ends the run."""
        course = self.course if self.stops else None
        return chooser.learned(course.base, course.real, course.points) if course else None

    def may_be_chosen(self) -> frozenset[int]:
        """The steps whose checkpoints must stay."""
        course = self.course
        return chooser.may_be_chosen(course.base, course.real, course.points) if course else frozenset()

    def begin(self, step: int) -> None:
        """Take over what the run has judged up to this step, and forget the rest; at step 0, all of an earlier run's."""
        course = self._known() if step else None
        for folder in self.folder.glob("step *") if self.folder.is_dir() else ():
            number = re.fullmatch(r"step (\d+)", folder.name)
            if number and (course is None or int(number[1]) > step):
                forget(folder)
        if course is None:
            forget(self.folder / BASE)
            for name in (JSON, CURVES, SHEET):
                (self.folder / name).unlink(missing_ok=True)
            return
        self.base = course.base
        self.steps = {one.step: one for one in course.steps if one.step <= step}
        for known in (0, *self.steps):
            with suppress(UserError):  # without pictures that are gone or damaged
                self.sheet.add(known, self.gallery.kept(Row(row_name(known))))

    def _known(self) -> Optional[Course]:
        """What checkpoints.json says, where the same was asked for."""
        path = self.folder / JSON
        try:
            course = read_course(self.folder)
            before = json.loads(path.read_text(encoding="utf-8")).get("settings") if course is not None else {}
        except UserError as error:
            log.warning("%s", error)
            return None
        if course is None:
            return None
        differs = sorted(key for key in {*before, *self.settings} if before.get(key) != self.settings.get(key))
        if differs:
            log.warning("%s was made otherwise (%s): the evaluation begins anew", path, ", ".join(differs))
            return None
        return course

    def _figures(self, step: int, lora: Optional[Path]) -> tuple[Figures, float]:
        """Of the painter's networks as they are, and the seconds that took."""
        start, plan = time.perf_counter(), self.plan
        total = len(plan.prompts) * len(plan.seeds) + len(plan.class_seeds)
        with bar(None, f"evaluation, {row_name(step)}", total=total, unit="picture", leave=False) as progress:
            with counting_steps(_nothing):  # no bar for the steps of each few pictures
                pictures = self.gallery.fill(Row(row_name(step), lora), self.painter, progress)
        figures = self.measure.model(pictures)[0]
        self.painter.texts = {}
        self.sheet.add(step, pictures)
        return figures, time.perf_counter() - start

    def _write(self) -> None:
        course = self.course
        assert course is not None
        write_course(self.folder, course, self.settings)
        self.sheet.save(self.folder / SHEET, course.choice)


def in_words(figures: Figures) -> str:
    """The figures that the score is made of; a name that has none is left out."""
    values = {"subject": figures.subject, "prompt": figures.prompt, "PRES": figures.pres, "DIV": figures.div}
    return ", ".join(f"{name} {value:.2f}" for name, value in values.items() if value is not None)


def forget(folder: Path) -> None:
    """Remove the pictures of a row."""
    for path in folder.glob("[0-9][0-9]_*.png") if folder.is_dir() else ():
        path.unlink(missing_ok=True)


def _nothing() -> None:
    pass


# -- of a run --------------------------------------------------------------------------------------------------------


def measure_of(inputs: Inputs) -> Measure:
    """What compares, tried on a photo. UserError where the features or the photos are of no use."""
    asked = _asked(inputs)
    with waiting(f"loading {asked.features}"):
        features = load_features(asked.features)
        photos = Photos(_read(asked.photos), _read(asked.held_out) if asked.held_out else None)
        return Measure(features, photos, asked.prompts)


def evaluation(setting: Setting, trainer: Trainer, drawing: Drawing) -> Evaluation:
    """The evaluation of a run that goes on where the trainer is."""
    inputs, machine, weights, asked = setting.inputs, setting.machine, setting.weights, _asked(setting.inputs)
    plan, base = plan_of(inputs), weights.base.stamps()
    assert setting.measure is not None
    same = {"device": machine.device, "precision": machine.amp_level, "max_tokens": inputs.config.data.max_tokens}
    made = Evaluation(
        folder=inputs.folder / FOLDER,
        plan=plan,
        measure=setting.measure,
        painter=Painter(drawing),
        as_base=lambda: without_lora(trainer.cells, weights.untrained),
        as_saved=trainer.as_saved,
        source={"sampled by": "the run", "model": asdict(inputs.config.model), "base": base, **same},
        settings={
            **{"prompts": plan.prompts, "class_prompt": plan.class_prompt, "seeds": plan.seeds},
            **{"class_seeds": plan.class_seeds, "batch": plan.batch, **asdict(plan.settings), **same},
            "base": [[Path(path).name, size] for path, size, _ in base],
            "features": asked.features,
            "photos": [[path.name, path.stat().st_size] for path in asked.photos],
            "held_out": [[path.name, path.stat().st_size] for path in asked.held_out],
        },
        stops=asked.stops,
    )
    made.begin(trainer.step)
    log.info(
        "evaluation every %d updates: %d pictures of %d prompts such as %r, and %d of %r",
        *(asked.every, len(plan.prompts) * len(plan.seeds), len(plan.prompts), plan.prompts[0]),
        *(len(plan.class_seeds), plan.class_prompt),
    )
    return made


def plan_of(inputs: Inputs) -> Plan:
    """What the run and the base model are asked for."""
    asked, options = _asked(inputs), inputs.options
    return Plan(
        prompts=asked.prompts,
        class_prompt=asked.class_prompt,
        seeds=tuple(range(options.seed, options.seed + asked.seeds)),
        class_seeds=tuple(range(options.seed, options.seed + asked.seeds * len(asked.prompts))),
        settings=SampleSettings.square(inputs.config.data.target_size, options.sample_step),
        batch=options.sample_batch_size,
    )


def _asked(inputs: Inputs) -> ToEvaluate:
    assert inputs.evaluation is not None
    return inputs.evaluation


def _read(paths: Sequence[Path]) -> list[np.ndarray]:
    """The photos; UserError for one that shows nothing."""
    every = max(1, len(paths) / MOST_PHOTOS)
    chosen = [paths[int(number * every)] for number in range(min(len(paths), MOST_PHOTOS))]
    return read_photos(chosen)
