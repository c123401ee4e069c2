"""Which squares a run trains on, and the VAE posterior of each: computed once, or anew at every draw.

A square is known by the content of its photo, so that a changed photo is another one and repeats that cut the same
pixels share one posterior. Finding, computing and sharing posteriors is gm/training/precompute.py.
"""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Mapping, Optional, Sequence

import numpy as np

from gm.data.dreambooth import INSTANCE, Draw, crop_corner
from gm.data.images import image_size
from gm.data.transforms import Crop, cut, place_crop
from gm.errors import UserError


@dataclass(frozen=True)
class Photos:
    """The images of one kind and how they are cut."""

    kind: int  # INSTANCE or CLASS
    paths: Sequence[Path]
    size: int  # pixels of the square
    interpolation: int  # Pillow's resampling number
    crop: str  # "random" or "center"
    seed: int


@dataclass(frozen=True)
class Square:
    """What decides the pixels of one crop; equal when they are."""

    photo: str  # hash of the file's bytes
    crop: Crop
    interpolation: int
    path: Path = field(compare=False)

    def pixels(self, image: np.ndarray) -> np.ndarray:
        """The square (3, size, size) in [-1, 1] of its photo (h, w, 3) uint8."""
        return cut(image, self.crop, self.interpolation)


Squares = Mapping[tuple[int, int, int], Square]  # (kind, image, repeat) -> its square


@dataclass(frozen=True)
class Posterior:
    """The VAE posterior of one crop, and the crop's sizes."""

    mean: np.ndarray  # (z, h, w)
    logvar: np.ndarray  # (z, h, w)
    sizes: np.ndarray  # (6,) original (h, w), crop (top, left), target (h, w)


def plan_squares(photos: Sequence[Photos], draws: Sequence[tuple[int, int, int]]) -> Squares:
    """The square of every draw (kind, image, repeat). Every file is read for its hash and its size."""
    of_kind = {kind.kind: kind for kind in photos}
    known: dict[Path, tuple[str, tuple[int, int]]] = {}
    squares = {}
    for kind, image, repeat in draws:
        given = of_kind[kind]
        path = given.paths[image]
        if path not in known:
            try:
                known[path] = hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest(), image_size(path)
            except OSError as error:
                raise UserError(
                    f"{path} cannot be read any more ({error}): leave the photos in place while training"
                ) from None
        photo, size = known[path]
        corner = crop_corner(given.seed, kind, image, repeat, given.crop)
        squares[kind, image, repeat] = Square(photo, place_crop(size, given.size, corner), given.interpolation, path)
    return squares


class Posteriors:
    """Draw -> Posterior. `row` gives mean and logvar (2, z, h, w) of a square, from memory or by encoding it."""

    def __init__(self, squares: Squares, row: Callable[[Square], np.ndarray]):
        self._squares, self._row = squares, row

    def __getitem__(self, draw: Draw) -> Posterior:
        square = self._squares[draw.kind, draw.image, draw.repeat]
        mean, logvar = self._row(square)
        return Posterior(mean, logvar, square.crop.sizes)


def text_rows(kinds: Sequence[int], instance: tuple, classes: Optional[tuple]) -> tuple[np.ndarray, np.ndarray]:
    """The two text arrays of every row, stacked: (context, pooled) or (tokens_l, tokens_g) of its kind's prompt."""
    rows = [instance if kind == INSTANCE else classes for kind in kinds]
    return np.stack([row[0] for row in rows]), np.stack([row[1] for row in rows])
