"""SDXL's two text encoders: OpenAI CLIP ViT-L/14 (names of `transformers`) and OpenCLIP ViT-bigG/14 (of `open_clip`), which is
the refiner's only one.

tokens (B, 77) int32 -> context (B, 77, width), and for the second the pooled embedding (B, embed_dim).
The second encoder's fused `in_proj` is four separate projections here; gm/checkpoint splits and joins it.
"""

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import Normal, initializer

from gm.config.types import TextEncoderConfig
from gm.models.attention import Attention
from gm.models.layers import Embedding, LayerNorm, gelu, quick_gelu
from gm.models.site import Site

VOCABULARY = 49408
LENGTH = 77
END_OF_TEXT = 49407


class SelfAttention(nn.Cell):
    """Causal multi-head attention with biases."""

    def __init__(self, site: Site, width: int, heads: int):
        super().__init__()
        self.q_proj = site.linear("q_proj", width, width)
        self.k_proj = site.linear("k_proj", width, width)
        self.v_proj = site.linear("v_proj", width, width)
        self.out_proj = site.linear("out_proj", width, width)
        self.attention = Attention(heads, width // heads)
        self.causal_mask = Tensor(np.triu(np.full((LENGTH, LENGTH), -1e9, np.float32), 1))

    def construct(self, x: Tensor) -> Tensor:
        return self.out_proj(self.attention(self.q_proj(x), self.k_proj(x), self.v_proj(x), self.causal_mask))


class ClipMLP(nn.Cell):
    def __init__(self, site: Site, width: int):
        super().__init__()
        self.fc1 = site.linear("fc1", width, 4 * width)
        self.fc2 = site.linear("fc2", 4 * width, width)

    def construct(self, x: Tensor) -> Tensor:
        return self.fc2(quick_gelu(self.fc1(x)))


class ClipLayer(nn.Cell):
    def __init__(self, site: Site, config: TextEncoderConfig):
        super().__init__()
        self.layer_norm1 = LayerNorm(config.width)
        self.self_attn = SelfAttention(site / "self_attn", config.width, config.heads)
        self.layer_norm2 = LayerNorm(config.width)
        self.mlp = ClipMLP(site / "mlp", config.width)

    def construct(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class ClipEmbeddings(nn.Cell):
    def __init__(self, config: TextEncoderConfig, dtype: ms.Type):
        super().__init__()
        self.token_embedding = Embedding(VOCABULARY + config.learned, config.width, dtype)
        self.position_embedding = Embedding(LENGTH, config.width, dtype)

    def construct(self, tokens: Tensor) -> Tensor:
        return self.token_embedding(tokens) + self.position_embedding.embedding_table


class ClipLayers(nn.Cell):
    def __init__(self, site: Site, config: TextEncoderConfig):
        super().__init__()
        self.layers = nn.CellList([ClipLayer(site / f"layers.{i}", config) for i in range(config.layers)])


class ClipTextModel(nn.Cell):
    """hidden_states[layer_idx]: the output of the first layer_idx layers, without the final norm."""

    def __init__(self, site: Site, config: TextEncoderConfig):
        super().__init__()
        self.embeddings = ClipEmbeddings(config, site.dtype)
        self.encoder = ClipLayers(site / "encoder", config)
        self.final_layer_norm = LayerNorm(config.width)  # in the checkpoint, not used by SDXL
        self.layer_idx = config.layer_idx

    def construct(self, tokens: Tensor) -> Tensor:
        x = self.embeddings(tokens)
        for i in range(self.layer_idx):
            x = self.encoder.layers[i](x)
        return x


class OpenClipMLP(nn.Cell):
    def __init__(self, site: Site, width: int):
        super().__init__()
        self.c_fc = site.linear("c_fc", width, 4 * width)
        self.c_proj = site.linear("c_proj", 4 * width, width)

    def construct(self, x: Tensor) -> Tensor:
        return self.c_proj(gelu(self.c_fc(x)))


class OpenClipBlock(nn.Cell):
    def __init__(self, site: Site, config: TextEncoderConfig):
        super().__init__()
        self.ln_1 = LayerNorm(config.width)
        self.attn = SelfAttention(site / "attn", config.width, config.heads)
        self.ln_2 = LayerNorm(config.width)
        self.mlp = OpenClipMLP(site / "mlp", config.width)

    def construct(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class OpenClipBlocks(nn.Cell):
    def __init__(self, site: Site, config: TextEncoderConfig):
        super().__init__()
        self.resblocks = nn.CellList([OpenClipBlock(site / f"resblocks.{i}", config) for i in range(config.layers)])


class OpenClipTextModel(nn.Cell):
    """Context from the input of the last block; pooled from the end-of-text row of the last block's output."""

    def __init__(self, site: Site, config: TextEncoderConfig):
        super().__init__()
        dtype = site.dtype
        self.token_embedding = Embedding(VOCABULARY + config.learned, config.width, dtype)
        self.positional_embedding = Parameter(initializer(Normal(0.01), (LENGTH, config.width), dtype))
        self.transformer = OpenClipBlocks(site / "transformer", config)
        self.ln_final = LayerNorm(config.width)
        self.text_projection = Parameter(initializer(Normal(config.width**-0.5), (config.width, config.embed_dim), dtype))
        self.layer_idx = config.layer_idx
        self.layers = config.layers

    def construct(self, tokens: Tensor):
        x = self.token_embedding(tokens) + self.positional_embedding
        for i in range(self.layer_idx):
            x = self.transformer.resblocks[i](x)
        context = x
        for i in range(self.layer_idx, self.layers):
            x = self.transformer.resblocks[i](x)
        end = (tokens == END_OF_TEXT).astype(x.dtype)
        row = (self.ln_final(x) * end.reshape(end.shape + (1,))).sum(1)
        return context, ops.matmul(row, self.text_projection)
