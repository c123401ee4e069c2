"""LoRA matrices as data: their initial values, their state, putting several together, and merging them into a weight.

Where they sit in a network is models/layers.py (`Linear`); files are gm/checkpoint. Arrays are float32:
`<module>.lora_A.weight` (rank, in), `<module>.lora_B.weight` (out, rank).
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Callable, Iterable, Optional, Sequence

import numpy as np

from gm.checkpoint.lora_files import LoraFile, lora_in_base, open_lora
from gm.checkpoint.rules import is_lora
from gm.checkpoint.weights import BaseWeights, open_base, split_weight_argument
from gm.config.types import ModelConfig
from gm.errors import UserError
from gm.randomness import LORA_INIT, generator

if TYPE_CHECKING:  # the commands on files alone do without it
    from mindspore import Parameter, nn

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


class LoraStack:
    """LoRA files at their scales as one LoRA whose update of a weight is B A, without a further factor.

    The rows of the A are put below each other, the columns of the B side by side, each B times scale * alpha / rank.
    `ranks`: native module name -> the sum of the ranks there. A file that does not say its alpha has `alpha`, or its rank.
    """

    def __init__(self, files: Sequence[LoraFile], scales: Sequence[float], alpha: Optional[float] = None):
        assert len(files) == len(scales)
        self.files, self.scales, self.alpha = list(files), list(scales), alpha
        self.ranks: dict[str, int] = {}
        for file in self.files:
            for module, pair in file.modules.items():
                self.ranks[module] = self.ranks.get(module, 0) + pair.rank

    def read(self, name: str) -> np.ndarray:
        """`<module>.lora_A.weight` (rank, in) or `<module>.lora_B.weight` (out, rank)."""
        module, _, letter = name.removesuffix(".weight").rpartition(".lora_")
        found = [(file, scale) for file, scale in zip(self.files, self.scales) if module in file.modules]
        if letter == "A":
            return np.concatenate([file.read(name) for file, _ in found])
        factors = [np.float32(scale * file.scale(module, self.alpha)) for file, scale in found]
        return np.concatenate([file.read(name) * factor for (file, _), factor in zip(found, factors)], 1)


def open_weights(
    weight: str,
    scales: Sequence[float] = (),
    model: Optional[ModelConfig] = None,
    alpha: Optional[float] = None,
    use_lora: bool = True,
    vae: Optional[str] = None,
) -> tuple[BaseWeights, LoraStack]:
    """What `base,lora,...` names, opened: the base, with another first stage if `vae` is given, and all LoRA.

    LoRA that the base file holds comes first, or with `use_lora=False` not at all. `scales`: one for each, () for 1 each.
    `model` and `alpha`: see open_lora and LoraStack.
    """
    base_path, lora_paths = split_weight_argument(weight)
    base = open_base(base_path, vae)
    files = [open_lora(path, model) for path in lora_paths]
    if use_lora and base.lora_names():
        files.insert(0, lora_in_base(base))
    if scales and len(scales) != len(files):
        raise UserError(
            f"--lora_scale gives {len(scales)} numbers, but --weight {weight} has {len(files)} LoRA: give one for each"
        )
    return base, LoraStack(files, scales or [1.0] * len(files), alpha)


def merged(read: Read, stack: LoraStack) -> Read:
    """`read` for weights with the LoRA in them: W + B A, computed in float32."""

    def read_merged(name: str) -> np.ndarray:
        weight = read(name)
        module = name.removesuffix(".weight")
        if name != module and module in stack.ranks:
            update = stack.read(f"{module}.lora_B.weight") @ stack.read(f"{module}.lora_A.weight")
            weight = weight.astype(np.float32) + update
        return weight

    return read_merged


def parameters(cells: Iterable[nn.Cell]) -> list[Parameter]:
    """All LoRA parameters of `cells`, in network order."""
    return [p for cell in cells for p in cell.get_parameters() if is_lora(p.name)]


def state(cells: Iterable[nn.Cell]) -> dict[str, np.ndarray]:
    """All LoRA matrices of `cells` by name, trained or not."""
    return {p.name: p.asnumpy().astype(np.float32) for p in parameters(cells)}
