"""Write base weights full of random numbers for any model YAML, as an official single-file .safetensors.

For trying the commands and for measuring: the names and shapes are those of the real file, the pictures are noise.
Every tensor is drawn and written by itself, so that the full size (6.9 GB in float16) takes little memory.
"""

import sys
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator, Optional, Sequence

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gm import ending

if __name__ == "__main__":  # what is imported below takes a while
    ending.catch_signals()

import numpy as np

from gm import console, runtime
from gm.checkpoint.io import Array, convert, kind_of, write_tensors
from gm.checkpoint.rules import official_shapes
from gm.checkpoint.single_file import FLOATS
from gm.config.load import load_config
from gm.console import bar, log
from gm.errors import UserError
from gm.options.model import SDXL
from gm.options.parser import REQUIRED, option, parse
from gm.randomness import RANDOM_WEIGHTS, generator

BLOCK = 1 << 20  # numbers drawn for one tensor; larger tensors repeat them


@dataclass(frozen=True)
class Options:
    """What was asked."""

    config: str = option(SDXL, "YAML of the model", metavar="YAML")
    set: tuple[str, ...] = option((), "override one entry of the YAML; repeatable", repeated=True, metavar="KEY=VALUE")
    output: Path = option(REQUIRED, "the .safetensors file to write; it must not exist", metavar="FILE")
    dtype: str = option("float16", "number type", choices=FLOATS)
    seed: int = option(0, "the same seed gives the same numbers", least=0)


def main(argv: Optional[Sequence[str]] = None) -> None:
    """The command."""
    options = parse(Options, argv, "make_random_checkpoint.py", __doc__.splitlines()[0])
    output = options.output
    config = load_config(options.config, options.set, training=False)
    if kind_of(output) != "safetensors":
        raise UserError(f"--output {output} must end in .safetensors: the official layout is one")
    if output.exists():
        raise UserError(f"--output {output} exists already: give another name or remove it")
    runtime.quiet_environment()
    from gm.models.sdxl import expected_shapes

    shapes = official_shapes(expected_shapes(config.model)[0])
    specs = [(name, options.dtype, shape) for name, shape in shapes.items()]
    output.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(output, _tensors(shapes, options.dtype, options.seed), {}, specs)
    log.info("%s: %d tensors, %.2f GB", output, len(shapes), output.stat().st_size / 1e9)


def _tensors(shapes: dict[str, tuple], dtype: str, seed: int) -> Iterator[tuple[str, Array]]:
    for name, shape in bar(shapes.items(), "writing", unit="tensor"):
        yield name, convert(random_weight(name, shape, seed), dtype)


def random_weight(name: str, shape: tuple, seed: int) -> np.ndarray:
    """Numbers of the size a fresh network has: norms 1, biases 0, matrices with variance 1/(3 * inputs), float32."""
    size = int(np.prod(shape))
    if name.endswith("bias"):
        return np.zeros(shape, np.float32)
    if len(shape) < 2:
        return np.ones(shape, np.float32)
    bound = 0.02 if "embedding" in name else (size // shape[0]) ** -0.5
    block = generator(seed, RANDOM_WEIGHTS, zlib.crc32(name.encode())).uniform(-bound, bound, min(size, BLOCK))
    return np.resize(block.astype(np.float32), shape)


if __name__ == "__main__":
    sys.exit(console.run_command(main))
