"""LoRA as a network has it: which modules get one, the first values of the matrices, and their state.

Where the matrices sit in a layer is layers.py (`Adapted`); LoRA of files are gm/checkpoint/lora_stack.py.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Iterable, Mapping

import numpy as np

from gm.checkpoint.lora_rules import TEXT_ENCODER_1, TEXT_ENCODER_2, UNET, lora_names
from gm.checkpoint.rules import is_lora
from gm.config.types import Adapter, Adapters, LoraConfig, ModelConfig
from gm.randomness import LORA_INIT, generator

if TYPE_CHECKING:  # the commands on files alone do without it
    from mindspore import Parameter, nn

NETWORKS = {"unet": UNET, "text_encoder_1": TEXT_ENCODER_1, "text_encoder_2": TEXT_ENCODER_2}
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "q_proj", "k_proj", "v_proj", "out_proj")  # what LoRA is trained in


def adapters_of(model: ModelConfig, lora: Mapping[str, LoraConfig]) -> Adapters:
    """The adapters that a YAML asks for: network (a key of NETWORKS) -> its LoRA, in all projections of attention."""
    found = {}
    for network, config in lora.items():
        for module in lora_names(model).modules:
            if module.startswith(NETWORKS[network]) and module.endswith(ATTENTION):
                found[module] = Adapter(rank=config.rank, alpha=config.alpha, dropout=config.dropout)
    return found


def initial_value(name: str, shape: tuple, seed: int) -> np.ndarray:
    """A uniform in +-1/sqrt(in) (Kaiming with a = sqrt(5), as the LoRA authors' code), B zero; keyed by seed and name,
    so that it is the same on every rank and whatever else is built."""
    if name.endswith(".lora_B.weight"):
        return np.zeros(shape, np.float32)
    bound = 1.0 / np.sqrt(shape[1])
    return generator(seed, LORA_INIT, zlib.crc32(name.encode())).uniform(-bound, bound, shape).astype(np.float32)


def lora_parameters(cells: Iterable[nn.Cell]) -> list[Parameter]:
    """All LoRA parameters of `cells`, in network order."""
    return [p for cell in cells for p in cell.get_parameters() if is_lora(p.name)]


def lora_state(cells: Iterable[nn.Cell]) -> dict[str, np.ndarray]:
    """All LoRA matrices of `cells` by name, trained or not."""
    return {p.name: p.asnumpy().astype(np.float32) for p in lora_parameters(cells)}
