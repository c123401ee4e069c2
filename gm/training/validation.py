"""Progress pictures of a run: the same prompts with the same seeds after every so many updates, and one sheet of all of them.

`<save_path>/progress/step_000500_00.png` is the first prompt's picture after 500 updates, as demo/sampling_without_streamlit.py
would make it; `<save_path>/progress.png` has a row for each of those steps and a column for each prompt, and grows.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Mapping, Optional, Sequence

import numpy as np
from PIL import Image

from gm.config.types import SampleSettings
from gm.console import log
from gm.encoding.text import unconditional
from gm.options.prompts import PromptLine
from gm.pictures import contact_sheet, save_png
from gm.sampling.output import in_words
from gm.sampling.pictures import PictureSampler
from gm.soundness import NotFinite
from gm.training.drawing import Drawing, Texts
from gm.training.inputs import Inputs
from gm.training.progress_files import FOLDER, NAME, NAMED
from gm.training.setting import Setting

SHEET = "progress.png"
THUMBNAIL, SMALLEST = 256, 64  # pixels of a picture's longer side on the sheet
LONGEST = 4000  # pixels of the sheet's side
LABEL = 24  # pixels that a row of the sheet is higher than its pictures


@dataclass(frozen=True)
class Asked:
    """One picture of every row."""

    prompt: str
    negative_prompt: str
    settings: SampleSettings
    seed: int


def asked_pictures(inputs: Inputs) -> list[Asked]:
    """The pictures of --infer_prompts, a prompt without a seed of its own with --seed plus its number from 0; or as many of
    --infer_prompt as --sample_batch_size says, with --seed, --seed + 1, ..."""
    options = inputs.options
    usual = SampleSettings.square(inputs.config.data.target_size, options.sample_step)
    lines = inputs.infer_lines or [PromptLine(inputs.infer_prompt)] * options.sample_batch_size
    return [
        Asked(
            prompt=line.prompt,
            negative_prompt=line.negative_prompt or "",
            settings=line.settings(usual),
            seed=options.seed + number if line.seed is None else line.seed,
        )
        for number, line in enumerate(lines)
    ]


class ProgressPictures:
    """Called with the number of updates so far: samples the pictures, and draws the sheet anew."""

    def __init__(
        self,
        folder: Path,
        asked: Sequence[Asked],
        sampler: PictureSampler,
        texts: Texts,
        about: Mapping[str, object] = {},
    ):
        """`folder`: of the run's results. `about`: what else goes into the text chunks."""
        self.folder, self.asked, self.sampler, self.texts = folder, asked, sampler, texts
        self.about, self.sheet = about, Sheet(folder / FOLDER)

    def __call__(self, step: int) -> None:
        for number, one in enumerate(self.asked):
            what = f"pictures after step {step}, {number + 1}/{len(self.asked)}"
            try:
                picture = self._sampled(one, what)
            except NotFinite as error:  # the run is worth more than its pictures
                log.warning("no picture %d after step %d: %s", number, step, error)
                continue
            about = {"prompt": one.prompt, "negative_prompt": one.negative_prompt, "seed": one.seed}
            about |= {**in_words(one.settings), "step": step, **self.about}
            save_png(self.folder / FOLDER / NAME.format(step, number), picture, about)
        self.sheet.draw(self.folder / SHEET)

    def _sampled(self, one: Asked, what: str) -> np.ndarray:
        """By itself, not in a batch, as the sampling command does: the same pixels."""
        texts = self.texts([one.prompt] + ([one.negative_prompt] if one.negative_prompt else []))
        text = texts[one.prompt]
        negative = texts[one.negative_prompt] if one.negative_prompt else unconditional(text)
        return self.sampler(text, negative, one.settings, [one.seed], what)[0]


def progress_pictures(setting: Setting, drawing: Drawing, step: int) -> ProgressPictures:
    """The progress pictures of a run that goes on after `step` updates; pictures of later ones, which it will make again, are
    removed."""
    inputs = setting.inputs
    forget_after(inputs.folder / FOLDER, step)
    about = {"weight": inputs.options.weight}
    return ProgressPictures(inputs.folder, asked_pictures(inputs), drawing.sampler, drawing.texts, about)


def forget_after(folder: Path, step: int) -> None:
    """Remove the pictures of later steps; where a run begins, all of an earlier one."""
    for path, (at, _) in _pictures(folder).items():
        if at > step or step == 0:
            path.unlink(missing_ok=True)


def _pictures(folder: Path) -> dict[Path, tuple[int, int]]:
    """The pictures of a folder with their steps and numbers, in that order."""
    found = {path: NAMED.fullmatch(path.name) for path in folder.glob("step_*.png")} if folder.is_dir() else {}
    places = {path: (int(match[1]), int(match[2])) for path, match in found.items() if match}
    return dict(sorted(places.items(), key=lambda item: item[1]))


class Sheet:
    """All pictures of a folder on one: a row for each step, a column for each prompt, so small that it can be looked at."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._known: dict[Path, tuple[np.ndarray, str]] = {}  # a file is read once

    def draw(self, path: Path) -> None:
        """Write the sheet. Of more steps than have room, the first, the last and some between them."""
        rows: dict[int, dict[int, tuple[np.ndarray, str]]] = {}
        for picture, (step, number) in _pictures(self.folder).items():
            known = self._thumbnail(picture)
            if known is not None:
                rows.setdefault(step, {})[number] = known
        steps = _some_of(sorted(rows), (LONGEST - 4) // (SMALLEST + LABEL))
        columns = 1 + max((number for row in rows.values() for number in row), default=0)
        cell = min(THUMBNAIL, (LONGEST - 4) // max(len(steps), 1) - LABEL, (LONGEST - 4) // columns - 4)
        nothing = np.full((1, 1, 3), 255, np.uint8), ""
        cells = [[rows[step].get(number, nothing)[0] for number in range(columns)] for step in steps]
        labels = [f"step {step}: {' | '.join(dict.fromkeys(prompt for _, prompt in rows[step].values()))}" for step in steps]
        if steps:
            save_png(path, contact_sheet(cells, labels, max(cell, 1)), {"steps": steps})

    def _thumbnail(self, path: Path) -> Optional[tuple[np.ndarray, str]]:
        """The picture, small, and its prompt; None where the file is no picture."""
        if path not in self._known:
            try:
                with Image.open(path) as image:
                    prompt = image.info.get("prompt", "")
                    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
                    self._known[path] = np.asarray(image.convert("RGB")), prompt
            except OSError as error:
                log.warning("%s is not on the sheet of progress pictures: %s", path, error)
                return None
        return self._known[path]


def _some_of(steps: Sequence[int], most: int) -> list[int]:
    """At most so many of the steps, evenly spread, with the first and the last."""
    if len(steps) <= most:
        return list(steps)
    return [steps[round(place)] for place in np.linspace(0, len(steps) - 1, most)]
