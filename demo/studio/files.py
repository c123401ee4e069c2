"""What files show and say, read once for each version of a file: small pictures, their texts, and the metadata of weights."""

import io
import os
from functools import lru_cache
from pathlib import Path
from typing import Mapping, Optional

from PIL import Image

from gm.checkpoint.io import open_tensors
from gm.errors import UserError
from gm.pictures import text_of

Stamp = tuple[str, int, int]


def stamp(path: Path) -> Stamp:
    """What a cached reading of a file hangs on. OSError where there is none."""
    status = os.stat(path)
    return str(path), status.st_mtime_ns, status.st_size


def picture(path: Path, longest: int) -> Optional[bytes]:
    """An encoded picture, at most so many pixels wide and high, the file itself where it is; None where it cannot be read."""
    try:
        return _small(stamp(path), longest)
    except (OSError, ValueError, Image.DecompressionBombError):  # also what Pillow says of a damaged file
        return None


@lru_cache(maxsize=512)
def _small(of: Stamp, longest: int) -> bytes:
    with Image.open(of[0]) as image:
        if max(image.size) <= longest:
            return Path(of[0]).read_bytes()
        image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
        target = io.BytesIO()
        image.convert("RGB").save(target, "JPEG", quality=90)
        return target.getvalue()


def texts_of(path: Path) -> Mapping[str, str]:
    """The text chunks of a picture; empty where it cannot be read."""
    try:
        return _texts(stamp(path))
    except (OSError, UserError):
        return {}


@lru_cache(maxsize=2000)
def _texts(of: Stamp) -> Mapping[str, str]:
    return text_of(Path(of[0]))


def metadata_of(path: Path) -> Mapping[str, str]:
    """What a file of weights says of itself; empty where it cannot be read."""
    try:
        return _metadata(stamp(path))
    except (OSError, UserError):
        return {}


@lru_cache(maxsize=256)
def _metadata(of: Stamp) -> Mapping[str, str]:
    with open_tensors(of[0]) as file:
        return dict(file.metadata)
