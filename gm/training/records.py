"""metrics.jsonl, one line of JSON an update; and what a run can do without when it cannot be written."""

import json
import math
import os
from collections import deque
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

from gm.console import log
from gm.errors import UserError
from gm.files import replacing

WAITING = 10_000  # lines that are kept while they cannot be written


class MayFail:
    """What a run can do without: `with may_fail("loss.png"):` is left at an error, which is said once for each name."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    @contextmanager
    def __call__(self, what: str) -> Iterator[None]:
        try:
            yield
        except (OSError, UserError) as error:
            if what not in self._said:
                log.warning("%s could not be made (%s): training goes on", what, error)
            self._said.add(what)


class Metrics:
    """metrics.jsonl, one line an update; a resumed run drops the lines it will write again. Lines that cannot be written, as when
    the disk is full, wait for the next one; that is said once."""

    def __init__(self, path: Path, first_step: int):
        self.path = path
        self._waiting: deque[str] = deque(maxlen=WAITING)
        self._said = False
        try:
            kept = []
            if first_step and path.exists():
                lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
                kept = [line for line in lines if _step_of(line) <= first_step]
            with replacing(path) as unfinished:
                unfinished.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        except OSError as error:
            self._say(error)

    def add(self, record: dict) -> None:
        """Write one line, whole or not at all; numbers that JSON has not become null."""
        self._waiting.append(json.dumps(_finite(record), allow_nan=False) + "\n")
        try:
            _append(self.path, "".join(self._waiting).encode())
        except OSError as error:
            self._say(error)
        else:
            self._waiting.clear()

    def _say(self, error: OSError) -> None:
        if not self._said:
            self._said = True
            log.warning("%s cannot be written (%s): training goes on", self.path, error.strerror or error)


def read_records(path: Path) -> tuple[list[dict], int]:
    """The records of metrics.jsonl by step, the last of each, and how many lines are none, as when a run was killed. OSError."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    steps = [_step_of(line) for line in lines]
    found = {step: line for step, line in zip(steps, lines) if 1 <= step < math.inf}
    records = [{**json.loads(found[step]), "step": step} for step in sorted(found)]
    return records, sum(not 1 <= step < math.inf for step in steps)


def _append(path: Path, lines: bytes) -> None:
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        before = os.fstat(file).st_size
        try:
            while lines:  # on a full disk a part is written, then nothing
                lines = lines[os.write(file, lines) :]
        except OSError:
            os.ftruncate(file, before)
            raise
    finally:
        os.close(file)


def _finite(value: object) -> object:
    """The value with None in place of numbers that are not finite, at any depth."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):  # cut off when the run was killed, or no record
        return math.inf
