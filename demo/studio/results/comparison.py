"""A comparison of LoRA: which pictures it consists of, and which of them are there. It is kept in the visitor's folder, so that a
reload finds it, and a picture that was made once is not made again."""

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import product
from pathlib import Path
from typing import Any, Mapping, Optional, Sequence

from gm.errors import UserError
from gm.files import replacing
from gm.options.sample import SampleOptions
from studio.files import stamp
from studio.results.saved import Saved
from studio.visit import Studio
from studio.words import say

FILE = "compare.json"
FOLDER = "compare"  # where the pictures are
MOST_KEPT = 1000  # pictures that are remembered
MOST_RUNS, MOST_SEEDS, MOST_PICTURES = 4, 4, 60
STRENGTHS = (0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5)


@dataclass(frozen=True)
class Cell:
    """A picture."""

    run: str  # empty: the base model
    step: int
    strength: float
    seed: int
    key: str = ""  # of all that decides the picture


@dataclass(frozen=True)
class Comparison:
    """What was compared last. `pictures`: key of a cell -> file."""

    model: str = ""
    prompt: str = ""
    negative: str = ""
    runs: Mapping[str, Sequence[int]] = field(default_factory=dict)  # name -> steps
    base: bool = True
    strengths: Sequence[float] = (1.0,)
    seed: int = 42
    seeds: int = 1  # how many, from `seed` on
    sample_step: int = 0  # 0: the model's own
    cells: Sequence[Cell] = ()
    pictures: Mapping[str, str] = field(default_factory=dict)
    making: Sequence[str] = ()  # keys of the pictures that the workshop was asked for last, in its order

    @property
    def count(self) -> int:
        """Pictures of it."""
        steps = sum(len(steps) for steps in self.runs.values())
        return (steps * len(self.strengths) + self.base) * self.seeds

    @property
    def planned(self) -> list[Cell]:
        """All pictures of it, without keys: those of a seed one after another, so that the first can be compared soon."""
        found = []
        for seed in range(self.seed, self.seed + self.seeds):
            found += [Cell("", 0, 0.0, seed)] if self.base else []
            for name, steps in self.runs.items():
                found += [Cell(name, step, strength, seed) for step, strength in product(sorted(steps), self.strengths)]
        return found

    def cell(self, run: str, step: int, strength: float, seed: int) -> Optional[Cell]:
        """The picture of these; the base model has one for all steps and strengths."""
        wanted = (run, 0, 0.0, seed) if not run else (run, step, strength, seed)
        return next((one for one in self.cells if (one.run, one.step, one.strength, one.seed) == wanted), None)

    def picture(self, cell: Optional[Cell]) -> Optional[Path]:
        """Its file, where it is there."""
        path = Path(self.pictures[cell.key]) if cell and cell.key in self.pictures else None
        return path if path is not None and path.is_file() else None

    @property
    def missing(self) -> list[Cell]:
        return [cell for cell in self.cells if self.picture(cell) is None]

    def check(self) -> None:
        """UserError for what cannot be compared."""
        if not self.runs:
            raise UserError(say("no LoRA is chosen: choose the one or the several that are to be compared"))
        without = [name for name, steps in self.runs.items() if not steps]
        if without:
            raise UserError(say("no step of {name} is chosen: choose one or several", name=without[0]))
        if not self.strengths:
            raise UserError(say("no strength is chosen: choose one or several"))
        if not self.prompt.strip():
            raise UserError(say("the prompt is empty: say in words what the pictures show"))
        if self.count > MOST_PICTURES:
            raise UserError(
                say(
                    "these are {n} pictures, more than {most} at once: choose fewer steps, strengths or seeds",
                    n=self.count,
                    most=MOST_PICTURES,
                )
            )


def options_of_cell(
    options: SampleOptions, comparison: Comparison, cell: Cell, runs: Mapping[str, Saved], studio: Studio
) -> SampleOptions:
    """How the picture is made; `options`: of the model. UserError where the LoRA cannot be named."""
    lora = None
    if cell.run:
        run = runs.get(cell.run)
        if run is None or cell.step not in run.loras:
            raise UserError(say("step {step} of {name} is not there any more: choose another", step=cell.step, name=cell.run))
        lora = str(run.lora(cell.step, studio))
        if "," in lora:
            raise UserError(say("{path} has a comma in its name, which separates weights: rename its folder", path=lora))
    return replace(
        options,
        prompt=" ".join(comparison.prompt.split()),
        negative_prompt=" ".join(comparison.negative.split()),
        weight=f"{options.weight},{lora}" if lora else options.weight,
        lora_scale=(cell.strength,) if lora else None,
        lora_text_scale=None,
        lora_block_scale=None,
        lora_schedule=None,
        seed=cell.seed,
        num_cols=1,
        sample_step=comparison.sample_step or options.sample_step,
    )


def with_keys(
    comparison: Comparison, options: SampleOptions, runs: Mapping[str, Saved], studio: Studio
) -> tuple[Comparison, list[SampleOptions]]:
    """The comparison with its cells in full, and how each is made."""
    cells, wanted = [], []
    for cell in comparison.planned:
        of_cell = options_of_cell(options, comparison, cell, runs, studio)
        files = [stamp(runs[cell.run].loras[cell.step])] if cell.run else []
        digest = hashlib.blake2b(repr((of_cell, files)).encode(), digest_size=12).hexdigest()
        cells.append(replace(cell, key=digest))
        wanted.append(of_cell)
    return replace(comparison, cells=cells), wanted


# -- files -------------------------------------------------------------------------------------------------------------------


def load(folder: Path) -> Comparison:
    """The visitor's; what cannot be read is as if there was none."""
    try:
        content = json.loads((folder / FILE).read_text(encoding="utf-8"))
        known = {one.name for one in fields(Comparison)}
        given: dict[str, Any] = {name: value for name, value in content.items() if name in known}
        given["cells"] = [Cell(**one) for one in given.get("cells", [])]
        given["strengths"] = tuple(map(float, given.get("strengths", [1.0])))
        given["runs"] = {str(name): [int(step) for step in steps] for name, steps in given.get("runs", {}).items()}
        pictures = {key: path for key, path in given.get("pictures", {}).items() if _is_ours(folder, path)}
        return Comparison(**{**given, "pictures": pictures})
    except (OSError, ValueError, TypeError, AttributeError):
        return Comparison()


def _is_ours(folder: Path, path: str) -> bool:
    return Path(os.path.normpath(path)).is_relative_to(folder / FOLDER)


def save(folder: Path, comparison: Comparison) -> None:
    """Keep it, and of the pictures the newest; those that nobody will ask for again are removed."""
    pictures = list(comparison.pictures.items())
    for _, path in pictures[:-MOST_KEPT]:
        with suppress(OSError):
            os.unlink(path)
    kept = dict(pictures[-MOST_KEPT:])
    content = asdict(replace(comparison, pictures=kept))
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / FILE) as unfinished:
        unfinished.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def with_pictures(comparison: Comparison, keys: Sequence[str], paths: Sequence[Optional[Path]]) -> Comparison:
    """With the pictures that are there by now; the same object where there is none more."""
    new = {key: str(path) for key, path in zip(keys, paths) if path and comparison.pictures.get(key) != str(path)}
    return replace(comparison, pictures={**comparison.pictures, **new}) if new else comparison
