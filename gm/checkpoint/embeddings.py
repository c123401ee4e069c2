"""Files of textual inversion (arXiv 2208.01618) for SDXL: rows of both token tables that stand for a word of one's own.

A file holds clip_l (n, 768) for the first text encoder and clip_g (n, 1280) for the second, n tokens for one word.
"""

from pathlib import Path
from typing import NamedTuple, Sequence

import numpy as np

from gm.checkpoint.io import open_tensors
from gm.config.types import ModelConfig
from gm.errors import UserError

# the names of the tensors for each encoder: A1111's, ComfyUI's and diffusers', then those of older scripts
NAMES = {"clip": ("clip_l", "text_encoders_0"), "open_clip": ("clip_g", "text_encoders_1")}
MOST_TOKENS = 75  # of one word


class LearnedWord(NamedTuple):
    """A word and its rows, (n, width) float32 of each text encoder of the model."""

    name: str
    rows: tuple[np.ndarray, ...]

    @property
    def count(self) -> int:
        return len(self.rows[0])


def open_embeddings(given: Sequence[str], model: ModelConfig) -> list[LearnedWord]:
    """The words of `FILE`, called by the file's name, or `NAME=FILE`. UserError for a file that does not fit the model, and for a
    name that is given twice."""
    words: list[LearnedWord] = []
    for one in given:
        name, equals, path = one.partition("=")
        if not equals:
            name, path = Path(one).stem, one
        if not name.strip() or any(name.lower() == word.name.lower() for word in words):
            raise UserError(f"--embedding {one}: the name {name!r} is empty or taken, give another by NAME=FILE")
        words.append(LearnedWord(name.strip(), _rows(path, model)))
    return words


def _rows(path: str, model: ModelConfig) -> tuple[np.ndarray, ...]:
    with open_tensors(path) as file:
        rows = []
        for encoder in model.text_encoders:
            found = next((name for name in NAMES[encoder.kind] if name in file.names), None)
            if found is None:
                raise UserError(
                    f"--embedding {path} has no {NAMES[encoder.kind][0]}: give a textual inversion of SDXL, this holds "
                    f"{', '.join(file.names[:3])}"
                )
            array = np.atleast_2d(file.read(found).astype(np.float32))
            if array.ndim != 2 or array.shape[1] != encoder.width or not 1 <= len(array) <= MOST_TOKENS:
                raise UserError(
                    f"--embedding {path}: {found} has the shape {array.shape}, but the model takes 1 to {MOST_TOKENS} rows of "
                    f"{encoder.width}: give a textual inversion of this model"
                )
            rows.append(array)
    if len({len(one) for one in rows}) > 1:
        raise UserError(
            f"--embedding {path} has {' and '.join(str(len(one)) for one in rows)} rows: give as many for each encoder"
        )
    return tuple(rows)
