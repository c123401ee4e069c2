"""Crops of photos -> VAE posteriors, here or in a process of its own whose memory is free afterwards."""

from typing import Sequence

import numpy as np

from gm.checkpoint.weights import BasePaths, open_base
from gm.config.types import ModelConfig
from gm.console import bar
from gm.data.crops import PhotoCrop
from gm.data.disk_cache import DiskCache, Key
from gm.encoding.compiling import Compiling
from gm.models import sdxl
from gm.models.vae import VAEEncode, require_sound
from gm.runtime import Runtime


class CropEncoder:
    """The VAE's encoder in this process: one crop at a time, so that a crop's numbers do not depend on its batch."""

    def __init__(self, vae: VAEEncode):
        self.encode = Compiling(vae, "compiling the image encoder")

    def __call__(self, crop: PhotoCrop, photo: np.ndarray) -> np.ndarray:
        """Mean and logvar (2, z, h, w) of a crop of photo (H, W, 3) uint8."""
        mean, logvar = self.encode(crop.pixels(photo)[None])
        return require_sound(np.concatenate([mean, logvar]), f"photo {crop.path}")


def encode_crops(
    model: ModelConfig, weight: BasePaths, machine: Runtime, disk: DiskCache, crops: Sequence[tuple[Key, PhotoCrop]]
) -> list[np.ndarray]:
    """The posterior (2, z, h, w) of every crop, kept on disk as soon as it is there; in the process that calls it."""
    machine.enter()
    encode = CropEncoder(sdxl.load(VAEEncode(sdxl.build_vae(model)), open_base(*weight).read, "VAE's encoder"))
    rows, path, photo = [], None, None
    for key, crop in bar(crops, "encoding photos", unit="crop"):
        if crop.path != path:
            path, photo = crop.path, crop.read()
        rows.append(encode(crop, photo))
        disk.put(key, rows[-1])
    return rows
