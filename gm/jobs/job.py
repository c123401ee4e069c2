"""A job: a command in a folder of its own, which outlives who started it. `job.json` says what it is. No MindSpore import.

The folder is locked as long as the job's runner, or the command that it has started, is there: the system takes the lock back
however they end.
"""

import fcntl
import json
import os
import time
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Optional

from gm.errors import UserError
from gm.files import replacing

FILE, LOCK, LOG = "job.json", ".runner.lock", "log.txt"
TRAINING = "train_dreambooth.py"


@dataclass(frozen=True)
class Job:
    """What was asked for."""

    folder: Path
    name: str
    words: tuple[str, ...]  # the command after python
    created: float  # seconds since 1970
    cwd: Path  # where the command runs
    device: str  # CPU, Ascend or GPU
    at_once: int = 1  # jobs that may run beside each other, this one among them
    inputs: tuple[str, ...] = ()  # names in the folder that were there before it began

    @property
    def is_training(self) -> bool:
        """Whether it is a training, which can be resumed and told to save; else another command of this project."""
        return Path(self.words[0]).name == TRAINING


def write_job(job: Job) -> None:
    """Write `job.json`, whole or not at all."""
    content = {**asdict(job), "cwd": str(job.cwd)}
    del content["folder"]
    with replacing(job.folder / FILE) as unfinished:
        unfinished.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")


def read_job(folder: Path) -> Optional[Job]:
    """The job in this folder, or None where no whole `job.json` is."""
    try:
        found = (folder / FILE).stat()
    except OSError:
        return None
    return _read(folder, found.st_mtime_ns, found.st_ino)


@lru_cache(maxsize=512)
def _read(folder: Path, changed: int, inode: int) -> Optional[Job]:
    """The last two tell one version of the file from another."""
    try:
        content = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return Job(
            folder=folder,
            name=str(content["name"]),
            words=tuple(str(word) for word in content["words"]),
            created=float(content["created"]),
            cwd=Path(content["cwd"]),
            device=str(content["device"]),
            at_once=int(content.get("at_once", 1)),
            inputs=tuple(str(name) for name in content.get("inputs", ())),
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def is_held(path: Path) -> bool:
    """Whether a process has the lock on this file."""
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(file)
    return False


def is_alive(folder: Path) -> bool:
    """Whether the job's runner or its command is there."""
    return is_held(folder / LOCK)


def take(path: Path, seconds: float = 0.0) -> Optional[int]:
    """The open file with the lock on it, tried for so long; None where another has it."""
    file, until = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except OSError:
            if time.monotonic() >= until:
                os.close(file)
                return None
            time.sleep(0.01)


def hold(job: Job) -> int:
    """The lock on the job's folder; UserError where the job is not over."""
    file = take(job.folder / LOCK, 1.0)  # `is_held` has it for a moment
    if file is None:
        raise UserError(f"the job {job.name} waits or runs: stop it first, and wait until it has ended")
    return file
