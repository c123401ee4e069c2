"""From what a visitor has prepared to a job in the queue: checked as the command would, then copied into the job's folder, which
no later change of the draft touches."""

import shutil
from pathlib import Path
from typing import Sequence

from gm.data.captions import caption_file
from gm.data.images import BESIDE
from gm.data.masks import mask_file
from gm.errors import UserError
from gm.jobs.control import add
from gm.jobs.job import Job
from gm.parallel.ranks import Ranks
from gm.training.inputs import check_inputs
from studio.draft import Draft, Settings
from studio.recipe import command
from studio.recipe.tree import used_photos
from studio.visit import Studio
from studio.words import say


def start(studio: Studio, draft: Draft) -> Job:
    """Queue the training. UserError for anything that can be seen to be wrong before it runs; then there is no job."""
    settings = draft.settings()
    photos = checked_photos(draft, settings)
    _check_weights(studio, settings)
    command.config_of(studio, settings)

    def prepare(folder: Path) -> Sequence[str]:
        copy_photos(photos, folder / command.PHOTOS)
        (folder / command.YAML).write_text(command.yaml_text(studio, settings, folder), encoding="utf-8")
        prompts = command.prompts_of(draft)
        if prompts:
            (folder / command.PROMPTS).write_text(prompts + "\n", encoding="utf-8")
        words = command.words_of(studio, settings, folder)
        check_inputs(words[1:], Ranks())
        return words

    return add(studio.runs, command.job_name(settings), prepare, command.device_of(settings), studio.options.jobs_at_once)


def checked_photos(draft: Draft, settings: Settings) -> list[Path]:
    """The photos that are trained on. UserError where there are none, or where nothing says what they show."""
    photos = used_photos(draft, settings)
    if not photos:
        raise UserError(say("there are no photos to train on: add some in the part Photos"))
    without = [photo for photo in photos if caption_file(photo, BESIDE) is None]
    if without and not settings.instance_prompt.strip():
        raise UserError(
            say("{n} photos have no caption, so the prompt of the photos is needed: say what they show", n=len(without))
        )
    return photos


def _check_weights(studio: Studio, settings: Settings) -> None:
    model = command.model_of(studio, settings)
    if not model.is_there:
        places = ", ".join(model.weights or [model.weight])
        raise UserError(
            say(
                "the weights of {model} are in none of the places that were looked at ({places}): put them there, or choose "
                "another model",
                model=model.name,
                places=places,
            )
        )


def copy_photos(photos: Sequence[Path], folder: Path) -> None:
    """The photos with their captions and masks."""
    folder.mkdir(parents=True)
    for photo in photos:
        beside = [caption_file(photo, BESIDE), mask_file(photo, None)]
        for path in [photo, *(path for path in beside if path)]:
            shutil.copyfile(path, folder / path.name)
