"""A photo -> the square that is trained on, with the six numbers SDXL is told about it. Plain numpy and Pillow."""

from dataclasses import dataclass

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Crop:
    pixels: np.ndarray  # (3, size, size) float32 in [-1, 1]
    original_size: tuple[int, int]  # (h, w) of the photo
    crop_top_left: tuple[int, int]  # (top, left) in the resized photo
    target_size: tuple[int, int]  # (h, w) of the square

    @property
    def sizes(self) -> np.ndarray:
        """The micro-conditioning of arXiv 2307.01952, section 2.2, (6,) float32, each pair (height, width)."""
        return np.array([*self.original_size, *self.crop_top_left, *self.target_size], np.float32)


def resize_and_crop(image: np.ndarray, size: int, interpolation: int, corner: tuple[float, float]) -> Crop:
    """Resize image (h, w, 3) uint8 so that its shorter side is `size`, and cut a square.

    `corner` (y, x) in [0, 1] says where in the free range the square lies; `interpolation` is Pillow's number.
    """
    height, width = image.shape[:2]
    scale = size / min(height, width)
    new_height, new_width = max(size, round(height * scale)), max(size, round(width * scale))
    if (new_height, new_width) != (height, width):
        resized = Image.fromarray(image).resize((new_width, new_height), Image.Resampling(interpolation))
        image = np.asarray(resized)
    top, left = round(corner[0] * (new_height - size)), round(corner[1] * (new_width - size))
    square = image[top : top + size, left : left + size]
    pixels = np.ascontiguousarray(square.transpose(2, 0, 1), np.float32) / np.float32(127.5) - np.float32(1)
    return Crop(pixels, (height, width), (top, left), (size, size))
