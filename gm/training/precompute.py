"""What is computed once, before training: each prompt and each square on one of the ranks, in a process of its own whose
memory is free again afterwards; then every rank has all of it. What a cache folder holds is not computed at all.

Row: of a prompt, its context and pooled text one after the other (n,); of a square, mean and logvar (2, z, h, w).
"""

from dataclasses import asdict, dataclass, replace
from typing import Callable, Sequence

import numpy as np

from gm.process import run_in_subprocess
from gm.checkpoint.weights import BasePaths, BaseWeights, open_base
from gm.config.types import ModelConfig
from gm.console import bar, log
from gm.data.crops import Photos, Posteriors, Square, Squares, plan_squares
from gm.data.disk_cache import DiskCache, Key
from gm.data.images import read_image
from gm.sampling.pipeline import Source, embed_prompts
from gm.models import sdxl
from gm.models.conditioner import CONDITIONER_PREFIX
from gm.models.vae import VAE, VAE_PREFIX, VAEEncode
from gm.parallel.ranks import Ranks, deal
from gm.runtime import Runtime, gather_rows
from gm.sampling.pictures import Compiling, Text

FORMAT = 1  # of the rows; another number makes what was kept unknown


@dataclass(frozen=True)
class Caching:
    """Where and for what model things are computed and kept."""

    model: ModelConfig
    base: BaseWeights
    machine: Runtime
    ranks: Ranks
    disk: DiskCache

    def embed(self, prompts: Sequence[str]) -> dict[str, Text]:
        """The prompts by the base model's text encoders, without any LoRA."""
        prompts = list(dict.fromkeys(prompts))
        encoders = [asdict(replace(encoder, lora=None)) for encoder in self.model.text_encoders]
        about = {"what": "text", "encoders": encoders, "dtype": self.machine.amp_level}
        keys = self._keys(about, (CONDITIONER_PREFIX,), [{"prompt": prompt} for prompt in prompts])

        def compute(numbers: Sequence[int]) -> list[np.ndarray]:
            mine = [prompts[number] for number in numbers]
            weight, vae = self.base.paths
            source = Source(sdxl.without_lora(self.model), weight, self.machine, use_lora=False, vae=vae)
            texts = run_in_subprocess(embed_prompts, mine, source)
            rows = [np.concatenate([texts[prompt].context.reshape(-1), texts[prompt].pooled]) for prompt in mine]
            for number, row in zip(numbers, rows):
                self.disk.put(keys[number], row)
            return rows

        rows, found = collect(keys, self.disk, self.ranks, compute)
        if self.disk.folder:
            log.info("%d of %d prompts from the cache in %s", len(found), len(prompts), self.disk.folder)
        width, pooled = sum(encoder.width for encoder in self.model.text_encoders), self.model.text_encoders[1].embed_dim
        return {prompt: Text(row[:-pooled].reshape(-1, width), row[-pooled:]) for prompt, row in zip(prompts, rows)}

    def encode(self, photos: Sequence[Photos], draws: Sequence[tuple[int, int, int]]) -> Posteriors:
        """The posteriors of all draws (kind, image, repeat), each computed once."""
        planned = self.plan(photos, draws)
        squares = sorted(set(planned.values()), key=lambda square: (square.photo, square.crop.top_left))
        about = {"what": "posterior", "vae": asdict(self.model.vae), "dtype": "float32"}
        own = [{"photo": s.photo, "crop": asdict(s.crop), "interpolation": s.interpolation} for s in squares]
        keys = self._keys(about, (VAE_PREFIX + "encoder.", VAE_PREFIX + "quant_conv."), own)

        def compute(numbers: Sequence[int]) -> list[np.ndarray]:
            mine = [(keys[number], squares[number]) for number in numbers]
            return run_in_subprocess(encode_squares, self.model, self.base.paths, self.machine, self.disk, mine)

        rows, found = collect(keys, self.disk, self.ranks, compute)
        if self.disk.folder:
            lacking = {square.photo for number, square in enumerate(squares) if number not in found}
            count = len({square.photo for square in squares})
            words = "%d of %d photos from the cache in %s (%d of %d crops)"
            log.info(words, count - len(lacking), count, self.disk.folder, len(found), len(squares))
        return Posteriors(planned, dict(zip(squares, rows)).__getitem__)

    def encode_when_drawn(self, photos: Sequence[Photos], draws: Sequence[tuple[int, int, int]], vae: VAE) -> Posteriors:
        """The same posteriors, encoded by `vae` in this process whenever one is drawn, and forgotten."""
        encode = Encoder(VAEEncode(vae))
        return Posteriors(self.plan(photos, draws), lambda square: encode(square, read_image(square.path)))

    def plan(self, photos: Sequence[Photos], draws: Sequence[tuple[int, int, int]]) -> Squares:
        """The square of every draw. UserError unless all ranks have the same photos."""
        with self.ranks.agreeing():
            squares = plan_squares(photos, draws)
        self.ranks.require_same({"the content of the photos": sorted({square.photo for square in squares.values()})})
        return squares

    def _keys(self, about: dict, prefixes: tuple[str, ...], own: Sequence[dict]) -> list[Key]:
        weights = self._digest(prefixes) if self.disk.folder else None
        about = about | {"format": FORMAT, "weights": weights, "device": self.machine.device}
        return [about | one for one in own]

    def _digest(self, prefixes: tuple[str, ...]) -> str:
        """The hash of a part of the base weights as rank 0 has them; remembered for as long as the files are the same."""
        digest = None
        if self.ranks.is_main:
            key = {"what": "weights", "files": self.base.stamps(), "part": prefixes}
            known = self.disk.get(key)
            if known is None:
                known = np.frombuffer(bytes.fromhex(self.base.digest(prefixes)), np.uint8)
                self.disk.put(key, known)
            digest = known.tobytes().hex()
        return self.ranks.share(digest)[0]


class Encoder:
    """The VAE's encoder in this process: one crop at a time, so that a crop's numbers do not depend on its batch."""

    def __init__(self, vae: VAEEncode):
        self.encode = Compiling(vae, "compiling the image encoder")

    def __call__(self, square: Square, photo: np.ndarray) -> np.ndarray:
        """Mean and logvar (2, z, h, w) of a square of photo (h, w, 3) uint8."""
        mean, logvar = self.encode(square.pixels(photo)[None])
        return np.concatenate([mean, logvar])


def encode_squares(
    model: ModelConfig, weight: BasePaths, machine: Runtime, disk: DiskCache, squares: Sequence[tuple[Key, Square]]
) -> list[np.ndarray]:
    """The row of every square, kept on disk as soon as it is there; in the process that calls it."""
    machine.enter()
    encode = Encoder(sdxl.load(VAEEncode(sdxl.build_vae(model)), open_base(*weight).read, "VAE's encoder"))
    rows, path, photo = [], None, None
    for key, square in bar(squares, "encoding photos", unit="crop"):
        if square.path != path:
            path, photo = square.path, read_image(square.path)
        rows.append(encode(square, photo))
        disk.put(key, rows[-1])
    return rows


def collect(
    keys: Sequence[Key], disk: DiskCache, ranks: Ranks, compute: Callable[[Sequence[int]], Sequence[np.ndarray]]
) -> tuple[list[np.ndarray], set[int]]:
    """The row of every key, float32 of one shape, on every rank; and the numbers of the keys that some rank's disk had.

    The others are dealt out: `compute` is called on each rank that gets any, with the numbers of its keys.
    """
    rows = {number: row for number, key in enumerate(keys) if (row := disk.get(key)) is not None}
    held = ranks.share(sorted(rows))
    giver = {number: rank for rank in reversed(range(ranks.size)) for number in held[rank]}
    found, everywhere = set(giver), set.intersection(*map(set, held))
    missing = [number for number in range(len(keys)) if number not in found]
    for rank in range(ranks.size):
        giver |= dict.fromkeys(deal(missing, ranks.size, rank), rank)
    mine = [number for number in missing if giver[number] == ranks.rank]
    if mine:
        rows |= zip(mine, compute(mine))
    wanted = [number for number in sorted(giver, key=lambda number: (giver[number], number)) if number not in everywhere]
    if ranks.size > 1 and wanted:
        given = [rows[number] for number in wanted if giver[number] == ranks.rank]
        shape = next(shape for shape in ranks.share(list(given[0].shape) if given else None) if shape)
        rows |= zip(wanted, gather_rows(np.array(given, np.float32).reshape(-1, *shape), ranks))
    return [rows[number] for number in range(len(keys))], found
