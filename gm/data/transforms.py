"""A photo -> the square that is trained on, with the six numbers SDXL is told about it. Plain numpy and Pillow."""

from dataclasses import dataclass

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Crop:
    """Which square is cut from a photo. All sizes are (height, width) in pixels."""

    original_size: tuple[int, int]  # of the photo
    resized: tuple[int, int]  # of the photo before the square is cut
    top_left: tuple[int, int]  # of the square in the resized photo
    size: int  # of the square

    @property
    def sizes(self) -> np.ndarray:
        """The micro-conditioning of arXiv 2307.01952, section 2.2, (6,) float32, each pair (height, width)."""
        return np.array([*self.original_size, *self.top_left, self.size, self.size], np.float32)


def place_crop(original_size: tuple[int, int], size: int, corner: tuple[float, float]) -> Crop:
    """The square of a photo (h, w) whose shorter side is resized to `size`; `corner` (y, x) in [0, 1] says where in the
    free range it lies."""
    height, width = original_size
    scale = size / min(height, width)
    resized = max(size, round(height * scale)), max(size, round(width * scale))
    top_left = round(corner[0] * (resized[0] - size)), round(corner[1] * (resized[1] - size))
    return Crop((height, width), resized, top_left, size)


def cut(image: np.ndarray, crop: Crop, interpolation: int) -> np.ndarray:
    """The square of image (h, w, 3) uint8 as (3, size, size) float32 in [-1, 1]; `interpolation` is Pillow's number."""
    assert image.shape[:2] == crop.original_size, f"{image.shape} is not {crop.original_size}"
    if image.shape[:2] != crop.resized:
        height, width = crop.resized
        image = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling(interpolation)))
    top, left = crop.top_left
    square = image[top : top + crop.size, left : left + crop.size]
    return np.ascontiguousarray(square.transpose(2, 0, 1), np.float32) / np.float32(127.5) - np.float32(1)
