"""A photo, small, with the places of its crops and its mask, as a JPEG."""

import io
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from gm.data.masks import mask_file
from gm.data.transforms import Crop
from studio.photos import measures
from studio.photos.plan import Plan

CELL, LARGE = 256, 512  # pixels a side of one among many, and of one alone


def thumbnail(plan: Plan, cell: int) -> bytes:
    """The photo with a line around each place of a crop; what its mask leaves out is dark."""
    mask = mask_file(plan.path, None)
    of = measures.version(plan.path), measures.version(mask) if mask else None
    return _thumbnail(plan.path, of, plan.crops, plan.excluded, cell)


@lru_cache(maxsize=2000)
def _thumbnail(photo: Path, of: object, crops: tuple[Crop, ...], excluded: bool, cell: int) -> bytes:
    pixels, mask = measures.small_copy(photo), measures.mask_beside(photo)
    if mask is not None and mask.small is not None:
        pixels = (pixels * (0.25 + 0.75 / 255 * mask.small[..., None])).astype(np.uint8)
    if excluded:
        pixels = (0.3 * pixels + 0.7 * 128).astype(np.uint8)
    small = Image.fromarray(pixels)
    small.thumbnail((cell, cell), Image.Resampling.LANCZOS)
    pen = ImageDraw.Draw(small)
    middle = crops[len(crops) // 2] if crops else None
    for crop in sorted(crops, key=lambda crop: crop == middle) if not excluded else ():  # the middle one over the others
        of_photo = small.height / crop.resized[0]
        (top, left), (height, width) = crop.top_left, crop.size
        right, bottom = (round(end * of_photo) - 1 for end in (left + width, top + height))
        corners = (round(left * of_photo), round(top * of_photo), right, bottom)
        pen.rectangle(corners, outline="red" if crop == middle else "orange", width=2 if crop == middle else 1)
    content = io.BytesIO()
    small.save(content, "JPEG", quality=85)
    return content.getvalue()
