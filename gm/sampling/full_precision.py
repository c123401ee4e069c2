"""Pictures that half precision was too small for, once more in float32: each time in a process of its own, whose memory is free
again afterwards."""

from dataclasses import dataclass, replace
from typing import Optional, Sequence

import numpy as np

from gm.config.types import SampleSettings
from gm.data.pixels import to_pixels
from gm.encoding.compiling import Compiling
from gm.encoding.source import Source
from gm.encoding.text import TextEmbedding
from gm.models import sdxl
from gm.models.vae import VAEDecode, require_sound
from gm.process import run_in_subprocess
from gm.runtime import full_precision
from gm.sampling.pictures import PictureSampler


@dataclass(frozen=True)
class InFloat32:
    """FullPrecision of pictures.py."""

    source: Source  # what the pictures are made from; its machine computes in float32
    decodes: bool

    def pictures(
        self, text: TextEmbedding, negative: TextEmbedding, settings: SampleSettings, seeds: Sequence[int], what: str
    ) -> list[np.ndarray]:
        width = self.source.model.unet.context_dim  # without products of the text that a training UNet has been given
        text, negative = (TextEmbedding(one.context[:, :width], one.pooled) for one in (text, negative))
        return run_in_subprocess(_pictures, self._source(), text, negative, settings, list(seeds), what)

    def decoded(self, latent: np.ndarray) -> np.ndarray:
        return run_in_subprocess(_decoded, self._source(), latent)

    def _source(self) -> Source:
        return replace(self.source, machine=self.source.machine.beside())


def in_float32(source: Source) -> Optional[InFloat32]:
    """What makes the pictures of `source` again; None where float32 is all that is used anyway."""
    full = full_precision(source.machine)
    if full == source.machine:
        return None
    return InFloat32(replace(source, machine=full), decodes=full.device != source.machine.device)


def _pictures(source: Source, *asked) -> list[np.ndarray]:
    source.machine.enter()
    weights = source.open()
    unet = sdxl.build_unet(source.model, source.machine.dtype, weights.adapters)
    vae = sdxl.load(sdxl.build_vae(source.model), weights.read, "VAE")
    return PictureSampler(sdxl.load(unet, weights.read, "UNet"), vae, source.model)(*asked)


def _decoded(source: Source, latent: np.ndarray) -> np.ndarray:
    source.machine.enter()
    vae = sdxl.load(sdxl.build_vae(source.model), source.open().read, "VAE")
    decode = Compiling(VAEDecode(vae, source.model.scale_factor), "compiling the decoder")
    return to_pixels(require_sound(decode(latent[None])[0], "a picture"))
