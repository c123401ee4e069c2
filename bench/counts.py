"""What a step costs on any hardware, counted from the shapes of the networks: floating-point operations of all products.

A multiplication and an addition are two operations. Norms, activations and softmax are left out (under 1 %). The same
numbers come from PyTorch's FlopCounterMode on diffusers' UNet with peft's LoRA (tests/test_bench.py).
"""

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gm.config.types import Config, TextEncoderConfig, UNetConfig, VAEConfig

TOKENS = 77
SUMS = 5  # numbers that an update sums over the ranks beside the gradient


@dataclass
class Work:
    """Operations of one sample."""

    forward: int = 0
    backward: int = 0  # gradients of activations through frozen weights, and of LoRA matrices

    def linear(self, rows: int, inputs: int, outputs: int, rank: int = 0, grad: bool = True, known: bool = False) -> None:
        """rows x inputs -> rows x outputs; `grad`: whether the input's gradient is needed; `known`: only LoRA is left."""
        self.forward += 2 * rows * ((0 if known else inputs * outputs) + rank * (inputs + outputs))
        self.backward += 2 * rows * rank * (inputs + 2 * outputs)  # of A; of B and of what A gives
        if grad:
            self.backward += 2 * rows * (inputs * outputs + rank * inputs)

    def convolution(self, pixels: int, inputs: int, outputs: int, kernel: int, grad: bool = True) -> None:
        """`pixels` of the output."""
        work = 2 * pixels * inputs * outputs * kernel * kernel
        self.forward += work
        self.backward += work if grad else 0

    def attention(self, rows: int, keys: int, width: int) -> None:
        """Two products forward; backward two for each."""
        self.forward += 4 * rows * keys * width
        self.backward += 8 * rows * keys * width


def unet_work(config: UNetConfig, pixels: int, rank: int = 0, text_products: bool = False) -> Work:
    """One sample of a picture of `pixels` x `pixels`, with LoRA of this rank. `text_products`: those of the text with
    the frozen weights are there already, as in training with frozen text encoders."""
    work, width = Work(), config.model_channels
    emb, area, grad = 4 * width, (pixels // 8) ** 2, False  # no gradient is needed before the first LoRA matrix

    def residual(inputs: int, outputs: int) -> None:
        work.convolution(area, inputs, outputs, 3, grad)
        work.linear(1, emb, outputs, grad=False)
        work.convolution(area, outputs, outputs, 3, grad)
        if inputs != outputs:
            work.convolution(area, inputs, outputs, 1, grad)

    def transformer(width: int, depth: int) -> None:
        nonlocal grad
        work.linear(area, width, width, grad=grad)
        for _ in range(depth):
            for keys, inputs in ((area, width), (TOKENS, config.context_dim)):
                work.linear(area, width, width, rank, grad)
                for _ in "kv":
                    work.linear(keys, inputs, width, rank, grad and keys == area, text_products and keys == TOKENS)
                grad = True
                work.attention(area, keys, width)
                work.linear(area, width, width, rank)
            work.linear(area, width, 8 * width)
            work.linear(area, 4 * width, width)
        work.linear(area, width, width)

    for inputs in (width, config.adm_in_channels):
        work.linear(1, inputs, emb, grad=False)
        work.linear(1, emb, emb, grad=False)
    work.convolution(area, config.in_channels, width, 3, False)
    channels, widths, factor, last = width, [width], 1, len(config.channel_mult) - 1
    for level, mult in enumerate(config.channel_mult):
        for _ in range(config.num_res_blocks):
            residual(channels, mult * width)
            channels = mult * width
            if factor in config.attention_resolutions:
                transformer(channels, config.transformer_depth[level])
            widths.append(channels)
        if level < last:
            area, factor = area // 4, factor * 2
            work.convolution(area, channels, channels, 3, grad)
            widths.append(channels)
    residual(channels, channels)
    transformer(channels, config.transformer_depth[-1])
    residual(channels, channels)
    for level, mult in reversed(list(enumerate(config.channel_mult))):
        for block in range(config.num_res_blocks + 1):
            residual(channels + widths.pop(), mult * width)
            channels = mult * width
            if factor in config.attention_resolutions:
                transformer(channels, config.transformer_depth[level])
            if level > 0 and block == config.num_res_blocks:
                area, factor = area * 4, factor // 2
                work.convolution(area, channels, channels, 3)
    work.convolution(area, width, config.out_channels, 3)
    return work


def vae_encoding(config: VAEConfig, pixels: int) -> int:
    """Operations of encoding one square."""
    work, area = Work(), pixels**2
    widths = [config.ch] + [config.ch * mult for mult in config.ch_mult]

    def residual(inputs: int, outputs: int) -> None:
        work.convolution(area, inputs, outputs, 3)
        work.convolution(area, outputs, outputs, 3)
        if inputs != outputs:
            work.convolution(area, inputs, outputs, 1)

    work.convolution(area, config.in_channels, config.ch, 3)
    for level, outputs in enumerate(widths[1:]):
        for block in range(config.num_res_blocks):
            residual(widths[level] if block == 0 else outputs, outputs)
        if level < len(config.ch_mult) - 1:
            area //= 4
            work.convolution(area, outputs, outputs, 3)
    deepest = widths[-1]
    residual(deepest, deepest)
    for _ in range(4):
        work.convolution(area, deepest, deepest, 1)
    work.attention(area, area, deepest)
    residual(deepest, deepest)
    work.convolution(area, deepest, 2 * config.z_channels, 3)
    work.convolution(area, 2 * config.z_channels, 2 * config.embed_dim, 1)
    return work.forward


def text_encoding(config: TextEncoderConfig) -> int:
    """Operations of one prompt in one encoder; layers whose output is not used are not computed."""
    work = Work()
    for _ in range(config.layers if config.embed_dim else config.layer_idx):
        for _ in range(4):
            work.linear(TOKENS, config.width, config.width)
        work.attention(TOKENS, TOKENS, config.width)
        work.linear(TOKENS, config.width, 4 * config.width)
        work.linear(TOKENS, 4 * config.width, config.width)
    work.linear(1, config.width, config.embed_dim)
    return work.forward


def lora_numbers(config: UNetConfig, rank: int) -> int:
    """Numbers in all LoRA matrices of the UNet."""
    total, width = 0, config.model_channels
    depths = [config.num_res_blocks * 2 + 1] * len(config.channel_mult)  # transformers of a level, down and up
    for level, mult in enumerate(config.channel_mult):
        if 2**level in config.attention_resolutions:
            wide = mult * width
            block = 12 * wide + 2 * (config.context_dim + wide)
            total += rank * block * config.transformer_depth[level] * depths[level]
    wide = config.channel_mult[-1] * width
    return total + rank * (12 * wide + 2 * (config.context_dim + wide)) * config.transformer_depth[-1]


def step_table(config: Config, pixels: int) -> str:
    """A step of one instance and one class sample, and the same step of the earlier example: Markdown."""
    model, rank = config.model, config.lora["unet"].rank
    work = unet_work(model.unet, pixels, rank, not config.trains_text_encoders)
    theirs = unet_work(model.unet, pixels, rank)
    unet, their_unet = (2 * (one.forward + one.backward) for one in (work, theirs))
    encoders = 2 * (vae_encoding(model.vae, pixels) + sum(map(text_encoding, model.text_encoders)))
    gradient = 4 * (lora_numbers(model.unet, rank) + SUMS)
    rows = [
        ("UNet calls", "1, batch 2", "2, batch 1"),
        ("VAE encodings", "0", "2"),
        ("text encoder calls", "0", "4"),
        ("TFLOP, UNet forward", f"{2 * work.forward / 1e12:.3g}", f"{2 * theirs.forward / 1e12:.3g}"),
        ("TFLOP, UNet backward", f"{2 * work.backward / 1e12:.3g}", f"{2 * theirs.backward / 1e12:.3g}"),
        ("TFLOP, encoders", "0", f"{encoders / 1e12:.3g}"),
        ("TFLOP, all", f"{unet / 1e12:.3g}", f"{(their_unet + encoders) / 1e12:.3g}"),
        ("bytes all-reduced, several devices", f"{gradient:,}, once per update", "not known"),
    ]
    lines = [f"| one step at {pixels} px | here | the earlier example's design |", "|---|---|---|"]
    return "\n".join(lines + [f"| {name} | {here} | {there} |" for name, here, there in rows])
