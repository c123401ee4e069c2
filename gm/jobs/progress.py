"""How far a job's training is, from what it writes: metrics.jsonl, progress pictures, checkpoints. No MindSpore import.

Looking again costs little: of metrics.jsonl only what is new is read, folders are listed when they have changed.
"""

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Mapping, Optional, Sequence

from gm.config.tree import read_tree
from gm.errors import UserError
from gm.evaluation.saved_run import NAME
from gm.jobs.curves import curves_of
from gm.jobs.job import Job
from gm.jobs.processes import memory_of
from gm.jobs.state import METRICS, state
from gm.training.progress_files import FOLDER, NAMED

TOTAL = "data.total_step="


@dataclass(frozen=True)
class Progress:
    """Of a job at a moment."""

    step: int  # updates that are done
    total: Optional[int]  # updates it is to have; None where that is not known
    seconds: Optional[float]  # of an update, the median of the last 20
    eta: Optional[float]  # seconds to its end, where it trains
    skipped: int  # updates whose gradient was not finite
    lr: Optional[float]
    memory: int  # bytes of the command and its processes now; 0 where it does not run
    peak: int  # bytes at most
    records: Sequence[Mapping[str, Optional[float]]]  # of the updates, thinned for plots: curves.py
    pictures: Mapping[int, Mapping[int, Path]]  # step -> number of the prompt -> file
    saved: Sequence[int]  # steps of the LoRA files that are there


def progress(job: Job) -> Progress:
    """How far it is now."""
    metrics, now, total = curves_of(job.folder / METRICS), state(job), total_of(job)
    runs = now.process > 0
    left = max(total - metrics.step, 0) if total is not None else None
    return Progress(
        step=metrics.step,
        total=total,
        seconds=metrics.seconds,
        eta=left * metrics.seconds if runs and left is not None and metrics.seconds is not None else None,
        skipped=metrics.skipped,
        lr=metrics.lr,
        memory=memory_of(now.process),
        peak=now.peak,
        records=metrics.records,
        pictures=pictures(job),
        saved=_saved(job.folder, _changed(job.folder)),
    )


def step_of(job: Job) -> int:
    """How many updates its metrics tell of."""
    return curves_of(job.folder / METRICS).step


def pictures(job: Job) -> Mapping[int, Mapping[int, Path]]:
    """Its progress pictures: step -> number of the prompt -> file, in that order."""
    folder = job.folder / FOLDER
    return _pictures(folder, _changed(folder))


def total_of(job: Job) -> Optional[int]:
    """How many updates it is to have; None where that cannot be told."""
    return _total(job.words, str(job.cwd), _changed(_config(job.words, str(job.cwd)))) if job.is_training else None


@lru_cache(maxsize=256)
def _total(words: tuple[str, ...], cwd: str, changed: int) -> Optional[int]:
    given = [word.removeprefix("--set=") for word in words if TOTAL in word]
    try:
        if given:
            return int(given[-1].removeprefix(TOTAL))
        return int(read_tree(str(_config(words, cwd)), [])["data"]["total_step"])
    except (UserError, ValueError, TypeError, KeyError):
        return None


def _config(words: Sequence[str], cwd: str) -> Path:
    """The YAML of the training."""
    given = [value for flag, value in zip(words, words[1:]) if flag == "--config"]
    given += [word.partition("=")[2] for word in words if word.startswith("--config=")]
    return Path(cwd, given[-1] if given else "")


@lru_cache(maxsize=64)
def _pictures(folder: Path, changed: int) -> Mapping[int, Mapping[int, Path]]:
    found = sorted((int(m[1]), int(m[2]), folder / m[0]) for m in map(NAMED.fullmatch, _names(folder)) if m)
    rows: dict[int, dict[int, Path]] = {}
    for step, number, path in found:
        rows.setdefault(step, {})[number] = path
    return rows


@lru_cache(maxsize=64)
def _saved(folder: Path, changed: int) -> Sequence[int]:
    return sorted({int(m[1]) for m in map(NAME.fullmatch, _names(folder)) if m})


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _changed(path: Path) -> int:
    """When it was changed last, in ns; 0 where it is not there."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
