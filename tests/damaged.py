"""Weight and LoRA files made byte by byte, so that they can be wrong in ways that no library writes."""

import json
import os
import struct
from pathlib import Path

import numpy as np

from gm.checkpoint import formats

MODULE = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
PEFT = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
NATIVE = "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q"


def safetensors(path: Path, header, data: bytes = b"", length=None) -> Path:
    """`header`: bytes, or what JSON can hold; `length`: what the file says of it."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(shape=(2,), offsets=(0, 8), dtype="F32") -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def varint(value: int) -> bytes:
    return formats._encode_varint(value)


def field(number: int, content: bytes) -> bytes:
    return formats._message(number, content)


def value(tag: str = "w", dims=(2,), kind: str = "Float32", content: bytes = bytes(8), more: bytes = b"") -> bytes:
    """One entry of a .ckpt; `more`: fields after its tensor's."""
    sides = b"".join(varint(1 << 3) + varint(side) for side in dims)
    tensor = sides + field(2, kind.encode()) + field(3, content) + more
    return field(1, field(1, tag.encode()) + field(2, tensor))


def ckpt(path: Path, *values: bytes, trailer: bytes = b"") -> Path:
    path.write_bytes(b"".join(values) + trailer)
    return path


def lora(path: Path, names: str = MODULE, metadata=None, a=(4, 64), b=(64, 4), fill=1.0, more=()) -> Path:
    """One module; `names`: MODULE, PEFT or NATIVE; `more`: further tensors (name, array)."""
    from gm.checkpoint.io import write_tensors

    down, up = ("lora_down", "lora_up") if names == MODULE else ("lora_A", "lora_B")
    arrays = {f"{names}.{down}.weight": np.full(a, 0.5, np.float32), f"{names}.{up}.weight": np.full(b, fill, np.float32)}
    write_tensors(path, [*arrays.items(), *more], metadata or {})
    return path


def sparse(path: Path) -> Path:
    """4 kB on the disk, a tensor of 5 GB by its words."""
    size = 5 * 10**9 // 4 * 4
    about = b"".join(varint(1 << 3) + varint(side) for side in (size // 4,)) + field(2, b"Float32")
    tensor = about + varint(3 << 3 | 2) + varint(size)
    inner = field(1, b"w") + varint(2 << 3 | 2) + varint(len(tensor) + size) + tensor
    start = varint(1 << 3 | 2) + varint(len(inner) + size) + inner
    path.write_bytes(start)
    os.truncate(path, len(start) + size)
    return path


def pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def loop(path: Path) -> Path:
    path.symlink_to(path.name)
    return path


def folder(path: Path, index) -> Path:
    """diffusers' folder whose UNet has this index, bytes or what JSON can hold, beside one shard."""
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        (path / part).mkdir(parents=True)
    text = index if isinstance(index, bytes) else json.dumps(index).encode()
    (path / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_bytes(text)
    safetensors(path / "unet" / "a.safetensors", {"conv_in.bias": entry()}, bytes(8))
    safetensors(path / "secret.safetensors", {"conv_in.bias": entry()}, bytes(8))
    return path
