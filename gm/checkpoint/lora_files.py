"""LoRA files of any layout as the networks see them: matrices under native names, with rank and alpha per module.

LoRA, LoCon (LoRA of convolutions: A has the convolution's window, B is 1 x 1) and DoRA (magnitudes beside the matrices; their
arithmetic is dora.py). The names are lora_rules.py; writing the layouts of other tools is lora_export.py. Everything is
checked by names and shapes when a file is opened; arrays are read one at a time.
"""

import math
from pathlib import Path
from typing import Mapping, Optional, Sequence, Union

import numpy as np

from gm.checkpoint.dora import decomposed
from gm.checkpoint.io import TensorFile, open_tensors, write_tensors
from gm.checkpoint.lora_pair import Pair, pair_of
from gm.checkpoint.lora_rules import (
    NETWORKS,
    UNET,
    LoraNames,
    lora_names,
    magnitude_name,
    matrix_names,
    parse,
)
from gm.checkpoint.other_files import other_kind, other_model
from gm.checkpoint.peft_settings import settings_of
from gm.checkpoint.weights import BaseWeights, differences, examples
from gm.config.types import ModelConfig
from gm.errors import UserError

RECIPE = "recipe_yaml"  # where the metadata of this suite's LoRA has the whole YAML of its training


class LoraFile:
    """An opened LoRA file. `modules`: native module name -> Pair; `layout`: see lora_rules.py; `metadata`: the file's."""

    def __init__(self, file: TensorFile, layout: str, modules: Mapping[str, Pair], other_size: Sequence[str] = ()):
        """`other_size`: modules that are wider or narrower than the model's."""
        self.path, self.metadata, self.layout, self.modules = file.path, file.metadata, layout, dict(modules)
        self.other_size = list(other_size)
        self._file = file

    def __enter__(self) -> "LoraFile":
        return self

    def __exit__(self, *_) -> None:
        self._file.close()

    def names(self) -> list[str]:
        """Native names of all matrices, and of the magnitudes of a DoRA."""
        names = []
        for module, pair in self.modules.items():
            names += matrix_names("native", module, module)
            names += [magnitude_name("native", module)] if pair.form else []
        return names

    @property
    def is_dora(self) -> bool:
        return any(pair.form for pair in self.modules.values())

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a matrix, or of magnitudes, by its native name."""
        module, part = _module_and_part(name)
        pair = self.modules[module]
        if part == "A":
            return (pair.rank, pair.inputs, *pair.window)
        if part == "B":
            return (pair.outputs, pair.rank, *(1 for _ in pair.window))
        return (pair.inputs if pair.form == "columns" else pair.outputs,)

    def read(self, name: str) -> np.ndarray:
        """A matrix, or magnitudes, by its native name, in float32."""
        module, part = _module_and_part(name)
        pair = self.modules[module]
        array = self._file.read({"A": pair.a, "B": pair.b}.get(part) or pair.magnitudes)
        return array.astype(np.float32).reshape(self.shape(name))

    def factors(self, module: str) -> tuple[np.ndarray, np.ndarray]:
        """B (out, rank) and A (rank, in), of a convolution (rank, in * h * w)."""
        b, a = (self.read(f"{module}.lora_{letter}.weight") for letter in "BA")
        return b.reshape(len(b), -1), a.reshape(len(a), -1)

    def update(self, module: str, default: Optional[float] = None) -> np.ndarray:
        """alpha / rank * B A in the shape of the weight, `default` as in `alpha`; what DoRA makes of it is `merged`."""
        b, a = self.factors(module)
        return (b * np.float32(self.scale(module, default)) @ a).reshape(self.modules[module].shape)

    def merged(self, module: str, weight: np.ndarray, strength: float = 1.0, default: Optional[float] = None) -> np.ndarray:
        """The weight with this module's LoRA in it, float32. With a DoRA and another `strength` than 1 it lies that far on the
        way from `weight` to the DoRA's, as in ComfyUI and LyCORIS."""
        weight, update, pair = weight.astype(np.float32), self.update(module, default), self.modules[module]
        if not pair.form:
            return weight + np.float32(strength) * update
        whole = decomposed(weight, update, self.read(magnitude_name("native", module)), pair.form)
        return whole if strength == 1.0 else weight + np.float32(strength) * (whole - weight)

    def alpha(self, module: str, default: Optional[float] = None) -> float:
        """The module's alpha; when the file does not say it, `default`, or else its rank."""
        pair = self.modules[module]
        if pair.alpha is not None:
            return pair.alpha
        return float(pair.rank) if default is None else default

    def scale(self, module: str, default: Optional[float] = None) -> float:
        """alpha / rank of the module, `default` as in `alpha`."""
        return self.alpha(module, default) / self.modules[module].rank

    def check(self, expected: Mapping[str, tuple], alphas: Union[float, Mapping[str, float]]) -> None:
        """UserError unless this is the LoRA of exactly the model that has the `expected` matrices and `alphas`: native module
        name -> alpha, or one for all."""
        if not isinstance(alphas, Mapping):
            alphas = dict.fromkeys(self.modules, alphas)
        wanted = {shape[0] for name, shape in expected.items() if name.endswith(".lora_A.weight")}
        if len(wanted) == 1:
            self._check_one_rank(next(iter(wanted)))
        self._check_alphas(alphas)
        other = next(
            (form for form in sorted({pair.form for pair in self.modules.values()}) if form not in ("", "rows")), None
        )
        if other:
            raise UserError(
                f"the LoRA {self.path} is a DoRA with the lengths of {other}, but training needs those of rows: "
                + ("convert it with tools/import_lora.py --base first" if other == "base" else "train a new one")
            )
        words = differences({name: self.shape(name) for name in self.names()}, expected)
        if words:
            raise UserError(
                f"the LoRA {self.path} was made for another model or other targets than --config describes: matrices "
                f"{'; '.join(words)}: give the YAML that it was trained with"
            )

    def _check_one_rank(self, rank: int) -> None:
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

    def _check_alphas(self, expected: Mapping[str, float]) -> None:
        alphas = sorted({pair.alpha for pair in self.modules.values() if pair.alpha is not None})
        wanted = set(expected.values())
        if len(wanted) > 1:
            for module, pair in self.modules.items():
                if (
                    module in expected
                    and pair.alpha is not None
                    and not math.isclose(pair.alpha, expected[module], rel_tol=1e-6)
                ):
                    raise UserError(
                        f"the LoRA {self.path} was trained with alpha {pair.alpha:g} in {module}, but --config gives it "
                        f"{expected[module]:g}: make them equal"
                    )
            return
        if len(alphas) > 1:
            raise UserError(
                f"the LoRA {self.path} has several alphas from {alphas[0]:g} to {alphas[-1]:g}, but training needs one: "
                "give a LoRA with one alpha"
            )
        alpha = next(iter(wanted))
        if alphas and not math.isclose(alphas[0], alpha, rel_tol=1e-6):
            raise UserError(
                f"the LoRA {self.path} was trained with lora_alpha {alphas[0]:g}, but --config says {alpha:g}: set "
                f"lora_alpha to {alphas[0]:g}"
            )

    def check_against_base(self, base: Mapping[str, tuple]) -> None:
        """UserError unless every pair of matrices fits a weight of the base model."""
        wrong = [module for module, pair in self.modules.items() if tuple(base.get(f"{module}.weight", ())) != pair.shape]
        if wrong:
            raise UserError(
                f"the LoRA {self.path} was made for another model: {examples(wrong)} fit no weight of the base: give the "
                "base weights and the YAML that it was trained with"
            )


class LoraArrays(LoraFile):
    """A LoRA in memory: native module name -> (B (out, rank), A (rank, in)), whose update is B A: alpha is the rank.

    `path` is what messages call it. `magnitudes`: module -> (magnitudes, form) of a DoRA. `other_size`: as in LoraFile.
    """

    def __init__(
        self,
        path: Path,
        arrays: Mapping[str, tuple[np.ndarray, np.ndarray]],
        metadata: Mapping[str, str],
        magnitudes: Mapping[str, tuple[np.ndarray, str]] = {},
        other_size: Sequence[str] = (),
    ):
        self.path, self.layout, self.metadata, self._arrays, self._magnitudes = (
            path,
            "native",
            dict(metadata),
            arrays,
            magnitudes,
        )
        self.modules, self.other_size = {}, list(other_size)
        for module, (b, a) in arrays.items():
            names = matrix_names("native", module, module)
            kind = {"window": tuple(a.shape[2:]), "form": magnitudes[module][1] if module in magnitudes else ""}
            self.modules[module] = Pair(*names, len(a), a.shape[1], len(b), float(len(a)), **kind)

    def __exit__(self, *_) -> None:
        pass

    def read(self, name: str) -> np.ndarray:
        module, part = _module_and_part(name)
        return self._arrays[module]["BA".index(part)] if part in "BA" else self._magnitudes[module][0]


def _module_and_part(name: str) -> tuple[str, str]:
    """`<module>.lora_A.weight` -> the module and "A"; "B" and "magnitude_vector" in the same way."""
    module, _, part = name.removesuffix(".weight").rpartition(".lora_")
    return module, part


def open_lora(path: Union[str, Path], model: Optional[ModelConfig] = None) -> LoraFile:
    """A LoRA file of any layout, told apart by its names; `model` (default: SDXL) tells which modules there may be.

    UserError when it holds anything else, naming some of it.
    """
    file = open_tensors(path)
    return _lora_file(file, {name: name for name in file.names}, lora_names(model), model is not None)


def lora_in_base(base: BaseWeights) -> LoraFile:
    """The LoRA that a base + LoRA file holds."""
    return _lora_file(base.file, base.lora_names(), lora_names())


def _lora_file(file: TensorFile, given: Mapping[str, str], names: LoraNames, own: bool = False) -> LoraFile:
    """`given`: names of the LoRA's tensors, as they are to be understood -> as they are in the file. `own`: the names are those of
    a YAML's model."""
    kind = other_kind(given)
    if kind:
        raise UserError(f"{file.path} holds {kind}, which are not supported: give a LoRA, LoCon or DoRA, two matrices a layer")
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
        if native is None:
            unknown.append(given[name])
            continue
        if found.part in parts.setdefault(native, {}):
            raise UserError(f"{file.path} holds {native} twice, the second time as {given[name]}: give a file of one layout")
        parts[native][found.part] = given[name]
        layouts |= _layout(found.module, found.layout, native, names)
    if unknown:
        of_convolutions = [name for name in unknown if max(file.shape(name)[2:], default=1) > 1]
        unknown = list(dict.fromkeys(of_convolutions + unknown))  # which most readers take for supported
        seems = other_model(unknown)
        raise UserError(
            f"{file.path} has {len(unknown)} tensors that belong to no linear layer of this model's transformers and to no "
            f"residual block ({examples(unknown)}): "
            + (f"it seems to be of {seems}, " if seems else "")
            + f"give a LoRA that was trained on SDXL, or the YAML of its model{'' if own else ' with --config'}"
        )
    layout = next((one for one in ("kohya-diffusers", "kohya", "diffusers", "peft") if one in layouts), "native")
    settings = settings_of(file.path, file.metadata) if layout in ("peft", "diffusers") else None
    pairs = {native: pair_of(file, native, found, layout, names, settings) for native, found in parts.items()}
    other_size = [m for m, pair in pairs.items() if names.widths.get(m, pair.inputs) not in (pair.inputs, pair.outputs)]
    return LoraFile(file, layout, pairs, other_size)


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


def save_lora(path: Path, matrices: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write a native LoRA file, all or nothing."""
    write_tensors(path, matrices.items(), metadata)
