"""What a run trains on: for each photo and repeat a sample, with its crop, its mask and the weight of its loss.

A crop is known by the content of its photo, so that a changed photo is another one and repeats that cut the same pixels
share one posterior. Computing posteriors, keeping and sharing them is gm/training/precompute.py.
"""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Mapping, Optional, Sequence

import numpy as np

from gm.data.captions import Caption
from gm.data.dreambooth import crop_corner
from gm.data.images import image_size
from gm.data.masks import mask_of, read_mask
from gm.data.transforms import Crop, cut, place_crop
from gm.errors import UserError


@dataclass(frozen=True)
class Photo:
    """A photo, and what is said about it."""

    path: Path
    caption: Caption
    size: tuple[int, int]  # pixels of its crops, (height, width)
    repeats: int = 1  # in an epoch
    loss_weight: float = 1.0  # of its loss in the whole: --prior_loss_weight for class images
    mask: Optional[Path] = None


@dataclass(frozen=True)
class PhotoSet:
    """The photos of one kind and how they are cut."""

    kind: int  # INSTANCE or CLASS
    photos: Sequence[Photo]
    interpolation: int  # Pillow's resampling number
    crop: str  # "random" or "center"
    seed: int


@dataclass(frozen=True)
class PhotoCrop:
    """What decides the pixels of one crop; equal when they are."""

    photo: str  # hash of the file's bytes
    crop: Crop
    interpolation: int
    path: Path = field(compare=False)

    def pixels(self, image: np.ndarray) -> np.ndarray:
        """The crop (3, h, w) in [-1, 1] of its photo (H, W, 3) uint8."""
        return cut(image, self.crop, self.interpolation)


@dataclass(frozen=True)
class Sample:
    """All that belongs to one repeat of a photo."""

    crop: PhotoCrop
    loss_weight: float
    mask: Optional[np.ndarray] = None  # (1, h/8, w/8); None: all of it counts

    @property
    def sizes(self) -> np.ndarray:
        """(6,) float32: original (h, w), crop (top, left), target (h, w)."""
        return self.crop.crop.sizes


Samples = Mapping[tuple[int, int, int], Sample]  # (kind, image, repeat) -> its sample


def plan_samples(sets: Sequence[PhotoSet], draws: Sequence[tuple[int, int, int]]) -> Samples:
    """The sample of every draw (kind, image, repeat). Every file is read for its hash and its size, every mask whole."""
    of_kind = {photos.kind: photos for photos in sets}
    known: dict[Path, tuple[str, tuple[int, int]]] = {}
    masks: dict[Path, np.ndarray] = {}
    samples = {}
    for kind, image, repeat in draws:
        given = of_kind[kind]
        photo = given.photos[image]
        if photo.path not in known:
            known[photo.path] = _hash_and_size(photo.path)
        digest, size = known[photo.path]
        corner = crop_corner(given.seed, kind, image, repeat, given.crop)
        crop = PhotoCrop(digest, place_crop(size, photo.size, corner), given.interpolation, photo.path)
        mask = None
        if photo.mask:
            if photo.mask not in masks:
                masks[photo.mask] = read_mask(photo.mask, photo.path)
            mask = mask_of(masks[photo.mask], crop.crop)
        samples[kind, image, repeat] = Sample(crop, photo.loss_weight, mask)
    return samples


def _hash_and_size(path: Path) -> tuple[str, tuple[int, int]]:
    try:
        return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest(), image_size(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read any more ({error}): leave the photos in place while training") from None
