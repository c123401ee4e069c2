"""Prompts and sizes -> what the UNet is conditioned on (sgm `GeneralConditioner` as SDXL configures it).

tokens_l, tokens_g (B, 77) int32   context (B, 77, width_l + width_g)   pooled (B, embed_dim)
sizes (B, 6) float32: original (h, w), crop (top, left), target (h, w)   vector (B, embed_dim + 6 * size_embed_dim)
The text part depends on the prompt alone, so it is computed once a prompt; the sizes join it inside the UNet's graph.
"""

from typing import Sequence

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from gm.config.types import ModelConfig, TextEncoderConfig
from gm.models.layers import TimestepEmbedding
from gm.models.site import Site
from gm.models.text_encoder import ClipTextModel, OpenClipTextModel
from gm.models.tokenizer import CLIP_PAD, OPEN_CLIP_PAD, ClipTokenizer

CONDITIONER_PREFIX = "conditioner."


class _Transformer(nn.Cell):
    def __init__(self, site: Site, config: TextEncoderConfig):
        super().__init__()
        self.text_model = ClipTextModel(site / "text_model", config)


class ClipEmbedder(nn.Cell):
    """`embedders.0`: tokens -> context (B, 77, width)."""

    def __init__(self, site: Site, config: TextEncoderConfig):
        super().__init__()
        self.transformer = _Transformer(site / "transformer", config)

    def construct(self, tokens: Tensor) -> Tensor:
        return self.transformer.text_model(tokens)


class OpenClipEmbedder(nn.Cell):
    """`embedders.1`: tokens -> context (B, 77, width), pooled (B, embed_dim)."""

    def __init__(self, site: Site, config: TextEncoderConfig):
        super().__init__()
        self.model = OpenClipTextModel(site / "model", config)

    def construct(self, tokens: Tensor):
        return self.model(tokens)


class TextEncoders(nn.Cell):
    """tokens_l, tokens_g -> context, pooled, both float32."""

    def __init__(self, site: Site, config: ModelConfig):
        super().__init__()
        clip, open_clip = config.text_encoders
        self.embedders = nn.CellList(
            [ClipEmbedder(site / "embedders.0", clip), OpenClipEmbedder(site / "embedders.1", open_clip)]
        )

    def construct(self, tokens_l: Tensor, tokens_g: Tensor):
        context_l = self.embedders[0](tokens_l)
        context_g, pooled = self.embedders[1](tokens_g)
        return ops.concat((context_l, context_g), -1).astype(ms.float32), pooled.astype(ms.float32)


class SizeEmbedding(nn.Cell):
    """pooled (B, e), sizes (B, 6) -> vector (B, e + 6 * width): sizes as sinusoids (arXiv 2307.01952, section 2.2)."""

    def __init__(self, width: int):
        super().__init__()
        self.sinusoids = TimestepEmbedding(width)
        self.width = 6 * width

    def construct(self, pooled: Tensor, sizes: Tensor) -> Tensor:
        return ops.concat((pooled, self.sinusoids(sizes.reshape((-1,))).reshape((-1, self.width))), 1)


def tokenize(prompts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The ids of both encoders, (B, 77) int32 each: they differ in what they pad with."""
    return ClipTokenizer(CLIP_PAD)(prompts), ClipTokenizer(OPEN_CLIP_PAD)(prompts)
