"""Where a job stands. Its runner writes `state.json`; whether that still holds is told by the lock on the folder."""

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Optional

from gm.files import replacing
from gm.jobs import turns
from gm.jobs.job import Job, is_alive
from gm.jobs.processes import is_running

FILE, METRICS = "state.json", "metrics.jsonl"
STOP = ".stop"  # a file: end in good order; with the word now in it: at once
OVER = ("stopped", "done", "failed", "lost")
KILLED = "was killed (signal 9), most likely for want of memory"
LOST = "its runner was killed, as when the machine is switched off: what was saved is kept"
LEFT = "its runner was killed: the command saves and ends"
NEVER_BEGAN = "stopped before it began"
# what the page may say in other words
REASONS = {"killed": KILLED, "lost": LOST, "left": LEFT, "never began": NEVER_BEGAN}


@dataclass(frozen=True)
class State:
    """Of a job."""

    phase: str  # waiting, starting, running, stopping, stopped, done, failed or lost
    sentence: str = ""  # why it has ended, if it has not just done its work
    why: str = ""  # a key of REASONS where the sentence is one of them
    began: Optional[float] = None  # the command, this time; seconds since 1970
    ended: Optional[float] = None
    ahead: int = 0  # jobs that run or wait before it
    process: int = 0  # the number of the command's process while it runs
    runner: int = 0
    peak: int = 0  # bytes that the command and its processes have had at most
    log_start: int = 0  # bytes of the log that are of earlier times

    @property
    def is_over(self) -> bool:
        return self.phase in OVER


def state(job: Job) -> State:
    """Where the job stands now."""
    alive = is_alive(job.folder)  # before the file is read: a runner's last word is written while it is alive
    found = read_state(job.folder)
    if found is None:
        return State("waiting" if alive else "lost", "" if alive else LOST, "" if alive else "lost")
    if found.phase in OVER:
        return found
    if not alive:
        found = read_state(job.folder) or found  # it may have ended meanwhile
        return found if found.phase in OVER else replace(found, phase="lost", sentence=LOST, why="lost", process=0)
    if found.phase == "waiting":
        return replace(found, ahead=turns.ahead(job.folder))
    if not is_running(found.runner):
        return replace(found, phase="stopping", sentence=LEFT, why="left")
    if (job.folder / STOP).exists():
        return replace(found, phase="stopping")
    return replace(found, phase="running") if _has_begun(job, found) else found


def _has_begun(job: Job, found: State) -> bool:
    """Whether the command is at its updates; another command than a training is at work at once."""
    if not job.is_training:
        return found.phase != "waiting"
    try:
        return os.stat(job.folder / METRICS).st_mtime >= (found.began or 0)
    except OSError:
        return False


def read_state(folder: Path) -> Optional[State]:
    """What the runner has written last."""
    try:
        content: dict[str, Any] = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return State(**content)
    except (OSError, ValueError, TypeError):
        return None


def write_state(folder: Path, new: State) -> State:
    """Write it, whole or not at all; by whoever holds the lock on the folder."""
    with replacing(folder / FILE) as unfinished:
        unfinished.write_text(json.dumps(asdict(new)), encoding="utf-8")
    return new
