"""diffusers' folders, and VAE files of every naming, read as if they were one file with official names.

The names are diffusers_rules.py. Here: which files a folder consists of, and what differs in shape: the second
encoder's q, k and v are one tensor in the official file, its text_projection is transposed there, and the VAE's
attention is 1x1 convolutions. Nothing holds more than one tensor.
"""

import os
import re
from pathlib import Path
from typing import Mapping, Sequence, Union

import numpy as np

from gm.checkpoint.diffusers_rules import IGNORED_IN_FOLDERS, PARTS, REFINER_TEXT, diffusers_to_official
from gm.checkpoint.formats import DTYPES, Entry
from gm.checkpoint.io import Raw, TensorFile, open_tensors, regular_size
from gm.checkpoint.json_text import LARGEST, parse_json
from gm.checkpoint.rules import fused_name, native_to_official
from gm.errors import UserError

VAE_PREFIX = PARTS["vae"][0]
_PLAIN = re.compile(r"\w[\w.-]{0,200}\.safetensors", re.ASCII)  # a shard's name: of a file in the index's own folder
_MOST_SHARDS = 100  # SDXL's UNet in float32 has 2; all are open at a time
_TRANSPOSED = tuple(f"{prefix}text_projection" for prefix in (PARTS["text_encoder_2"][0], REFINER_TEXT))
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
        if name in self._entries:
            raise UserError(f"{self.path}: {sources[0][1]} gives {name} a second time: the file is damaged")
        dtypes, shapes = ({getattr(file, about)(source) for file, source in sources} for about in ("dtype", "shape"))
        if len(dtypes) != 1 or len(shapes) != 1:
            raise UserError(f"{self.path}: {', '.join(source for _, source in sources)} differ in type or shape")
        shape = shapes.pop()
        if name in _TRANSPOSED:
            shape = shape[::-1]
        elif _CONVOLUTION.match(name) and len(shape) == 2:
            shape = (*shape, 1, 1)
        elif len(sources) > 1:
            if not shape:
                raise UserError(
                    f"{self.path}: {sources[0][1]} is a single number, where SDXL has a matrix: the file is damaged"
                )
            shape = (len(sources) * shape[0], *shape[1:])
        self._sources[name] = list(sources)
        self._entries[name] = Entry(dtypes.pop(), shape, [])

    def read_raw(self, name: str) -> Raw:
        entry = self._entries[name]
        raws = [file.read_raw(source) for file, source in self._sources[name]]
        content = raws[0].content if len(raws) == 1 else b"".join(raw.content for raw in raws)
        if name in _TRANSPOSED:
            numbers = np.frombuffer(content, f"u{DTYPES[entry.dtype][2]}").reshape(entry.shape[::-1])
            content = np.ascontiguousarray(numbers.T).tobytes()
        return Raw(entry.dtype, entry.shape, content)


def open_source(path: Union[str, Path]) -> TensorFile:
    """A weight file, or a folder in diffusers' layout under the official names."""
    path = Path(path)
    return _open_folder(path) if os.path.isdir(path) else open_tensors(path)


def _open_folder(path: Path) -> AssembledFile:
    missing = [part for part in PARTS if not os.path.isdir(path / part)]
    files = {
        part: _open_part(path / part, PARTS[part][1]) for part in PARTS if missing == ["text_encoder"] and part not in missing
    }
    if missing and not _is_of_refiner(files):
        raise UserError(
            f"{path} is a folder without {', '.join(f'{part}/' for part in missing)}: give a .safetensors file, a MindSpore "
            f".ckpt, or a folder with {', '.join(f'{part}/' for part in PARTS)} as diffusers saves it"
        )
    files = files or {part: _open_part(path / part, stem) for part, (_, stem) in PARTS.items()}
    result = AssembledFile(path, [file for part in files.values() for file in part])
    for part in files:
        _add_part(result, part, files[part], REFINER_TEXT if missing and part == "text_encoder_2" else "")
    return result


def _is_of_refiner(files: Mapping[str, Sequence[TensorFile]]) -> bool:
    """Whether the UNet's text is as wide as what the second encoder alone gives."""

    def columns(part: str, ending: str) -> set[int]:
        return {file.shape(name)[-1] for file in files[part] for name in file.names if name.endswith(ending)}

    return bool(files) and columns("unet", ".attn2.to_k.weight") == columns("text_encoder_2", "token_embedding.weight")


def open_vae(path: Union[str, Path]) -> TensorFile:
    """The first stage in a file of its own, in a whole checkpoint or in diffusers' folder, under the official names."""
    path = Path(path)
    if os.path.isdir(path):
        folder = path / "vae" if os.path.isdir(path / "vae") else path
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
    found = [path for path in plain if os.path.exists(path)][:1]
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
    shards = _shards(found[0])
    files = [open_tensors(folder / shard) for shard in shards]
    for file, names in zip(files, shards.values()):
        if set(file.names) != names:
            different = sorted(set(file.names) ^ names)
            raise UserError(f"{file.path} and {found[0].name} differ in {different[0]}: download the folder again")
    return files


def _shards(index: Path) -> dict[str, set[str]]:
    """File in the index's folder -> the names of its tensors. UserError for what is no index, or names files elsewhere."""
    todo = "download it again"
    if regular_size(index, "the index", todo) > LARGEST:
        raise UserError(f"{index} is no index of weight files, it has more than {LARGEST:,} bytes: {todo}")
    try:
        about = parse_json(index.read_bytes())
        weight_map = about["weight_map"] if isinstance(about, dict) else None
    except (OSError, ValueError, KeyError):
        weight_map = None
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise UserError(f"{index} is not an index of safetensors files: {todo}")
    shards: dict[str, set[str]] = {}
    for name, shard in weight_map.items():
        shards.setdefault(shard, set()).add(name)
    wrong = sorted(shard for shard in shards if not _PLAIN.fullmatch(shard))
    if wrong or len(shards) > _MOST_SHARDS:
        what = f"the file {ascii(wrong[0][:100])}, which is none beside it" if wrong else f"{len(shards):,} files"
        raise UserError(f"{index} names {what}: {todo}")
    return dict(sorted(shards.items()))


def _add_part(result: AssembledFile, part: str, files: Sequence[TensorFile], prefix: str = "") -> None:
    """Add the tensors of one of diffusers' folders under their official names, which begin with `prefix` where that is not the
    base's. UserError for one that SDXL lacks."""
    sources = {name: (file, name) for file in files for name in file.names if name not in IGNORED_IN_FOLDERS}
    official = diffusers_to_official(part, sources, prefix)
    unknown = [name for name in sources if not official[name]]
    if unknown:
        raise UserError(
            f"{files[0].path.parent} holds {len(unknown)} tensors that SDXL's {part} does not have "
            f"({', '.join(unknown[:3])}): give a folder of SDXL"
        )
    wholes: dict[str, list] = {}
    for name, source in sources.items():
        fused, third = fused_name(official[name])
        pieces = wholes.setdefault(fused, [None, None, None] if third is not None else [None])
        if pieces[third or 0]:
            raise UserError(f"{files[0].path.parent}: {name} gives {official[name]} a second time: the file is damaged")
        pieces[third or 0] = source
    for fused, pieces in wholes.items():
        if None in pieces:
            missing = "qkv"[pieces.index(None)]
            raise UserError(f"{files[0].path.parent} lacks the {missing}_proj of {fused}: download it again")
        result.add(fused, pieces)
