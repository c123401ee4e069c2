"""Keeping the norm of every module's update small, after each update of the weights (sd-scripts' `scale_weight_norms`)."""

from typing import Callable, Iterable, Sequence

import numpy as np
from mindspore import Parameter, nn

from gm.optimizers.gradient import parts


def lora_scales(cells: Iterable[nn.Cell]) -> dict[str, float]:
    """The scale of B A in every module with LoRA, by its native name."""
    found = {}
    for cell in cells:
        for _, layer in cell.cells_and_names():
            if getattr(layer, "lora_scale", None) is not None:
                found[layer.lora_A.weight.name.removesuffix(".lora_A.weight")] = float(layer.lora_scale)
    return found


def update_norm(a: np.ndarray, b: np.ndarray, scale: float) -> float:
    """The Frobenius norm of scale * B A, from products of the size of the rank: |B A|^2 = sum(B^T B * A A^T).

    a (rank, ...), b (out, rank, ...): of a convolution too.
    """
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    return scale * float(np.sqrt(max(np.sum((b.T @ b) * (a @ a.T), dtype=np.float64), 0.0)))


class WeightNorms:
    """Scales both matrices of a module by sqrt(largest / norm) where the norm of its update is above `largest`."""

    def __init__(self, parameters: Sequence[Parameter], scales: dict[str, float], largest: float):
        self._parameters, self._scales, self._largest = parameters, scales, largest

    def __call__(self, weights: np.ndarray, moves: Callable[[str], bool] = lambda name: True) -> tuple[np.ndarray, int]:
        """`weights` (n,) scaled, and of how many modules; only what `moves`, which takes the name of a matrix."""
        of = {parameter.name: part for parameter, part in parts(weights, self._parameters)}
        ratios = {}
        for module, scale in self._scales.items():
            a, b = f"{module}.lora_A.weight", f"{module}.lora_B.weight"
            if a in of and b in of and moves(a):
                norm = update_norm(of[a], of[b], scale)
                if norm > self._largest:
                    ratios[a] = ratios[b] = np.float32(np.sqrt(self._largest / norm))
        if not ratios:
            return weights, 0
        scaled = weights.copy()
        for parameter, part in parts(scaled, self._parameters):
            if parameter.name in ratios:
                part *= ratios[parameter.name]
        return scaled, len(ratios) // 2
