"""Weight files as the networks see them: base weights under native names, and LoRA files. Strict in both.

Arrays come one at a time; the checks need only names and shapes, so they come before anything is loaded.
"""

from pathlib import Path
from typing import Callable, Iterator, Mapping, NamedTuple, Optional, Sequence, Union

import numpy as np

from gm.checkpoint.folder import VAE_PREFIX, open_source, open_vae
from gm.checkpoint.io import Array, TensorFile, open_tensors, write_tensors
from gm.checkpoint.rules import IGNORED_ON_LOAD, is_lora, official_to_native, split_names
from gm.config import LoraConfig
from gm.errors import UserError


def split_weight_argument(weight: str) -> tuple[str, list[str]]:
    """`base,lora,...` -> the base path and the LoRA paths."""
    paths = weight.split(",")
    if not all(path.strip() for path in paths):
        raise UserError(f"--weight {weight!r} has an empty part: give base or base,lora without spaces")
    return paths[0], paths[1:]


def _examples(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _differences(found: Mapping[str, tuple], expected: Mapping[str, tuple]) -> list[str]:
    """What is missing, left over or of another shape, in words."""
    missing = [name for name in expected if name not in found]
    extra = [name for name in found if name not in expected]
    shapes = [name for name in expected if name in found and tuple(found[name]) != tuple(expected[name])]
    words = []
    if missing:
        words.append(f"{len(missing)} missing ({_examples(missing)})")
    if extra:
        words.append(f"{len(extra)} left over ({_examples(extra)})")
    if shapes:
        name = shapes[0]
        words.append(f"{len(shapes)} of another shape ({name} is {found[name]}, needed {tuple(expected[name])})")
    return words


class BasePaths(NamedTuple):
    """Where base weights are: the arguments of `open_base`."""

    weight: str
    vae: Optional[str]


class BaseWeights:
    """Base weights under native names, the second encoder's fused projections split while reading."""

    def __init__(self, file: TensorFile, vae: Optional[TensorFile] = None):
        """The first stage is that of `vae` where one is given."""
        self.file, self.vae = file, vae
        self.stored: list[tuple[str, TensorFile, str]] = []  # (native name, file, name in the file), projections fused
        self._source: dict[str, tuple[TensorFile, str, Optional[int]]] = {}  # native name -> file, name, third or None
        self._shapes: dict[str, tuple] = {}
        self._lora: dict[str, str] = {}
        for name in file.names:
            native = name if file.is_native else official_to_native(name)
            if is_lora(native):
                self._lora[native] = name
            elif vae is None or not native.startswith(VAE_PREFIX):
                self._add(native, file, name)
        for name in vae.names if vae else ():
            self._add(official_to_native(name), vae, name)

    def _add(self, native: str, file: TensorFile, name: str) -> None:
        self.stored.append((native, file, name))
        if native in IGNORED_ON_LOAD:
            return
        if split_names(native):
            rows, *rest = file.shape(name)
            if rows % 3:
                raise UserError(f"{file.path}: {name} has {rows} rows, not three equal thirds: it is not SDXL's")
            for third, part in enumerate(split_names(native)):
                self._source[part], self._shapes[part] = (file, name, third), (rows // 3, *rest)
        else:
            self._source[native], self._shapes[native] = (file, name, None), file.shape(name)

    @property
    def paths(self) -> BasePaths:
        """What `open_base` needs to open the same again, in another process."""
        return BasePaths(str(self.file.path), str(self.vae.path) if self.vae else None)

    def lora_names(self) -> list[str]:
        """LoRA matrices that the same file holds."""
        return list(self._lora)

    def read(self, name: str) -> np.ndarray:
        """One tensor, in the file's own type (bfloat16 as float32)."""
        if name in self._lora:
            return self.file.read(self._lora[name])
        file, source, third = self._source[name]
        array = file.read(source)
        if third is None:
            return array
        rows = array.shape[0] // 3
        return array[third * rows : (third + 1) * rows]

    def check(self, expected: Mapping[str, tuple]) -> None:
        """UserError unless exactly the expected names and shapes are there."""
        if not self._source or (self._lora and len(self._source) < len(expected) // 2):
            raise UserError(
                f"--weight {self.file.path} is a LoRA file, but base weights come first: give --weight base,lora"
            )
        if self.vae is None:
            self._check_part(f"--weight {self.file.path}", expected, lambda name: True)
        else:
            self._check_part(f"--vae {self.vae.path}", expected, lambda name: name.startswith(VAE_PREFIX))
            self._check_part(f"--weight {self.file.path}", expected, lambda name: not name.startswith(VAE_PREFIX))

    def _check_part(self, given: str, expected: Mapping[str, tuple], is_of_part: Callable[[str], bool]) -> None:
        found, needed = ({n: shapes[n] for n in shapes if is_of_part(n)} for shapes in (self._shapes, expected))
        words = _differences(found, needed)
        if words:
            raise UserError(
                f"{given} does not fit the model of --config: tensors {'; '.join(words)}: "
                "give the weights that this YAML describes, or another YAML"
            )

    def as_lora(self) -> "LoraFile":
        """The LoRA matrices of a base + LoRA file."""
        return LoraFile(self.file, self._lora)


class LoraFile:
    """LoRA matrices under native names."""

    def __init__(self, file: TensorFile, names: Mapping[str, str]):
        self.file, self._names = file, dict(names)
        ranks = {self.shape(name)[0] for name in self._names if name.endswith(".lora_A.weight")}
        if len(ranks) != 1:
            raise UserError(f"{file.path} has LoRA matrices of the ranks {sorted(ranks)}: one rank is needed")
        self.rank = ranks.pop()
        self.alpha = float(file.metadata["lora_alpha"]) if "lora_alpha" in file.metadata else None

    def names(self) -> list[str]:
        return list(self._names)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.file.shape(self._names[name])

    def read(self, name: str) -> np.ndarray:
        return self.file.read(self._names[name]).astype(np.float32)

    def scale(self, default: Optional[LoraConfig]) -> float:
        """alpha / rank; a file that does not say its alpha has that of `default`, or its rank."""
        return (self.alpha or (default.alpha if default else self.rank)) / self.rank

    def check(self, expected: Mapping[str, tuple], alpha: float) -> None:
        """UserError unless this is the LoRA of exactly the model that has the `expected` matrices and `alpha`."""
        rank = next((shape[0] for name, shape in expected.items() if name.endswith(".lora_A.weight")), 0)
        if rank != self.rank:
            raise UserError(
                f"the LoRA {self.file.path} has rank {self.rank}, but lora_dim in --config is {rank}: set lora_dim to "
                f"{self.rank}"
            )
        if self.alpha is not None and alpha != self.alpha:
            raise UserError(
                f"the LoRA {self.file.path} was trained with lora_alpha {self.alpha:g}, but --config says {alpha:g}: set "
                f"lora_alpha to {self.alpha:g}"
            )
        words = _differences({name: self.shape(name) for name in self._names}, expected)
        if words:
            raise UserError(
                f"the LoRA {self.file.path} was made for another model than --config describes: matrices "
                f"{'; '.join(words)}: give the YAML that it was trained with"
            )

    def check_against_base(self, base: Mapping[str, tuple]) -> None:
        """UserError unless every pair of matrices fits a weight of the base model."""
        wrong = []
        for name in self._names:
            module, _, letter = name.removesuffix(".weight").rpartition(".lora_")
            weight = base.get(module + ".weight")
            axis = 1 if letter == "A" else 0
            partner = f"{module}.lora_{'B' if letter == 'A' else 'A'}.weight"
            if weight is None or partner not in self._names or self.shape(name)[axis] != weight[axis]:
                wrong.append(name)
        if wrong:
            raise UserError(
                f"the LoRA {self.file.path} was made for another model: {_examples(wrong)} fit no weight of the base: "
                "give the base weights and the YAML that it was trained with"
            )


def open_base(path: Union[str, Path], vae: Optional[Union[str, Path]] = None) -> BaseWeights:
    """Base weights, or base + LoRA in one file, or diffusers' folder; `vae`: another first stage than its own."""
    return BaseWeights(open_source(path), open_vae(vae) if vae else None)


def open_lora(path: Union[str, Path]) -> LoraFile:
    """A LoRA file with native names. UserError when it holds anything else."""
    file = open_tensors(path)
    names = {name: name for name in file.names if is_lora(name)}
    others = [name for name in file.names if name not in names]
    if not names or others:
        found = f"{len(others)} other tensors ({_examples(others)})" if others else "none"
        raise UserError(f"{path} is not a LoRA file, it holds {found}: give base weights first, then LoRA files")
    return LoraFile(file, names)


def save_lora(path: Path, matrices: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write a LoRA file, all or nothing."""
    write_tensors(path, matrices.items(), metadata)


def stream_whole(base: BaseWeights, matrices: Mapping[str, np.ndarray]) -> Iterator[tuple[str, Array]]:
    """Base weights with native names, fused as in a converted .ckpt, and LoRA matrices: for one file with both."""
    for native, file, name in base.stored:
        yield native, file.read_raw(name)
    yield from matrices.items()
