"""What a photo looks like, measured on a small copy: is it of one colour, blurred, nearly another one; where its mask is white.

Every file is read once as long as it stays as it is.
"""

import io
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Mapping, Optional, Sequence

import numpy as np
from PIL import Image

from gm.data.images import eight_bits, opened, read_image, upright
from gm.data.masks import mask_file, read_mask
from gm.errors import UserError

SMALL = 512  # pixels a side of the copy
FLAT = 2.0  # levels of deviation, below which a photo shows nothing
BLUR = 0.27  # see `sharpness`
HASH_BITS = 6  # of 64 that two photos may differ in and be nearly equal
LEVELS = 12.0  # that they may differ by in the mean, of 255

Version = tuple[int, int]  # of a file: when it was written, and its size


def version(path: Path) -> Version:
    """Another one when the file has changed; of one that is gone, zeros."""
    try:
        found = os.stat(path)
    except OSError:
        return (0, 0)
    return found.st_mtime_ns, found.st_size


def small_copy(photo: Path) -> np.ndarray:
    """The photo (h, w, 3) uint8 with sides of at most SMALL. UserError for what is no photo."""
    with Image.open(io.BytesIO(_small_copy(photo, version(photo)))) as image:
        return np.asarray(image.convert("RGB"))


@lru_cache(maxsize=1000)
def _small_copy(photo: Path, of: Version) -> bytes:
    """As a JPEG, of some 50 kB."""
    with opened(photo) as image:
        if image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L"):
            image.draft("RGB", (2 * SMALL, 2 * SMALL))  # decodes no more than is needed
            small = upright(eight_bits(image, photo)).convert("RGB")
        else:
            small = Image.fromarray(read_image(photo))
        small.thumbnail((SMALL, SMALL), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    small.save(content, "JPEG", quality=92)
    return content.getvalue()


@dataclass(frozen=True)
class Look:
    """What is known of a photo's content."""

    flat: bool  # of one colour
    blurred: bool
    hash: int  # 64 bits
    colours: np.ndarray  # (16, 16, 3) float32


def look(photo: Path) -> Look:
    """Of the small copy."""
    return _look(photo, version(photo))


@lru_cache(maxsize=1000)
def _look(photo: Path, of: Version) -> Look:
    image = Image.fromarray(small_copy(photo))
    grey = np.asarray(image.convert("L"), np.float32)
    flat = bool(np.asarray(image, np.float32).std((0, 1)).max() < FLAT)
    columns = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), np.float32)
    bits = (columns[:, 1:] > columns[:, :-1]).ravel()
    return Look(
        flat=flat,
        blurred=not flat and sharpness(grey) < BLUR,
        hash=int("".join("1" if bit else "0" for bit in bits), 2),
        colours=np.asarray(image.resize((16, 16), Image.Resampling.BOX), np.float32),
    )


def sharpness(grey: np.ndarray) -> float:
    """The mean square of the Laplacian over that of the picture at half its size, the least of two scales: about 1 for photos, 1/2
    for sharp edges, 1/16 for blurred ones, whatever their contrast. Noise and JPEG are in the finest scale, which is left out."""
    half = _halved(grey)
    edges = [_edges(one) for one in (half, _halved(half), _halved(_halved(half)))]
    return min((fine / coarse for fine, coarse in zip(edges, edges[1:]) if coarse > 0), default=1.0)


def _halved(grey: np.ndarray) -> np.ndarray:
    height, width = (side // 2 * 2 for side in grey.shape)
    return grey[:height, :width].reshape(height // 2, 2, width // 2, 2).mean((1, 3))


def _edges(grey: np.ndarray) -> float:
    if min(grey.shape) < 3:
        return 0.0
    sums = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    return float(np.square(sums - 4 * grey[1:-1, 1:-1]).mean())


def nearly_equal(photos: Sequence[Path]) -> Mapping[Path, Path]:
    """Photo -> an earlier one that it is nearly equal to, where there is one."""
    found: dict[Path, Path] = {}
    looks = [look(photo) for photo in photos]
    for i, photo in enumerate(photos):
        for j in range(i):
            few = bin(looks[i].hash ^ looks[j].hash).count("1") <= HASH_BITS
            if few and np.abs(looks[i].colours - looks[j].colours).mean() < LEVELS:
                found[photo] = photos[j]
                break
    return found


@dataclass(frozen=True)
class Mask:
    """A photo's mask, small, or why it cannot be used."""

    small: Optional[np.ndarray]  # (h, w) uint8, of the size of the small copy
    problem: Optional[UserError] = None


def mask_beside(photo: Path) -> Optional[Mask]:
    """None where the photo has none."""
    file = mask_file(photo, None)
    return _mask(photo, version(photo), file, version(file)) if file else None


@lru_cache(maxsize=300)
def _mask(photo: Path, of: Version, file: Path, of_file: Version) -> Mask:
    try:
        mask = Image.fromarray(read_mask(file, photo))
    except UserError as error:
        return Mask(None, error)
    height, width = small_size(photo)
    return Mask(np.asarray(mask.resize((width, height), Image.Resampling.BOX)))


def small_size(photo: Path) -> tuple[int, int]:
    """(h, w) of the small copy."""
    return _small_size(photo, version(photo))


@lru_cache(maxsize=1000)
def _small_size(photo: Path, of: Version) -> tuple[int, int]:
    return small_copy(photo).shape[:2]
