"""Several LoRA files as one: their matrices put together, and merged into weights.

Arrays are float32: `<module>.lora_A.weight` (rank, in), `<module>.lora_B.weight` (out, rank), of a convolution (rank, in, h, w)
and (out, rank, 1, 1). Where they sit in a network is gm/models/adapters.py. A DoRA is always merged: it scales the weight
itself, so it cannot be added to that of another file.
"""

from typing import Callable, Optional, Sequence, Union

import numpy as np

from gm.checkpoint.lora_files import LoraFile, lora_in_base, open_lora
from gm.checkpoint.lora_strength import Strength, Strengths, as_strength
from gm.checkpoint.rules import is_lora
from gm.checkpoint.weights import BaseWeights, open_base, split_weight_argument
from gm.config.types import Adapter, Adapters, ModelConfig
from gm.errors import UserError

Read = Callable[[str], np.ndarray]


def with_given_lora(read: Read, lora: Read) -> Read:
    """`read` for base weights and LoRA matrices of a file together."""
    return lambda name: lora(name) if is_lora(name) else read(name)


class LoraStack:
    """LoRA files at their strengths as one LoRA whose update of a weight is B A, without a further factor.

    The rows of the A are put below each other, the columns of the B side by side, each B times strength * alpha / rank.
    `ranks`: native module name -> the sum of the ranks there. A file that does not say its alpha has `alpha`, or its rank.
    """

    def __init__(self, files: Sequence[LoraFile], strengths: Sequence[Union[Strength, float]], alpha: Optional[float] = None):
        assert len(files) == len(strengths)
        self.files, self.strengths, self.alpha = list(files), list(map(as_strength, strengths)), alpha
        self.ranks: dict[str, int] = {}
        for file in self.files:
            for module, pair in file.modules.items():
                self.ranks[module] = self.ranks.get(module, 0) + pair.rank
        self._dora = {module for file in self.files for module, pair in file.modules.items() if pair.form}

    @property
    def can_stay_apart(self) -> bool:
        """Whether a network can hold it beside its weights: unless there is a DoRA among them."""
        return not self._dora

    @property
    def is_scheduled(self) -> bool:
        """Whether it changes between the steps of a sampler."""
        return any(strength.schedule for strength in self.strengths)

    def at(self, share: float) -> "LoraStack":
        """That of the step before which this share of all steps is done."""
        return LoraStack(self.files, [strength.at(share) for strength in self.strengths], self.alpha)

    def merge(self, module: str, weight: np.ndarray) -> np.ndarray:
        """The weight of this module with all LoRA in it, float32: W + B A; with a DoRA among them one file after the other, each
        on what those before it have made."""
        weight = weight.astype(np.float32)
        with np.errstate(over="ignore", invalid="ignore"):  # who takes the weight looks whether it is finite
            return self._merge(module, weight)

    def _merge(self, module: str, weight: np.ndarray) -> np.ndarray:
        if module not in self._dora:
            b, a = (self.read(f"{module}.lora_{letter}.weight") for letter in "BA")
            return weight + (b.reshape(len(b), -1) @ a.reshape(len(a), -1)).reshape(weight.shape)
        for file, strength in zip(self.files, self.strengths):
            if module in file.modules:
                weight = file.merged(module, weight, strength.of(module), self.alpha)
        return weight

    @property
    def adapters(self) -> Adapters:
        """What a network needs to hold this LoRA apart from its weights."""
        assert self.can_stay_apart, "a DoRA is merged"
        return {module: Adapter(rank=rank, alpha=float(rank)) for module, rank in self.ranks.items()}

    def read(self, name: str) -> np.ndarray:
        """`<module>.lora_A.weight` or `<module>.lora_B.weight`."""
        module, _, letter = name.removesuffix(".weight").rpartition(".lora_")
        found = [(file, strength) for file, strength in zip(self.files, self.strengths) if module in file.modules]
        if letter == "A":
            return np.concatenate([file.read(name) for file, _ in found])
        with np.errstate(over="ignore", invalid="ignore"):  # as in `merge`
            factors = [np.float32(strength.of(module) * file.scale(module, self.alpha)) for file, strength in found]
            return np.concatenate([file.read(name) * factor for (file, _), factor in zip(found, factors)], 1)


def open_weights(
    weight: str,
    strengths: Strengths = Strengths(),
    model: Optional[ModelConfig] = None,
    alpha: Optional[float] = None,
    use_lora: bool = True,
    vae: Optional[str] = None,
) -> tuple[BaseWeights, LoraStack]:
    """What `base,lora,...` names, opened: the base, with another first stage if `vae` is given, and all LoRA.

    LoRA that the base file holds comes first, or with `use_lora=False` not at all. UserError where `strengths` do not fit them.
    `model` and `alpha`: see open_lora and LoraStack.
    """
    base_path, lora_paths = split_weight_argument(weight)
    base = open_base(base_path, vae)
    files = [open_lora(path, model) for path in lora_paths]
    if use_lora and base.lora_names():
        files.insert(0, lora_in_base(base))
    stack = LoraStack(files, strengths.each(len(files), weight), alpha)
    strengths.check([file.modules for file in files], weight)
    if stack.is_scheduled and not stack.can_stay_apart:
        dora = next(file.path for file in files if file.is_dora)
        raise UserError(
            f"--lora_schedule changes LoRA between steps, but {dora} is a DoRA, which is merged once: leave one of them away"
        )
    return base, stack


def merged(read: Read, stack: LoraStack) -> Read:
    """`read` for weights with the LoRA in them, computed in float32."""

    def read_merged(name: str) -> np.ndarray:
        weight = read(name)
        module = name.removesuffix(".weight")
        return stack.merge(module, weight) if name != module and module in stack.ranks else weight

    return read_merged
