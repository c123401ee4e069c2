"""LoRA matrices as data: their initial values, their state, and merging them into a weight.

Where they sit in a network is models/layers.py (`Linear`); files are gm/checkpoint. Arrays are float32:
`<module>.lora_A.weight` (rank, in), `<module>.lora_B.weight` (out, rank).
"""

import zlib
from typing import Callable, Iterable

import numpy as np
from mindspore import Parameter, nn

from gm.checkpoint.rules import is_lora
from gm.randomness import LORA_INIT, generator

Read = Callable[[str], np.ndarray]


def initial_value(name: str, shape: tuple, seed: int) -> np.ndarray:
    """A uniform in +-1/sqrt(in) (Kaiming with a = sqrt(5), as the LoRA authors' code), B zero; keyed by seed and name,
    so that it is the same on every rank and whatever else is built."""
    if name.endswith(".lora_B.weight"):
        return np.zeros(shape, np.float32)
    bound = 1.0 / np.sqrt(shape[1])
    return generator(seed, LORA_INIT, zlib.crc32(name.encode())).uniform(-bound, bound, shape).astype(np.float32)


def with_given_lora(read: Read, lora: Read) -> Read:
    """`read` for base weights and LoRA matrices of a file together."""
    return lambda name: lora(name) if is_lora(name) else read(name)


def merged(read: Read, names: Iterable[str], lora: Read, scale: float) -> Read:
    """`read` for weights with the LoRA in them: W + scale * B A, scale = alpha / rank, computed in float32."""
    modules = {name[: -len(".lora_A.weight")] for name in names if name.endswith(".lora_A.weight")}

    def read_merged(name: str) -> np.ndarray:
        weight = read(name)
        module = name[: -len(".weight")]
        if name.endswith(".weight") and module in modules:
            update = lora(module + ".lora_B.weight").astype(np.float32) @ lora(module + ".lora_A.weight")
            weight = weight.astype(np.float32) + np.float32(scale) * update
        return weight

    return read_merged


def parameters(cells: Iterable[nn.Cell]) -> list[Parameter]:
    """All LoRA parameters of `cells`, in network order."""
    return [p for cell in cells for p in cell.get_parameters() if is_lora(p.name)]


def state(cells: Iterable[nn.Cell]) -> dict[str, np.ndarray]:
    """All LoRA matrices of `cells` by name, trained or not."""
    return {p.name: p.asnumpy().astype(np.float32) for p in parameters(cells)}
