"""Arrays kept from run to run, each in a file of its own that is named after everything that decides its numbers.

What is kept, and what decides it, is gm/training/precompute.py.
"""

import hashlib
import json
from pathlib import Path
from typing import Mapping, Optional

import numpy as np

from gm.checkpoint.io import open_tensors, write_tensors
from gm.console import log
from gm.errors import UserError

Key = Mapping[str, object]  # what JSON can hold; "what" names the kind of entry


class DiskCache:
    """Key -> array in `folder`; without a folder it holds nothing and keeps nothing."""

    def __init__(self, folder: Optional[Path]):
        self.folder = folder

    def get(self, key: Key) -> Optional[np.ndarray]:
        """The array, or None when it is not there. A damaged file counts as not there."""
        path = self._path(key)
        if path is None or not path.exists():
            return None
        try:
            with open_tensors(path) as file:
                array = file.read("array")
                whole = file.metadata.get("key") == _text(key) and file.metadata.get("checksum") == _checksum(array)
        except (UserError, OSError, KeyError):
            whole = False
        if not whole:
            log.warning("%s is damaged: it is not used and will be written again", path)
            return None
        return array

    def put(self, key: Key, array: np.ndarray) -> None:
        """Keep the array; it appears in the folder when all of it is on disk."""
        path = self._path(key)
        if path is not None:
            array = np.ascontiguousarray(array)
            write_tensors(path, [("array", array)], {"key": _text(key), "checksum": _checksum(array)})

    def _path(self, key: Key) -> Optional[Path]:
        if self.folder is None:
            return None
        return self.folder / f"{key['what']}_{hashlib.blake2b(_text(key).encode(), digest_size=16).hexdigest()}.safetensors"


def _text(key: Key) -> str:
    return json.dumps(key, sort_keys=True)


def _checksum(array: np.ndarray) -> str:
    return hashlib.blake2b(array.tobytes(), digest_size=16).hexdigest()
