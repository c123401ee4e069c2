"""Convert SDXL base weights between the official .safetensors file and the MindSpore .ckpt, in either direction.

The direction is told by the input's content. Tensors are read, renamed and written one by one.
"""

import argparse
import sys
from pathlib import Path
from typing import Iterator, Optional, Sequence

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gm import console
from gm.checkpoint.io import Array, TensorFile, convert, kind_of, open_tensors, write_tensors
from gm.checkpoint.rules import is_lora, native_to_official, official_to_native
from gm.console import bar, log
from gm.errors import UserError

FLOATS = ("float16", "bfloat16", "float32")


def main(argv: Optional[Sequence[str]] = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--input", required=True, help="an official .safetensors file, or a MindSpore .ckpt")
    parser.add_argument("--output", required=True, help="the other kind; it must not exist")
    parser.add_argument("--dtype", choices=("keep", *FLOATS), default="keep", help="number type of the output")
    options = parser.parse_args(argv)
    output = Path(options.output)
    with open_tensors(options.input) as source:
        check(source, output)
        output.parent.mkdir(parents=True, exist_ok=True)
        items = bar(converted(source, options.dtype), "converting", total=len(source.names), unit="tensor")
        write_tensors(output, items, source.metadata, specs_of(source, options.dtype))
    log.info("%s: %d tensors, %.2f GB", output, len(source.names), output.stat().st_size / 1e9)


def check(source: TensorFile, output: Path) -> None:
    """UserError unless the output is a new file of the other kind and the input holds base weights only."""
    if kind_of(output) == source.kind:
        raise UserError(f"--output {output} is of the input's own kind: convert .safetensors to .ckpt or .ckpt to .safetensors")
    if output.exists():
        raise UserError(f"--output {output} exists already: give another name or remove it")
    if any(is_lora(name) for name in source.names):
        raise UserError(f"--input {source.path} holds LoRA matrices: this command converts base weights only")


def renamed(source: TensorFile, name: str) -> str:
    """The tensor's name in the output."""
    return official_to_native(name) if source.kind == "safetensors" else native_to_official(name)


def target_dtype(source: TensorFile, name: str, dtype: str) -> str:
    """Integers stay integers."""
    return dtype if dtype != "keep" and source.dtype(name) in FLOATS else source.dtype(name)


def specs_of(source: TensorFile, dtype: str) -> list[tuple[str, str, tuple]]:
    """(name, dtype, shape) of every tensor of the output, in order."""
    return [(renamed(source, name), target_dtype(source, name, dtype), source.shape(name)) for name in source.names]


def converted(source: TensorFile, dtype: str) -> Iterator[tuple[str, Array]]:
    """(name, tensor) of the output, byte for byte the input's where the type stays."""
    for name in source.names:
        wanted = target_dtype(source, name, dtype)
        keep = wanted == source.dtype(name)
        yield renamed(source, name), source.read_raw(name) if keep else convert(source.read(name), wanted)


if __name__ == "__main__":
    sys.exit(console.run_command(main))
