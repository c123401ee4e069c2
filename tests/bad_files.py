"""Images and weight files that are good, and the ways in which they can be bad."""

import struct
import zlib

import numpy as np
from PIL import Image
from safetensors.numpy import load_file, save_file

from tools import convert_weight

LEFT, RIGHT = (200, 30, 30), (30, 30, 200)


def halves(width: int = 40, height: int = 20) -> Image.Image:
    """Red on the left, blue on the right."""
    image = Image.new("RGB", (width, height), LEFT)
    image.paste(RIGHT, (width // 2, 0, width, height))
    return image


def animated(path):
    frames = [halves(), halves().rotate(90)]
    frames[0].save(path, save_all=True, append_images=frames[1:])


def truncated(path):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    Image.fromarray(noise).save(path, format="JPEG")
    path.write_bytes(path.read_bytes()[:1500])


def enormous(path):
    """A small PNG file that says it has 20,000 x 20,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


BAD_IMAGES = {
    "empty.png": (lambda path: path.write_bytes(b""), "is empty"),
    "text.jpg": (lambda path: path.write_text("not a picture"), "not a picture"),
    "cut.jpg": (truncated, "is broken"),
    "moving.webp": (animated, "animated (2 frames)"),
    "moving.png": (animated, "animated (2 frames)"),
    "huge.png": (enormous, "too large"),
}


def change(weights, path, how):
    """Write the weights with one tensor missing, left over, or of another shape."""
    tensors = load_file(weights)
    name = "model.diffusion_model.out.2.weight"
    if how == "missing":
        del tensors[name]
    elif how == "extra":
        tensors["model.diffusion_model.another.weight"] = tensors[name]
    else:
        tensors[name] = tensors[name][:, :16].copy()
    save_file(tensors, path)


def bad_file(kind, weights, folder):
    path = folder / ("a.ckpt" if "ckpt" in kind else "a.safetensors")
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("these are no weights at all")
    elif kind == "pytorch":
        path.write_bytes(b"PK\3\4" + bytes(100))
    elif kind == "folder":
        path.mkdir()
    elif kind == "cut safetensors":
        path.write_bytes(weights.read_bytes()[:-1000])
    elif kind == "cut header":
        path.write_bytes(weights.read_bytes()[:1000])
    elif kind == "broken header":
        path.write_bytes(weights.read_bytes()[:8] + b'{"' + weights.read_bytes()[10:].replace(b":", b";", 5))
    elif kind == "cut ckpt":
        convert_weight.main(["--input", str(weights), "--output", str(path)])
        path.write_bytes(path.read_bytes()[:-1000])
    return path
