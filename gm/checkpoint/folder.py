"""diffusers' folders, and VAE files of every naming, read as if they were one file with official names.

The names are diffusers_rules.py. Here: which files a folder consists of, and what differs in shape: the second
encoder's q, k and v are one tensor in the official file, its text_projection is transposed there, and the VAE's
attention is 1x1 convolutions. Nothing holds more than one tensor.
"""

import json
import re
from pathlib import Path
from typing import Sequence, Union

import numpy as np

from gm.checkpoint.diffusers_rules import IGNORED_IN_FOLDERS, PARTS, diffusers_to_official
from gm.checkpoint.formats import DTYPES, Entry
from gm.checkpoint.io import Raw, TensorFile, open_tensors
from gm.checkpoint.rules import fused_name, native_to_official
from gm.errors import UserError

VAE_PREFIX = PARTS["vae"][0]
_TRANSPOSED = "conditioner.embedders.1.model.text_projection"
_CONVOLUTION = re.compile(rf"^{re.escape(VAE_PREFIX)}(?:en|de)coder\.mid\.attn_1\.(?:q|k|v|proj_out)\.weight$")


class AssembledFile(TensorFile):
    """Tensors of other files under official names. Closing it closes them."""

    def __init__(self, path: Path, files: Sequence[TensorFile]):
        super().__init__(path, "assembled", None, {}, {})
        self._files = list(files)
        self._sources: dict[str, list[tuple[TensorFile, str]]] = {}

    def close(self) -> None:
        for file in self._files:
            file.close()

    @property
    def paths(self) -> list[Path]:
        return [path for file in self._files for path in file.paths]

    def add(self, name: str, sources: Sequence[tuple[TensorFile, str]]) -> None:
        """The official tensor `name` is this tensor, or these one below the other."""
        dtypes, shapes = ({getattr(file, about)(source) for file, source in sources} for about in ("dtype", "shape"))
        if len(dtypes) != 1 or len(shapes) != 1:
            raise UserError(f"{self.path}: {', '.join(source for _, source in sources)} differ in type or shape")
        shape = shapes.pop()
        if name == _TRANSPOSED:
            shape = shape[::-1]
        elif _CONVOLUTION.match(name) and len(shape) == 2:
            shape = (*shape, 1, 1)
        elif len(sources) > 1:
            shape = (len(sources) * shape[0], *shape[1:])
        self._sources[name] = list(sources)
        self._entries[name] = Entry(dtypes.pop(), shape, [])

    def read_raw(self, name: str) -> Raw:
        entry = self._entries[name]
        raws = [file.read_raw(source) for file, source in self._sources[name]]
        content = raws[0].content if len(raws) == 1 else b"".join(raw.content for raw in raws)
        if name == _TRANSPOSED:
            numbers = np.frombuffer(content, f"u{DTYPES[entry.dtype][2]}").reshape(entry.shape[::-1])
            content = np.ascontiguousarray(numbers.T).tobytes()
        return Raw(entry.dtype, entry.shape, content)


def open_source(path: Union[str, Path]) -> TensorFile:
    """A weight file, or a folder in diffusers' layout under the official names."""
    path = Path(path)
    return _open_folder(path) if path.is_dir() else open_tensors(path)


def _open_folder(path: Path) -> AssembledFile:
    missing = [part for part in PARTS if not (path / part).is_dir()]
    if missing:
        raise UserError(
            f"{path} is a folder without {', '.join(f'{part}/' for part in missing)}: give a .safetensors file, a MindSpore "
            f".ckpt, or a folder with {', '.join(f'{part}/' for part in PARTS)} as diffusers saves it"
        )
    files = {part: _open_part(path / part, stem) for part, (_, stem) in PARTS.items()}
    result = AssembledFile(path, [file for part in files.values() for file in part])
    for part in PARTS:
        _add_part(result, part, files[part])
    return result


def open_vae(path: Union[str, Path]) -> TensorFile:
    """The first stage in a file of its own, in a whole checkpoint or in diffusers' folder, under the official names."""
    path = Path(path)
    if path.is_dir():
        folder = path / "vae" if (path / "vae").is_dir() else path
        files = _open_part(folder, PARTS["vae"][1])
        result = AssembledFile(path, files)
        _add_part(result, "vae", files)
        return result
    file = open_tensors(path)
    result = AssembledFile(path, [file])
    official = {name: native_to_official(name) if file.is_native else name for name in file.names}
    if any(name.startswith("encoder.down_blocks.") for name in official.values()):
        _add_part(result, "vae", [file])
    elif any(name.startswith(VAE_PREFIX) for name in official.values()):
        for name in official:
            if official[name].startswith(VAE_PREFIX):
                result.add(official[name], [(file, name)])
    elif any(name.startswith(("encoder.", "decoder.")) for name in official.values()):
        for name in official:
            result.add(VAE_PREFIX + official[name], [(file, name)])
    else:
        raise UserError(
            f"--vae {path} holds no VAE (its first tensor is {file.names[0]}): give a VAE file or diffusers' vae folder"
        )
    return result


def _open_part(folder: Path, stem: str) -> list[TensorFile]:
    """The weight files of one folder: <stem>.safetensors or shards with an index, else the only variant (fp16) there is."""
    plain = [folder / f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json"]
    found = [path for path in plain if path.exists()][:1]
    if not found:
        shard = re.compile(r"-\d+-of-\d+\b")
        found = [path for path in sorted(folder.glob(f"{stem}.*.safetensors")) if not shard.search(path.name)]
        found += sorted(folder.glob(f"{stem}.safetensors.index.*.json"))
    if len(found) != 1:
        other = any(path.suffix in (".bin", ".msgpack") for path in folder.iterdir()) if folder.is_dir() else False
        what = f"has several variants ({', '.join(path.name for path in found)}): keep one of them"
        if not found:
            what = f"holds no {stem}.safetensors: " + ("save it as safetensors, " if other else "") + "download it completely"
        raise UserError(f"{folder} {what}")
    if found[0].suffix != ".json":
        return [open_tensors(found[0])]
    try:
        weight_map = json.loads(found[0].read_text(encoding="utf-8"))["weight_map"]
        shards = {
            shard: {name for name in weight_map if weight_map[name] == shard} for shard in sorted(set(weight_map.values()))
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{found[0]} is not an index of safetensors files: download it again") from None
    files = [open_tensors(folder / shard) for shard in shards]
    for file, names in zip(files, shards.values()):
        if set(file.names) != names:
            different = sorted(set(file.names) ^ names)
            raise UserError(f"{file.path} and {found[0].name} differ in {different[0]}: download the folder again")
    return files


def _add_part(result: AssembledFile, part: str, files: Sequence[TensorFile]) -> None:
    """Add the tensors of one of diffusers' folders under their official names. UserError for one that SDXL lacks."""
    sources = {name: (file, name) for file in files for name in file.names if name not in IGNORED_IN_FOLDERS}
    official = diffusers_to_official(part, sources)
    unknown = [name for name in sources if not official[name]]
    if unknown:
        raise UserError(
            f"{files[0].path.parent} holds {len(unknown)} tensors that SDXL's {part} does not have "
            f"({', '.join(unknown[:3])}): give a folder of SDXL"
        )
    wholes: dict[str, list] = {}
    for name, source in sources.items():
        fused, third = fused_name(official[name])
        wholes.setdefault(fused, [None, None, None] if third is not None else [None])[third or 0] = source
    for fused, pieces in wholes.items():
        if None in pieces:
            missing = "qkv"[pieces.index(None)]
            raise UserError(f"{files[0].path.parent} lacks the {missing}_proj of {fused}: download it again")
        result.add(fused, pieces)
