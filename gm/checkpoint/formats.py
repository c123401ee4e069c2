"""The bytes of the two file kinds: safetensors, and MindSpore's .ckpt (protobuf). Only where things are, no weights.

A .ckpt is a run of `Checkpoint { repeated Value value = 1 }` messages, `Value { string tag = 1; TensorProto tensor = 2 }`,
`TensorProto { repeated int64 dims = 1; string tensor_type = 2; bytes tensor_content = 3 }`
(mindspore/ccsrc/utils/checkpoint.proto). A large tensor is several values with the same tag, one after another.
"""

import json
import struct
from dataclasses import dataclass
from typing import BinaryIO, Iterator, Mapping, Sequence

import numpy as np

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
_LARGEST_HEADER = 100_000_000
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
        return int(np.prod(self.shape, dtype=np.int64)) * DTYPES[self.dtype][2]


class BadFile(Exception):
    """The bytes are not those of the kind; the message says in what way."""


def scan_safetensors(file: BinaryIO, size: int) -> tuple[dict[str, Entry], dict[str, str]]:
    """Entries and metadata of a safetensors file; BadFile when it is not one or is cut off."""
    (length,) = struct.unpack("<Q", file.read(8))
    if length > min(size - 8, _LARGEST_HEADER):
        raise BadFile("it is cut off inside its header")
    try:
        header = json.loads(file.read(length))
    except ValueError:
        raise BadFile("its header is not readable") from None
    metadata = header.pop("__metadata__", {})
    entries = {}
    for name, about in header.items():
        start, end = about["data_offsets"]
        if about["dtype"] not in _FROM_SAFETENSORS:
            raise BadFile(f"{name} has the unknown type {about['dtype']}")
        entry = Entry(_FROM_SAFETENSORS[about["dtype"]], tuple(about["shape"]), [(8 + length + start, end - start)])
        if 8 + length + end > size:
            raise BadFile(f"it is cut off: {8 + length + end:,} bytes are needed for {name}, the file has {size:,}")
        if entry.nbytes != entry.expected_nbytes:
            raise BadFile(f"{name} has {entry.nbytes} bytes where its shape {entry.shape} needs {entry.expected_nbytes}")
        entries[name] = entry
    return entries, {str(key): str(value) for key, value in metadata.items()}


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


def scan_ckpt(file: BinaryIO, size: int) -> tuple[dict[str, Entry], dict[str, str]]:
    """Entries of a MindSpore .ckpt, and its text entries as metadata; BadFile when it is not one or is cut off."""
    end = size
    if size > 17:
        file.seek(size - 17)
        if file.read(7) == b"crc_num":
            end = size - 17
    file.seek(0)
    entries: dict[str, Entry] = {}
    metadata: dict[str, str] = {}
    for field, length in _fields(file, end):
        if field != 1:
            raise BadFile("it is not a MindSpore checkpoint")
        tag, dims, kind, part = _scan_value(file, file.tell() + length)
        if kind == "str":
            file.seek(part[0])
            metadata[tag] = file.read(part[1]).decode("utf-32-le", "replace").rstrip("\0")
            continue
        if kind not in _FROM_CKPT:
            raise BadFile(f"{tag} has the type {kind!r}, which is not a tensor's")
        if tag in entries:
            entries[tag].parts.append(part)
        else:
            entries[tag] = Entry(_FROM_CKPT[kind], () if dims == [0] else tuple(dims), [part])
        file.seek(part[0] + part[1])
    for name, entry in entries.items():
        if entry.nbytes != entry.expected_nbytes:
            raise BadFile(
                f"it is cut off or damaged: {name} has {entry.nbytes} bytes where its shape {entry.shape} needs "
                f"{entry.expected_nbytes}"
            )
    return entries, metadata


def _scan_value(file: BinaryIO, end: int) -> tuple[str, list[int], str, tuple[int, int]]:
    tag, dims, kind, part = "", [], "", (end, 0)
    for field, length in _fields(file, end):
        if field == 1:
            tag = _text(file, length)
        elif field == 2:
            inner = file.tell() + length
            for number, size in _fields(file, inner):
                if number == -1:
                    dims.append(size)
                elif number == 1:  # packed
                    stop = file.tell() + size
                    while file.tell() < stop:
                        dims.append(_varint(file))
                elif number == 2:
                    kind = _text(file, size)
                elif number == 3:
                    part = (file.tell(), size)
                    file.seek(size, 1)
                else:
                    raise BadFile("it is not a MindSpore checkpoint")
        else:
            raise BadFile("it is not a MindSpore checkpoint of plain tensors")
    file.seek(end)
    return tag, dims, kind, part


def _text(file: BinaryIO, length: int) -> str:
    if length > 4096:
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
