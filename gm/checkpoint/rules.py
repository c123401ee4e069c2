"""Official SDXL names <-> native MindSpore names, as ordered rules. The first rule that matches a name applies.

Native: norm `weight/bias` -> `gamma/beta`, embedding `weight` -> `embedding_table`; all else is the official name.
"""

import re
from typing import Mapping, Optional

_NORM = r"in_layers\.0|out_layers\.0|diffusion_model\.out\.0|norm\d?|norm_out|layer_norm[12]|final_layer_norm|ln_[12]|ln_final"
_EMBEDDING = r"token_embedding|position_embedding"

TO_NATIVE = (
    (re.compile(rf"^(.*(?:^|\.)(?:{_NORM}))\.weight$"), r"\1.gamma"),
    (re.compile(rf"^(.*(?:^|\.)(?:{_NORM}))\.bias$"), r"\1.beta"),
    (re.compile(rf"^(.*(?:^|\.)(?:{_EMBEDDING}))\.weight$"), r"\1.embedding_table"),
)
TO_OFFICIAL = (
    (re.compile(r"^(.*)\.gamma$"), r"\1.weight"),
    (re.compile(r"^(.*)\.beta$"), r"\1.bias"),
    (re.compile(r"^(.*)\.embedding_table$"), r"\1.weight"),
)

# In the official file, but no weights: the positions 0..76, and the temperature of CLIP's own training.
IGNORED_ON_LOAD = {
    "conditioner.embedders.0.transformer.text_model.embeddings.position_ids": (1, 77),
    "conditioner.embedders.1.model.logit_scale": (),
    "conditioner.embedders.0.model.logit_scale": (),  # of the refiner
}

_FUSED = re.compile(r"^(.*\.attn)\.in_proj_(weight|bias)$")
_THIRD = re.compile(r"^(.*\.attn)\.([qkv])_proj\.(weight|bias)$")


def _apply(rules, name: str) -> str:
    for pattern, replacement in rules:
        renamed, count = pattern.subn(replacement, name)
        if count:
            return renamed
    return name


def official_to_native(name: str) -> str:
    return _apply(TO_NATIVE, name)


def native_to_official(name: str) -> str:
    return _apply(TO_OFFICIAL, name)


def split_names(fused: str) -> list[str]:
    """The three native names in a fused projection of the OpenCLIP encoder, in the order of its rows; [] for others."""
    match = _FUSED.match(fused)
    return [f"{match[1]}.{part}_proj.{match[2]}" for part in "qkv"] if match else []


def fused_name(name: str) -> tuple[str, Optional[int]]:
    """The fused projection that a name of the OpenCLIP encoder's q, k or v is a third of, and which; others are whole."""
    match = _THIRD.match(name)
    return (f"{match[1]}.in_proj_{match[3]}", "qkv".index(match[2])) if match else (name, None)


def _text_encoder(name: str) -> str:
    """The beginning of a name that tells the text encoders apart: `conditioner.embedders.0.model`, say."""
    return ".".join(name.split(".", 4)[:4])


def official_shapes(native: Mapping[str, tuple]) -> dict[str, tuple]:
    """Names and shapes of the official single file of a model whose native base weights have these shapes."""
    encoders = {_text_encoder(name) for name in native}
    shapes = {name: shape for name, shape in IGNORED_ON_LOAD.items() if _text_encoder(name) in encoders}
    for name, shape in native.items():
        fused, third = fused_name(name)
        if third is not None:
            shapes[fused] = (3 * shape[0], *shape[1:])
        else:
            shapes[native_to_official(name)] = tuple(shape)
    return shapes


MAGNITUDE = ".lora_magnitude_vector.weight"  # of a DoRA: the length of each row of the weight, (out,)


def is_lora(name: str) -> bool:
    """Whether a native name is one of the two matrices of a LoRA pair, or the magnitudes of a DoRA."""
    return name.endswith((".lora_A.weight", ".lora_B.weight", MAGNITUDE))
