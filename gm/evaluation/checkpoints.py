"""The figures of a run's checkpoints as JSON (`checkpoints.json`), as curves (`checkpoints.png`) and as a sheet of pictures
(`checkpoints_sheet.png`): written for a finished run by tools/evaluate.py, and while a run trains. Which one is the best says
chooser.py.
"""

import gc
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Mapping, Optional, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from gm.errors import UserError
from gm.evaluation.chooser import Choice, Point, choose, score
from gm.evaluation.fidelity import Figures
from gm.evaluation.report import BASE, COLUMNS, REAL, write_text
from gm.files import replacing
from gm.pictures import contact_sheet, fitted, in_one_line, save_png, writing

if TYPE_CHECKING:  # who reads the figures alone does without MindSpore
    from gm.evaluation.samples import Pictures

JSON, CURVES, SHEET = "checkpoints.json", "checkpoints.png", "checkpoints_sheet.png"
SMALLEST, LARGEST = 128, 256  # pixels of a picture's longer side on the sheet
COLUMNS_OF_SHEET = 6  # as many are drawn, or more where there are more prompts
PANELS = ("score", "subject", "prompt", "pres", "div")
LINE = 16  # pixels of a line of the sheet's heading


@dataclass(frozen=True)
class Evaluated:
    """A checkpoint with its figures."""

    step: int  # optimizer updates
    figures: Figures
    seconds: Optional[float] = None  # that sampling and comparing took


@dataclass(frozen=True)
class Course:
    """What is known of a run's checkpoints."""

    real: Figures
    base: Figures
    steps: Sequence[Evaluated]

    @property
    def points(self) -> list[Point]:
        """As chooser.py takes them."""
        return [Point(one.step, one.figures) for one in self.steps]

    @property
    def choice(self) -> Optional[Choice]:
        """None as long as there is no checkpoint."""
        return choose(self.base, self.real, self.points) if self.steps else None

    def score(self, figures: Figures) -> float:
        return score(figures, self.base, self.real)


def row_name(step: int) -> str:
    """What a checkpoint is called in the table, and its folder of pictures; step 0 is the base model."""
    return f"step {step}" if step else BASE


# -- JSON ------------------------------------------------------------------------------------------------------------


def write_course(folder: Path, course: Course, settings: Mapping[str, object]) -> None:
    """`checkpoints.json` and `checkpoints.png`; each appears when it is complete. `settings`: what the pictures were made with."""
    steps = [{"step": one.step, **_row(course, one.figures), "seconds": one.seconds} for one in course.steps]
    content = {
        "real": asdict(course.real),
        "base": asdict(course.base),
        "steps": steps,
        "choice": asdict(course.choice) if course.choice else None,
        "settings": settings,
    }
    write_text(folder / JSON, json.dumps(content, indent=1, default=str))
    draw_curves(folder / CURVES, course)


def _row(course: Course, figures: Figures) -> dict[str, object]:
    return {"figures": asdict(figures), "score": course.score(figures)}


def read_course(folder: Path) -> Optional[Course]:
    """What `checkpoints.json` of this folder says; None where there is none. UserError when it cannot be read."""
    path = folder / JSON
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        steps = [Evaluated(one["step"], Figures(**one["figures"]), one.get("seconds")) for one in content["steps"]]
        return Course(Figures(**content["real"]), Figures(**content["base"]), steps)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        words = " ".join(str(error).split())[:200]
        raise UserError(f"{path} is not what this suite has written ({words}): take it away, it is made anew") from None


# -- curves ----------------------------------------------------------------------------------------------------------


def draw_curves(path: Path, course: Course) -> None:
    """A panel for the score and for each figure, over the updates: the base model (also at 0) and real pictures are lines, the
    chosen checkpoint a mark. Nothing is drawn where there is no checkpoint."""
    if not course.steps:
        return
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    rows = {0: course.base, **{one.step: one.figures for one in sorted(course.steps, key=lambda one: one.step)}}
    panels = [name for name in PANELS if name == "score" or getattr(course.base, name) is not None]
    chosen = course.choice
    figure = Figure(figsize=(3.4 * len(panels), 3.5), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels):
        values = {step: course.score(row) if name == "score" else getattr(row, name) for step, row in rows.items()}
        values = {step: value for step, value in values.items() if value is not None}
        axes.plot(list(values), list(values.values()), "o-", color="tab:blue", markersize=3.5, linewidth=1.5)
        for words, row, style in ((BASE, course.base, "--"), (REAL, course.real, ":")):
            value = None if name == "score" else getattr(row, name)
            if value is not None:
                axes.axhline(value, color="black", linestyle=style, linewidth=1, label=f"{words} {value:.3f}")
        if chosen and chosen.step in values:
            value = values[chosen.step]
            axes.axvline(chosen.step, color="tab:red", linewidth=6, alpha=0.15)
            axes.plot([chosen.step], [value], "o", color="tab:red", label=f"step {chosen.step}: {value:.3f}")
        axes.set_title("score (higher is better)" if name == "score" else COLUMNS[name], fontsize=10)
        axes.set_xlabel("optimizer updates", fontsize=8)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.tick_params(labelsize=8)
        low, high = axes.get_ylim()
        axes.set_ylim(min(low, 0.0), max(high + 0.3 * (high - min(low, 0.0)), 0.01))  # room for the legend
        axes.grid(alpha=0.25)
        if axes.get_legend_handles_labels()[1]:
            axes.legend(frameon=False, fontsize=7, loc="upper left")
    if chosen:
        figure.suptitle(f"step {chosen.step}: score {chosen.score:.3f}; {chosen.reason}", fontsize=10)
    with writing(path), replacing(path) as unfinished:
        FigureCanvasAgg(figure).print_png(str(unfinished))
    del figure
    gc.collect()  # figures refer to themselves: one after another would hold megabytes for a long while


# -- sheet -----------------------------------------------------------------------------------------------------------


@dataclass
class Sheet:
    """A row for each checkpoint, the base model first; a column for each prompt and seed, the same in every row. Pictures are
    kept as small as they are drawn."""

    prompts: Sequence[str]
    class_prompt: str
    rows: dict[int, list[np.ndarray]] = field(default_factory=dict)  # step -> pictures

    def add(self, step: int, pictures: "Pictures") -> None:
        """The row of a checkpoint, 0 of the base model; in place of one with the same step."""
        first = pictures.of_class[0]
        cell = min(LARGEST, max(SMALLEST, *first.shape[:2]))
        groups = [*(pictures.subject[prompt] for prompt in self.prompts), pictures.of_class]
        self.rows[step] = [fitted(picture, cell) for group in groups for picture in group[: self.each]]

    @property
    def each(self) -> int:
        """Pictures of each prompt, at most."""
        return max(1, COLUMNS_OF_SHEET // (len(self.prompts) + 1))

    def save(self, path: Path, choice: Optional[Choice]) -> None:
        """Write it, the chosen row marked; it appears when it is complete. UserError when it cannot be written."""
        steps = sorted(self.rows)
        cell = max(max(picture.shape[:2]) for picture in self.rows[steps[0]])
        labels = [row_name(step) + self._mark(step, choice) for step in steps]
        sheet = contact_sheet([self.rows[step] for step in steps], labels, cell)
        save_png(path, np.concatenate([self._heading(sheet.shape[1]), sheet]), {"rows": "\n".join(labels)})

    @staticmethod
    def _mark(step: int, choice: Optional[Choice]) -> str:
        return f", chosen: {choice.reason}" if choice and step == choice.step else ""

    def _heading(self, width: int) -> np.ndarray:
        """The prompts above their columns, in lines as short as those are wide: (h, width, 3) uint8."""
        columns = len(next(iter(self.rows.values())))
        names = [*self.prompts, self.class_prompt]
        share = columns // len(names)  # columns of a prompt
        font, column = ImageFont.load_default(12), (width - 4) / columns
        lines = [_wrapped(in_one_line(name), font, share * column - 8) for name in names]
        image = Image.new("RGB", (width, LINE * max(map(len, lines)) + 6), "white")
        pen = ImageDraw.Draw(image)
        for number, words in enumerate(lines):
            for y, line in enumerate(words):
                pen.text((6 + number * share * column, 4 + y * LINE), line, "black", font)
        return np.asarray(image)


def _wrapped(text: str, font, width: float) -> list[str]:
    """The text in at most three lines that are not wider, in pixels."""
    lines = [""]
    for word in text[:300].split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    kept = lines[:3]
    if len(lines) > 3:
        kept[-1] += " ..."
    for number, line in enumerate(kept):
        while len(line) > 1 and font.getlength(line) > width:
            line = line.removesuffix("...")[:-1] + "..." if len(line) > 4 else line[:-1]
        kept[number] = line
    return kept
