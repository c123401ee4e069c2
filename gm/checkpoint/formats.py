"""The bytes of the two file kinds: safetensors, and MindSpore's .ckpt (protobuf). Only where things are, no weights.

A .ckpt is a run of `Checkpoint { repeated Value value = 1 }` messages, `Value { string tag = 1; TensorProto tensor = 2 }`,
`TensorProto { repeated int64 dims = 1; string tensor_type = 2; bytes tensor_content = 3 }`
(mindspore/ccsrc/utils/checkpoint.proto). A large tensor is several values with the same tag, one after another.
"""

import binascii
import json
import math
import struct
from dataclasses import dataclass
from typing import BinaryIO, Iterator, Mapping, Sequence

from gm.checkpoint.json_text import LARGEST, parse_json

# our name -> (safetensors' name, MindSpore's name, bytes a number)
DTYPES = {
    "float32": ("F32", "Float32", 4),
    "float16": ("F16", "Float16", 2),
    "bfloat16": ("BF16", "BFloat16", 2),
    "float64": ("F64", "Float64", 8),
    "int64": ("I64", "Int64", 8),
    "int32": ("I32", "Int32", 4),
    "uint8": ("U8", "UInt8", 1),
    "int8": ("I8", "Int8", 1),
    "bool": ("BOOL", "Bool", 1),
}
_FROM_SAFETENSORS = {names[0]: ours for ours, names in DTYPES.items()}
_FROM_CKPT = {names[1]: ours for ours, names in DTYPES.items()}
MOST_TENSORS = 100_000  # SDXL has 2,515, LoRA of all its layers below 10,000
_LONGEST_NAME = 512  # characters; SDXL's have up to 120
_MOST_SIDES = 8  # of a tensor, as MindSpore has it
_MOST_NUMBERS = 2**40
_CHECKED = 256 * 2**20  # bytes up to which a .ckpt's CRC is computed: see scan_ckpt
_SLICE = 512 * 1024 * 1024  # bytes of one value in a .ckpt, as MindSpore writes it


@dataclass
class Entry:
    """One tensor of a file."""

    dtype: str  # a key of DTYPES
    shape: tuple[int, ...]
    parts: list[tuple[int, int]]  # (offset, length) in the file, in bytes

    @property
    def nbytes(self) -> int:
        return sum(length for _, length in self.parts)

    @property
    def expected_nbytes(self) -> int:
        return math.prod(self.shape) * DTYPES[self.dtype][2]


class BadFile(Exception):
    """The bytes are not those of the kind; the message says in what way."""


def scan_safetensors(file: BinaryIO, size: int) -> tuple[dict[str, Entry], dict[str, str]]:
    """Entries and metadata of a safetensors file; BadFile when it is not one as the safetensors library has it, or is cut off.

    The library takes headers of 100 MB; here they end at json_text.LARGEST, far above what SDXL has.
    """
    length = int.from_bytes(file.read(8), "little")
    if length > size - 8:
        raise BadFile("it is cut off inside its header")
    if length > LARGEST:
        raise BadFile(f"its header has {length:,} bytes, more than {LARGEST:,}")
    try:
        header = parse_json(file.read(length))
    except ValueError as error:
        why = f": {error}" if str(error).startswith("it ") else ""
        raise BadFile(f"its header is not readable{why}") from None
    assert isinstance(header, dict), "it begins with a brace"
    metadata = header.pop("__metadata__", None)
    metadata = {} if metadata is None else metadata
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise BadFile("its metadata are no texts by name")
    if len(header) > MOST_TENSORS:
        raise BadFile(f"it holds {len(header):,} tensors, more than {MOST_TENSORS:,}")
    entries = {name: _safetensors_entry(name, about, 8 + length) for name, about in header.items()}
    end, last = 8 + length, "its header"
    for (start, count), name in sorted((entry.parts[0], name) for name, entry in entries.items()):
        if start != end:
            raise BadFile(f"{name} does not begin where {last} ends")
        end, last = start + count, name
    if end > size:
        raise BadFile(f"it is cut off: {end:,} bytes are needed for {last}, the file has {size:,}")
    if end < size:
        raise BadFile(f"{size - end:,} bytes follow its last tensor: it is damaged")
    return entries, metadata


def _safetensors_entry(name: str, about: object, start: int) -> Entry:
    """One tensor of the header; `start`: of the data in the file."""
    _check_name(name)
    if not isinstance(about, dict) or set(about) != {"dtype", "shape", "data_offsets"}:
        raise BadFile(f"{name} has not dtype, shape and data_offsets alone")
    dtype, shape, offsets = about["dtype"], about["shape"], about["data_offsets"]
    if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise BadFile(f"{name} has no sound data_offsets")
    if not isinstance(dtype, str) or dtype not in _FROM_SAFETENSORS:
        raise BadFile(f"{name} has the unknown type {str(dtype)[:40]!r}")
    if not _are_counts(shape):
        raise BadFile(f"{name} has no sound shape")
    entry = Entry(_FROM_SAFETENSORS[dtype], _checked(name, shape), [(start + offsets[0], offsets[1] - offsets[0])])
    if entry.nbytes != entry.expected_nbytes:
        raise BadFile(f"{name} has {entry.nbytes} bytes where its shape {entry.shape} needs {entry.expected_nbytes}")
    return entry


def _are_counts(values: object) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _check_name(name: str) -> None:
    """Names stand in messages and are matched against patterns."""
    if len(name) > _LONGEST_NAME or not name.isprintable():
        raise BadFile(f"the name {ascii(name[:40])} of a tensor is too long or holds characters that cannot be shown")


def _checked(name: str, shape: Sequence[int]) -> tuple[int, ...]:
    """The shape; BadFile when it has too many sides, or so many numbers, sides of 0 left out, that no array has that shape."""
    if len(shape) > _MOST_SIDES or math.prod(side or 1 for side in shape) > _MOST_NUMBERS:
        raise BadFile(f"{name} has no sound shape")
    return tuple(shape)


def safetensors_header(specs: Sequence[tuple[str, str, tuple]], metadata: Mapping[str, str]) -> bytes:
    """The bytes before the data, for tensors (name, dtype, shape) written in this order."""
    header, offset = ({"__metadata__": dict(metadata)} if metadata else {}), 0
    for name, dtype, shape in specs:
        end = offset + Entry(dtype, tuple(shape), []).expected_nbytes
        header[name] = {"dtype": DTYPES[dtype][0], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _varint(file: BinaryIO) -> int:
    value, shift = 0, 0
    while True:
        byte = file.read(1)
        if not byte or shift > 63:
            raise BadFile("it is cut off or not a MindSpore checkpoint")
        value |= (byte[0] & 127) << shift
        if byte[0] < 128:
            return value
        shift += 7


def _fields(file: BinaryIO, end: int) -> Iterator[tuple[int, int]]:
    """(field number, length or value) of a message that ends at `end`; the caller reads or skips the bytes."""
    while file.tell() < end:
        key = _varint(file)
        value = _varint(file)
        if key & 7 not in (0, 2):
            raise BadFile("it is not a MindSpore checkpoint")
        if key & 7 == 2 and file.tell() + value > end:
            raise BadFile(f"it is cut off: {file.tell() + value:,} bytes are needed, the file has {end:,}")
        yield (key >> 3) if key & 7 == 2 else -(key >> 3), value
    _at(file, end)


def _at(file: BinaryIO, end: int) -> None:
    if file.tell() != end:
        raise BadFile("it is not a MindSpore checkpoint")


def scan_ckpt(file: BinaryIO, size: int) -> tuple[dict[str, Entry], dict[str, str]]:
    """Entries of a MindSpore .ckpt, and its text entries as metadata; BadFile when it is not one or is cut off.

    MindSpore may end a file with a CRC of all of it. Where that takes no time, up to 256 MiB, it must be right; for base weights
    of 7 GB it would take longer than loading them.
    """
    end = size
    if size > 17:
        file.seek(size - 17)
        trailer = file.read(17)
        if trailer.startswith(b"crc_num"):
            end = size - 17
            if size <= _CHECKED and _crc(file, end) != int.from_bytes(trailer[7:], "big"):
                raise BadFile("it is damaged: its CRC differs from what was written")
    file.seek(0)
    entries: dict[str, Entry] = {}
    metadata: dict[str, str] = {}
    last, values, texts = None, 0, 0
    for field, length in _fields(file, end):
        values += 1
        if field != 1 or values > MOST_TENSORS:
            raise BadFile("it is not a MindSpore checkpoint" if field != 1 else f"it holds more than {MOST_TENSORS:,} tensors")
        tag, dims, kind, part = _scan_value(file, file.tell() + length)
        _check_name(tag)
        if (tag in entries and tag != last) or tag in metadata:
            raise BadFile(f"it holds {tag} twice")
        if kind == "str":
            texts += part[1]
            if texts > LARGEST:
                raise BadFile(f"its texts have more than {LARGEST:,} bytes")
            file.seek(part[0])
            metadata[tag] = file.read(part[1]).decode("utf-32-le", "replace").rstrip("\0")
            file.seek(part[0] + part[1])
            last = None
            continue
        if kind not in _FROM_CKPT:
            raise BadFile(f"{tag} has the type {kind[:40]!r}, which is not a tensor's")
        entry = Entry(_FROM_CKPT[kind], () if dims == [0] and part[1] else _checked(tag, dims), [part])
        if tag in entries:
            if (entry.dtype, entry.shape) != (entries[tag].dtype, entries[tag].shape):
                raise BadFile(f"the parts of {tag} differ in type or shape")
            entries[tag].parts.append(part)
        else:
            entries[tag] = entry
        last = tag
    for name, entry in entries.items():
        if entry.nbytes != entry.expected_nbytes:
            raise BadFile(
                f"it is cut off or damaged: {name} has {entry.nbytes} bytes where its shape {entry.shape} needs "
                f"{entry.expected_nbytes}"
            )
    return entries, metadata


def _crc(file: BinaryIO, end: int) -> int:
    """CRC-32 of the bytes before `end`."""
    file.seek(0)
    crc = 0
    while end > file.tell():
        part = file.read(min(2**20, end - file.tell()))
        if not part:
            raise BadFile("it is cut off")
        crc = binascii.crc32(part, crc)
    return crc


def _scan_value(file: BinaryIO, end: int) -> tuple[str, list[int], str, tuple[int, int]]:
    """Tag, dims, type, and where the content is; the file stands at `end` afterwards."""
    tag, dims, kind, part = None, [], None, None
    for field, length in _fields(file, end):
        if field == 1 and tag is None:
            tag = _text(file, length)
        elif field == 2 and part is None:
            dims, kind, part = _scan_tensor(file, file.tell() + length)
        else:
            raise BadFile("it is not a MindSpore checkpoint of plain tensors")
    if not tag or part is None:
        raise BadFile("it is not a MindSpore checkpoint of plain tensors")
    return tag, dims, kind or "", part


def _scan_tensor(file: BinaryIO, end: int) -> tuple[list[int], str, tuple[int, int]]:
    dims: list[int] = []
    kind, part = None, None
    for number, size in _fields(file, end):
        if number == -1:
            dims.append(size)
        elif number == 1:  # packed
            stop = file.tell() + size
            while file.tell() < stop and len(dims) <= _MOST_SIDES:
                dims.append(_varint(file))
            _at(file, stop)
        elif number == 2 and kind is None:
            kind = _text(file, size)
        elif number == 3 and part is None:
            part = (file.tell(), size)
            file.seek(size, 1)
        else:
            raise BadFile("it is not a MindSpore checkpoint")
        if len(dims) > _MOST_SIDES:
            raise BadFile("a tensor has no sound shape")
    return dims, kind or "", part or (end, 0)


def _text(file: BinaryIO, length: int) -> str:
    if length > 4 * _LONGEST_NAME:
        raise BadFile("it is not a MindSpore checkpoint")
    try:
        return file.read(length).decode()
    except UnicodeDecodeError:
        raise BadFile("it is not a MindSpore checkpoint") from None


def _encode_varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _message(number: int, content: bytes) -> bytes:
    return _encode_varint(number << 3 | 2) + _encode_varint(len(content)) + content


def ckpt_values(name: str, kind: str, shape: Sequence[int], content: memoryview) -> Iterator[bytes]:
    """The bytes of one entry: headers and contents alternately, nothing copied twice."""
    dims = list(shape) or ([] if kind == "str" else [0])
    about = b"".join(_encode_varint(1 << 3) + _encode_varint(dim) for dim in dims) + _message(2, kind.encode())
    for start in range(0, max(len(content), 1), _SLICE):
        part = content[start : start + _SLICE]
        before = about + _encode_varint(3 << 3 | 2) + _encode_varint(len(part))
        tag = _message(1, name.encode())
        inner = _encode_varint(2 << 3 | 2) + _encode_varint(len(before) + len(part))
        yield (
            _encode_varint(1 << 3 | 2) + _encode_varint(len(tag) + len(inner) + len(before) + len(part)) + tag + inner + before
        )
        yield part


def ckpt_type(dtype: str) -> str:
    return DTYPES[dtype][1]
