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
from gm.sampling.latents import Texts
from gm.sampling.lora_schedule import scheduled
from gm.sampling.pictures import PictureSampler
from gm.sampling.start import Start


@dataclass(frozen=True)
class InFloat32:
    """FullPrecision of pictures.py."""

    source: Source  # what the pictures are made from; its machine computes in float32
    decodes: bool

    def latents(
        self, text: Texts, negative: Texts, settings: SampleSettings, seeds: Sequence[int], what: str, start: Start
    ) -> np.ndarray:
        texts = (self._plain(one) for one in (text, negative))
        return run_in_subprocess(_latents, self._source(), *texts, settings, list(seeds), what, start)

    def _plain(self, texts: Texts) -> Texts:
        """Without products of the text that a training UNet has been given."""
        if not isinstance(texts, TextEmbedding):
            return [self._plain(one) for one in texts]
        return TextEmbedding(texts.context[:, : self.source.model.unet.context_dim], texts.pooled)

    def decoded(self, latent: np.ndarray) -> np.ndarray:
        return run_in_subprocess(_decoded, self._source(), latent)

    def encoded(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return run_in_subprocess(_encoded, self._source(), image)

    def _source(self) -> Source:
        return replace(self.source, machine=self.source.machine.beside())


def in_float32(source: Source) -> Optional[InFloat32]:
    """What makes the pictures of `source` again; None where float32 is all that is used anyway."""
    full = full_precision(source.machine)
    if full == source.machine:
        return None
    return InFloat32(replace(source, machine=full), decodes=full.device != source.machine.device)


def _latents(source: Source, *asked) -> np.ndarray:
    source.machine.enter()
    weights = source.open()
    unet = sdxl.load(sdxl.build_unet(source.model, source.machine.dtype, weights.adapters), weights.read, "UNet")
    pictures = PictureSampler(unet, sdxl.build_vae(source.model), source.model)
    return scheduled(pictures, weights).latents(*asked)


def _decoded(source: Source, latent: np.ndarray) -> np.ndarray:
    source.machine.enter()
    vae = sdxl.load(sdxl.build_vae(source.model), source.open().read, "VAE")
    decode = Compiling(VAEDecode(vae, source.model.scale_factor), "compiling the decoder")
    return to_pixels(require_sound(decode(latent[None])[0], "a picture"))


def _encoded(source: Source, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    source.machine.enter()
    vae = sdxl.load(sdxl.build_vae(source.model), source.open().read, "VAE")
    return PictureSampler(sdxl.build_unet(source.model), vae, source.model).encoded(image)
