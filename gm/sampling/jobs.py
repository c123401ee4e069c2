"""All pictures of a command: in batches of one kind, with one bar, each into its PNG as soon as it is there, and the sheet of all."""

import math
import re
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Callable, Hashable, Iterator, Optional, Sequence

import numpy as np
from tqdm import tqdm

from gm.config.types import SampleSettings
from gm.console import bar, counting_steps, log
from gm.ending import Interrupted, asked_to_stop, finishing
from gm.errors import UserError
from gm.options.lora_tags import OwnLora, own_lora
from gm.options.prompts import is_prompt_file, read_prompt_lines
from gm.options.sample import SampleOptions, line_flags, sample_settings
from gm.pictures import contact_sheet, next_number, numbered, save_new_png, sheets
from gm.sampling.given import sized, steps_of
from gm.sampling.output import RECORDED, about

# what MindSpore says where a device or the host has no more (its exceptions have no kind for that)
OUT_OF_MEMORY = re.compile(r"out of memory|memory (isn't|is not|not) enough|\b(m|re)?alloc\w*\b.{0,99}\bfail", re.I | re.S)


@dataclass(frozen=True)
class Asked:
    """One picture that is asked for."""

    options: SampleOptions  # its prompt and seed are this picture's
    settings: SampleSettings
    row: int  # of the contact sheet
    column: int  # there
    steps: int  # that are done for it
    words: str  # its prompt as the text encoders see it
    lora: OwnLora  # that its prompt asks for

    @property
    def kind(self) -> Hashable:
        """What pictures of one batch have in common."""
        return self.settings, self.lora, tuple(getattr(self.options, name) for name in RECORDED)


Make = Callable[[Sequence[Asked], str], list[np.ndarray]]  # pictures of one kind; the words say which are at work


def requests_of(options: SampleOptions, multiple: int) -> list[Asked]:
    """What is asked for, row by row of the contact sheet; UserError naming what is wrong with it. `multiple`: of a side, in
    pixels."""
    is_file = is_prompt_file(options.prompt)
    lines = read_prompt_lines(options.prompt, "--prompt", multiple, line_flags()) if is_file else []
    rows = [sized(one, multiple) for one in ([options.of(line) for line in lines] if is_file else [options])]
    return [
        Asked(replace(one, seed=one.seed + column), settings, row, column, steps_of(one, settings, multiple), *own)
        for row, (one, settings, own) in enumerate((one, sample_settings(one, multiple), own_lora(one)) for one in rows)
        for column in range(one.num_cols)
    ]


def groups_of(requests: Sequence[Asked]) -> list[list[int]]:
    """Places of the requests that are of one kind, in the order of the first of each."""
    groups: dict[Hashable, list[int]] = {}
    for place, one in enumerate(requests):
        groups.setdefault(one.kind, []).append(place)
    return list(groups.values())


def evenly(count: int, most: int) -> int:
    """The size of equal batches, as few as there can be of at most `most`: the last lacks little."""
    return math.ceil(count / math.ceil(count / most))


@dataclass
class Job:
    """The pictures that are asked for, and those that are there."""

    requests: Sequence[Asked]
    folder: Path
    beside: Callable[[Asked, Path], None] = lambda one, path: None  # called with each picture's file

    def __post_init__(self) -> None:
        self.first = next_number(self.folder)
        self.pictures: dict[int, np.ndarray] = {}  # place of the request -> picture
        self.paths: dict[int, Path] = {}
        self.at_once: Optional[int] = None  # since the memory has been too small for more

    def batches(self, groups: Sequence[Sequence[int]], sizes: Sequence[int]) -> Iterator[list[Asked]]:
        """What `run` makes at once, where the memory is enough; each is filled to its size."""
        for group, size in zip(groups, sizes):
            for first in range(0, len(group), size):
                yield self._filled(group[first : first + size], size)

    def _filled(self, batch: Sequence[int], size: int) -> list[Asked]:
        """With the last once more, which nobody sees: no graph is compiled for it alone."""
        asked = [self.requests[place] for place in batch]
        return [*asked, *asked[-1:] * (size - len(batch))]

    def run(self, groups: Sequence[Sequence[int]], sizes: Sequence[int], make: Make) -> Path:
        """Make each group in batches of its size, and return the contact sheet. What is finished is kept, with its sheet, when the
        command is told to end: Interrupted after the step. A batch that the memory is too small for is made in halves."""
        total = sum(one.steps for one in self.requests)
        try:
            with finishing("the step"), bar(None, "sampling", total=total, unit="step") as line:
                for group, size in zip(groups, sizes):
                    self._make_group(list(group), size, make, line)
        except Interrupted as told:
            sheet = f", and {self.sheet()}" if self.pictures else ""
            done = f"{len(self.pictures)} of {len(self.requests)} pictures"
            raise Interrupted(told.signal, f"stopped after {done}: they are kept{sheet}") from None
        return self.sheet()

    def _make_group(self, group: list[int], size: int, make: Make, line: tqdm) -> None:
        while group:
            size = min(size, self.at_once or size)
            batch = group[:size]
            done, steps = line.n, self.requests[batch[0]].steps
            what = self._what(batch)
            line.set_description(what, refresh=False)

            try:
                with counting_steps(partial(_count, line, len(batch))):
                    pictures = make(self._filled(batch, size), what)
            except (MemoryError, RuntimeError) as error:
                line.n = done
                self._halve(size, error)
                continue
            line.update(done + steps * len(batch) - line.n)
            for place, picture in zip(batch, pictures):
                self._save(place, picture)
            group = group[size:]

    def _what(self, batch: Sequence[int]) -> str:
        first, last = batch[0] + 1, batch[-1] + 1
        names = f"{first}" if len(batch) == 1 else f"{first}-{last}" if last - first < len(batch) else f"{first}, ... {last}"
        return f"sampling {names}/{len(self.requests)}"

    def _halve(self, size: int, error: Exception) -> None:
        """Make fewer at once from now on; `error` again where it is of another kind, or there is one picture only."""
        if not isinstance(error, MemoryError) and not OUT_OF_MEMORY.search(str(error)):
            raise error
        if size == 1:
            raise UserError(
                "the memory is too small for one picture: give a smaller --width and --height, or a device with more; what was "
                "made before is kept"
            ) from error
        self.at_once = (size + 1) // 2
        log.warning("the memory is too small for %d pictures at once: %d from here on", size, self.at_once)

    def _save(self, place: int, picture: np.ndarray) -> None:
        one = self.requests[place]
        # by the order of the requests, whichever are made first; the next free name where another process has taken it
        names = chain([self.folder / f"{self.first + place:05d}.png"], _later(self.folder))
        text = about(one.options, one.settings, one.options.prompt, one.options.seed)
        path = save_new_png(names, picture, text)
        self.pictures[place], self.paths[place] = picture, path
        self.beside(one, path)
        log.info("%s: seed %d, %r", path, one.options.seed, one.options.prompt)

    def sheet(self) -> Path:
        """Write the contact sheet of what is there."""
        places = sorted(self.pictures)
        there = [self.requests[place] for place in places]
        rows: dict[int, list[np.ndarray]] = {}
        prompts: dict[int, str] = {}
        for place, one in zip(places, there):
            rows.setdefault(one.row, []).append(self.pictures[place])
            prompts[one.row] = one.options.prompt
        text = {
            "prompts": "\n".join(prompts.values()),
            "seeds": list(dict.fromkeys(one.options.seed for one in there)),
            "weight": there[0].options.weight,
        }
        sheet = contact_sheet(list(rows.values()), list(prompts.values()))
        path = save_new_png(sheets(self.folder, self.paths[places[0]]), sheet, text)
        log.info("contact sheet: %s", path)
        return path


def _count(line: tqdm, pictures: int) -> None:
    """After a step of so many pictures."""
    line.update(pictures)
    number = asked_to_stop()
    if number:
        raise Interrupted(number)


def _later(folder: Path) -> Iterator[Path]:
    """Names that are free once the first is not."""
    yield from numbered(folder)
