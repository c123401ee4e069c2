"""Which shapes photos are trained in, and which photo goes to which: sd-scripts' buckets, but few, since every shape is a
compilation. Plain Python; sizes are (height, width) in pixels.

All shapes have about the same area. Of those that the photos want, some are dropped until there are at most `max_buckets`:
always the one without which least is cut off.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Mapping, Optional, Sequence

from gm.config.types import BucketConfig
from gm.errors import UserError

Size = tuple[int, int]


def bucket_shapes(side: int, config: BucketConfig) -> list[Size]:
    """All shapes of about side^2 pixels (sd-scripts, library/model_util.py `make_bucket_resolutions`)."""
    square = side // config.step * config.step
    shapes = {(square, square)}
    for width in range(config.smallest, config.largest + 1, config.step):
        height = min(config.largest, side * side // width // config.step * config.step)
        if height >= config.smallest:
            shapes |= {(height, width), (width, height)}
    return sorted(shapes)


def nearest_shape(photo: Size, shapes: Sequence[Size]) -> Size:
    """The one of this size, or of the nearest aspect ratio, width / height."""
    if photo in shapes:
        return photo
    ratio = photo[1] / photo[0]
    return min(shapes, key=lambda shape: abs(shape[1] / shape[0] - ratio))


def shape_without_upscaling(photo: Size, side: int, step: int) -> Size:
    """The photo's own shape in steps, shrunk where it has more than side^2 pixels (`select_bucket`, bucket_no_upscale)."""
    height, width = photo
    ratio = width / height
    if height * width > side * side:
        ideal_width = math.sqrt(side * side * ratio)
        by_width = _steps(ideal_width, step)
        height_of_it = _steps(by_width / ratio, step)
        by_height = _steps(side * side / ideal_width, step)
        width_of_it = _steps(by_height * ratio, step)
        if height_of_it and abs(by_width / height_of_it - ratio) < abs(width_of_it / by_height - ratio):
            width, height = by_width, int(by_width / ratio + 0.5)
        else:
            width, height = int(by_height * ratio + 0.5), by_height
    return height - height % step, width - width % step


def _steps(pixels: float, step: int) -> int:
    return int(pixels + 0.5) // step * step


@lru_cache(maxsize=1 << 16)
def scale_to(photo: Size, shape: Size) -> float:
    """What the photo is scaled by so that it just covers the shape."""
    return max(shape[0] / photo[0], shape[1] / photo[1])


@lru_cache(maxsize=1 << 16)
def cut_off(photo: Size, shape: Size) -> float:
    """The share of the photo that is cut off."""
    return 1 - shape[0] * shape[1] / (photo[0] * photo[1] * scale_to(photo, shape) ** 2)


@dataclass(frozen=True)
class Buckets:
    """The shapes of a run."""

    shapes: tuple[Size, ...]
    upscale: bool = True

    def of(self, photo: Size) -> Size:
        """The shape of a photo: of those for which it need not be enlarged, where that is asked for, the nearest."""
        fitting = [shape for shape in self.shapes if self.upscale or scale_to(photo, shape) <= 1]
        return nearest_shape(photo, fitting or self.shapes)

    def lost(self, photos: Mapping[Size, int], shapes: Mapping[Size, Size] = {}) -> float:
        """The pixels cut off, in photos; infinite where a photo would have to be enlarged against the wish. `shapes`: those of
        photos where they are known."""
        total = 0.0
        for photo, count in photos.items():
            shape = shapes.get(photo) or self.of(photo)
            if not self.upscale and scale_to(photo, shape) > 1:
                return math.inf
            total += count * cut_off(photo, shape)
        return total

    def best_without_one(self, photos: Mapping[Size, int]) -> tuple["Buckets", float]:
        """One shape less, so that least is lost, and how much. Photos of the shapes that stay are in the same ones as before."""
        now = {photo: self.of(photo) for photo in photos}
        best: Optional[Buckets] = None
        least = math.inf
        for gone in self.shapes:
            fewer = Buckets(tuple(shape for shape in self.shapes if shape != gone), self.upscale)
            lost = fewer.lost(photos, {photo: shape for photo, shape in now.items() if shape != gone})
            if best is None or lost < least:
                best, least = fewer, lost
        assert best is not None
        return best, least


def choose_buckets(photos: Mapping[Size, int], side: int, config: BucketConfig) -> Buckets:
    """At most `max_buckets` shapes for photos of these sizes, each with its number of draws in an epoch.

    Without upscaling the bounds of a side do not count, as in sd-scripts. UserError for a photo that is too small then, or where
    the photos need more shapes.
    """
    if config.upscale:
        shapes = bucket_shapes(side, config)
        wanted = {nearest_shape(photo, shapes) for photo in photos}
    else:
        wanted = {shape_without_upscaling(photo, side, config.step) for photo in photos}
        small = [photo for photo in photos if min(shape_without_upscaling(photo, side, config.step)) < config.step]
        if small:
            raise UserError(
                f"a photo of {small[0][1]} x {small[0][0]} pixels is too small for a bucket without upscaling, whose sides are "
                f"multiples of {config.step}: take it out, or set bucket_no_upscale: False"
            )
    buckets = Buckets(tuple(sorted(wanted)), config.upscale)
    while len(buckets.shapes) > config.max_buckets:
        best, lost = buckets.best_without_one(photos)
        if math.isinf(lost):
            raise UserError(
                f"without upscaling the photos need {len(buckets.shapes)} buckets, but max_buckets is {config.max_buckets}: "
                "allow more, or set bucket_no_upscale: False"
            )
        buckets = best
    return buckets
