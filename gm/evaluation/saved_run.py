"""What a run has left in its folder, as far as an evaluation needs it: its LoRA by step, and what it called its subject."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Mapping, Optional

from gm.checkpoint.io import open_tensors
from gm.config.types import DataConfig
from gm.data.images import entries_of
from gm.errors import UserError, shown

NAME = re.compile(r"SDXL_base_1\.0_(\d+)_lora\.(ckpt|safetensors)")  # of a checkpoint of this suite
STEPS = ("step", "ss_steps")  # where the metadata of a LoRA with another name says its updates: this suite's, sd-scripts'
PROMPT = "instance_prompt"  # where the metadata says the prompt of the photos
# what stands before the subject in a prompt of photos: "A photo of a", "a close-up photo of"
BEFORE = re.compile(r"^.*?\b(?:photo|photograph|picture|image|painting|drawing|portrait)s? of ", re.IGNORECASE)
ARTICLE = re.compile(r"^(?:an?|the|one|my) ", re.IGNORECASE)
LONGEST = 4  # words of a subject


@dataclass(frozen=True)
class SavedRun:
    """A run's folder."""

    folder: Path
    loras: Mapping[int, Path]  # optimizer updates -> the LoRA after them, in their order
    prompt: Optional[str]  # of its photos; None where no file says it


def open_run(folder: Path, flag: str) -> SavedRun:
    """The run that has saved here, each step once: the .ckpt where there is a .safetensors as well. UserError without any."""
    if not folder.is_dir():
        raise UserError(f"{flag} {folder} is not a folder: give the --save_path of a run")
    found: dict[int, Path] = {}
    for path in entries_of(folder):  # sorted: .ckpt comes before .safetensors
        step = _step_of(path)
        if step:
            found.setdefault(step, path)
    if not found:
        raise UserError(
            f"{flag} {folder} holds no LoRA such as SDXL_base_1.0_400_lora.ckpt, nor a .safetensors that says its steps: give the "
            "--save_path of a run"
        )
    with open_tensors(found[max(found)]) as newest:
        prompt = newest.metadata.get(PROMPT)
    return SavedRun(folder, dict(sorted(found.items())), prompt)


def _step_of(path: Path) -> Optional[int]:
    """By the file's name, or by what it says; None of what is not a checkpoint."""
    named = NAME.fullmatch(path.name)
    if named:
        return int(named[1])
    if path.suffix != ".safetensors":
        return None
    with open_tensors(path) as file:
        said = next((file.metadata[name] for name in STEPS if name in file.metadata), "")
    return int(said) if said.isascii() and said.isdigit() else None


def words_of(
    run: SavedRun, data: Optional[DataConfig], subject: Optional[str], class_prompt: Optional[str]
) -> tuple[str, str]:
    """What to call the subject and how to ask for its class, where --subject and --class_prompt (given here) do not say it.

    The subject is what the run's prompt asks for ("A photo of a sks dog": sks dog). The class prompt is that of the YAML's
    concepts, or the run's prompt with the subject's last word alone ("A photo of a dog"). UserError where neither tells.
    """
    own = subject_in(run.prompt or "")
    if subject is None and own is None:
        raise UserError(
            f"{run.folder} does not say what its subject is called (its prompt is {shown(run.prompt)}): give --subject and "
            "--class_prompt"
        )
    of_concepts = next((one.class_prompt for one in (data.concepts if data else ()) if one.class_prompt), None)
    subject, class_prompt = subject or own or "", class_prompt or of_concepts
    if class_prompt is None:
        *before, noun = subject.split()
        if not before:
            raise UserError(
                f"the class of the subject {shown(subject)} is not told by its name: give --class_prompt, such as 'A photo of a dog'"
            )
        class_prompt = f"A photo of a {noun}"
        if own == subject and run.prompt:
            class_prompt = run.prompt.replace(own, noun)
    return subject, class_prompt


def subject_in(prompt: str) -> Optional[str]:
    """The subject's words in a prompt of its photos: up to the first comma, without article. None where that is a sentence."""
    words = ARTICLE.sub("", BEFORE.sub("", prompt.split(",")[0].strip(), count=1)).strip(" .")
    return words if 0 < len(words.split()) <= LONGEST else None
