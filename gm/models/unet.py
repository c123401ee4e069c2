"""The SDXL UNet (arXiv 2307.01952), with the module names of Stability-AI's sgm.

x (B, z, h, w)   emb (B, 4 * model_channels)   context (B, 77, c)   vector (B, adm_in_channels)
Every part of a block has the signature (x, emb, context), so that a block is just a list of parts. Inside a transformer x
is (B, n, width), n = h * w. What is attached to a layer follows from its `Site` (site.py).

`lazy_inline` compiles one body for all cells of a class whose arguments read the same (str), and every cell gets its own
weights. So what makes two bodies differ must be an argument: a Site reads as the LoRA below it.
"""

import mindspore as ms
from mindspore import Tensor, lazy_inline, nn, ops

from gm.config.types import UNetConfig
from gm.models.attention import Attention
from gm.models.kernels import GatedGelu, add, add_over_image, as_rows, as_type, reshape, transpose
from gm.models.layers import GroupNorm, LayerNorm, TimestepEmbedding, keep_dropout, silu
from gm.models.site import Site
from gm.models.text_products import BlockTexts

UNET_PREFIX = "model.diffusion_model."


class ResBlock(nn.Cell):
    """Two convolutions with the time/size embedding added between them (sgm `ResBlock`)."""

    @lazy_inline(policy="front")
    def __init__(self, site: Site, inputs: int, outputs: int, emb_width: int):
        super().__init__()
        self.in_layers = nn.CellList(
            [GroupNorm(inputs, 1e-5), nn.Identity(), site.conv("in_layers.2", inputs, outputs, 3, padding=1)]
        )
        self.emb_layers = nn.CellList([nn.Identity(), site.linear("emb_layers.1", emb_width, outputs)])
        conv = site.conv("out_layers.3", outputs, outputs, 3, padding=1)
        self.out_layers = nn.CellList([GroupNorm(outputs, 1e-5), nn.Identity(), nn.Identity(), conv])
        self.changes_width = inputs != outputs
        if self.changes_width:
            self.skip_connection = site.conv("skip_connection", inputs, outputs, 1)

    def construct(self, x: Tensor, emb: Tensor, context: Tensor) -> Tensor:
        h = self.in_layers[2](silu(self.in_layers[0](x)))
        h = add_over_image(h, self.emb_layers[1](silu(emb)))
        h = self.out_layers[3](silu(self.out_layers[0](h)))
        if self.changes_width:
            x = self.skip_connection(x)
        return add(x, h)


class CrossAttention(nn.Cell):
    """Multi-head attention: x (B, n, width) asks; keys and values are made from (B, m, text_width), or as text_products.py
    gives them."""

    def __init__(self, site: Site, width: int, text_width: int, head_width: int, kind: str):
        super().__init__()
        self.to_q = site.linear("to_q", width, width, bias=False)
        self.to_k = site.linear("to_k", text_width, width, bias=False)
        self.to_v = site.linear("to_v", text_width, width, bias=False)
        self.to_out = nn.CellList([site.linear("to_out.0", width, width)])
        self.attention = Attention(width // head_width, head_width, kind)

    def construct(self, x: Tensor, for_keys, for_values) -> Tensor:
        return self.to_out[0](self.attention(self.to_q(x), self.to_k(for_keys), self.to_v(for_values)))


class GatedLinear(nn.Cell):
    """A projection, half of it times the GELU of the other half."""

    def __init__(self, site: Site, width: int, inner: int):
        super().__init__()
        self.proj = site.linear("proj", width, 2 * inner)
        self.gate = GatedGelu()

    def construct(self, x: Tensor) -> Tensor:
        return self.gate(self.proj(x))[0]


class FeedForward(nn.Cell):
    def __init__(self, site: Site, width: int):
        super().__init__()
        self.net = nn.CellList(
            [GatedLinear(site / "net.0", width, 4 * width), nn.Identity(), site.linear("net.2", 4 * width, width)]
        )

    def construct(self, x: Tensor) -> Tensor:
        return self.net[2](self.net[0](x))


class TransformerBlock(nn.Cell):
    """Self-attention, attention on the text, feed-forward, each with a layer norm before and a sum after it."""

    @lazy_inline(policy="front")
    def __init__(self, site: Site, width: int, context_dim: int, head_width: int, kind: str):
        super().__init__()
        self.attn1 = CrossAttention(site / "attn1", width, width, head_width, kind)
        self.ff = FeedForward(site / "ff", width)
        self.attn2 = CrossAttention(site / "attn2", width, context_dim, head_width, kind)
        self.norm1 = LayerNorm(width)
        self.norm2 = LayerNorm(width)
        self.norm3 = LayerNorm(width)
        self.ff_drops_ranks = self.ff.net[0].proj.drops_ranks or self.ff.net[2].drops_ranks  # of a sample: it must see which

    def construct(self, x: Tensor, for_keys, for_values) -> Tensor:
        shape, x = x.shape, as_rows(x)  # rows from layer to layer; MindSpore drops a reshape that another one undoes
        y = reshape(self.norm1(x), shape)
        x = add(x, as_rows(self.attn1(y, y, y)))
        x = add(x, as_rows(self.attn2(reshape(self.norm2(x), shape), for_keys, for_values)))
        if self.ff_drops_ranks:
            return reshape(add(x, as_rows(self.ff(reshape(self.norm3(x), shape)))), shape)
        return reshape(add(x, self.ff(self.norm3(x))), shape)


class SpatialTransformer(nn.Cell):
    """Transformer blocks over the pixels of x (B, C, h, w), with linear projections in and out."""

    def __init__(self, site: Site, width: int, depth: int, config: UNetConfig):
        super().__init__()
        self.norm = GroupNorm(width, 1e-6)
        self.proj_in = site.linear("proj_in", width, width)
        sizes = (width, config.context_dim, config.num_head_channels, config.attention)
        self.transformer_blocks = nn.CellList(
            [TransformerBlock(site / f"transformer_blocks.{i}", *sizes) for i in range(depth)]
        )
        self.proj_out = site.linear("proj_out", width, width)
        self.block_texts = BlockTexts(site.name, depth, site.products)

    def construct(self, x: Tensor, emb: Tensor, context: Tensor) -> Tensor:
        b, c, h, w = x.shape
        texts = self.block_texts(context)
        y = self.proj_in(transpose(reshape(self.norm(x), (b, c, h * w)), (0, 2, 1)))
        for i, block in enumerate(self.transformer_blocks):
            y = block(y, texts[i][0], texts[i][1])
        return add(x, reshape(transpose(self.proj_out(y), (0, 2, 1)), (b, c, h, w)))


class Downsample(nn.Cell):
    def __init__(self, site: Site, width: int):
        super().__init__()
        self.op = site.conv("op", width, width, 3, stride=2, padding=1)

    def construct(self, x: Tensor, emb: Tensor, context: Tensor) -> Tensor:
        return self.op(x)


class Upsample(nn.Cell):
    def __init__(self, site: Site, width: int):
        super().__init__()
        self.conv = site.conv("conv", width, width, 3, padding=1)

    def construct(self, x: Tensor, emb: Tensor, context: Tensor) -> Tensor:
        return self.conv(ops.interpolate(x, size=(2 * x.shape[2], 2 * x.shape[3]), mode="nearest"))


class UNet(nn.Cell):
    """x, timesteps (B,), context, vector -> the network's output (B, z, h, w), the noise in SDXL."""

    def __init__(self, site: Site, config: UNetConfig):
        super().__init__()
        width = config.model_channels
        emb, levels = 4 * width, len(config.channel_mult)
        self.dtype = site.dtype
        self.sinusoids = TimestepEmbedding(width)
        linear = site.linear
        self.time_embed = nn.CellList([linear("time_embed.0", width, emb), nn.Identity(), linear("time_embed.2", emb, emb)])
        label = [linear("label_emb.0.0", config.adm_in_channels, emb), nn.Identity(), linear("label_emb.0.2", emb, emb)]
        self.label_emb = nn.CellList([nn.CellList(label)])

        def parts(block: Site, level: int, inputs: int) -> list:
            outputs = config.channel_mult[level] * width
            found = [ResBlock(block / 0, inputs, outputs, emb)]
            if 2**level in config.attention_resolutions:
                found.append(SpatialTransformer(block / 1, outputs, config.transformer_depth[level], config))
            return found

        inputs = [nn.CellList([site.conv("input_blocks.0.0", config.in_channels, width, 3, padding=1)])]
        widths, channels = [width], width
        for level, mult in enumerate(config.channel_mult):
            for _ in range(config.num_res_blocks):
                inputs.append(nn.CellList(parts(site / f"input_blocks.{len(inputs)}", level, channels)))
                channels = mult * width
                widths.append(channels)
            if level < levels - 1:
                inputs.append(nn.CellList([Downsample(site / f"input_blocks.{len(inputs)}.0", channels)]))
                widths.append(channels)
        self.input_blocks = nn.CellList(inputs)

        middle, depth = site / "middle_block", config.transformer_depth[-1]
        self.middle_block = nn.CellList(
            [
                ResBlock(middle / 0, channels, channels, emb),
                SpatialTransformer(middle / 1, channels, depth, config),
                ResBlock(middle / 2, channels, channels, emb),
            ]
        )

        outputs = []
        for level, mult in reversed(list(enumerate(config.channel_mult))):
            for i in range(config.num_res_blocks + 1):
                block = site / f"output_blocks.{len(outputs)}"
                found = parts(block, level, channels + widths.pop())
                channels = mult * width
                if level > 0 and i == config.num_res_blocks:
                    found.append(Upsample(block / len(found), channels))
                outputs.append(nn.CellList(found))
        self.output_blocks = nn.CellList(outputs)
        self.out = nn.CellList(
            [GroupNorm(width, 1e-5), nn.Identity(), site.conv("out.2", width, config.out_channels, 3, padding=1)]
        )
        self.join = ops.Concat(1)
        if config.use_recompute:
            for _, part in self.cells_and_names():
                if isinstance(part, (ResBlock, TransformerBlock)):
                    part.recompute()
                    keep_dropout(part)

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
