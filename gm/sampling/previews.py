"""What a picture will be like, while its steps are done: eighth-size, by a linear map from what the network sees in the noise.

The map is found once for a loaded model: by least squares, from one decoding of a latent on its way.
"""

import time
from pathlib import Path
from typing import Callable, Optional

import numpy as np
from PIL import Image

from gm.data.pixels import to_pixels
from gm.files import replacing

PAUSE = 0.7  # seconds between two of them
FIRST = 0.3  # share of the steps from which on a latent shows enough to find the map
SIDE = 256  # pixels that a smaller one is enlarged to


class Previews:
    """Called with latents on their way; writes them as JPEG to `target` where there is one."""

    def __init__(self, decode: Callable[[np.ndarray], np.ndarray]):
        """`decode`: latents (1, z, h, w) -> (1, 3, H, W) in [-1, 1]."""
        self.target: Optional[Path] = None
        self._decode = decode
        self._map: Optional[np.ndarray] = None  # (z + 1, 3)
        self._written = 0.0

    def __call__(self, latents: np.ndarray, share: float) -> None:
        """Latents (B, z, h, w) when this share of the steps is done. A file that cannot be written does not end the sampling."""
        if self.target is None or time.monotonic() - self._written < PAUSE or not np.isfinite(latents[0]).all():
            return
        if self._map is None and share >= FIRST:
            self._map = fitted_map(latents[0], self._decode(latents[:1])[0])
        if self._map is not None:
            self._write(mapped(latents[0], self._map), self.target)
            self._written = time.monotonic()

    def _write(self, picture: np.ndarray, target: Path) -> None:
        image = Image.fromarray(picture)
        scale = max(1, SIDE // max(image.size))
        try:
            with replacing(target) as unfinished:
                image.resize((image.width * scale, image.height * scale), Image.Resampling.BICUBIC).save(
                    unfinished, format="JPEG", quality=85
                )
        except OSError:  # a full disk, a folder that has gone: the picture itself will say so
            self.target = None


def fitted_map(latent: np.ndarray, image: np.ndarray) -> Optional[np.ndarray]:
    """(z + 1, 3): the linear map, with a constant, from a latent (z, h, w) that is nearest to its image (3, H, W); None where the
    image is not finite."""
    if not np.isfinite(image).all():
        return None
    channels, height, width = latent.shape
    small = image.reshape(3, height, image.shape[1] // height, width, image.shape[2] // width).mean((2, 4))
    found, *_ = np.linalg.lstsq(_with_one(latent), small.reshape(3, -1).T, rcond=None)
    return found


def mapped(latent: np.ndarray, linear: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8 of a latent (z, h, w)."""
    return to_pixels((_with_one(latent) @ linear).T.reshape(3, *latent.shape[1:]).astype(np.float32))


def _with_one(latent: np.ndarray) -> np.ndarray:
    """A row for each point of the latent, and 1 at its end."""
    rows = latent.reshape(len(latent), -1).T.astype(np.float64)
    return np.concatenate([rows, np.ones((len(rows), 1))], 1)
