"""Crops of photos -> VAE posteriors, here or in a process of its own whose memory is free afterwards."""

from typing import Optional, Sequence

import numpy as np

from gm.checkpoint.weights import BasePaths, open_base
from gm.config.types import ModelConfig
from gm.console import bar, log
from gm.data.crops import PhotoCrop
from gm.data.disk_cache import DiskCache, Key
from gm.encoding.compiling import Compiling
from gm.models import sdxl
from gm.models.vae import VAEEncode, require_sound
from gm.process import run_in_subprocess
from gm.runtime import Runtime, full_precision
from gm.soundness import NotFinite


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
) -> list[Optional[np.ndarray]]:
    """The posterior (2, z, h, w) of every crop, kept on disk as soon as it is there; in the process that calls it. None for
    one that float16 was too small for, where the device computes the VAE in that."""
    machine.enter()
    encode = CropEncoder(sdxl.load(VAEEncode(sdxl.build_vae(model)), open_base(*weight).read, "VAE's encoder"))
    again = _computes_vae_in_half(machine)
    rows: list[Optional[np.ndarray]] = []
    path, photo = None, None
    for key, crop in bar(crops, "encoding photos", unit="crop"):
        if crop.path != path:
            path, photo = crop.path, crop.read()
        try:
            rows.append(encode(crop, photo))
        except NotFinite:
            if not again:
                raise
            rows.append(None)
            continue
        disk.put(key, rows[-1])
    return rows


def encode_apart(
    model: ModelConfig, weight: BasePaths, machine: Runtime, disk: DiskCache, crops: Sequence[tuple[Key, PhotoCrop]]
) -> list[np.ndarray]:
    """`encode_crops` in a process of its own; what float16 was too small for, once more in float32 on the host."""
    rows = run_in_subprocess(encode_crops, model, weight, machine, disk, crops)
    lost = [number for number, row in enumerate(rows) if row is None]
    if lost:
        first = crops[lost[0]][1].path
        log.warning("photo %s went beyond float16 in the VAE: %d crops once more in float32, on the CPU", first, len(lost))
        found = run_in_subprocess(encode_crops, model, weight, full_precision(machine), disk, [crops[n] for n in lost])
        for number, row in zip(lost, found):
            rows[number] = row
    return rows


def _computes_vae_in_half(machine: Runtime) -> bool:
    """The VAE is built in float32, so only the chip can have computed it in less."""
    return full_precision(machine).device != machine.device
