"""Prompts and sizes -> what the UNet is conditioned on (sgm `GeneralConditioner` as SDXL configures it).

tokens_l, tokens_g (B, 77) int32   context (B, 77, width_l + width_g)   pooled (B, embed_dim)
of long prompts: tokens (B, chunks * 77), context (B, chunks * 75 + 2, width_l + width_g)
sizes (B, 6) float32: original (h, w), crop (top, left), target (h, w)   vector (B, embed_dim + 6 * size_embed_dim)
The text part depends on the prompt alone, so it is computed once a prompt; the sizes join it inside the UNet's graph.
"""

from typing import Sequence

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from gm.config.types import ModelConfig, TextEncoderConfig
from gm.models.kernels import reshape
from gm.models.layers import TimestepEmbedding
from gm.models.site import Site
from gm.models.text_encoder import ClipTextModel, OpenClipTextModel
from gm.models.tokenizer import CHUNK, CLIP_PAD, LENGTH, OPEN_CLIP_PAD, ClipTokenizer

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
        chunks = tokens_l.shape[1] // LENGTH
        if chunks > 1:
            tokens_l, tokens_g = reshape(tokens_l, (-1, LENGTH)), reshape(tokens_g, (-1, LENGTH))
        context_l = self.embedders[0](tokens_l)
        context_g, pooled = self.embedders[1](tokens_g)
        context, pooled = ops.concat((context_l, context_g), -1).astype(ms.float32), pooled.astype(ms.float32)
        return joined(context, pooled, chunks) if chunks > 1 else (context, pooled)


def joined(context: Tensor, pooled: Tensor, chunks: int):
    """Chunks of prompts, each encoded by itself, (B * chunks, 77, c) and (B * chunks, e), as one text each: the start of the
    first chunk, the 75 tokens of every chunk, the last token of the last; pooled as the first chunk is. As sd-scripts does
    for SDXL (`library/strategy_sdxl.py`)."""
    rows, width = context.shape[0] // chunks, context.shape[2]
    context = reshape(context, (rows, chunks, LENGTH, width))
    text = reshape(context[:, :, 1 : LENGTH - 1], (rows, chunks * CHUNK, width))
    context = ops.concat((context[:, 0, :1], text, context[:, chunks - 1, LENGTH - 1 :]), 1)
    return context, reshape(pooled, (rows, chunks, pooled.shape[1]))[:, 0]


class SizeEmbedding(nn.Cell):
    """pooled (B, e), sizes (B, 6) -> vector (B, e + 6 * width): sizes as sinusoids (arXiv 2307.01952, section 2.2)."""

    def __init__(self, width: int):
        super().__init__()
        self.sinusoids = TimestepEmbedding(width)
        self.width = 6 * width

    def construct(self, pooled: Tensor, sizes: Tensor) -> Tensor:
        return ops.concat((pooled, self.sinusoids(sizes.reshape((-1,))).reshape((-1, self.width))), 1)


def tokenize(prompts: Sequence[str], max_tokens: int = CHUNK) -> tuple[np.ndarray, np.ndarray]:
    """The ids of both encoders, (B, 77) int32 each, or (B, chunks * 77): they differ in what they pad with."""
    return ClipTokenizer(CLIP_PAD, max_tokens)(prompts), ClipTokenizer(OPEN_CLIP_PAD, max_tokens)(prompts)


def context_length(max_tokens: int) -> int:
    """Tokens of the context that prompts of up to so many tokens become."""
    return max_tokens + 2
