"""LoRA files of any layout as the networks see them: matrices under native names, with rank and alpha per module.

The names are lora_rules.py; writing the layouts of other tools is lora_export.py. Everything is checked by names and
shapes when a file is opened; arrays are read one at a time.
"""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Mapping, Optional, Union

import numpy as np

from gm.checkpoint.io import TensorFile, open_tensors, write_tensors
from gm.checkpoint.lora_rules import NETWORKS, OTHER_METHODS, UNET, LoraNames, lora_names, matrix_names, parse
from gm.checkpoint.weights import BaseWeights, differences, examples
from gm.config.types import ModelConfig
from gm.errors import UserError

ADAPTER_METADATA = "lora_adapter_metadata"  # where diffusers writes PEFT's settings, as JSON


@dataclass(frozen=True)
class Pair:
    """The two matrices of one module: A (rank, in), B (out, rank); the update of its weight is alpha / rank * B A."""

    a: str  # name in the file
    b: str
    rank: int
    inputs: int
    outputs: int
    alpha: Optional[float]  # None: the file does not say it, and its layout has no rule for that


class LoraFile:
    """An opened LoRA file. `modules`: native module name -> Pair; `layout`: see lora_rules.py; `metadata`: the file's."""

    def __init__(self, file: TensorFile, layout: str, modules: Mapping[str, Pair]):
        self.path, self.metadata, self.layout, self.modules = file.path, file.metadata, layout, dict(modules)
        self._file = file

    def __enter__(self) -> "LoraFile":
        return self

    def __exit__(self, *_) -> None:
        self._file.close()

    def names(self) -> list[str]:
        """Native names of all matrices."""
        return [name for module in self.modules for name in matrix_names("native", module, module)]

    def shape(self, name: str) -> tuple[int, int]:
        """Of a matrix by its native name."""
        module, letter = _module_and_letter(name)
        pair = self.modules[module]
        return (pair.rank, pair.inputs) if letter == "A" else (pair.outputs, pair.rank)

    def read(self, name: str) -> np.ndarray:
        """A matrix by its native name, in float32."""
        module, letter = _module_and_letter(name)
        pair = self.modules[module]
        array = self._file.read(pair.a if letter == "A" else pair.b)
        return array.astype(np.float32).reshape(self.shape(name))

    def alpha(self, module: str, default: Optional[float] = None) -> float:
        """The module's alpha; when the file does not say it, `default`, or else its rank."""
        pair = self.modules[module]
        if pair.alpha is not None:
            return pair.alpha
        return float(pair.rank) if default is None else default

    def scale(self, module: str, default: Optional[float] = None) -> float:
        """alpha / rank of the module, `default` as in `alpha`."""
        return self.alpha(module, default) / self.modules[module].rank

    def check(self, expected: Mapping[str, tuple], alpha: float) -> None:
        """UserError unless this is the LoRA of exactly the model that has the `expected` matrices and `alpha`."""
        rank = next((shape[0] for name, shape in expected.items() if name.endswith(".lora_A.weight")), 0)
        ranks = sorted({pair.rank for pair in self.modules.values()})
        if len(ranks) > 1:
            raise UserError(
                f"the LoRA {self.path} has the ranks {', '.join(map(str, ranks))}, but training needs one: resize it to one "
                "rank first"
            )
        if ranks != [rank]:
            raise UserError(
                f"the LoRA {self.path} has rank {ranks[0]}, but lora_dim in --config is {rank}: set lora_dim to {ranks[0]}"
            )
        alphas = sorted({pair.alpha for pair in self.modules.values() if pair.alpha is not None})
        if len(alphas) > 1:
            raise UserError(
                f"the LoRA {self.path} has several alphas from {alphas[0]:g} to {alphas[-1]:g}, but training needs one: "
                "give a LoRA with one alpha"
            )
        if alphas and alphas != [alpha]:
            raise UserError(
                f"the LoRA {self.path} was trained with lora_alpha {alphas[0]:g}, but --config says {alpha:g}: set "
                f"lora_alpha to {alphas[0]:g}"
            )
        words = differences({name: self.shape(name) for name in self.names()}, expected)
        if words:
            raise UserError(
                f"the LoRA {self.path} was made for another model or other targets than --config describes: matrices "
                f"{'; '.join(words)}: give the YAML that it was trained with"
            )

    def check_against_base(self, base: Mapping[str, tuple]) -> None:
        """UserError unless every pair of matrices fits a weight of the base model."""
        wrong = [
            module
            for module, pair in self.modules.items()
            if tuple(base.get(f"{module}.weight", ())) != (pair.outputs, pair.inputs)
        ]
        if wrong:
            raise UserError(
                f"the LoRA {self.path} was made for another model: {examples(wrong)} fit no weight of the base: give the "
                "base weights and the YAML that it was trained with"
            )


class LoraArrays(LoraFile):
    """A LoRA in memory: native module name -> (B (out, rank), A (rank, in)), whose update is B A: alpha is the rank.

    `path` is what messages call it.
    """

    def __init__(self, path: Path, arrays: Mapping[str, tuple[np.ndarray, np.ndarray]], metadata: Mapping[str, str]):
        self.path, self.layout, self.metadata, self._arrays = path, "native", dict(metadata), arrays
        self.modules = {
            module: Pair(f"{module}.lora_A.weight", f"{module}.lora_B.weight", len(a), a.shape[1], len(b), float(len(a)))
            for module, (b, a) in arrays.items()
        }

    def __exit__(self, *_) -> None:
        pass

    def read(self, name: str) -> np.ndarray:
        module, letter = _module_and_letter(name)
        return self._arrays[module]["BA".index(letter)]


def _module_and_letter(name: str) -> tuple[str, str]:
    module, _, letter = name.removesuffix(".weight").rpartition(".lora_")
    return module, letter


def open_lora(path: Union[str, Path], model: Optional[ModelConfig] = None) -> LoraFile:
    """A LoRA file of any layout, told apart by its names; `model` (default: SDXL) tells which modules there may be.

    UserError when it holds anything else, naming some of it.
    """
    file = open_tensors(path)
    return _lora_file(file, {name: name for name in file.names}, lora_names(model))


def lora_in_base(base: BaseWeights) -> LoraFile:
    """The LoRA that a base + LoRA file holds."""
    return _lora_file(base.file, base.lora_names(), lora_names())


def _lora_file(file: TensorFile, given: Mapping[str, str], names: LoraNames) -> LoraFile:
    """`given`: names of the LoRA's tensors, as they are to be understood -> as they are in the file."""
    method = next((word for part, word in OTHER_METHODS if any(part in name for name in given)), None)
    if method:
        raise UserError(
            f"{file.path} holds {method} matrices, which are not supported: give a plain LoRA, two matrices a linear layer"
        )
    parsed = {name: parse(name) for name in given}
    others = [name for name, found in parsed.items() if found is None]
    if others:
        raise UserError(
            f"{file.path} is not a LoRA file, it holds {len(others)} other tensors ({examples(others)}): give base weights "
            "first, then LoRA files"
        )
    parts: dict[str, dict[str, str]] = {}  # native module -> part -> name in the file
    layouts, unknown = set(), []
    for name, found in parsed.items():
        native = _native(found.module, names)
        if native is None or len(file.shape(given[name])) > 2 and any(n > 1 for n in file.shape(given[name])[2:]):
            unknown.append(given[name])
            continue
        if found.part in parts.setdefault(native, {}):
            raise UserError(f"{file.path} holds {native} twice, the second time as {given[name]}: give a file of one layout")
        parts[native][found.part] = given[name]
        layouts |= _layout(found.module, found.layout, native, names)
    if any(len(file.shape(name)) > 2 for name in unknown):
        raise UserError(
            f"{file.path} has LoRA of convolutions ({examples(unknown)}), which is not supported: give one of linear layers "
            "alone"
        )
    if unknown:
        raise UserError(
            f"{file.path} has {len(unknown)} tensors that belong to no linear layer of this model's transformers "
            f"({examples(unknown)}): give a LoRA that was trained on SDXL"
        )
    layout = next((one for one in ("kohya-diffusers", "kohya", "diffusers", "peft") if one in layouts), "native")
    adapter = _adapter_settings(file) if layout == "peft" else {}
    pairs = {native: _pair(file, native, found, layout, names, adapter) for native, found in parts.items()}
    return LoraFile(file, layout, pairs)


def _native(module: str, names: LoraNames) -> Optional[str]:
    """A module's native name, or None. Native names outside the table are checked against the base weights later."""
    if any(module.startswith(network) for network, _, _ in NETWORKS):
        return module
    return names.native_of.get(module)


def _layout(module: str, ending: str, native: str, names: LoraNames) -> set[str]:
    """The layout that a tensor gives away, if any."""
    if ending == "kohya":
        return {"kohya-diffusers"} if native.startswith(UNET) and module != names.foreign(native, "kohya") else {"kohya"}
    return {ending} if ending and module != native else set()


def _pair(
    file: TensorFile,
    native: str,
    parts: Mapping[str, str],
    layout: str,
    names: LoraNames,
    adapter: Mapping[str, object],
) -> Pair:
    """The pair of one module; UserError when a half is missing or the halves do not fit."""
    if "A" not in parts or "B" not in parts:
        given = ", ".join(parts.values())
        raise UserError(f"{file.path} has only {given} of {native}: the other half of the LoRA is missing, give a whole file")
    (rank, inputs), (outputs, rank_b) = (_two(file, parts[letter]) for letter in "AB")
    if rank != rank_b:
        raise UserError(
            f"{file.path}: {parts['A']} {file.shape(parts['A'])} and {parts['B']} {file.shape(parts['B'])} have different "
            "ranks: the file is damaged"
        )
    if "alpha" in parts:
        alpha = float(np.asarray(file.read(parts["alpha"]), np.float32).reshape(-1)[0])
    elif layout == "native":
        alpha = float(file.metadata["lora_alpha"]) if "lora_alpha" in file.metadata else None
    elif adapter and native in names.modules:
        alpha = _peft_alpha(adapter, names.foreign(native, "peft"), rank)
    else:
        alpha = float(rank)  # what every reader of these layouts takes
    return Pair(parts["A"], parts["B"], rank, inputs, outputs, alpha)


def _two(file: TensorFile, name: str) -> tuple[int, int]:
    """The shape of a matrix; some tools write linear layers as 1x1 convolutions."""
    shape = file.shape(name)
    if len(shape) < 2:
        raise UserError(f"{file.path}: {name} has the shape {shape}, which is no matrix: the file is damaged")
    return shape[0], shape[1]


def _adapter_settings(file: TensorFile) -> dict[str, object]:
    """PEFT's settings `<network>.<setting>` as diffusers writes them; {} without."""
    try:
        settings = json.loads(file.metadata.get(ADAPTER_METADATA, "{}"))
        return dict(settings)
    except (ValueError, TypeError):
        raise UserError(f"{file.path}: its metadata {ADAPTER_METADATA} is not JSON: the file is damaged") from None


def _peft_alpha(settings: Mapping[str, object], name: str, rank: int) -> float:
    """alpha as PEFT finds it: of the first pattern that the module's name ends with, or the network's."""
    network, _, module = name.partition(".")
    alpha = settings.get(f"{network}.lora_alpha")
    for pattern, value in (settings.get(f"{network}.alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            alpha = value
            break
    if alpha is None:
        return float(rank)
    return float(alpha) * (math.sqrt(rank) if settings.get(f"{network}.use_rslora") else 1.0)


def save_lora(path: Path, matrices: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write a native LoRA file, all or nothing."""
    write_tensors(path, matrices.items(), metadata)
