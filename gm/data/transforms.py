"""A photo -> the crop that is trained on, with the six numbers SDXL is told about it. Plain numpy and Pillow."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from gm.data.pixels import to_network

LARGEST_RESIZED = 100_000_000  # pixels
MARGIN = 8  # pixels of the image around what a crop shows, which enlarging looks at; Lanczos looks at 3


@dataclass(frozen=True)
class Crop:
    """Which rectangle is cut from a photo. All sizes are (height, width) in pixels."""

    original_size: tuple[int, int]  # of the photo
    resized: tuple[int, int]  # of the photo before the crop is cut
    top_left: tuple[int, int]  # of the crop in the resized photo
    size: tuple[int, int]  # of the crop

    @property
    def sizes(self) -> np.ndarray:
        """The micro-conditioning of arXiv 2307.01952, section 2.2, (6,) float32, each pair (height, width)."""
        return np.array([*self.original_size, *self.top_left, *self.size], np.float32)


def place_crop(original_size: tuple[int, int], size: tuple[int, int], corner: tuple[float, float]) -> Crop:
    """The crop of `size` (h, w) from a photo (h, w) that is resized to just cover it; `corner` (y, x) in [0, 1] says where
    in the free range it lies."""
    scale = max(wanted / given for wanted, given in zip(size, original_size))
    height, width = (max(wanted, round(given * scale)) for wanted, given in zip(size, original_size))
    top_left = round(corner[0] * (height - size[0])), round(corner[1] * (width - size[1]))
    return Crop(original_size=original_size, resized=(height, width), top_left=top_left, size=size)


def cut(image: np.ndarray, crop: Crop, interpolation: int) -> np.ndarray:
    """The crop of image (H, W, 3) uint8 as (3, h, w) float32 in [-1, 1]; `interpolation` is Pillow's number."""
    assert image.shape[:2] == crop.original_size, f"{image.shape} is not {crop.original_size}"
    return to_network(resized_part(Image.fromarray(image), crop, Image.Resampling(interpolation)))


def resized_part(image: Image.Image, crop: Crop, resample: Image.Resampling) -> np.ndarray:
    """The pixels of a crop, (h, w) or (h, w, 3) uint8, of the image that is resized to `crop.resized`.

    An image that would be enlarged to more than LARGEST_RESIZED is not resized whole, but around the crop alone: the same but for
    rounding, by at most one level.
    """
    (height, width), (top, left), (rows, columns) = crop.resized, crop.top_left, crop.size
    if height * width > LARGEST_RESIZED:
        across, down = image.width / width, image.height / height  # pixels of the image per pixel of the resized one
        x, y = max(0, int(left * across) - MARGIN), max(0, int(top * down) - MARGIN)
        end_x, end_y = int((left + columns) * across) + MARGIN, int((top + rows) * down) + MARGIN
        near = image.crop((x, y, min(image.width, end_x), min(image.height, end_y)))
        box = (left * across - x, top * down - y, (left + columns) * across - x, (top + rows) * down - y)
        return np.asarray(near.resize((columns, rows), resample, box=tuple(max(0.0, place) for place in box)))
    if (image.height, image.width) != crop.resized:
        image = image.resize((width, height), resample)
    return np.asarray(image)[top : top + rows, left : left + columns]
