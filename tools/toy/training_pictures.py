"""The pictures that the small model is trained on."""

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

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
        pixels = np.load(path, mmap_mode="r")
        if pixels.shape == (number, size, size, 3):
            return pixels
        raise UserError(f"{path} holds {len(pixels)} pictures of {pixels.shape[1]} pixels: give another --output")
    with ProcessPoolExecutor() as pool:
        pictures = pool.map(partial(_pixels, size, seed), range(number), chunksize=64)
        pixels = np.stack(list(bar(pictures, "drawing", total=number, unit="picture")))
    with replacing(path) as unfinished, unfinished.open("wb") as file:
        np.save(file, pixels)
    return pixels


def _pixels(size: int, seed: int, number: int) -> np.ndarray:
    return np.asarray(draw(scene_of(seed, number), size))
