"""Who runs next: a queue of tickets, first come first served, and slots, each for one job at a time.

`RUNS/.queue/` holds a ticket for each job that waits, named after the time at which it came, and a locked file for each slot that
is taken. The ticket of a job whose runner is gone does not count.
"""

import os
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, NamedTuple, Optional

from gm.jobs.job import is_alive, is_held, take

FOLDER = ".queue"


class Slot(NamedTuple):
    """The right to run, as long as the file is open in any process."""

    number: int  # from 0
    file: int


def queue_up(folder: Path) -> None:
    """Put the job of this folder at the end of the queue."""
    queue = _queue(folder)
    queue.mkdir(parents=True, exist_ok=True)
    leave(folder)
    (queue / f"{time.time_ns():020d}_{folder.name}").touch()


def leave(folder: Path) -> None:
    """Take the job out of the queue."""
    for ticket in _tickets(folder):
        if _name(ticket) == folder.name:
            ticket.unlink(missing_ok=True)


def ahead(folder: Path) -> int:
    """How many jobs run, and wait before this one."""
    before = 0
    for ticket in _tickets(folder):
        if _name(ticket) == folder.name:
            break
        before += is_alive(folder.parent / _name(ticket))
    return before + sum(is_held(path) for path in _queue(folder).glob("slot_*"))


def next_slot(folder: Path, at_once: int) -> Optional[Slot]:
    """A slot where it is this job's turn and one of the first `at_once` is free; the job is then out of the queue."""
    with _alone(folder):
        for ticket in _tickets(folder):
            name = _name(ticket)
            if name == folder.name:
                break
            if is_alive(folder.parent / name):
                return None
            ticket.unlink(missing_ok=True)
        for number in range(at_once):
            file = take(_queue(folder) / f"slot_{number}")
            if file is not None:
                leave(folder)
                return Slot(number, file)
    return None


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """In the body no other runner looks for its turn."""
    file = None
    while file is None:
        _queue(folder).mkdir(parents=True, exist_ok=True)
        file = take(_queue(folder) / "lock", 1.0)
    try:
        yield
    finally:
        os.close(file)


def _queue(folder: Path) -> Path:
    return folder.parent / FOLDER


def _tickets(folder: Path) -> list[Path]:
    """The first first."""
    return sorted(_queue(folder).glob("[0-9]*_*"))


def _name(ticket: Path) -> str:
    """Of the job's folder."""
    return ticket.name.partition("_")[2]
