"""The pictures that are evaluated: which there have to be, which are there already, and sampling the others.

Every model makes the same pictures: each prompt with each seed. Several are sampled in one batch, so that they can differ by
a grey level from what demo/sampling_without_streamlit.py makes of the same seed.
"""

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Mapping, NamedTuple, Optional, Protocol, Sequence

import numpy as np

from gm.config.types import SampleSettings
from gm.data.images import digest_of, read_image
from gm.encoding.text import unconditional
from gm.errors import UserError
from gm.pictures import contact_sheet, save_new_png, save_png, text_of, warn_of_flat
from gm.sampling.latents import Texts
from gm.soundness import NotFinite

KEY = "evaluation_key"  # the PNG's text that tells what it was made from


@dataclass(frozen=True)
class Plan:
    """What every model is asked for."""

    prompts: tuple[str, ...]  # of the subject
    class_prompt: str
    seeds: tuple[int, ...]  # of each prompt
    class_seeds: tuple[int, ...]
    settings: SampleSettings
    batch: int  # pictures sampled at once

    @property
    def all_prompts(self) -> list[str]:
        return [*self.prompts, self.class_prompt]


class Row(NamedTuple):
    """A model of the table."""

    name: str
    lora: Optional[Path] = None  # on the base model


@dataclass(frozen=True)
class Pictures:
    """What one model made, (h, w, 3) uint8 each, in the order of the seeds."""

    subject: Mapping[str, list[np.ndarray]]  # prompt -> pictures
    of_class: list[np.ndarray]


class _Wanted(NamedTuple):
    """A picture that there has to be."""

    path: Path
    prompt: str
    seed: int


class Sampling(Protocol):
    """What a Gallery samples with, as gm/sampling/pipeline.py."""

    embedder: Any  # None until it is loaded
    texts: Any  # prompt -> TextEmbedding, of what was embedded last

    def load(self, keep_text_encoders: bool = ...) -> None: ...

    def change_lora(self, paths: Sequence[str], strength: float, /) -> None: ...

    def embed(self, prompts: Sequence[str], /) -> None: ...

    @property
    def pictures(self) -> "Sampler":
        """What samples."""
        ...


class Sampler(Protocol):
    """As PictureSampler."""

    def __call__(
        self, text: Texts, negative: Texts, settings: SampleSettings, seeds: Sequence[int], what: str, /
    ) -> list[np.ndarray]: ...


class Gallery:
    """The folder of the pictures, `<row>/<prompt number>_<prompt>_<seed>.png`, and `<row>.png` with all of them."""

    def __init__(self, folder: Path, plan: Plan, source: Mapping[str, object]):
        """`source`: what JSON can hold, the same as long as the base model is."""
        self.folder, self.plan, self.source = folder, plan, source

    def fill(self, row: Row, pipeline: Sampling, progress) -> Pictures:
        """All pictures of a row, sampled where they are missing or were made in another way.

        `progress`: a bar that counts pictures. Raises UserError rather than write over a picture of somebody else.
        """
        plan = self.plan
        lora = digest_of(row.lora) if row.lora else ""
        asked = [(prompt, plan.seeds) for prompt in plan.prompts] + [(plan.class_prompt, plan.class_seeds)]
        wanted = [
            _Wanted(self._path(row, number, prompt, seed), prompt, seed)
            for number, (prompt, seeds) in enumerate(asked)
            for seed in seeds
        ]
        keys = {one: self._key(lora, one.prompt, one.seed) for one in wanted}
        missing = [one for one in wanted if not _is_there(one.path, keys[one])]
        progress.update(len(wanted) - len(missing))
        if missing:
            self._load(row, pipeline)
            missing.sort(key=lambda one: len(pipeline.texts[one.prompt].context))  # those of one length together
        for start in range(0, len(missing), plan.batch):
            batch = missing[start : start + plan.batch]
            for one, picture in zip(batch, self._sample(row, pipeline, batch)):
                about = {"prompt": one.prompt, "seed": one.seed, "model": row.name, **asdict(plan.settings), KEY: keys[one]}
                self._save(one.path, picture, about)
            progress.update(len(batch))
        made = {one: read_image(one.path) for one in wanted}
        for one in made.keys() - set(missing):
            warn_of_flat(one.path, made[one])
        pictures, each = list(made.values()), len(plan.seeds)
        of_subject = {prompt: pictures[i * each : (i + 1) * each] for i, prompt in enumerate(plan.prompts)}
        return Pictures(of_subject, pictures[len(of_subject) * each :])

    def kept(self, row: Row) -> Pictures:
        """The pictures of a row as they are there; UserError where one of them is not."""
        plan = self.plan
        subject = {
            prompt: [read_image(self._path(row, number, prompt, seed)) for seed in plan.seeds]
            for number, prompt in enumerate(plan.prompts)
        }
        of_class = [read_image(self._path(row, len(plan.prompts), plan.class_prompt, seed)) for seed in plan.class_seeds]
        return Pictures(subject, of_class)

    def draw_sheet(self, row: Row, pictures: Pictures) -> Path:
        """`<row>.png`: a row for each prompt; the pictures of the class in as many as they need."""
        columns, of_class = len(self.plan.seeds), pictures.of_class
        rows = [*pictures.subject.values(), *(of_class[i : i + columns] for i in range(0, len(of_class), columns))]
        labels = [*self.plan.prompts, *[self.plan.class_prompt] * (len(rows) - len(self.plan.prompts))]
        path = self.folder / f"{row.name}.png"
        save_png(path, contact_sheet(rows, labels, min(256, self.plan.settings.width)), {"seeds": self.plan.seeds})
        return path

    def _save(self, path: Path, picture: np.ndarray, text: Mapping[str, object]) -> None:
        """In place of one that an earlier run has made in another way; not of one that is new there."""
        if path.exists():
            save_png(path, picture, text)
            warn_of_flat(path, picture)
        else:
            save_new_png([path], picture, text)

    def _load(self, row: Row, pipeline: Sampling) -> None:
        if pipeline.embedder is None:  # the first picture that is missing; without any, nothing is loaded
            pipeline.load(keep_text_encoders=True)
        pipeline.change_lora([str(row.lora)] if row.lora else [], 1.0)
        pipeline.embed(self.plan.all_prompts)

    def _sample(self, row: Row, pipeline: Sampling, batch: Sequence["_Wanted"]) -> list[np.ndarray]:
        """Their pictures. A smaller batch is filled up, because a graph is compiled for one size. NotFinite names the row."""
        filled = [*batch, *[batch[-1]] * (self.plan.batch - len(batch))]
        texts = [pipeline.texts[one.prompt] for one in filled]
        prompts = ", ".join(repr(prompt) for prompt in dict.fromkeys(one.prompt for one in batch))
        try:
            negatives = [unconditional(text) for text in texts]
            seeds = [one.seed for one in filled]
            return pipeline.pictures(texts, negatives, self.plan.settings, seeds, row.name)[: len(batch)]
        except NotFinite as error:
            raise NotFinite(f"{row.name}, {prompts}: {error}") from None

    def _path(self, row: Row, number: int, prompt: str, seed: int) -> Path:
        words = re.sub(r"[^a-z0-9]+", "_", prompt.lower()).strip("_")[:60]
        return self.folder / row.name / f"{number:02d}_{words}_{seed:05d}.png"

    def _key(self, lora: str, prompt: str, seed: int) -> str:
        key = {**self.source, "lora": lora, "prompt": prompt, "seed": seed, **asdict(self.plan.settings)}
        return _digest(json.dumps(key, sort_keys=True, default=str).encode())


def _is_there(path: Path, key: str) -> bool:
    """Whether the file is the picture with this key; False too for one that was made in another way."""
    if not path.exists():
        return False
    try:
        read_image(path)
        found = text_of(path).get(KEY)
    except UserError:
        found = None
    if found is None:
        raise UserError(f"{path} is not a picture that this command has made: give another --output, or take it away")
    return found == key


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()
