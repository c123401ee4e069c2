"""metrics.jsonl, read as it grows, and thinned to what a plot can show. No MindSpore import.

A record of a plot stands for one or several updates in a row: `step` is the last of them, losses, rates and norms are means.
`smooth_*` is the mean of the losses around it, over a twentieth of the run.
"""

import json
import os
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Mapping, Optional, Sequence

import numpy as np

LOSSES = ("loss", "instance_loss", "class_loss")
KEYS = (*LOSSES, "lr", "grad_norm")
POINTS = 300  # of a curve
NEWEST = 20  # updates whose median time counts
MOST = 32  # files whose records are kept in memory
CHUNK = 8 << 20  # bytes that are read at a time


@dataclass
class Curves:
    """What one file says so far."""

    path: Path
    inode: int = 0
    read: int = 0  # bytes
    steps: list[float] = field(default_factory=list)
    values: dict[str, list[float]] = field(default_factory=lambda: {key: [] for key in KEYS})
    times: list[float] = field(default_factory=list)  # seconds of the newest updates
    skipped: int = 0
    records: Sequence[Mapping[str, Optional[float]]] = ()

    @property
    def step(self) -> int:
        return int(self.steps[-1]) if self.steps else 0

    @property
    def seconds(self) -> Optional[float]:
        return float(np.median(self.times)) if self.times else None

    @property
    def lr(self) -> Optional[float]:
        rates = self.values["lr"]
        return rates[-1] if rates and np.isfinite(rates[-1]) else None

    def look(self) -> None:
        """Read what is new; all of it where the file is another, as after a resume."""
        try:
            with open(self.path, "rb") as file:
                there = os.fstat(file.fileno())
                if there.st_ino != self.inode or there.st_size < self.read:
                    self.__init__(self.path, there.st_ino)
                before = self.read
                file.seek(self.read)
                while True:
                    content = file.read(CHUNK)
                    whole = content.rfind(b"\n") + 1  # the last line may be half there
                    if not whole:
                        break
                    for line in content[:whole].splitlines():
                        self._add(line)
                    self.read += whole
                    file.seek(self.read)
        except OSError:
            self.__init__(self.path)
            return
        if self.read != before:
            self.records = _thinned(np.array(self.steps), {key: np.array(found) for key, found in self.values.items()})

    def _add(self, line: bytes) -> None:
        try:
            record = json.loads(line)
            step = int(record["step"])
            values = {key: _number(record.get(key)) for key in KEYS}
            seconds, skipped = _number(record.get("seconds")), int(record.get("skipped") or 0)
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError, AttributeError):
            return  # no record, as when a run was killed while it wrote
        self.steps.append(step)
        for key, value in values.items():
            self.values[key].append(value)
        if np.isfinite(seconds):
            self.times = [*self.times[1 - NEWEST :], seconds]
        self.skipped = skipped


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else float("nan")


def _thinned(steps: np.ndarray, values: Mapping[str, np.ndarray]) -> list[Mapping[str, Optional[float]]]:
    """At most POINTS records of the updates."""
    count = len(steps)
    if not count:
        return []
    bins = np.unique(np.linspace(0, count, min(count, POINTS) + 1).astype(int))
    ends = bins[1:]
    columns = {key: _means(found, bins[:-1], ends) for key, found in values.items()}
    half = max(1, count // 40)
    begins, stops = np.maximum(ends - 1 - half, 0), np.minimum(ends + half, count)
    columns |= {f"smooth_{key}": _means(values[key], begins, stops) for key in LOSSES}
    return [
        {"step": int(steps[end - 1]), **{key: _or_none(column[i]) for key, column in columns.items()}}
        for i, end in enumerate(ends)
    ]


def _means(values: np.ndarray, begins: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The mean of the finite values of each part; NaN where there is none."""
    parts = (values[begin:end] for begin, end in zip(begins, ends))
    finite = (part[np.isfinite(part)] for part in parts)
    return np.array([part.mean() if len(part) else np.nan for part in finite])


def _or_none(value: float) -> Optional[float]:
    return float(value) if np.isfinite(value) else None


_known: "OrderedDict[Path, Curves]" = OrderedDict()
_lock = threading.Lock()  # visitors of a page are threads


def curves_of(path: Path) -> Curves:
    """What the file says now; it is read on from where it was read to."""
    path = path.absolute()
    with _lock:
        found = _known.setdefault(path, Curves(path))
        _known.move_to_end(path)
        while len(_known) > MOST:
            _known.popitem(last=False)
        found.look()
        return found
