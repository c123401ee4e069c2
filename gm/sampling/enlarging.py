"""Enlarging latents and pictures between the two passes of a hires fix. Plain numpy and Pillow.

Latents are enlarged as torch.nn.functional.interpolate does it without align_corners, which A1111's "Latent" upscalers and
ComfyUI's are. One axis after the other, by a matrix (outputs, inputs).
"""

from typing import Callable, Mapping

import numpy as np
from PIL import Image

CUBIC = -0.75  # torch's a of the kernel (Keys 1981, equation 15)


def _places(inputs: int, outputs: int) -> np.ndarray:
    """Where the middles of the outputs lie among those of the inputs."""
    return (np.arange(outputs) + 0.5) * (inputs / outputs) - 0.5


def _matrix(inputs: int, outputs: int, kernel: Callable[[np.ndarray], np.ndarray], reach: int) -> np.ndarray:
    """The weights of the inputs in each output; beyond an edge stands the number at it."""
    places, found = _places(inputs, outputs), np.zeros((outputs, inputs))
    for step in range(1 - reach, reach + 1):
        neighbours = np.floor(places).astype(int) + step
        weights = kernel(np.abs(places - neighbours))
        np.add.at(found, (np.arange(outputs), np.clip(neighbours, 0, inputs - 1)), weights)
    return found


def _bilinear(inputs: int, outputs: int) -> np.ndarray:
    return _matrix(inputs, outputs, lambda far: np.maximum(1.0 - far, 0.0), 1)


def _bicubic(inputs: int, outputs: int) -> np.ndarray:
    def kernel(far: np.ndarray) -> np.ndarray:
        near = ((CUBIC + 2.0) * far - (CUBIC + 3.0)) * far * far + 1.0
        other = ((far - 5.0) * far + 8.0) * far - 4.0
        return np.where(far <= 1.0, near, np.where(far < 2.0, CUBIC * other, 0.0))

    return _matrix(inputs, outputs, kernel, 2)


def _nearest(inputs: int, outputs: int, shift: float = 0.0) -> np.ndarray:
    places = (np.arange(outputs, dtype=np.float32) + np.float32(shift)) * (np.float32(inputs) / np.float32(outputs))
    return np.eye(inputs)[np.minimum(places.astype(int), inputs - 1)]  # float32 decides, as in torch


def _nearest_exact(inputs: int, outputs: int) -> np.ndarray:
    return _nearest(inputs, outputs, 0.5)


OF_LATENTS: Mapping[str, Callable[[int, int], np.ndarray]] = {
    "latent": _bilinear,
    "latent-bicubic": _bicubic,
    "latent-nearest": _nearest,
    "latent-nearest-exact": _nearest_exact,
}
OF_PICTURES: Mapping[str, Image.Resampling] = {
    "lanczos": Image.Resampling.LANCZOS,
    "bicubic": Image.Resampling.BICUBIC,
    "nearest": Image.Resampling.NEAREST,
}
UPSCALERS = (*OF_LATENTS, *OF_PICTURES)


def enlarged_latents(latents: np.ndarray, size: tuple[int, int], name: str) -> np.ndarray:
    """Latents (B, z, h, w) with other sides, `size`."""
    rows, columns = (OF_LATENTS[name](given, wanted) for given, wanted in zip(latents.shape[2:], size))
    return np.einsum("yh,bzhw,xw->bzyx", rows, latents, columns, optimize=True).astype(np.float32)


def enlarged_picture(picture: np.ndarray, size: tuple[int, int], name: str) -> np.ndarray:
    """A picture (h, w, 3) uint8 with other sides, `size`."""
    height, width = size
    return np.asarray(Image.fromarray(picture).resize((width, height), OF_PICTURES[name]))
