"""What a run trains on: for each photo and repeat a sample, with its crop, its mask and the weight of its loss.

A crop is known by the content of its photo, so that a changed photo is another one and repeats that cut the same pixels
share one posterior. Computing posteriors, keeping and sharing them is gm/training/precompute.py.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Mapping, Optional, Sequence

import numpy as np

from gm.console import log
from gm.data.buckets import cut_off, scale_to
from gm.data.captions import Caption
from gm.data.dreambooth import crop_corner
from gm.data.images import digest_of, image_size, read_image
from gm.data.masks import mask_of, read_mask
from gm.data.transforms import Crop, cut, place_crop
from gm.errors import UserError, one_line

MOST_ENLARGED = 16  # times: 64 pixels for a side of 1024
MOST_CUT_OFF = 7 / 8  # of a photo; one eight times as long as high has so much outside of a square


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

    def read(self) -> np.ndarray:
        """Its photo (H, W, 3) uint8; UserError when the file is another one by now."""
        return read_image(self.path, self.photo)

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
            known[photo.path] = digest_of(photo.path), image_size(photo.path)
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


def require_enough_pixels(photos: Sequence[Photo]) -> None:
    """UserError for a photo that would be enlarged so much that it is a blur; those of which crops show little are said."""
    long = []
    for photo in photos:
        size = image_size(photo.path)
        scale, words = scale_to(size, photo.size), f"{one_line(photo.path.name)}, {size[1]} x {size[0]}"
        if scale > MOST_ENLARGED:
            least = math.ceil(max(photo.size) / MOST_ENLARGED)
            raise UserError(
                f"{photo.path} has {size[1]} x {size[0]} pixels and would be enlarged {scale:.0f} times: give a larger photo, of at "
                f"least {least} x {least}, or take it out of the folder"
            )
        if cut_off(size, photo.size) > MOST_CUT_OFF:
            long.append(words)
    if long:
        more = f" and {len(long) - 5} more" if len(long) > 5 else ""
        words = "crops show less than an eighth of %d photos (%s%s): cut out what is to be learned, or set buckets"
        log.warning(words, len(long), "; ".join(long[:5]), more)
