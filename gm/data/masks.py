"""Masks of photos: how much each pixel of a latent counts in the loss. Plain numpy and Pillow.

The mask of NAME.jpg is NAME-masklabel.png beside it (as OneTrainer has it), or NAME.png in a folder of masks (as sd-scripts
has it); white counts in full, black as little as `unmasked_weight` says.
"""

import os
from pathlib import Path
from typing import Optional

import numpy as np
from PIL import Image

from gm.data.images import MASK, SUFFIXES, eight_bits, image_size, opened, upright
from gm.data.transforms import Crop, resized_part
from gm.errors import UserError

LATENT = 8  # pixels a side of one of a latent


def mask_file(photo: Path, folder: Optional[Path]) -> Optional[Path]:
    """The photo's mask, or None when it has none."""
    if folder is None:
        named = [photo.with_name(photo.stem + MASK + suffix) for suffix in (".png", *SUFFIXES)]
    else:
        named = [folder / photo.name, *(folder / (photo.stem + suffix) for suffix in (".png", *SUFFIXES))]
    return next((path for path in named if os.path.isfile(path)), None)


def read_grey(path: Path) -> np.ndarray:
    """A mask (H, W) uint8 as a person sees it. UserError for a file that is no picture."""
    with opened(path, f"the mask {path}") as image:
        return np.asarray(eight_bits(upright(image), path).convert("L"))


def read_mask(path: Path, photo: Path) -> np.ndarray:
    """`read_grey` of the size of the photo. UserError for one of another size or without white."""
    mask = read_grey(path)
    size = image_size(photo)
    if mask.shape != size:
        raise UserError(
            f"the mask {path} has {mask.shape[1]} x {mask.shape[0]} pixels, but its photo {size[1]} x {size[0]}: make them equal"
        )
    if not mask.any():
        raise UserError(f"the mask {path} is black everywhere, so nothing of its photo would count: paint the subject white")
    return mask


def mask_of(mask: np.ndarray, crop: Crop) -> np.ndarray:
    """What a crop shows of a mask (H, W) uint8, as means over the pixels of the latent: (1, h/8, w/8) float32 in [0, 1]."""
    (rows, columns), resized = crop.size, resized_part(Image.fromarray(mask), crop, Image.Resampling.BILINEAR)
    cut = np.asarray(resized, np.float32) / np.float32(255)
    return cut.reshape(1, rows // LATENT, LATENT, columns // LATENT, LATENT).mean((2, 4))
