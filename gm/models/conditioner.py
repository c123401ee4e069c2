"""Prompts and sizes -> what the UNet is conditioned on (sgm `GeneralConditioner` as SDXL configures it).

tokens_l, tokens_g (B, 77) int32   context (B, 77, width_l + width_g)   pooled (B, embed_dim)
of long prompts: tokens (B, chunks * 77), context (B, chunks * 75 + 2, width_l + width_g)
sizes (B, s) float32: original (h, w), crop (top, left), target (h, w), s = 6; of the refiner the aesthetic score instead of
the target, s = 5   vector (B, embed_dim + s * size_embed_dim)
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
from gm.models.tokenizer import CHUNK, CLIP_PAD, LENGTH, OPEN_CLIP_PAD, ClipTokenizer, Words

CONDITIONER_PREFIX = "conditioner."


class _Transformer(nn.Cell):
    def __init__(self, site: Site, config: TextEncoderConfig):
        super().__init__()
        self.text_model = ClipTextModel(site / "text_model", config)


class ClipEmbedder(nn.Cell):
    """The base's `embedders.0`: tokens -> context (B, 77, width)."""

    def __init__(self, site: Site, config: TextEncoderConfig):
        super().__init__()
        self.transformer = _Transformer(site / "transformer", config)

    def construct(self, tokens: Tensor) -> Tensor:
        return self.transformer.text_model(tokens)


class OpenClipEmbedder(nn.Cell):
    """The base's `embedders.1` and the refiner's `embedders.0`: tokens -> context (B, 77, width), pooled (B, embed_dim)."""

    def __init__(self, site: Site, config: TextEncoderConfig):
        super().__init__()
        self.model = OpenClipTextModel(site / "model", config)

    def construct(self, tokens: Tensor):
        return self.model(tokens)


class TextEncoders(nn.Cell):
    """tokens_l, tokens_g -> context, pooled, both float32. The refiner, which has the second encoder alone, ignores tokens_l."""

    def __init__(self, site: Site, config: ModelConfig):
        super().__init__()
        kinds = {"clip": ClipEmbedder, "open_clip": OpenClipEmbedder}
        self.embedders = nn.CellList(
            [kinds[encoder.kind](site / f"embedders.{i}", encoder) for i, encoder in enumerate(config.text_encoders)]
        )
        self.has_both = len(config.text_encoders) == 2

    def construct(self, tokens_l: Tensor, tokens_g: Tensor):
        chunks = tokens_l.shape[1] // LENGTH
        if chunks > 1:
            tokens_l, tokens_g = reshape(tokens_l, (-1, LENGTH)), reshape(tokens_g, (-1, LENGTH))
        if self.has_both:
            context_l = self.embedders[0](tokens_l)
            context_g, pooled = self.embedders[1](tokens_g)
            context = ops.concat((context_l, context_g), -1)
        else:
            context, pooled = self.embedders[0](tokens_g)
        context, pooled = context.astype(ms.float32), pooled.astype(ms.float32)
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
    """pooled (B, e), sizes (B, s) -> vector (B, e + s * width): sizes as sinusoids (arXiv 2307.01952, section 2.2)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.sinusoids = TimestepEmbedding(config.size_embed_dim)
        self.width = config.size_count * config.size_embed_dim

    def construct(self, pooled: Tensor, sizes: Tensor) -> Tensor:
        return ops.concat((pooled, self.sinusoids(sizes.reshape((-1,))).reshape((-1, self.width))), 1)


def tokenize(prompts: Sequence[str], max_tokens: int = CHUNK, words: Words = {}) -> tuple[np.ndarray, np.ndarray]:
    """The ids of both encoders, (B, 77) int32 each, or (B, chunks * 77): they differ in what they pad with."""
    tokenizers = (ClipTokenizer(pad, max_tokens, words) for pad in (CLIP_PAD, OPEN_CLIP_PAD))
    return tuple(tokenizer(prompts) for tokenizer in tokenizers)


def context_length(max_tokens: int) -> int:
    """Tokens of the context that prompts of up to so many tokens become."""
    return max_tokens + 2
