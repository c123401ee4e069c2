"""The first stage: KL autoencoder (sgm `AutoencoderKL`), always in float32 because SDXL's overflows float16.

image (B, 3, H, W) in [-1, 1]   posterior mean and logvar (B, z, H/8, W/8)   latent = scale_factor * posterior sample
z = embed_dim of the YAML, the latent's channels: 4 in SDXL
"""

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from gm.config.types import VAEConfig
from gm.device import FLOAT16_VAE, LARGEST_FLOAT16
from gm.models.attention import Attention
from gm.models.layers import Conv2d, GroupNorm, silu
from gm.soundness import NotFinite, is_finite

VAE_PREFIX = "first_stage_model."
F32 = ms.float32


class ResnetBlock(nn.Cell):
    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.norm1 = GroupNorm(inputs, 1e-6)
        self.conv1 = Conv2d(inputs, outputs, 3, F32, padding=1)
        self.norm2 = GroupNorm(outputs, 1e-6)
        self.conv2 = Conv2d(outputs, outputs, 3, F32, padding=1)
        self.changes_width = inputs != outputs
        if self.changes_width:
            self.nin_shortcut = Conv2d(inputs, outputs, 1, F32)

    def construct(self, x: Tensor) -> Tensor:
        h = self.conv1(silu(self.norm1(x)))
        h = self.conv2(silu(self.norm2(h)))
        if self.changes_width:
            x = self.nin_shortcut(x)
        return x + h


class AttnBlock(nn.Cell):
    """Self-attention over all pixels with one head."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = GroupNorm(width, 1e-6)
        self.q = Conv2d(width, width, 1, F32)
        self.k = Conv2d(width, width, 1, F32)
        self.v = Conv2d(width, width, 1, F32)
        self.proj_out = Conv2d(width, width, 1, F32)
        self.attention = Attention(1, width)

    def construct(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        y = self.norm(x)
        q = self.q(y).reshape((b, c, h * w)).transpose((0, 2, 1))
        k = self.k(y).reshape((b, c, h * w)).transpose((0, 2, 1))
        v = self.v(y).reshape((b, c, h * w)).transpose((0, 2, 1))
        out = self.attention(q, k, v).transpose((0, 2, 1)).reshape((b, c, h, w))
        return x + self.proj_out(out)


class Downsample(nn.Cell):
    """Stride 2 after one row and column of zeros at the far edges.

    Padded by the convolution itself: the gradient of ops.pad on the CPU does not come back from its 13th call.
    """

    def __init__(self, width: int):
        super().__init__()
        self.conv = Conv2d(width, width, 3, F32, stride=2, padding=(0, 1, 0, 1))

    def construct(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Upsample(nn.Cell):
    def __init__(self, width: int):
        super().__init__()
        self.conv = Conv2d(width, width, 3, F32, padding=1)

    def construct(self, x: Tensor) -> Tensor:
        return self.conv(ops.interpolate(x, size=(2 * x.shape[2], 2 * x.shape[3]), mode="nearest"))


class Middle(nn.Cell):
    def __init__(self, width: int):
        super().__init__()
        self.block_1 = ResnetBlock(width, width)
        self.attn_1 = AttnBlock(width)
        self.block_2 = ResnetBlock(width, width)

    def construct(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class Level(nn.Cell):
    """The residual blocks of one resolution, then the change to the next (or none at the last)."""

    def __init__(self, inputs: int, outputs: int, blocks: int, change: str):
        super().__init__()
        self.block = nn.CellList([ResnetBlock(inputs if i == 0 else outputs, outputs) for i in range(blocks)])
        self.change = change
        if change == "down":
            self.downsample = Downsample(outputs)
        elif change == "up":
            self.upsample = Upsample(outputs)

    def construct(self, x: Tensor) -> Tensor:
        for block in self.block:
            x = block(x)
        if self.change == "down":
            x = self.downsample(x)
        elif self.change == "up":
            x = self.upsample(x)
        return x


class Encoder(nn.Cell):
    def __init__(self, config: VAEConfig):
        super().__init__()
        widths = [config.ch] + [config.ch * mult for mult in config.ch_mult]
        last = len(config.ch_mult) - 1
        self.conv_in = Conv2d(config.in_channels, config.ch, 3, F32, padding=1)
        self.down = nn.CellList(
            [Level(widths[i], widths[i + 1], config.num_res_blocks, "down" if i < last else "none") for i in range(last + 1)]
        )
        self.mid = Middle(widths[-1])
        self.norm_out = GroupNorm(widths[-1], 1e-6)
        self.conv_out = Conv2d(widths[-1], 2 * config.z_channels, 3, F32, padding=1)

    def construct(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        return self.conv_out(silu(self.norm_out(self.mid(x))))


class Decoder(nn.Cell):
    def __init__(self, config: VAEConfig):
        super().__init__()
        widths = [config.ch * mult for mult in config.ch_mult] + [config.ch * config.ch_mult[-1]]
        self.conv_in = Conv2d(config.z_channels, widths[-1], 3, F32, padding=1)
        self.mid = Middle(widths[-1])
        self.up = nn.CellList(
            [
                Level(widths[i + 1], widths[i], config.num_res_blocks + 1, "up" if i > 0 else "none")
                for i in range(len(config.ch_mult))
            ]
        )
        self.order = tuple(reversed(range(len(config.ch_mult))))
        self.norm_out = GroupNorm(widths[0], 1e-6)
        self.conv_out = Conv2d(widths[0], config.out_ch, 3, F32, padding=1)

    def construct(self, z: Tensor) -> Tensor:
        x = self.mid(self.conv_in(z))
        for i in self.order:
            x = self.up[i](x)
        return self.conv_out(silu(self.norm_out(x)))


class VAE(nn.Cell):
    """Holds both halves under the official names; call VAEEncode or VAEDecode, which compile one half each."""

    def __init__(self, config: VAEConfig):
        super().__init__()
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quant_conv = Conv2d(2 * config.z_channels, 2 * config.embed_dim, 1, F32)
        self.post_quant_conv = Conv2d(config.embed_dim, config.z_channels, 1, F32)


class VAEEncode(nn.Cell):
    """image (B, 3, H, W) -> posterior mean and logvar (B, z, H/8, W/8); logvar is clipped to [-30, 20]."""

    def __init__(self, vae: VAE):
        super().__init__(auto_prefix=False)
        self.encoder = vae.encoder
        self.quant_conv = vae.quant_conv

    def construct(self, image: Tensor):
        mean, logvar = ops.chunk(self.quant_conv(self.encoder(image)), 2, 1)
        return mean, ops.clamp(logvar, -30.0, 20.0)


class VAEDecode(nn.Cell):
    """latent (B, z, h, w), still scaled -> image (B, 3, 8h, 8w), about [-1, 1]."""

    def __init__(self, vae: VAE, scale_factor: float):
        super().__init__(auto_prefix=False)
        self.decoder = vae.decoder
        self.post_quant_conv = vae.post_quant_conv
        self.scale_factor = scale_factor

    def construct(self, latent: Tensor) -> Tensor:
        return self.decoder(self.post_quant_conv(latent / self.scale_factor))


def require_sound(array: np.ndarray, what: str) -> np.ndarray:
    """The VAE's output again; NotFinite where it is none. On a chip that computes SDXL's own VAE in float16, that is too small
    for it: an overflow is infinite or not a number there, or the largest number of float16."""
    if not is_finite(array) or np.abs(array).max() >= LARGEST_FLOAT16:
        raise NotFinite(
            f"{what} went beyond the numbers of float16 in the VAE: give --vae {FLOAT16_VAE}, and where it is computed in "
            "float32 look at the base weights with tools/inspect_weights.py, as they must be damaged"
        )
    return array
