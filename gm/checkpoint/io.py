"""Reading tensors one by one from a safetensors or MindSpore .ckpt file, and writing such files all or nothing.

What the names mean is rules.py and weights.py. Nothing here holds more than one tensor.
"""

import errno
import hashlib
import math
import os
import shutil
import stat
from pathlib import Path
from typing import BinaryIO, Iterable, Iterator, Mapping, Optional, Sequence, Union

import numpy as np

from gm.checkpoint import formats
from gm.checkpoint.finite import count_not_finite
from gm.checkpoint.formats import BadFile, Entry
from gm.errors import UserError
from gm.files import replacing

Array = Union[np.ndarray, "Raw"]
CHECKSUM = "blake2b"  # metadata of a file written with `checksum`: see Checksum


class Raw:
    """A tensor as bytes of a named type: how bfloat16, which numpy lacks, goes from file to file."""

    def __init__(self, dtype: str, shape: tuple, content: bytes):
        self.dtype, self.shape, self.content = dtype, tuple(shape), content


class NotFiniteTensor(UserError):
    """A tensor holds NaN or infinite numbers."""


class TensorFile:
    """An opened file: `names`, `shape`, `dtype`, `metadata` at once, contents by `read`. Close it or use `with`."""

    def __init__(self, path: Path, kind: str, file, entries: dict[str, Entry], metadata: dict[str, str]):
        self.path, self.kind, self._file, self._entries, self.metadata = path, kind, file, entries, metadata
        self._finite: set[str] = set()  # tensors without NaN

    def __enter__(self) -> "TensorFile":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    @property
    def paths(self) -> list[Path]:
        """The files on disk that are read."""
        return [self.path]

    @property
    def names(self) -> list[str]:
        return list(self._entries)

    @property
    def is_native(self) -> bool:
        """Whether base weights have native names here; else they have official ones."""
        return self.kind == "ckpt"

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def shape(self, name: str) -> tuple[int, ...]:
        return self._entries[name].shape

    def dtype(self, name: str) -> str:
        return self._entries[name].dtype

    def read_raw(self, name: str) -> Raw:
        """The tensor as its bytes. UserError when one of its numbers is NaN or infinite, which is looked for once."""
        raw = self._read(name)
        if name not in self._finite:
            count = count_not_finite(raw.content, raw.dtype)
            if count:
                raise NotFiniteTensor(
                    f"{self.path} holds {count:,} numbers that are NaN or infinite among the {math.prod(raw.shape):,} of {name}: "
                    "give a file from before that happened"
                )
            self._finite.add(name)
        return raw

    def _read(self, name: str) -> Raw:
        entry, chunks = self._entries[name], []
        try:
            for offset, length in entry.parts:
                chunk = os.pread(self._file.fileno(), length, offset)  # no shared position: several threads may read
                if len(chunk) != length:
                    raise UserError(f"{self.path} ended while {name} was read: has it been changed meanwhile?")
                chunks.append(chunk)
        except OSError as error:
            raise UserError(f"{self.path} cannot be read at {name} ({error.strerror}): copy it anew") from None
        return Raw(entry.dtype, entry.shape, chunks[0] if len(chunks) == 1 else b"".join(chunks))

    def read(self, name: str) -> np.ndarray:
        """The tensor as an array; bfloat16 becomes float32, which holds it exactly."""
        return to_array(self.read_raw(name))

    def verify_checksum(self) -> None:
        """UserError when the file has a checksum and tensors or metadata are not what was written. All of it is read."""
        if CHECKSUM not in self.metadata:
            return
        checksum = Checksum()
        for name in self.names:
            checksum.add(name, self._read(name))
        if checksum.text(self.metadata) != self.metadata[CHECKSUM]:
            raise UserError(f"{self.path} is damaged: its checksum differs from what was written, give another copy of it")


class Checksum:
    """blake2b over names, types, shapes and bytes of tensors in the file's order, and over the metadata."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=16)

    def add(self, name: str, raw: Raw) -> None:
        """The next tensor."""
        self._hash.update(f"{name}\n{raw.dtype} {raw.shape}\n".encode())
        self._hash.update(raw.content)

    def text(self, metadata: Mapping[str, str]) -> str:
        """In hexadecimal, of the tensors so far and these texts, without a checksum among them and without empty ones, which a
        .ckpt does not hold."""
        whole = self._hash.copy()
        for key in sorted(metadata):
            if key != CHECKSUM and metadata[key]:
                whole.update(f"{key}\n{metadata[key]}\n".encode())
        return whole.hexdigest()


def to_array(raw: Raw) -> np.ndarray:
    if raw.dtype == "bfloat16":
        bits = np.frombuffer(raw.content, np.uint16).astype(np.uint32) << 16
        return bits.view(np.float32).reshape(raw.shape)
    return np.frombuffer(raw.content, raw.dtype).reshape(raw.shape)


def convert(array: np.ndarray, dtype: str, name: str = "a weight") -> Array:
    """`array` in another floating type; to bfloat16 rounded to nearest even. UserError, with the `name`, when a number is not
    finite, or not any more: too large for the type."""
    if dtype == "bfloat16":
        result = to_bfloat16(array)
        count = count_not_finite(result.content, dtype)
    else:
        with np.errstate(over="ignore"):
            result = np.ascontiguousarray(array.astype(dtype)).reshape(array.shape)
        count = count_not_finite(result.data.cast("B") if result.size else b"", dtype)
    if count:
        largest = np.abs(array).max()
        if np.isfinite(largest):
            raise UserError(f"{name} of size {largest:g} does not fit into {dtype}: use " + _WIDER[dtype])
        raise NotFiniteTensor(
            f"{name} has {count:,} numbers that are NaN or infinite: what it was computed from is damaged or too large"
        )
    return result


_WIDER = {"float16": "bfloat16 or float32", "bfloat16": "float32", "float32": "smaller numbers"}


def to_bfloat16(array: np.ndarray) -> Raw:
    """Rounded to nearest even; what is too large becomes infinite."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    rounded = np.where(np.isnan(array), np.uint16(0x7FC0), rounded)
    return Raw("bfloat16", array.shape, rounded.tobytes())


def regular_size(path: Path, what: str, todo: str) -> int:
    """The bytes of a file that something else than a device, a pipe or a hole gives; UserError otherwise, which begins with
    `what` and ends with `todo`."""
    try:
        about = os.stat(path)
    except (OSError, ValueError) as error:
        if isinstance(error, (FileNotFoundError, NotADirectoryError)):
            raise UserError(f"{what} {path} does not exist: {todo}") from None
        raise UserError(f"{what} {path} cannot be read ({getattr(error, 'strerror', error)}): {todo}") from None
    if stat.S_ISDIR(about.st_mode):
        raise UserError(f"{path} is a folder, not {what.removeprefix('the ')}: {todo}")
    if not stat.S_ISREG(about.st_mode):
        raise UserError(f"{what} {path} is no file but a device or pipe: {todo}")
    if about.st_size > _SPARSE and 0 < about.st_blocks * 512 < about.st_size // 16:  # 0: a file system that does not say
        raise UserError(
            f"{what} {path} is said to have {about.st_size:,} bytes, but {about.st_blocks * 512:,} are on the disk: copy or "
            f"download it again, or {todo}"
        )
    return about.st_size


_SPARSE = 64 * 2**20  # bytes from which a file that is nearly all holes is refused: its zeros would fill the memory


def open_tensors(path: Union[str, Path]) -> TensorFile:
    """Open a safetensors or MindSpore .ckpt file, told apart by content. UserError when it is neither or cut off."""
    path = Path(path)
    accepted = "give a .safetensors file or a MindSpore .ckpt"
    size = regular_size(path, "the weight file", accepted)
    if size == 0:
        raise UserError(f"the weight file {path} is empty: {accepted}")
    try:
        file = open(path, "rb")
    except OSError as error:
        raise UserError(f"the weight file {path} cannot be read ({error.strerror}): check its permissions") from None
    try:
        start = file.read(16)
        file.seek(0)
        if start[8:9] == b"{":
            kind, (entries, metadata) = "safetensors", formats.scan_safetensors(file, size)
        elif start[:2] == b"PK" or start[:1] == b"\x80":
            raise BadFile("it is a PyTorch file: save it as .safetensors first")
        elif start[:1] == b"\x0a":
            kind, (entries, metadata) = "ckpt", formats.scan_ckpt(file, size)
        else:
            raise BadFile("its first bytes are of neither kind")
        if not entries:
            raise BadFile("it holds no tensor")
    except BadFile as error:
        file.close()
        raise UserError(f"the weight file {path} cannot be used, {error}: {accepted}") from None
    return TensorFile(path, kind, file, entries, metadata)


def kind_of(path: Path) -> str:
    """What a file of this name is written as. UserError for another suffix."""
    kinds = {".safetensors": "safetensors", ".ckpt": "ckpt"}
    if path.suffix not in kinds:
        raise UserError(f"{path} must end in .safetensors or .ckpt")
    return kinds[path.suffix]


def _raw(value: Array) -> Raw:
    if isinstance(value, Raw):
        return value
    return Raw(str(value.dtype), value.shape, np.ascontiguousarray(value).data.cast("B") if value.size else b"")


def _chunks(
    kind: str,
    items: Iterable[tuple[str, Array]],
    metadata: Mapping[str, str],
    specs: Optional[Sequence[tuple[str, str, tuple]]],
    checksum: Optional[Checksum],
) -> Iterator[bytes]:
    """The bytes of the file, with what `checksum` makes of it in the metadata."""
    raws = ((name, _raw(value)) for name, value in items)
    if kind == "safetensors":
        if specs is None:
            raws = list(raws)
            specs = [(name, raw.dtype, raw.shape) for name, raw in raws]
            for name, raw in raws if checksum else ():
                checksum.add(name, raw)
        else:
            assert checksum is None, "the metadata stand before the tensors that are streamed"
        yield formats.safetensors_header(specs, _with_checksum(metadata, checksum))
        wanted = iter(specs)
        for name, raw in raws:
            assert (name, raw.dtype, raw.shape) == (lambda s: (s[0], s[1], tuple(s[2])))(next(wanted)), name
            yield raw.content
        return
    for name, raw in raws:
        if checksum:
            checksum.add(name, raw)
        yield from formats.ckpt_values(name, formats.ckpt_type(raw.dtype), raw.shape, memoryview(raw.content))
    for key, text in _with_checksum(metadata, checksum).items():
        if text:
            yield from formats.ckpt_values(key, "str", (), memoryview(text.encode("utf-32-le")))


def _with_checksum(metadata: Mapping[str, str], checksum: Optional[Checksum]) -> dict[str, str]:
    return {**metadata, CHECKSUM: checksum.text(metadata)} if checksum else dict(metadata)


def _new_file(path: Path) -> BinaryIO:
    """A file that nobody else has made meanwhile: in a folder of many people a link there would lead elsewhere."""
    path.unlink(missing_ok=True)
    return open(path, "xb")


def _free(folder: Path) -> str:
    """Bytes, in words."""
    try:
        return f"{shutil.disk_usage(folder).free:,}"
    except OSError:
        return "none"


def write_tensors(
    path: Path,
    items: Iterable[tuple[str, Array]],
    metadata: Optional[Mapping[str, str]] = None,
    specs: Optional[Sequence[tuple[str, str, tuple]]] = None,
    checksum: bool = False,
) -> None:
    """Write (name, tensor) pairs as the kind that the suffix of `path` says; the name appears when all is on disk.

    `specs`, (name, dtype, shape) in the same order, lets a safetensors file be streamed. `checksum`: the metadata says that of
    all of it, for `TensorFile.verify_checksum` (a streamed safetensors file cannot have one). When anything fails, the unfinished
    file is removed, a file of that name stays as it was, and what the disk or the folder refuses is a UserError.
    """
    path, sums = Path(path), Checksum() if checksum else None
    kind, written = kind_of(path), 0
    try:
        with replacing(path) as unfinished, _new_file(unfinished) as file:
            for chunk in _chunks(kind, items, metadata or {}, specs, sums):
                file.write(chunk)
                written += len(chunk)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"no space left for {path} ({written:,} bytes were written, {_free(path.parent)} are free): what was saved before is "
                "untouched, make room and run again"
            ) from None
        raise UserError(f"{path} could not be written ({error.strerror or error}): check the folder and run again") from None
