"""The SDXL UNet (arXiv 2307.01952), with the module names of Stability-AI's sgm and LoRA in its attention.

x (B, z, h, w)   emb (B, 4 * model_channels)   context (B, 77, context_dim)   vector (B, adm_in_channels)
Every part of a block has the signature (x, emb, context), so that a block is just a list of parts.

The products of the text with `to_k` and `to_v` are the same for every picture of a prompt. A UNet with `text_products`
has no such weights: behind the context_dim columns of its context come the columns of these products, layer after layer
as the network has them (gm/models/sdxl.py computes them).
"""

from typing import Optional

import mindspore as ms
from mindspore import Tensor, lazy_inline, nn, ops

from gm.config.types import LoraConfig, UNetConfig
from gm.models.attention import Attention
from gm.models.layers import (
    Conv2d,
    GatedGelu,
    GroupNorm,
    LayerNorm,
    Linear,
    TimestepEmbedding,
    add,
    as_rows,
    as_type,
    reshape,
    silu,
    transpose,
)

UNET_PREFIX = "model.diffusion_model."


class ResBlock(nn.Cell):
    """Two convolutions with the time/size embedding added between them (sgm `ResBlock`)."""

    @lazy_inline(policy="front")
    def __init__(self, inputs: int, outputs: int, emb_width: int, dtype: ms.Type):
        super().__init__()
        self.in_layers = nn.CellList([GroupNorm(inputs, 1e-5), nn.Identity(), Conv2d(inputs, outputs, 3, dtype, 1, 1)])
        self.emb_layers = nn.CellList([nn.Identity(), Linear(emb_width, outputs, True, dtype)])
        self.out_layers = nn.CellList(
            [GroupNorm(outputs, 1e-5), nn.Identity(), nn.Identity(), Conv2d(outputs, outputs, 3, dtype, 1, 1)]
        )
        self.changes_width = inputs != outputs
        if self.changes_width:
            self.skip_connection = Conv2d(inputs, outputs, 1, dtype)

    def construct(self, x: Tensor, emb: Tensor, context: Tensor) -> Tensor:
        h = self.in_layers[2](silu(self.in_layers[0](x)))
        e = self.emb_layers[1](silu(emb))
        h = add(h, ops.broadcast_to(reshape(e, e.shape + (1, 1)), h.shape))  # spread first: see bias_add
        h = self.out_layers[3](silu(self.out_layers[0](h)))
        if self.changes_width:
            x = self.skip_connection(x)
        return add(x, h)


class CrossAttention(nn.Cell):
    """Multi-head attention of x (B*n, width) on context (B*m, context_width); LoRA in all four projections.

    `known`: each call is given the context's products with the weights of `to_k` and `to_v`, (B*m, width) each.
    """

    def __init__(
        self,
        width: int,
        context_width: int,
        head_width: int,
        kind: str,
        lora: Optional[LoraConfig],
        dtype: ms.Type,
        known: bool = False,
    ):
        super().__init__()
        self.to_q = Linear(width, width, False, dtype, lora)
        self.to_k = Linear(context_width, width, False, dtype, lora, known)
        self.to_v = Linear(context_width, width, False, dtype, lora, known)
        self.to_out = nn.CellList([Linear(width, width, True, dtype, lora)])
        self.attention = Attention(width // head_width, head_width, kind)

    def construct(
        self, x: Tensor, context: Tensor, batch: int, keys: Optional[Tensor] = None, values: Optional[Tensor] = None
    ) -> Tensor:
        k, v = self.to_k(context, keys), self.to_v(context, values)
        return self.to_out[0](self.attention(self.to_q(x), k, v, batch))


class GatedLinear(nn.Cell):
    """A projection, half of it times the GELU of the other half."""

    def __init__(self, width: int, inner: int, dtype: ms.Type):
        super().__init__()
        self.proj = Linear(width, 2 * inner, True, dtype)
        self.gate = GatedGelu()

    def construct(self, x: Tensor) -> Tensor:
        return self.gate(self.proj(x))[0]


class FeedForward(nn.Cell):
    def __init__(self, width: int, dtype: ms.Type):
        super().__init__()
        self.net = nn.CellList([GatedLinear(width, 4 * width, dtype), nn.Identity(), Linear(4 * width, width, True, dtype)])

    def construct(self, x: Tensor) -> Tensor:
        return self.net[2](self.net[0](x))


class TransformerBlock(nn.Cell):
    """Self-attention, attention on the text, feed-forward, each with a layer norm before and a sum after it.

    x (B*n, width): as the rows of one matrix, which no layer in here has to reshape. keys and values: the products
    of the context, where they are `known`, else None.
    """

    @lazy_inline(policy="front")
    def __init__(
        self,
        width: int,
        context_width: int,
        head_width: int,
        kind: str,
        lora: Optional[LoraConfig],
        dtype: ms.Type,
        known: bool,
    ):
        super().__init__()
        self.attn1 = CrossAttention(width, width, head_width, kind, lora, dtype)
        self.ff = FeedForward(width, dtype)
        self.attn2 = CrossAttention(width, context_width, head_width, kind, lora, dtype, known)
        self.norm1 = LayerNorm(width)
        self.norm2 = LayerNorm(width)
        self.norm3 = LayerNorm(width)

    def construct(self, x: Tensor, context: Tensor, keys: Optional[Tensor], values: Optional[Tensor]) -> Tensor:
        batch = context.shape[0]
        y = self.norm1(x)
        x = add(x, self.attn1(y, y, batch))
        x = add(x, self.attn2(self.norm2(x), as_rows(context), batch, keys, values))
        return add(x, self.ff(self.norm3(x)))


class SpatialTransformer(nn.Cell):
    """Transformer blocks over the pixels of x (B, C, h, w), with linear projections in and out.

    `first`: the column of the context where the products for these blocks begin; None where there are none.
    """

    def __init__(self, width: int, depth: int, config: UNetConfig, dtype: ms.Type, first: Optional[int]):
        super().__init__()
        self.width, self.context_width, self.first = width, config.context_dim, first
        self.columns = ops.Slice()
        self.norm = GroupNorm(width, 1e-6)
        self.proj_in = Linear(width, width, True, dtype)
        self.transformer_blocks = nn.CellList(
            [
                TransformerBlock(
                    *(width, config.context_dim, config.num_head_channels, config.attention, config.lora, dtype),
                    known=first is not None,
                )
                for _ in range(depth)
            ]
        )
        self.proj_out = Linear(width, width, True, dtype)

    def construct(self, x: Tensor, emb: Tensor, context: Tensor) -> Tensor:
        b, c, h, w = x.shape
        y = self.proj_in(reshape(transpose(reshape(self.norm(x), (b, c, h * w)), (0, 2, 1)), (b * h * w, c)))
        if self.first is None:
            for block in self.transformer_blocks:
                y = block(y, context, None, None)
        else:
            texts, tokens = context.shape[:2]
            products, size = as_rows(context), (texts * tokens, self.width)
            context = self.columns(context, (0, 0, 0), (texts, tokens, self.context_width))
            for i, block in enumerate(self.transformer_blocks):
                column = self.first + 2 * i * self.width
                keys = self.columns(products, (0, column), size)
                y = block(y, context, keys, self.columns(products, (0, column + self.width), size))
        return add(x, reshape(transpose(reshape(self.proj_out(y), (b, h * w, c)), (0, 2, 1)), (b, c, h, w)))


class Downsample(nn.Cell):
    def __init__(self, width: int, dtype: ms.Type):
        super().__init__()
        self.op = Conv2d(width, width, 3, dtype, stride=2, padding=1)

    def construct(self, x: Tensor, emb: Tensor, context: Tensor) -> Tensor:
        return self.op(x)


class Upsample(nn.Cell):
    def __init__(self, width: int, dtype: ms.Type):
        super().__init__()
        self.conv = Conv2d(width, width, 3, dtype, padding=1)

    def construct(self, x: Tensor, emb: Tensor, context: Tensor) -> Tensor:
        return self.conv(ops.interpolate(x, size=(2 * x.shape[2], 2 * x.shape[3]), mode="nearest"))


class UNet(nn.Cell):
    """x, timesteps (B,), context, vector -> the network's output (B, z, h, w), the noise in SDXL.

    context (B, 77, context_width); context_width is context_dim, and with `text_products` that of the products more.
    """

    def __init__(self, config: UNetConfig, dtype: ms.Type = ms.float32, text_products: bool = False):
        super().__init__()
        self.context_width = config.context_dim

        def transformer(width: int, depth: int) -> SpatialTransformer:
            first = self.context_width if text_products else None
            self.context_width += 2 * depth * width if text_products else 0
            return SpatialTransformer(width, depth, config, dtype, first)

        width = config.model_channels
        emb = 4 * width
        self.dtype = dtype
        self.sinusoids = TimestepEmbedding(width)
        self.time_embed = nn.CellList([Linear(width, emb, True, dtype), nn.Identity(), Linear(emb, emb, True, dtype)])
        self.label_emb = nn.CellList(
            [nn.CellList([Linear(config.adm_in_channels, emb, True, dtype), nn.Identity(), Linear(emb, emb, True, dtype)])]
        )

        inputs = [nn.CellList([Conv2d(config.in_channels, width, 3, dtype, padding=1)])]
        widths, channels, factor = [width], width, 1
        for level, mult in enumerate(config.channel_mult):
            for _ in range(config.num_res_blocks):
                parts = [ResBlock(channels, mult * width, emb, dtype)]
                channels = mult * width
                if factor in config.attention_resolutions:
                    parts.append(transformer(channels, config.transformer_depth[level]))
                inputs.append(nn.CellList(parts))
                widths.append(channels)
            if level < len(config.channel_mult) - 1:
                inputs.append(nn.CellList([Downsample(channels, dtype)]))
                widths.append(channels)
                factor *= 2
        self.input_blocks = nn.CellList(inputs)

        self.middle_block = nn.CellList(
            [
                ResBlock(channels, channels, emb, dtype),
                transformer(channels, config.transformer_depth[-1]),
                ResBlock(channels, channels, emb, dtype),
            ]
        )

        outputs = []
        for level, mult in reversed(list(enumerate(config.channel_mult))):
            for i in range(config.num_res_blocks + 1):
                parts = [ResBlock(channels + widths.pop(), mult * width, emb, dtype)]
                channels = mult * width
                if factor in config.attention_resolutions:
                    parts.append(transformer(channels, config.transformer_depth[level]))
                if level > 0 and i == config.num_res_blocks:
                    parts.append(Upsample(channels, dtype))
                    factor //= 2
                outputs.append(nn.CellList(parts))
        self.output_blocks = nn.CellList(outputs)
        self.out = nn.CellList(
            [GroupNorm(width, 1e-5), nn.Identity(), Conv2d(width, config.out_channels, 3, dtype, padding=1)]
        )
        self.join = ops.Concat(1)
        if config.use_recompute:
            self._recompute_blocks()

    def _recompute_blocks(self) -> None:
        for block in [*self.input_blocks, self.middle_block, *self.output_blocks]:
            for part in block:
                if isinstance(part, ResBlock):
                    part.recompute()
                if isinstance(part, SpatialTransformer):
                    for transformer in part.transformer_blocks:
                        transformer.recompute()

    def construct(self, x: Tensor, timesteps: Tensor, context: Tensor, vector: Tensor) -> Tensor:
        x, context, vector = as_type(x, self.dtype), as_type(context, self.dtype), as_type(vector, self.dtype)
        emb = self.time_embed[2](silu(self.time_embed[0](as_type(self.sinusoids(timesteps), self.dtype))))
        emb = emb + self.label_emb[0][2](silu(self.label_emb[0][0](vector)))
        h = self.input_blocks[0][0](x)
        skips = (h,)
        for i in range(1, len(self.input_blocks)):  # slicing a CellList would rename its parameters
            for part in self.input_blocks[i]:
                h = part(h, emb, context)
            skips = skips + (h,)
        for part in self.middle_block:
            h = part(h, emb, context)
        last = len(skips) - 1
        for i, block in enumerate(self.output_blocks):
            h = self.join((h, skips[last - i]))
            for part in block:
                h = part(h, emb, context)
        return as_type(self.out[2](silu(self.out[0](h))), ms.float32)
