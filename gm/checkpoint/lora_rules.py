"""The names of LoRA matrices in the files of each tool: rules between native names and theirs, and a table made by them.

Layouts: "native" (this suite and the earlier MindSpore example), "kohya" (sgm's blocks), "kohya-diffusers" (diffusers'
blocks), "peft" and "diffusers" (what diffusers' training scripts wrote before PEFT). kohya's names have underscores where
the modules have dots, so they are looked up among the modules of the model, never taken apart. How diffusers calls the
blocks and what is in them is diffusers_rules.py. No files here.
"""

import re
from functools import lru_cache
from typing import NamedTuple, Optional

from gm.checkpoint.diffusers_rules import IN_UNET_RESNET, REFINER_TEXT, official_to_diffusers, unet_blocks
from gm.config.types import ModelConfig, UNetConfig

# those of other tools, in words
LAYOUTS = {
    "kohya": "kohya, sgm's blocks",
    "kohya-diffusers": "kohya, diffusers' blocks",
    "peft": "PEFT",
    "diffusers": "diffusers' scripts",
}

# native, kohya's and diffusers' prefix of each network
NETWORKS = (
    ("model.diffusion_model.", "lora_unet_", "unet."),
    ("conditioner.embedders.0.transformer.", "lora_te1_", "text_encoder."),
    ("conditioner.embedders.1.model.", "lora_te2_", "text_encoder_2."),
    (REFINER_TEXT, "lora_te2_", "text_encoder_2."),
)
UNET, TEXT_ENCODER_1, TEXT_ENCODER_2 = (prefixes[0] for prefixes in NETWORKS[:3])

_ATTENTION = [f"attn{i}.{part}" for i in (1, 2) for part in ("to_q", "to_k", "to_v", "to_out.0")]
_BLOCK = [*_ATTENTION[:4], "ff.net.0.proj", "ff.net.2", *_ATTENTION[4:]]
_CONVOLUTIONS = (".in_layers.2", ".out_layers.3", ".skip_connection", ".op", ".conv")
_IN_RESIDUAL_BLOCK = ("in_layers.2", "emb_layers.1", "out_layers.3", "skip_connection")
_PROJECTIONS = [f"{part}_proj" for part in ("q", "k", "v", "out")]

# spellings that older files have; all apply to the name of a tensor, in this order
_SPELLINGS = (
    (re.compile(r"\._backbone\b"), ""),  # MindSpore's mixed-precision wrapper
    (re.compile(r"\.(lora_[AB]|lora_magnitude_vector)\.default\.weight$"), r".\1.weight"),  # PEFT with its adapter's name
    (re.compile(r"\.processor\.(to_[qkv])_lora\."), r".\1.lora."),  # diffusers' attention processors
    (re.compile(r"\.processor\.to_out_lora\."), r".to_out.0.lora."),
    (re.compile(r"\.lora_linear_layer\."), ".lora."),
    (re.compile(r"^lora_te_"), "lora_te1_"),
    (re.compile(r"^(text_encoder(?:_2)?)\.encoder\."), r"\1.text_model.encoder."),  # of transformers 5
    (re.compile(r"^lora_te1_encoder_"), "lora_te1_text_model_encoder_"),
)
_ENDINGS = (
    (".lora_A.weight", "A", "peft"),
    (".lora_B.weight", "B", "peft"),
    (".lora_down.weight", "A", "kohya"),
    (".lora_up.weight", "B", "kohya"),
    (".lora.down.weight", "A", "diffusers"),
    (".lora.up.weight", "B", "diffusers"),
    (".alpha", "alpha", ""),
    (".lora_magnitude_vector.weight", "rows", ""),
    (".lora_magnitude_vector", "rows", ""),
    (".dora_scale", "scale", ""),
)


class TensorName(NamedTuple):
    """What the name of a tensor in a LoRA file says."""

    module: str  # as the file calls it, after `_SPELLINGS`
    part: str  # "A", "B", "alpha", or of a DoRA "rows" (a number a row) or "scale" (whose shape says of what)
    layout: str  # "peft" stands for native as well, "kohya" for both kinds of blocks; "" when it does not tell


def parse(name: str) -> Optional[TensorName]:
    """None for a tensor that is no part of a LoRA."""
    for pattern, replacement in _SPELLINGS:
        name = pattern.sub(replacement, name)
    for ending, part, layout in _ENDINGS:
        if name.endswith(ending):
            return TensorName(name[: -len(ending)], part, layout)
    return None


def matrix_names(layout: str, native: str, foreign: str) -> tuple[str, str]:
    """The names of A and B in a file of this layout, for a module with these names."""
    if layout in ("native", "peft"):
        down, up = "lora_A", "lora_B"
    elif layout == "diffusers":
        infix = "lora" if native.startswith(UNET) else "lora_linear_layer"
        down, up = f"{infix}.down", f"{infix}.up"
    else:
        down, up = "lora_down", "lora_up"
    return f"{foreign}.{down}.weight", f"{foreign}.{up}.weight"


def magnitude_name(layout: str, foreign: str) -> str:
    """The name of a DoRA's magnitudes in a file of this layout. PEFT's own files leave `.weight` away, but transformers, which
    loads the text encoders' (seen with 5.22), finds them only with it."""
    if layout not in ("native", "peft"):
        return f"{foreign}.dora_scale"
    return f"{foreign}.lora_magnitude_vector" + ("" if foreign.startswith("unet.") else ".weight")


def is_convolution(module: str) -> bool:
    """Whether a native module of the UNet is a convolution, of those that LoRA goes into."""
    return module.startswith(UNET) and module.endswith(_CONVOLUTIONS)


def spatial_transformers(unet: UNetConfig) -> list[tuple[str, str, int]]:
    """(native name, diffusers' name, depth) of each, without the network's name in front."""
    levels = len(unet.channel_mult)
    blocks = unet_blocks(levels, unet.num_res_blocks, _levels_with_attention(unet))
    return [
        (native, diffusers, unet.transformer_depth[_level(unet, diffusers)])
        for native, diffusers in blocks
        if ".attentions." in diffusers
    ]


def _level(unet: UNetConfig, diffusers: str) -> int:
    """Of a block by diffusers' name; 0 is the widest."""
    place, _, number = diffusers.partition(".attentions.")[0].partition(".")
    last = len(unet.channel_mult) - 1
    return {"down_blocks": int(number or 0), "up_blocks": last - int(number or 0), "mid_block": last}[place]


def _levels_with_attention(unet: UNetConfig) -> list[int]:
    return [level for level in range(len(unet.channel_mult)) if 2**level in unet.attention_resolutions]


def residual_modules(unet: UNetConfig) -> dict[str, str]:
    """Native -> diffusers' name of what LoCon adds: in every residual block its convolutions and the projection of the time,
    and the convolutions that change the size. A residual block has a skip_connection where its number of channels changes."""
    in_resnet = dict(IN_UNET_RESNET)
    changing, modules = _blocks_that_change_width(unet), {}
    for native, diffusers in unet_blocks(len(unet.channel_mult), unet.num_res_blocks, _levels_with_attention(unet)):
        if ".resnets." in diffusers:
            for part in _IN_RESIDUAL_BLOCK:
                if part != "skip_connection" or native in changing:
                    modules[f"{UNET}{native}.{part}"] = f"unet.{diffusers}.{in_resnet[part]}"
        elif native.endswith(_CONVOLUTIONS):
            modules[f"{UNET}{native}"] = f"unet.{diffusers}"
    return modules


def _blocks_that_change_width(unet: UNetConfig) -> set[str]:
    """Native names of the residual blocks whose output has another number of channels than their input."""
    width = unet.model_channels
    channels, skips, changing, number = width, [width], set(), 1
    for level, mult in enumerate(unet.channel_mult):
        for _ in range(unet.num_res_blocks):
            if channels != mult * width:
                changing.add(f"input_blocks.{number}.0")
            channels = mult * width
            skips.append(channels)
            number += 1
        if level < len(unet.channel_mult) - 1:
            skips.append(channels)
            number += 1
    number = 0
    for mult in reversed(unet.channel_mult):
        for _ in range(unet.num_res_blocks + 1):
            if channels + skips.pop() != mult * width:
                changing.add(f"output_blocks.{number}.0")
            channels = mult * width
            number += 1
    return changing


class LoraNames:
    """The layers that LoRA files target, under every layout's names: `modules`, the linear layers of the transformers, and
    `residual`, what LoCon adds in the UNet. `widths`: native name of a linear layer -> the channels of its transformer, which its
    inputs or its outputs are. Without layers in the first encoder it is the refiner, which has the second alone."""

    def __init__(self, unet: UNetConfig, text_layers: tuple[int, int], text_widths: tuple[int, int] = (768, 1280)):
        diffusers = _unet_modules(unet) | _text_modules(*text_layers)
        residual = residual_modules(unet)
        self.modules, self.residual = tuple(diffusers), tuple(residual)  # native names
        self.all = self.modules + self.residual
        self.widths = _widths(self.modules, unet, text_widths)
        self.native_of: dict[str, str] = {}  # name in the layout of any other tool -> native name
        self._names: dict[str, dict[str, str]] = {layout: {} for layout in LAYOUTS}  # layout -> native -> foreign name
        for native, name in (diffusers | residual).items():
            network, kohya, prefix = next(prefixes for prefixes in NETWORKS if native.startswith(prefixes[0]))
            with_own_blocks = kohya + _flat(native[len(network) :])
            with_diffusers_blocks = kohya + _flat(name[len(prefix) :])
            self._names["kohya"][native] = with_own_blocks if network == UNET else with_diffusers_blocks
            self._names["kohya-diffusers"][native] = with_diffusers_blocks
            self._names["peft"][native] = self._names["diffusers"][native] = name
            self.native_of |= {foreign: native for foreign in (with_own_blocks, with_diffusers_blocks, name)}

    def foreign(self, module: str, layout: str) -> str:
        """A native module's name in a file of this layout; KeyError when the layouts have none."""
        return module if layout == "native" else self._names[layout][module]


def _unet_modules(unet: UNetConfig) -> dict[str, str]:
    """Native -> diffusers' name of every linear layer in the UNet's transformers."""
    modules = {}
    for native, diffusers, depth in spatial_transformers(unet):
        inner = [f"transformer_blocks.{i}.{part}" for i in range(depth) for part in _BLOCK]
        for part in ("proj_in", *inner, "proj_out"):
            modules[f"{UNET}{native}.{part}"] = f"unet.{diffusers}.{part}"
    return modules


def _text_modules(first: int, second: int) -> dict[str, str]:
    """Native -> diffusers' name of every linear layer in encoders of so many layers."""
    parts = [f"self_attn.{part}" for part in _PROJECTIONS] + ["mlp.fc1", "mlp.fc2"]
    names = [f"{TEXT_ENCODER_1}text_model.encoder.layers.{i}.{part}" for i in range(first) for part in parts]
    parts = [f"attn.{part}" for part in _PROJECTIONS] + ["mlp.c_fc", "mlp.c_proj"]
    names += [
        f"{TEXT_ENCODER_2 if first else REFINER_TEXT}transformer.resblocks.{i}.{part}" for i in range(second) for part in parts
    ]
    return {name: ".".join(found) for name, found in official_to_diffusers(names).items()}


def _widths(modules: tuple[str, ...], unet: UNetConfig, text_widths: tuple[int, int]) -> dict[str, int]:
    blocks = {
        native: unet.model_channels * unet.channel_mult[_level(unet, name)] for native, name, _ in spatial_transformers(unet)
    }
    of_text = dict(zip((TEXT_ENCODER_1, TEXT_ENCODER_2, REFINER_TEXT), (*text_widths, text_widths[1])))
    widths = {}
    for module in modules:
        network = next(network for network, _, _ in NETWORKS if module.startswith(network))
        block = ".".join(module.removeprefix(UNET).split(".", 3)[: 2 if module.startswith(f"{UNET}middle") else 3])
        widths[module] = blocks[block] if network == UNET else of_text[network]
    return widths


def _flat(name: str) -> str:
    return name.replace(".", "_")


@lru_cache(maxsize=8)
def _names(unet: UNetConfig, text_layers: tuple[int, int], text_widths: tuple[int, int]) -> LoraNames:
    return LoraNames(unet, text_layers, text_widths)


def lora_names(model: Optional[ModelConfig] = None) -> LoraNames:
    """The names in a model; without one in SDXL, of which a smaller model's are a part as long as it has SDXL's blocks."""
    if model is None:
        return _names(UNetConfig(), (12, 32), (768, 1280))
    by_kind = {encoder.kind: (encoder.layers, encoder.width) for encoder in model.text_encoders}
    (first, width_1), (second, width_2) = (by_kind.get(kind, (0, 0)) for kind in ("clip", "open_clip"))
    return _names(model.unet, (first, second), (width_1, width_2))
