"""A photo -> the crop that is trained on, with the six numbers SDXL is told about it. Plain numpy and Pillow."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from gm.data.pixels import to_network


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
    if image.shape[:2] != crop.resized:
        height, width = crop.resized
        image = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling(interpolation)))
    top, left = crop.top_left
    pixels = image[top : top + crop.size[0], left : left + crop.size[1]]
    return to_network(pixels)
