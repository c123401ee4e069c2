"""Files that are there whole or not at all, and folders that can be written to. No MindSpore import."""

import os
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Iterator

from gm.ending import removed_if_killed
from gm.errors import UserError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """The name to write to instead of `path`, which it is renamed to when the body ends; when that fails, a file of that
    name stays as it was."""
    unfinished = path.with_name(f".{path.name}.{os.uname().nodename}.{os.getpid()}.tmp")
    with removed_if_killed(unfinished):
        try:
            yield unfinished
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Delete what processes of this host that no longer run were writing in `folder`."""
    for path in folder.glob(f".*.{os.uname().nodename}.*.tmp"):
        number = path.name.split(".")[-2]
        if number.isdigit() and not Path(f"/proc/{number}").exists():
            path.unlink(missing_ok=True)


def make_writable(*folders: tuple[str, Path]) -> None:
    """Create the folders, each given as (flag, path), and make sure a file can be written in each; UserError naming the flag
    otherwise, and then no folder is left that was not there before. What killed runs were writing is removed."""
    created: list[Path] = []
    for flag, folder in folders:
        probe = folder / f".write_test.{os.uname().nodename}.{os.getpid()}"
        try:
            created += [path for path in (folder, *folder.parents) if not path.exists()]
            folder.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b"")
            probe.unlink()
            remove_unfinished(folder)
        except OSError as error:
            for path in sorted(created, reverse=True):
                with suppress(OSError):
                    path.rmdir()
            raise UserError(
                f"{flag} {folder} cannot be written to ({error.strerror or error}): give a folder in which files can be created"
            ) from None
