"""The names of LoRA matrices in the files of each tool: rules between native names and theirs, and a table made by them.

Layouts: "native" (this suite and the earlier MindSpore example), "kohya" (sgm's blocks), "kohya-diffusers" (diffusers'
blocks), "peft" and "diffusers" (what diffusers' training scripts wrote before PEFT). kohya's names have underscores where
the modules have dots, so they are looked up among the modules of the model, never taken apart. No files here.
"""

import re
from functools import lru_cache
from typing import NamedTuple, Optional

from gm.config import ModelConfig, UNetConfig

LAYOUTS = ("kohya", "kohya-diffusers", "peft", "diffusers")  # those of other tools

# native, kohya's and diffusers' prefix of each network
NETWORKS = (
    ("model.diffusion_model.", "lora_unet_", "unet."),
    ("conditioner.embedders.0.transformer.", "lora_te1_", "text_encoder."),
    ("conditioner.embedders.1.model.", "lora_te2_", "text_encoder_2."),
)
UNET, TEXT_ENCODER_1, TEXT_ENCODER_2 = (prefixes[0] for prefixes in NETWORKS)

# open_clip's names in the second encoder -> transformers'; all apply, in this order and either direction
_TEXT_ENCODER_2_RULES = (
    ("transformer.resblocks.", "text_model.encoder.layers."),
    (".attn.", ".self_attn."),
    (".mlp.c_fc", ".mlp.fc1"),
    (".mlp.c_proj", ".mlp.fc2"),
)

_ATTENTION = [f"attn{i}.{part}" for i in (1, 2) for part in ("to_q", "to_k", "to_v", "to_out.0")]
_BLOCK = [*_ATTENTION[:4], "ff.net.0.proj", "ff.net.2", *_ATTENTION[4:]]
_PROJECTIONS = [f"{part}_proj" for part in ("q", "k", "v", "out")]

# spellings that older files have; all apply to the name of a tensor, in this order
_SPELLINGS = (
    (re.compile(r"\._backbone\b"), ""),  # MindSpore's mixed-precision wrapper
    (re.compile(r"\.(lora_[AB])\.default\.weight$"), r".\1.weight"),  # PEFT with its adapter's name
    (re.compile(r"\.processor\.(to_[qkv])_lora\."), r".\1.lora."),  # diffusers' attention processors
    (re.compile(r"\.processor\.to_out_lora\."), r".to_out.0.lora."),
    (re.compile(r"\.lora_linear_layer\."), ".lora."),
    (re.compile(r"^lora_te_"), "lora_te1_"),
    (re.compile(r"^(text_encoder(?:_2)?)\.encoder\."), r"\1.text_model.encoder."),  # transformers 5 without its text_model
)
_ENDINGS = (
    (".lora_A.weight", "A", "peft"),
    (".lora_B.weight", "B", "peft"),
    (".lora_down.weight", "A", "kohya"),
    (".lora_up.weight", "B", "kohya"),
    (".lora.down.weight", "A", "diffusers"),
    (".lora.up.weight", "B", "diffusers"),
    (".alpha", "alpha", ""),
)
# part of a tensor's name -> what the file is instead of plain LoRA
OTHER_METHODS = (
    ("dora_scale", "DoRA"),
    ("lora_magnitude_vector", "DoRA"),
    (".hada_", "LoHa"),
    (".lokr_", "LoKr"),
    (".oft_", "OFT"),
    (".lora_mid.", "convolution LoRA"),
)


class TensorName(NamedTuple):
    """What the name of a tensor in a LoRA file says."""

    module: str  # as the file calls it, after `_SPELLINGS`
    part: str  # "A", "B" or "alpha"
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
        down, up = ("lora.down", "lora.up") if native.startswith(UNET) else ("lora_linear_layer.down", "lora_linear_layer.up")
    else:
        down, up = "lora_down", "lora_up"
    return f"{foreign}.{down}.weight", f"{foreign}.{up}.weight"


def spatial_transformers(unet: UNetConfig) -> list[tuple[str, str, int]]:
    """(native name, diffusers' name, depth) of each, in network order: sgm numbers the blocks of a UNet through (one more
    a level than residual blocks, for the resampling), diffusers by level."""
    per_level, levels = unet.num_res_blocks + 1, list(range(len(unet.channel_mult)))
    with_attention = [level for level in levels if 2**level in unet.attention_resolutions]
    down = [
        (f"input_blocks.{level * per_level + i + 1}.1.", f"down_blocks.{level}.attentions.{i}.", unet.transformer_depth[level])
        for level in with_attention
        for i in range(per_level - 1)
    ]
    up = [
        (f"output_blocks.{(levels[-1] - level) * per_level + i}.1.", f"up_blocks.{levels[-1] - level}.attentions.{i}.", unet.transformer_depth[level])
        for level in reversed(with_attention)
        for i in range(per_level)
    ]
    return [*down, ("middle_block.1.", "mid_block.attentions.0.", unet.transformer_depth[-1]), *up]


class LoraNames:
    """The linear layers of a model's transformers, which are what LoRA files target, under every layout's names."""

    def __init__(self, unet: UNetConfig, text_layers: tuple[int, int]):
        self._blocks = spatial_transformers(unet)
        self.modules = tuple(self._unet_modules() + self._text_modules(*text_layers))  # native names, network order
        self.native_of: dict[str, str] = {}  # name in any layout -> native name
        for module in self.modules:
            for layout in LAYOUTS:
                self.native_of[self.foreign(module, layout)] = module
            network, kohya, _ = _network(module)
            self.native_of[kohya + _flat(module[len(network) :])] = module

    def _unet_modules(self) -> list[str]:
        names = []
        for block, _, depth in self._blocks:
            inner = [f"transformer_blocks.{i}.{part}" for i in range(depth) for part in _BLOCK]
            names += [UNET + block + part for part in ("proj_in", *inner, "proj_out")]
        return names

    @staticmethod
    def _text_modules(first: int, second: int) -> list[str]:
        parts = [f"self_attn.{part}" for part in _PROJECTIONS] + ["mlp.fc1", "mlp.fc2"]
        names = [f"{TEXT_ENCODER_1}text_model.encoder.layers.{i}.{part}" for i in range(first) for part in parts]
        parts = [f"attn.{part}" for part in _PROJECTIONS] + ["mlp.c_fc", "mlp.c_proj"]
        return names + [f"{TEXT_ENCODER_2}transformer.resblocks.{i}.{part}" for i in range(second) for part in parts]

    def to_diffusers(self, module: str) -> str:
        """Native module name -> diffusers' name, with its network in front; native names outside the rules stay."""
        network, _, prefix = _network(module)
        rest = module[len(network) :]
        for native, diffusers in self._rules(network):
            rest = rest.replace(native, diffusers, 1)
        return prefix + rest

    def from_diffusers(self, name: str) -> str:
        """The reverse of `to_diffusers`."""
        network, _, prefix = next(n for n in NETWORKS if name.startswith(n[2]))
        rest = name[len(prefix) :]
        for native, diffusers in self._rules(network):
            rest = rest.replace(diffusers, native, 1)
        return network + rest

    def _rules(self, network: str) -> list[tuple[str, str]]:
        if network == UNET:
            return [block[:2] for block in self._blocks]
        return list(_TEXT_ENCODER_2_RULES) if network == TEXT_ENCODER_2 else []

    def foreign(self, module: str, layout: str) -> str:
        """A native module's name in a file of this layout."""
        if layout == "native":
            return module
        network, kohya, prefix = _network(module)
        if layout == "kohya" and network == UNET:
            return kohya + _flat(module[len(network) :])
        name = self.to_diffusers(module)
        return name if layout in ("peft", "diffusers") else kohya + _flat(name[len(prefix) :])


def _network(module: str) -> tuple[str, str, str]:
    return next(prefixes for prefixes in NETWORKS if module.startswith(prefixes[0]))


def _flat(name: str) -> str:
    return name.replace(".", "_")


@lru_cache(maxsize=8)
def _names(unet: UNetConfig, text_layers: tuple[int, int]) -> LoraNames:
    return LoraNames(unet, text_layers)


def lora_names(model: Optional[ModelConfig] = None) -> LoraNames:
    """The names in a model; without one in SDXL, of which a smaller model's are a part as long as it has SDXL's levels."""
    if model is None:
        return _names(UNetConfig(), (12, 32))
    return _names(model.unet, tuple(encoder.layers for encoder in model.text_encoders))
