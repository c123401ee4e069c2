"""Base weights written anew as one file, .safetensors with official names or .ckpt with native ones, streamed.

What is not changed and keeps its type is copied byte for byte. Opening the weights is weights.py.
"""

import errno
import os
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Callable, Collection, Iterator, Mapping, Optional

import numpy as np

from gm.checkpoint.io import Array, TensorFile, convert, kind_of, write_tensors
from gm.checkpoint.rules import native_to_official, split_names
from gm.checkpoint.weights import BaseWeights
from gm.console import bar
from gm.errors import UserError

FLOATS = ("float16", "bfloat16", "float32")
_LONGEST_NAME = 200  # bytes of a file's name: file systems have 255, and an unfinished file has a longer one


@contextmanager
def new_output(path: Path) -> Iterator[Path]:
    """`path`, its folder made for the body, which writes it: a folder made here goes again when the body fails. UserError unless
    it is a new .safetensors or .ckpt file in a folder that can be written to; nothing that is there is ever written over."""
    kind_of(path)
    if os.path.lexists(path):
        raise UserError(f"--output {path} exists already: give another name or remove it")
    if len(os.fsencode(path.name)) > _LONGEST_NAME:
        raise UserError(f"--output {path} is too long a name: give one of up to {_LONGEST_NAME} bytes")
    made = [folder for folder in (path.parent, *path.parent.parents) if not os.path.lexists(folder)]
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if not os.access(path.parent, os.W_OK | os.X_OK):
                raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        except OSError as error:
            raise UserError(
                f"--output {path} cannot be written ({error.strerror or error}): give a file in another folder"
            ) from None
        yield path
    except BaseException:
        for folder in made:
            with suppress(OSError):
                folder.rmdir()
        raise


def write_single_file(
    path: Path,
    base: BaseWeights,
    dtype: str,
    metadata: Mapping[str, str],
    what: str,
    read: Optional[Callable[[str], np.ndarray]] = None,
    changed: Collection[str] = (),
) -> None:
    """Write `base` as the kind that `path` says, floating tensors as `dtype` ("keep": as they are).

    The tensors whose native names are in `changed`, projections split, come from `read`. `what` labels the progress bar.
    """
    kind = kind_of(path)
    named = [(native if kind == "ckpt" else native_to_official(native), native, *where) for native, *where in base.stored]
    specs = [(name, _dtype(file, source, dtype), file.shape(source)) for name, _, file, source in named]

    def tensors() -> Iterator[tuple[str, Array]]:
        for (_, wanted, _), (name, native, file, source) in zip(bar(specs, what, unit="tensor"), named):
            parts = split_names(native) or [native]
            if any(part in changed for part in parts):
                yield name, convert(np.concatenate([read(part) for part in parts]), wanted, name)
            elif wanted == file.dtype(source):
                yield name, file.read_raw(source)
            else:
                yield name, convert(file.read(source), wanted, name)

    write_tensors(path, tensors(), metadata, specs)


def _dtype(file: TensorFile, name: str, dtype: str) -> str:
    """Integers stay integers."""
    return dtype if dtype != "keep" and file.dtype(name) in FLOATS else file.dtype(name)
