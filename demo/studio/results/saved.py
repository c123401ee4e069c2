"""The runs that have saved LoRA under the page's folder of runs, whoever started them: jobs of the page and commands.

What is looked at at every click is the names of a few folders; files are opened once for each set of names.
"""

import os
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Mapping, Optional

from gm.errors import UserError
from gm.evaluation.saved_run import NAME, open_run
from gm.files import LOCK
from gm.jobs.control import KEPT
from studio.access import inside
from studio.visit import Studio
from studio.words import say

DEPTH = 2  # folders below runs that may be a run's: runs, runs/NAME, runs/NAME/TIME
NO_RUNS = (*KEPT, "photos", "progress", "evaluation", "requests")  # names of folders that are none
HERE = "."  # the name of a run whose --save_path was the folder of runs itself


@dataclass(frozen=True)
class Saved:
    """A run that has saved."""

    name: str  # its folder as seen from the folder of runs
    folder: Path
    loras: Mapping[int, Path]  # optimizer updates -> the LoRA after them, in their order
    prompt: str  # of its photos; empty where no file says it
    time: float  # when it saved last

    @property
    def last(self) -> int:
        return max(self.loras)

    def nearest(self, step: Optional[int]) -> int:
        """This step where it has saved there, its last one otherwise."""
        return step if step in self.loras else self.last

    def lora(self, step: int, studio: Studio) -> Path:
        """The file of a step. UserError where it leads out of the page's folders."""
        inside(self.loras[step], studio.roots)
        return self.loras[step]

    def file(self, *names: str) -> Optional[Path]:
        """A file of the run where it is there, and is no way out of its folder."""
        path = self.folder.joinpath(*names)
        with suppress(OSError, ValueError):
            if path.is_file() and Path(os.path.realpath(path)).is_relative_to(os.path.realpath(self.folder)):
                return path
        return None


def saved_runs(runs: Path) -> dict[str, Saved]:
    """Name -> run, the newest first."""
    found = {}
    waiting = [(runs, HERE, 0)]
    while waiting:
        folder, name, depth = waiting.pop()
        with suppress(OSError, UnicodeEncodeError):  # gone meanwhile; a name that a browser cannot be sent
            name.encode()
            folders, files = _names(folder, folder.stat().st_mtime_ns)
            if depth < DEPTH:
                inner = folders - set(NO_RUNS)
                waiting += [(folder / one, one if name == HERE else f"{name}/{one}", depth + 1) for one in inner]
            loras, prompt = _loras(folder, files)
            if loras:
                time = os.stat(loras[max(loras)]).st_mtime
                found[name] = Saved(name, folder, loras, prompt, time)
    return dict(sorted(found.items(), key=lambda item: item[1].time, reverse=True))


def title(name: str) -> str:
    """What a run is called on the page."""
    return say("(the folder of runs itself)") if name == HERE else name


@lru_cache(maxsize=4096)
def _names(folder: Path, _: int) -> tuple[frozenset[str], tuple[str, ...]]:
    """The folders in a folder, and its files that may be LoRA; kept until its list changes. Links to folders are not followed."""
    folders, files = set(), []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or entry.name == LOCK:
                continue
            if entry.is_dir(follow_symlinks=False):
                folders.add(entry.name)
            elif NAME.fullmatch(entry.name) or entry.name.endswith(".safetensors"):
                files.append(entry.name)
    return frozenset(folders), tuple(sorted(files))


@lru_cache(maxsize=4096)
def _loras(folder: Path, files: tuple[str, ...]) -> tuple[Mapping[int, Path], str]:
    """The LoRA by step and the prompt of the photos. Where a file is damaged, those that their names tell: what is wrong is said
    when one is opened."""
    if not files:
        return {}, ""
    try:
        run = open_run(folder, "--checkpoints")
        return run.loras, run.prompt or ""
    except UserError:
        named = [(NAME.fullmatch(name), name) for name in reversed(files)]  # a .ckpt counts more than its .safetensors
        found = {int(match[1]): folder / name for match, name in named if match}
        return dict(sorted(found.items())), ""
