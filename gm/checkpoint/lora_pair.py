"""One module of a LoRA file: its two matrices, alpha and magnitudes, held against each other. The whole file is lora_files.py."""

import math
from dataclasses import dataclass
from typing import Mapping, Optional

import numpy as np

from gm.checkpoint.io import TensorFile
from gm.checkpoint.lora_rules import LoraNames, is_convolution
from gm.checkpoint.peft_settings import PeftSettings, sound_alpha
from gm.errors import UserError

DORA_FORM = "dora_form"  # metadata of a file whose magnitudes are of the form "base" (dora.py)


@dataclass(frozen=True)
class Pair:
    """The two matrices of one module: A (rank, in), B (out, rank); the update of its weight is alpha / rank * B A.

    Of a convolution A is (rank, in, h, w) and B (out, rank, 1, 1). A DoRA has magnitudes beside them.
    """

    a: str  # name in the file
    b: str
    rank: int
    inputs: int
    outputs: int
    alpha: Optional[float]  # None: the file does not say it, and its layout has no rule for that
    window: tuple[int, ...] = ()  # (h, w) of a convolution
    magnitudes: Optional[str] = None  # name in the file; None: no DoRA
    form: str = ""  # what they are the length of: see dora.py

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight."""
        return (self.outputs, self.inputs, *self.window)

    def in_shape(self, b: np.ndarray, a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Matrices of any rank, B (out, rank) and A (rank, in * h * w), in the shapes that this module's have."""
        return b.reshape(*b.shape, *(1 for _ in self.window)), a.reshape(len(a), self.inputs, *self.window)


def pair_of(
    file: TensorFile,
    native: str,
    parts: Mapping[str, str],
    layout: str,
    names: LoraNames,
    settings: Optional[PeftSettings],
) -> Pair:
    """The pair of one module; UserError when a half is missing or the halves do not fit."""
    if "A" not in parts or "B" not in parts:
        given = ", ".join(parts.values())
        raise UserError(f"{file.path} has only {given} of {native}: the other half of the LoRA is missing, give a whole file")
    (rank, inputs, *window), (outputs, rank_b, *window_b) = (_sides(file, parts[letter]) for letter in "AB")
    if any(side > 1 for side in window_b) or any(side > 1 for side in window) and native in names.modules:
        raise UserError(
            f"{file.path}: {parts['A']} {file.shape(parts['A'])} and {parts['B']} {file.shape(parts['B'])} fit no layer of SDXL: "
            "give a LoRA that was trained on SDXL"
        )
    window = () if native in names.modules else tuple(window) or ((1, 1) if is_convolution(native) else ())
    if rank != rank_b:
        raise UserError(
            f"{file.path}: {parts['A']} {file.shape(parts['A'])} and {parts['B']} {file.shape(parts['B'])} have different "
            "ranks: the file is damaged"
        )
    alpha = _alpha(file, native, parts, layout, names, settings, rank)
    magnitudes = parts.get("rows", parts.get("scale"))
    form = _form(file, parts, outputs, inputs) if magnitudes else ""
    return Pair(parts["A"], parts["B"], rank, inputs, outputs, alpha, window, magnitudes, form)


def _alpha(
    file: TensorFile,
    native: str,
    parts: Mapping[str, str],
    layout: str,
    names: LoraNames,
    settings: Optional[PeftSettings],
    rank: int,
) -> Optional[float]:
    """What the file says, in a tensor or in its metadata; None for a native file that does not."""
    if "alpha" in parts:
        name = parts["alpha"]
        if math.prod(file.shape(name)) != 1:
            raise UserError(
                f"{file.path}: {name} has the shape {file.shape(name)}, but an alpha is one number: the file is damaged"
            )
        return sound_alpha(file.path, file.read(name).item(), name)
    if layout == "native":
        said = file.metadata.get("lora_alpha")
        return None if said is None else sound_alpha(file.path, said, "lora_alpha in its metadata")
    if settings and native in names.all:
        return settings.alpha(names.foreign(native, "peft"), rank)
    return float(rank)  # what every reader of these layouts takes


def _sides(file: TensorFile, name: str) -> tuple[int, ...]:
    """The shape of a matrix; some tools write linear layers as 1x1 convolutions."""
    shape = file.shape(name)
    if len(shape) not in (2, 4):
        raise UserError(f"{file.path}: {name} has the shape {shape}, which is no matrix: the file is damaged")
    if 0 in shape:
        raise UserError(f"{file.path}: {name} has the shape {shape}, in which there is no number: the file is damaged")
    return shape


def _form(file: TensorFile, parts: Mapping[str, str], outputs: int, inputs: int) -> str:
    """What magnitudes are the lengths of: PEFT's of rows, others' by their first axis. UserError for another shape."""
    name = parts.get("rows", parts.get("scale", ""))
    shape = file.shape(name)
    numbers = math.prod(shape)
    if numbers == outputs and ("rows" in parts or shape[:1] == (outputs,)):
        return "base" if "scale" in parts and file.metadata.get(DORA_FORM) == "base" else "rows"
    if numbers == inputs and shape[:1] == (1,):
        return "columns"
    raise UserError(
        f"{file.path}: {name} has the shape {shape}, but its layer has {outputs} rows and {inputs} columns: the file is damaged"
    )
