"""The class images of prior preservation (arXiv 2208.12242, section 3.2): which are missing, and sampling them."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Callable, Mapping, Sequence

import numpy as np

from gm.console import bar
from gm.data.images import count_images
from gm.errors import UserError
from gm.checkpoint.io import remove_unfinished
from gm.pictures import save_png

NAME = "class_{:05d}.png"


def missing_images(folder: Path, wanted: int) -> list[int]:
    """The numbers of the images to sample so that `folder` holds `wanted`; none of their names is taken.

    Only real images count. Numbers already on disk are left out, so an interrupted sampling continues where it was.
    """
    missing = max(0, wanted - len(count_images(folder)))
    taken = {path.stem for path in folder.iterdir()} if folder.is_dir() else set()
    numbers, candidate = [], 0
    while len(numbers) < missing:
        if Path(NAME.format(candidate)).stem not in taken:
            numbers.append(candidate)
        candidate += 1
    return numbers


def make_writable(folders: Mapping[str, Path]) -> None:
    """Create the folders, flag -> path, and make sure a file can be written in each; UserError naming the flag
    otherwise, and then no folder is left that was not there before. What killed runs were writing is removed."""
    created: list[Path] = []
    for flag, folder in folders.items():
        probe = folder / f".write_test.{os.uname().nodename}.{os.getpid()}"
        try:
            created += [path for path in (folder, *folder.parents) if not path.exists()]
            folder.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b"")
            probe.unlink()
            remove_unfinished(folder)
        except OSError as error:
            for path in sorted(created, reverse=True):
                with suppress(OSError):
                    path.rmdir()
            raise UserError(
                f"{flag} {folder} cannot be written to ({error.strerror or error}): give a folder in which files can be created"
            ) from None


def sample_images(
    folder: Path,
    batches: Sequence[Sequence[int]],
    size: int,
    sample: Callable[[Sequence[int], str], list[np.ndarray]],
    text: dict[str, object],
) -> None:
    """Sample image `class_<number>.png` for every number in `batches`; `sample(seeds, what)` makes `size` pictures.

    A smaller batch is filled up (a graph is compiled for one batch size) and the surplus thrown away. A file that has
    appeared in the meantime is not overwritten.
    """
    done, total = 0, sum(len(batch) for batch in batches)
    with bar(None, "sampling class images", total=total, unit="image") as progress:
        for numbers in batches:
            seeds = list(numbers) + [numbers[-1]] * (size - len(numbers))
            pictures = sample(seeds, f"class images {done + 1}-{done + len(numbers)} of {total}")
            for number, picture in zip(numbers, pictures):
                path = folder / NAME.format(number)
                if path.exists():
                    raise UserError(f"{path} appeared while sampling: is another run filling the same folder?")
                save_png(path, picture, {**text, "seed": number})
            done += len(numbers)
            progress.update(len(numbers))
