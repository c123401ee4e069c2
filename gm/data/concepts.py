"""The subjects of a run and the folders of their classes: from the YAML's list, the flags, or sd-scripts' folder names. No
MindSpore import."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Sequence

from gm.config.bounds import MOST_REPEATS, MOST_SAMPLES
from gm.config.types import CaptionConfig, ConceptConfig
from gm.data.captions import Caption, caption_file, read_caption
from gm.data.images import count_images, entries_of, list_images
from gm.errors import UserError, shortened
from gm.texts import prompt_text

REPEATS_AND_PROMPT = re.compile(r"([0-9]+)_(.+)", re.DOTALL)  # the name of a folder of sd-scripts, e.g. "10_sks dog"


@dataclass(frozen=True)
class Subject:
    """A folder of photos of one subject."""

    folder: Path
    photos: tuple[Path, ...]
    prompt: Optional[str]  # of photos without a caption file
    repeats: int  # of each photo in an epoch
    weight: float = 1.0  # of its losses


@dataclass(frozen=True)
class ClassFolder:
    """A folder of class images; missing ones are sampled from the prompt."""

    folder: Path
    prompt: str
    repeats: int = 1


def find_subjects(concepts: Sequence[ConceptConfig], repeats: int, where: str) -> list[Subject]:
    """The subjects with their photos. `repeats`: where a concept does not say it; `where`: what the folder is called in
    messages. UserError for a folder without photos."""
    found = []
    for concept in concepts:
        folder = Path(concept.instance_data_path)
        parts = _sd_scripts_folders(folder, where)
        if parts and concept.instance_prompt:
            raise UserError(
                f"{where} {folder} holds folders like {parts[0][0].name!r}, whose names say the prompt, but a prompt was given as "
                "well: leave out the prompt, or put the photos into the folder itself"
            )
        for path, times, prompt in parts or [(folder, concept.repeats or repeats, concept.instance_prompt)]:
            found.append(Subject(path, tuple(list_images(path, where)), prompt, times, concept.weight))
            _require_few(sum(len(one.photos) * one.repeats for one in found), path, where)
    return found


def find_classes(concepts: Sequence[ConceptConfig], where: str) -> list[ClassFolder]:
    """The class folders, each once. UserError where two concepts say different things of one folder."""
    found: dict[Path, ClassFolder] = {}
    for concept in concepts:
        if concept.class_data_path is None:
            continue
        folder = Path(concept.class_data_path)
        parts = _sd_scripts_folders(folder, where) if os.path.isdir(folder) else []
        if not parts and concept.class_prompt is None:
            raise UserError(f"{where} {folder} was given without a class prompt: say what the class images show")
        for path, times, prompt in parts or [(folder, 1, concept.class_prompt)]:
            one, before = ClassFolder(path, prompt, times), found.get(path.resolve())
            if before is not None and before.prompt != one.prompt:
                raise UserError(
                    f"{where} {path} has two prompts, {before.prompt!r} and {one.prompt!r}: give each class a folder of its own"
                )
            found[path.resolve()] = one
            _require_few(len(count_images(path)) * times, path, where)
    return list(found.values())


def _require_few(samples: int, folder: Path, where: str) -> None:
    """UserError for an epoch whose order takes the memory."""
    if samples > MOST_SAMPLES:
        raise UserError(
            f"with {where} {folder} an epoch has {samples} samples, photos times repeats: give fewer repeats, so that it has at most "
            f"{MOST_SAMPLES}"
        )


def _sd_scripts_folders(folder: Path, where: str) -> list[tuple[Path, int, str]]:
    """(folder, repeats, prompt) of the folders named so in one that holds no image itself."""
    if not os.path.isdir(folder):
        return []
    parts = []
    for path in entries_of(folder):
        match = REPEATS_AND_PROMPT.fullmatch(path.name) if os.path.isdir(path) else None
        if match and count_images(path):
            if not 1 <= int(match[1]) <= MOST_REPEATS:
                raise UserError(
                    f"{where} {path} repeats its photos {shortened(match[1], 20)} times by its name: rename it, e.g. to 1_{match[2]}"
                )
            try:
                parts.append((path, int(match[1]), prompt_text(match[2])))
            except ValueError as error:
                raise UserError(f"{where} {path} has no prompt in its name: {error}") from None
    return parts if parts and not count_images(folder) else []


def caption_of(photo: Path, prompt: Optional[str], config: CaptionConfig) -> Caption:
    """What is said about a photo: its caption file, or else the prompt. UserError where there is neither."""
    file = caption_file(photo, config.extensions)
    if file is None and prompt is None:
        raise UserError(
            f"{photo} has no caption file ({', '.join(config.extensions)}) and there is no prompt: write one, or give a prompt"
        )
    return Caption(read_caption(file) if file else prompt, config)
