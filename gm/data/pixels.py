"""Pixels of pictures, (h, w, 3) uint8, <-> what networks take, (3, h, w) float32 in [-1, 1]. Plain numpy."""

import numpy as np


def to_network(pixels: np.ndarray) -> np.ndarray:
    """(..., h, w, 3) uint8 -> (..., 3, h, w) float32 in [-1, 1]."""
    channels_first = np.ascontiguousarray(np.moveaxis(pixels, -1, -3), np.float32)
    return channels_first / np.float32(127.5) - np.float32(1)


def to_pixels(image: np.ndarray) -> np.ndarray:
    """(..., 3, h, w) in about [-1, 1] -> (..., h, w, 3) uint8."""
    return np.round((np.clip(np.moveaxis(image, -3, -1), -1, 1) + 1) * 127.5).astype(np.uint8)
