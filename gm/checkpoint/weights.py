"""Base weight files as the networks see them: under native names, strict. LoRA files are lora_files.py.

Arrays come one at a time; the checks need only names and shapes, so they come before anything is loaded.
"""

import hashlib
from pathlib import Path
from typing import Callable, Iterator, Mapping, NamedTuple, Optional, Sequence, Union

import numpy as np

from gm.checkpoint.folder import VAE_PREFIX, open_source, open_vae
from gm.checkpoint.io import Array, TensorFile
from gm.checkpoint.other_files import other_kind
from gm.checkpoint.rules import IGNORED_ON_LOAD, is_lora, official_to_native, split_names
from gm.errors import UserError


def split_weight_argument(weight: str) -> tuple[str, list[str]]:
    """`base,lora,...` -> the base path and the LoRA paths."""
    paths = weight.split(",")
    if not all(path.strip() for path in paths):
        raise UserError(f"--weight {weight!r} has an empty part: give base or base,lora without spaces")
    return paths[0], paths[1:]


def examples(names: Sequence[str]) -> str:
    """Some of the names, in words."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def differences(found: Mapping[str, tuple], expected: Mapping[str, tuple]) -> list[str]:
    """What is missing, left over or of another shape, in words."""
    missing = [name for name in expected if name not in found]
    extra = [name for name in found if name not in expected]
    shapes = [name for name in expected if name in found and tuple(found[name]) != tuple(expected[name])]
    words = []
    if missing:
        words.append(f"{len(missing)} missing ({examples(missing)})")
    if extra:
        words.append(f"{len(extra)} left over ({examples(extra)})")
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
            if is_lora(native) or native.endswith(".alpha"):
                self._lora[native] = name
            elif vae is None or not native.startswith(VAE_PREFIX):
                self._add(native, file, name)
        for name in vae.names if vae else ():
            self._add(official_to_native(name), vae, name)

    def _add(self, native: str, file: TensorFile, name: str) -> None:
        self.stored.append((native, file, name))
        if native in IGNORED_ON_LOAD:
            return
        parts, shape = split_names(native), file.shape(name)
        if parts and (not shape or shape[0] % 3):
            raise UserError(f"{file.path}: {name} has the shape {shape}, not three equal thirds: it is not SDXL's")
        for third, part in enumerate(parts or [native]):
            if part in self._source:
                raise UserError(f"{file.path}: {name} gives {part} a second time: the file is damaged")
            self._source[part] = (file, name, third if parts else None)
            self._shapes[part] = (shape[0] // 3, *shape[1:]) if parts else shape

    @property
    def paths(self) -> BasePaths:
        """What `open_base` needs to open the same again, in another process."""
        return BasePaths(str(self.file.path), str(self.vae.path) if self.vae else None)

    def stamps(self) -> list[list]:
        """(path, bytes, time of the last change in ns) of every file that is read: the same for as long as nothing changed."""
        files = [Path(path).resolve() for file in (self.file, self.vae) if file for path in file.paths]
        return [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in files]

    @property
    def shapes(self) -> dict[str, tuple]:
        """Of the base weights, by native name, the fused projections split."""
        return dict(self._shapes)

    def lora_names(self) -> dict[str, str]:
        """LoRA matrices that the same file holds: native name -> name in the file."""
        return dict(self._lora)

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

    def digest(self, prefixes: tuple[str, ...]) -> str:
        """A hash of the base tensors whose native names start with one of the prefixes: names, types and contents."""
        wanted = [entry for entry in self.stored if entry[0].startswith(prefixes) and entry[0] not in IGNORED_ON_LOAD]
        result = hashlib.blake2b(digest_size=16)
        for native, file, name in sorted(wanted, key=lambda entry: entry[0]):
            raw = file.read_raw(name)
            result.update(f"{native} {raw.dtype} {raw.shape}\n".encode())
            result.update(raw.content)
        return result.hexdigest()

    def check(self, expected: Mapping[str, tuple], flag: str = "--weight", config: str = "--config") -> None:
        """UserError, with the flags that the file and its YAML were given by, unless exactly the expected names and shapes are
        there."""
        kind = other_kind(self.file.names) if len(self._source) < len(expected) // 2 else None
        if kind:
            raise UserError(f"{flag} {self.file.path} holds {kind}, but base weights come first: give them")
        if not self._source or (self._lora and len(self._source) < len(expected) // 2):
            raise UserError(
                f"{flag} {self.file.path} is a LoRA file, but base weights come first: give them ({flag} base,lora takes both)"
            )
        if self.vae is None:
            self._check_part(f"{flag} {self.file.path}", config, expected, lambda name: True)
        else:
            self._check_part(f"--vae {self.vae.path}", config, expected, lambda name: name.startswith(VAE_PREFIX))
            self._check_part(f"{flag} {self.file.path}", config, expected, lambda name: not name.startswith(VAE_PREFIX))

    def _check_part(self, given: str, config: str, expected: Mapping[str, tuple], is_of_part: Callable[[str], bool]) -> None:
        found, needed = ({n: shapes[n] for n in shapes if is_of_part(n)} for shapes in (self._shapes, expected))
        words = differences(found, needed)
        if words:
            raise UserError(
                f"{given} does not fit the model of {config}: tensors {'; '.join(words)}: "
                "give the weights that this YAML describes, or another YAML"
            )


def open_base(path: Union[str, Path], vae: Optional[Union[str, Path]] = None) -> BaseWeights:
    """Base weights, or base + LoRA in one file, or diffusers' folder; `vae`: another first stage than its own."""
    return BaseWeights(open_source(path), open_vae(vae) if vae else None)


def stream_whole(base: BaseWeights, matrices: Mapping[str, np.ndarray]) -> Iterator[tuple[str, Array]]:
    """Base weights with native names, fused as in a converted .ckpt, and LoRA matrices: for one file with both."""
    for native, file, name in base.stored:
        yield native, file.read_raw(name)
    yield from matrices.items()
