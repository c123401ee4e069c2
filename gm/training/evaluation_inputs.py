"""What --evaluate_every is given: photos, prompts and the class prompt, checked before MindSpore is imported."""

from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Sequence

from gm.config.types import ConceptConfig
from gm.console import log
from gm.data.concepts import ClassFolder, Subject
from gm.data.images import list_images
from gm.errors import UserError
from gm.evaluation.chooser import BEHIND
from gm.evaluation.saved_run import subject_in
from gm.options.evaluate import SEEDS_OF_RUN
from gm.options.evaluating import prompts_of
from gm.options.train import TrainOptions


@dataclass(frozen=True)
class ToEvaluate:
    """What a run is scored by."""

    every: int  # updates
    prompts: tuple[str, ...]  # of the subject
    class_prompt: str
    seeds: int  # pictures of each prompt
    photos: Sequence[Path]  # of the subject that are trained on
    held_out: Sequence[Path]  # others of it; none: the photos are compared with
    features: str  # FILE.py[:FUNCTION]
    stops: bool  # the run ends when it has learned

    @property
    def all_prompts(self) -> list[str]:
        return [*self.prompts, self.class_prompt]


def to_evaluate(
    options: TrainOptions,
    subjects: Sequence[Subject],
    class_folders: Sequence[ClassFolder],
    concepts: Sequence[ConceptConfig],
    prompt: str,
    total: int,
) -> Optional[ToEvaluate]:
    """None without --evaluate_every. `prompt` stands for the subject; `total`: updates of the run. UserError where there is nothing
    to compare with or to ask for, and where the end that was asked for cannot come."""
    every = options.evaluate_every
    if every is None:
        return None
    photos = _photos(subjects)
    held_out = list_images(Path(options.held_out), "--held_out") if options.held_out else []
    if len(photos) < 2 and not held_out:
        raise UserError(
            f"--evaluate_every {every} has one photo to compare with, {photos[0]}: give --held_out, a folder with others of the subject"
        )
    of_concepts = (concept.class_prompt for concept in concepts if concept.class_prompt)
    class_prompt = next((one.prompt for one in class_folders), None) or next(of_concepts, None)
    if class_prompt is None:
        raise UserError(
            f"--evaluate_every {every} looks at what is left of the class: give --class_prompt, such as 'A photo of a dog'"
        )
    if options.stop_when_learned and every * (BEHIND + 1) >= total:
        raise UserError(
            f"--stop_when_learned True needs more than {BEHIND + 1} evaluations, and {total} updates have {total // every} with "
            f"--evaluate_every {every}: give at most {(total - 1) // (BEHIND + 1)} there, or leave --stop_when_learned away"
            if total > BEHIND + 1
            else f"--stop_when_learned True cannot act in {total} updates: leave it away"
        )
    return ToEvaluate(
        every=every,
        prompts=prompts_of(options.evaluate_prompts, subject_in(prompt), prompt),
        class_prompt=class_prompt,
        seeds=options.evaluate_seeds or SEEDS_OF_RUN,
        photos=photos,
        held_out=held_out,
        features=options.features or "",
        stops=options.stop_when_learned,
    )


def _photos(subjects: Sequence[Subject]) -> list[Path]:
    """Those of the subject whose prompt stands for the run, from all of its folders."""
    chosen = next((subject for subject in subjects if subject.prompt), subjects[0])
    folders = [subject for subject in subjects if subject.prompt == chosen.prompt]
    if len(folders) < len(subjects):
        log.warning(
            "--evaluate_every scores one subject, %r: of the others look with tools/evaluate.py --checkpoints",
            chosen.prompt,
        )
    return [path for folder in folders for path in folder.photos]
