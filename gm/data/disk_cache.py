"""Arrays kept from run to run, each in a file of its own that is named after everything that decides its numbers.

What is kept, and what decides it, is gm/training/precompute.py. A cache only saves time: whatever is wrong with its folder or
with a file in it is said once, and the run computes what it needs.
"""

import hashlib
import json
from pathlib import Path
from typing import Mapping, Optional

import numpy as np

from gm.checkpoint.cache_folder import is_plain, tell_if_others_write
from gm.checkpoint.io import open_tensors, write_tensors
from gm.console import log
from gm.errors import UserError

Key = Mapping[str, object]  # what JSON can hold; "what" names the kind of entry


class DiskCache:
    """Key -> array in `folder`; without a folder it holds nothing and keeps nothing."""

    def __init__(self, folder: Optional[Path]):
        self.folder = folder
        self._in_use = True  # until something is wrong with the folder
        if folder is not None:
            tell_if_others_write(folder)

    def get(self, key: Key, shape: Optional[tuple[int, ...]] = None, dtype: str = "float32") -> Optional[np.ndarray]:
        """The array, or None when it is not there. A damaged file, and with `shape` one of another shape or `dtype`, counts as
        not there."""
        path = self._path(key)
        if path is None or not self._in_use:
            return None
        try:
            array = _read(path, key, shape, dtype) if is_plain(path) else None
        except FileNotFoundError:
            return None
        except UserError:
            array = None
        except OSError as error:
            self._leave(f"{path} cannot be read ({error.strerror or error})")
            return None
        if array is None:
            log.warning("%s is damaged: it is not used and will be written again", path)
        return array

    def put(self, key: Key, array: np.ndarray) -> None:
        """Keep the array; it appears in the folder when all of it is on disk. Where it cannot be kept, nothing more is."""
        path = self._path(key)
        if path is None or not self._in_use:
            return
        array = np.ascontiguousarray(array)
        try:
            write_tensors(path, [("array", array)], {"key": _text(key), "checksum": _checksum(array)})
        except UserError as error:
            self._leave(str(error))

    def _leave(self, why: str) -> None:
        self._in_use = False
        log.warning("%s: the run goes on without the cache folder %s", why, self.folder)

    def _path(self, key: Key) -> Optional[Path]:
        if self.folder is None:
            return None
        return self.folder / f"{key['what']}_{hashlib.blake2b(_text(key).encode(), digest_size=16).hexdigest()}.safetensors"


def _read(path: Path, key: Key, shape: Optional[tuple[int, ...]], dtype: str) -> Optional[np.ndarray]:
    """The array of the entry; None when it is not what was kept for the key. Nothing is read before its shape is known."""
    with open_tensors(path) as file:
        if file.names != ["array"] or file.metadata.get("key") != _text(key):
            return None
        if shape is not None and (file.shape("array"), file.dtype("array")) != (tuple(shape), dtype):
            return None
        array = file.read("array")
        return array if file.metadata.get("checksum") == _checksum(array) else None


def _text(key: Key) -> str:
    return json.dumps(key, sort_keys=True)


def _checksum(array: np.ndarray) -> str:
    return hashlib.blake2b(array.tobytes(), digest_size=16).hexdigest()
