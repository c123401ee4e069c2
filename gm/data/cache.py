"""What never changes is computed once: the VAE posterior of every crop, and the text of every prompt."""

from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Optional, Sequence

import numpy as np

from gm.console import bar
from gm.data.dreambooth import CLASS, INSTANCE, Draw, crop_corner
from gm.data.images import read_image
from gm.data.transforms import Crop, resize_and_crop


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
class Posterior:
    """The VAE posterior of one crop, and the crop's sizes."""

    mean: np.ndarray  # (4, h, w)
    logvar: np.ndarray  # (4, h, w)
    sizes: np.ndarray  # (6,) original (h, w), crop (top, left), target (h, w)


Encode = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


class PosteriorCache:
    """(kind, image, repeat) -> Posterior; repeats that cut the same square share one."""

    def __init__(self) -> None:
        self._posteriors: dict[tuple, Posterior] = {}
        self._keys: dict[tuple[int, int, int], tuple] = {}

    def __len__(self) -> int:
        return len(self._posteriors)

    def fill(self, photos: Photos, draws: Sequence[tuple[int, int]], encode: Encode) -> None:
        """Encode every (image, repeat) of `draws`; `encode` maps (1, 3, size, size) to mean and logvar (1, 4, h, w)."""
        what = "encoding instance images" if photos.kind == INSTANCE else "encoding class images"
        by_image: dict[int, list[int]] = {}
        for image, repeat in draws:
            by_image.setdefault(image, []).append(repeat)
        for image, repeats in bar(sorted(by_image.items()), what, unit="image"):
            pixels = read_image(photos.paths[image])
            for repeat in repeats:
                corner = crop_corner(photos.seed, photos.kind, image, repeat, photos.crop)
                crop = resize_and_crop(pixels, photos.size, photos.interpolation, corner)
                self._add(photos.kind, image, repeat, crop, encode)

    def _add(self, kind: int, image: int, repeat: int, crop: Crop, encode: Encode) -> None:
        key = (kind, image, *crop.crop_top_left)
        if key not in self._posteriors:
            mean, logvar = encode(crop.pixels[None])
            self._posteriors[key] = Posterior(mean[0], logvar[0], crop.sizes)
        self._keys[kind, image, repeat] = key

    def __getitem__(self, draw: Draw) -> Posterior:
        return self._posteriors[self._keys[draw.kind, draw.image, draw.repeat]]

    def to_rows(self) -> tuple[list, np.ndarray]:
        """What JSON holds of this cache, and its arrays as rows (n, 2, 4, h, w)."""
        names = list(self._posteriors)
        about = {
            "posteriors": [[*map(int, key), *map(float, self._posteriors[key].sizes)] for key in names],
            "draws": [[*map(int, draw), names.index(key)] for draw, key in self._keys.items()],
        }
        rows = [np.stack([p.mean, p.logvar]) for p in self._posteriors.values()]
        return about, np.stack(rows).astype(np.float32) if rows else np.zeros((0,), np.float32)

    @classmethod
    def of_rows(cls, abouts: Sequence[dict], rows: np.ndarray) -> "PosteriorCache":
        """The union of caches, from what `to_rows` gave of each and all their rows."""
        cache, start = cls(), 0
        for about in abouts:
            keys = []
            for row, (kind, image, top, left, *sizes) in zip(rows[start:], about["posteriors"]):
                keys.append((kind, image, top, left))
                cache._posteriors[keys[-1]] = Posterior(row[0], row[1], np.array(sizes, np.float32))
            for kind, image, repeat, key in about["draws"]:
                cache._keys[kind, image, repeat] = keys[key]
            start += len(keys)
        return cache


def share_out(draws: Sequence[tuple[int, int, int]], ranks: int) -> list[list[tuple[int, int, int]]]:
    """The draws (kind, image, repeat) for each rank: those of one image on one rank, so that no crop is encoded twice,
    and about as many for each."""
    by_image: dict[tuple[int, int], list] = {}
    for draw in draws:
        by_image.setdefault(draw[:2], []).append(draw)
    parts: list[list] = [[] for _ in range(ranks)]
    for image in sorted(by_image, key=lambda image: (-len(by_image[image]), image)):
        min(parts, key=len).extend(by_image[image])
    return parts


def text_rows(draws: Sequence[Draw], instance: tuple, classes: Optional[tuple]) -> tuple[np.ndarray, np.ndarray]:
    """The two text arrays of every row, stacked: (context, pooled) or (tokens_l, tokens_g) of its kind's prompt."""
    rows = [instance if draw.kind == INSTANCE else classes for draw in draws]
    return np.stack([row[0] for row in rows]), np.stack([row[1] for row in rows])
