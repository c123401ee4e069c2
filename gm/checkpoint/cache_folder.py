"""Folders of caches, which several people and machines may share: what is in them is never trusted, only checked."""

import os
import stat
from pathlib import Path

from gm.console import log

_told: set[Path] = set()


def tell_if_others_write(folder: Path) -> None:
    """Say once in a process when others than this user can put files into the folder."""
    try:
        about = os.stat(folder)
    except OSError:
        return
    user = os.geteuid()
    another = about.st_uid not in (user, 0) and user != 0  # root reads the folders of others every day
    if folder not in _told and (another or about.st_mode & stat.S_IWOTH):
        _told.add(folder)
        who = "belongs to another user" if another else "can be written to by everybody"
        log.warning("the cache folder %s %s: whoever writes there can change what is computed from it", folder, who)


def is_plain(path: Path) -> bool:
    """Whether a file itself is there, no link, pipe or folder in its place; OSError when that cannot be seen."""
    return stat.S_ISREG(os.lstat(path).st_mode)
