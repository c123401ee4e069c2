"""Files that are there whole or not at all, and folders that can be written to, by one process at a time. No MindSpore import."""

import errno
import fcntl
import os
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Iterator

from gm.ending import removed_if_killed
from gm.errors import UserError

LOCK = ".lock"  # the name of a lock file


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


class FolderLock:
    """That one process uses a folder: a lock on `<folder>/.lock`, which the system takes back however the process ends.

    `problem` says why there is none, where the file system has no locks.
    """

    def __init__(self, flag: str, folder: Path):
        """UserError naming the flag when another process has it."""
        self.path, self.problem = folder / LOCK, None
        while True:
            self._file = open(self.path, "a+", encoding="utf-8")
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                owner = self._owner()
                self._file.close()
                if error.errno in (errno.EAGAIN, errno.EACCES):
                    raise UserError(
                        f"{flag} {folder} is in use by {owner}: wait until that has ended, or give another folder"
                    ) from None
                self.problem = error.strerror or str(error)
                return
            if self._is_there():
                break
            self._file.close()  # the one that had it has just removed the file
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} on {os.uname().nodename}\n")
        self._file.flush()

    def _owner(self) -> str:
        self._file.seek(0)
        return self._file.readline(300).strip() or "another process"

    def _is_there(self) -> bool:
        try:
            there = self.path.stat()
        except FileNotFoundError:
            return False
        held = os.fstat(self._file.fileno())
        return (there.st_dev, there.st_ino) == (held.st_dev, held.st_ino)

    def release(self) -> None:
        """Give the folder free."""
        if not self._file.closed:
            if self.problem is None and self._is_there():
                with suppress(OSError):
                    self.path.unlink()
            self._file.close()
