"""The pictures that the small model is trained on."""

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Sequence

import numpy as np

from gm.console import bar
from gm.errors import UserError
from gm.files import replacing
from gm.randomness import WORLD, generator
from tools.toy.drawing import draw
from tools.toy.scenes import Scene, even_look, random_scene

TOGETHER = 0.25  # share of what the VAE sees that is put together from two


def scene_of(seed: int, number: int) -> Scene:
    """Picture `number` of the training set."""
    return random_scene(generator(seed, WORLD, number))


def varied(size: int, random: np.random.Generator) -> np.ndarray:
    """A picture of anybody, of whose traits none is rare. Some are put together from two along a line: the VAE shall draw
    what is there, not what goes with the rest."""
    picture = _anybody(size, random)
    if random.random() < TOGETHER:
        (y, x), turn = random.uniform(-size / 4, size / 4, 2), random.uniform(0, 2 * np.pi)
        rows, columns = np.mgrid[:size, :size] - (size - 1) / 2
        there = (rows - y) * np.sin(turn) + (columns - x) * np.cos(turn) > 0
        picture = np.where(there[..., None], _anybody(size, random), picture)
    return picture


def _anybody(size: int, random: np.random.Generator) -> np.ndarray:
    return np.asarray(draw(random_scene(random, even_look(random)), size))


def drawn(path: Path, number: int, size: int, seed: int) -> np.ndarray:
    """The training pictures (number, size, size, 3) uint8, from `path` or drawn into it."""
    if path.exists():
        return load_array(path, (number, size, size, 3), np.uint8, mmap_mode="r")
    with ProcessPoolExecutor() as pool:
        pictures = pool.map(partial(_pixels, size, seed), range(number), chunksize=64)
        pixels = np.stack(list(bar(pictures, "drawing", total=number, unit="picture")))
    with replacing(path) as unfinished, unfinished.open("wb") as file:
        np.save(file, pixels)
    return pixels


def load_array(path: Path, shape: Sequence[int], dtype: type, **how) -> np.ndarray:
    """What a stopped run has left; UserError when it is another, or no array at all. `how`: of np.load, which runs no pickle."""
    try:
        array = np.load(path, **how)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} cannot be read ({error}): remove it, or give another --output") from None
    if array.shape != tuple(shape) or array.dtype != dtype:
        raise UserError(
            f"{path} holds {array.dtype} {array.shape}, but {np.dtype(dtype)} {tuple(shape)} is asked for: give another --output"
        )
    return array


def _pixels(size: int, seed: int, number: int) -> np.ndarray:
    return np.asarray(draw(scene_of(seed, number), size))
