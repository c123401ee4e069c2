"""Folders of photos -> the photos of a run: the caption, shape, mask and weight of each; and what is said of them in all."""

from dataclasses import replace
from pathlib import Path
from typing import Optional, Sequence

from gm.config.types import DataConfig
from gm.data.buckets import Buckets, Size, choose_buckets
from gm.data.captions import CaptionChooser
from gm.data.concepts import ClassFolder, Subject, caption_of
from gm.data.crops import Photo
from gm.data.dreambooth import SampleOrder
from gm.data.images import MASK, image_size, read_image
from gm.data.masks import mask_file, read_mask
from gm.errors import UserError


def shapes_of(data: DataConfig, subjects: Sequence[Subject]) -> Buckets:
    """The shapes that the photos are trained in."""
    if data.buckets is None:
        return Buckets(((data.target_size, data.target_size),))
    photos: dict[Size, int] = {}
    for subject in subjects:
        for path in subject.photos:
            size = image_size(path)
            photos[size] = photos.get(size, 0) + subject.repeats
    return choose_buckets(photos, data.target_size, data.buckets)


def shares_of(subjects: Sequence[Subject], buckets: Buckets) -> dict[Size, float]:
    """The share of each shape among the samples."""
    counts = dict.fromkeys(buckets.shapes, 0)
    for subject in subjects:
        for path in subject.photos:
            counts[shape_of(image_size(path), buckets)] += subject.repeats
    return {shape: count / sum(counts.values()) for shape, count in counts.items()}


def instance_photos(data: DataConfig, subjects: Sequence[Subject], buckets: Buckets) -> list[Photo]:
    """The photos of the subjects."""
    return [
        Photo(
            path=path,
            caption=caption_of(path, subject.prompt, data.captions),
            size=shape_of(image_size(path), buckets),
            repeats=subject.repeats,
            loss_weight=subject.weight,
            mask=_mask(path, data),
        )
        for subject in subjects
        for path in subject.photos
    ]


def class_photos(
    data: DataConfig, folders: Sequence[ClassFolder], images: Sequence[Path], buckets: Buckets, weight: float
) -> list[Photo]:
    """The class images, each in the nearest shape; in a shape that is none's nearest, all of them. What is put in front of or
    behind a subject's captions, its trigger word above all, is not said of the class."""
    captions = replace(data.captions, trigger=None, prefix=None, suffix=None)
    of_folder = {one.folder: one for one in folders}

    def photo(path: Path, size: Size) -> Photo:
        one = of_folder[path.parent]
        return Photo(path, caption_of(path, one.prompt, captions), size, one.repeats, weight)

    found = [photo(path, shape_of(image_size(path), buckets)) for path in images]
    lacking = [shape for shape in buckets.shapes if shape not in {one.size for one in found}]
    return found + [photo(path, shape) for shape in lacking for path in images]


def _mask(photo: Path, data: DataConfig) -> Optional[Path]:
    if data.masks is None:
        return None
    return mask_file(photo, Path(data.masks.folder) if data.masks.folder else None)


def check_masks(photos: Sequence[Photo], data: DataConfig) -> None:
    """UserError for a mask that cannot be used, or where masks are asked for and no photo has one."""
    if data.masks is None:
        return
    masks = [(photo.mask, photo.path) for photo in photos if photo.mask]
    if not masks:
        wanted = (
            f"{photos[0].path.stem}.png in {data.masks.folder}" if data.masks.folder else photos[0].path.stem + MASK + ".png"
        )
        raise UserError(f"the YAML has masks, but none of the {len(photos)} photos has one: add them, e.g. {wanted}")
    for mask, photo in masks:
        read_mask(mask, photo)


def shape_of(size: Size, buckets: Buckets) -> Size:
    """The shape that a photo of this size is trained in."""
    return buckets.of(size) if len(buckets.shapes) > 1 else buckets.shapes[0]


def chooser(photos: Sequence[Photo], kind: int, seed: int, endless: bool) -> CaptionChooser:
    """Which text each draw of these photos has."""
    return CaptionChooser([photo.caption for photo in photos], kind, seed, endless)


def texts_of(photos: Sequence[Photo], kind: int, seed: int, endless: bool) -> list[str]:
    """Everything that is said of these photos; where every draw has a variant of its own, their captions as they are."""
    return chooser(photos, kind, seed, False).all() if not endless else [photo.caption.text for photo in photos]


def orders_of(photos: Sequence[Photo], buckets: Buckets, kind: int, shuffle: bool, seed: int) -> tuple[SampleOrder, ...]:
    """The order of the photos in every bucket."""
    found = []
    for number, shape in enumerate(buckets.shapes):
        images = tuple(i for i, photo in enumerate(photos) if photo.size == shape)
        repeats = tuple(photos[image].repeats for image in images)
        found.append(SampleOrder(images, repeats, shuffle, seed, kind, number))
    return tuple(found)


def of_one_colour(images: Sequence[Path]) -> list[Path]:
    """Those that show nothing, as black ones that a damaged model has made. Only files so small that they may be are read."""
    found = []
    for path in images:
        height, width = image_size(path)
        if path.suffix.lower() == ".bmp" or path.stat().st_size < max(height * width // 16, 1000):
            pixels = read_image(path)
            if (pixels == pixels[0, 0]).all():
                found.append(path)
    return found
