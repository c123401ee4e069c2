"""What a running training is asked for from outside: touch RUN/requests/save, or sample, and the next update is followed by it.

No MindSpore import.
"""

from pathlib import Path
from typing import AbstractSet

from gm.errors import UserError

FOLDER = "requests"
SAVE, SAMPLE = "save", "sample"
NAMES = (SAVE, SAMPLE)


def ask(folder: Path, name: str) -> None:
    """Ask the training whose results go to `folder`. UserError where that is impossible."""
    try:
        (folder / FOLDER).mkdir(exist_ok=True)
        (folder / FOLDER / name).touch()
    except OSError as error:
        raise UserError(
            f"{folder / FOLDER / name} cannot be written ({error.strerror or error}): nothing was asked for"
        ) from None


def asked_for(folder: Path) -> AbstractSet[str]:
    """What was asked for since the last time, which then counts as taken; it costs a look at one folder, which is mostly not
    there."""
    try:
        names = {path.name for path in (folder / FOLDER).iterdir()} & set(NAMES)
    except OSError:
        return frozenset()
    return frozenset(name for name in names if _taken(folder / FOLDER / name))


def _taken(path: Path) -> bool:
    """Whether the file could be removed: one that stays would be asked for again after every update."""
    try:
        path.unlink()
    except OSError:
        return False
    return True


def forget_requests(folder: Path) -> None:
    """Drop what was asked of an earlier training in this folder."""
    asked_for(folder)
