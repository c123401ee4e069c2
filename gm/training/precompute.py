"""What is computed once, before training: each prompt and each crop on one of the ranks, in a process of its own whose
memory is free again afterwards; then every rank has all of it. What a cache folder holds is not computed at all.

Row: of a prompt, its context and pooled text one after the other (n,); of a crop, mean and logvar (2, z, h, w).
"""

from dataclasses import asdict, astuple, dataclass
from typing import Callable, Mapping, Sequence

import numpy as np

from gm.checkpoint.weights import BaseWeights
from gm.config.types import ModelConfig
from gm.console import log
from gm.data.crops import PhotoCrop, PhotoSet, Samples, plan_samples
from gm.data.disk_cache import DiskCache, Key
from gm.encoding.photos import CropEncoder, encode_apart
from gm.encoding.source import Source
from gm.encoding.text import TextEmbedding, embed_apart
from gm.models.conditioner import CONDITIONER_PREFIX, context_length
from gm.models.tokenizer import CHUNK
from gm.models.vae import VAE, VAE_PREFIX, VAEEncode
from gm.parallel.collectives import gather_rows
from gm.parallel.ranks import Ranks, deal
from gm.runtime import Runtime

FORMAT = 2  # of the rows and keys; another number makes what was kept unknown
Posterior = Callable[[PhotoCrop], np.ndarray]  # a crop's mean and logvar (2, z, h, w)


@dataclass(frozen=True)
class Encoded:
    """What the frozen encoders make of a run's prompts and photos."""

    texts: Mapping[str, TextEmbedding]  # empty where nothing needs them
    posterior: Posterior


@dataclass(frozen=True)
class Precompute:
    """Where and for what model things are computed and kept."""

    model: ModelConfig
    base: BaseWeights
    machine: Runtime
    ranks: Ranks
    disk: DiskCache  # of --cache_dir
    max_tokens: int = CHUNK  # of a prompt

    def embed(self, prompts: Sequence[str]) -> dict[str, TextEmbedding]:
        """The prompts by the base model's text encoders, without any LoRA."""
        prompts = list(dict.fromkeys(prompts))
        encoders = [asdict(encoder) for encoder in self.model.text_encoders]
        about = {"what": "text", "encoders": encoders, "dtype": self.machine.amp_level}
        if self.max_tokens != CHUNK:  # what earlier versions have kept is of this length
            about["max_tokens"] = self.max_tokens
        keys = self._keys(about, (CONDITIONER_PREFIX,), [{"prompt": prompt} for prompt in prompts])

        def compute(numbers: Sequence[int]) -> list[np.ndarray]:
            mine = [prompts[number] for number in numbers]
            weight, vae = self.base.paths
            machine, tokens = self.machine.beside(), self.max_tokens
            source = Source(model=self.model, weight=weight, machine=machine, use_lora=False, vae=vae, max_tokens=tokens)
            texts = embed_apart(mine, source)
            rows = [np.concatenate([texts[prompt].context.reshape(-1), texts[prompt].pooled]) for prompt in mine]
            for number, row in zip(numbers, rows):
                self.disk.put(keys[number], row)
            return rows

        width, pooled = self.model.context_dim, self.model.pooled_dim
        shapes = [(context_length(self.max_tokens) * width + pooled,)] * len(keys)
        rows, found = collect(keys, self.disk, self.ranks, compute, shapes)
        if self.disk.folder:
            log.info("%d of %d prompts from the cache in %s", len(found), len(prompts), self.disk.folder)
        return {prompt: TextEmbedding(row[:-pooled].reshape(-1, width), row[-pooled:]) for prompt, row in zip(prompts, rows)}

    def plan(self, sets: Sequence[PhotoSet], draws: Sequence[tuple[int, int, int]]) -> Samples:
        """The sample of every draw. UserError unless all ranks have the same photos."""
        with self.ranks.agreeing():
            samples = plan_samples(sets, draws)
        photos = sorted({sample.crop.photo for sample in samples.values()})
        self.ranks.require_same({"the content of the photos": photos})
        return samples

    def encode(self, samples: Samples) -> Posterior:
        """The posteriors of all crops, each computed once."""
        crops = sorted({sample.crop for sample in samples.values()}, key=lambda crop: (crop.photo, astuple(crop.crop)))
        about = {"what": "posterior", "vae": asdict(self.model.vae), "dtype": "float32"}
        own = [{"photo": c.photo, "crop": asdict(c.crop), "interpolation": c.interpolation} for c in crops]
        keys = self._keys(about, (VAE_PREFIX + "encoder.", VAE_PREFIX + "quant_conv."), own)

        def compute(numbers: Sequence[int]) -> list[np.ndarray]:
            mine = [(keys[number], crops[number]) for number in numbers]
            return encode_apart(self.model, self.base.paths, self.machine.beside(), self.disk, mine)

        vae = self.model.vae
        shrink = 2 ** (len(vae.ch_mult) - 1)  # pixels a side of a latent's
        shapes = [(2, vae.embed_dim, *(side // shrink for side in c.crop.size)) for c in crops]
        rows, found = collect(keys, self.disk, self.ranks, compute, shapes)
        if self.disk.folder:
            lacking = {crop.photo for number, crop in enumerate(crops) if number not in found}
            count = len({crop.photo for crop in crops})
            words = "%d of %d photos from the cache in %s (%d of %d crops)"
            log.info(words, count - len(lacking), count, self.disk.folder, len(found), len(crops))
        return dict(zip(crops, rows)).__getitem__

    def _keys(self, about: dict, prefixes: tuple[str, ...], own: Sequence[dict]) -> list[Key]:
        weights = self._digest(prefixes) if self.disk.folder else None
        about = about | {"format": FORMAT, "weights": weights, "device": self.machine.device}
        return [about | one for one in own]

    def _digest(self, prefixes: tuple[str, ...]) -> str:
        """The hash of a part of the base weights as rank 0 has them; remembered for as long as the files are the same."""
        digest = None
        if self.ranks.is_main:
            key = {"what": "weights", "files": self.base.stamps(), "part": prefixes}
            known = self.disk.get(key, (16,), "uint8")
            if known is None:
                known = np.frombuffer(bytes.fromhex(self.base.digest(prefixes)), np.uint8)
                self.disk.put(key, known)
            digest = known.tobytes().hex()
        return self.ranks.share(digest)[0]


def encode_when_drawn(vae: VAE) -> Posterior:
    """The same posteriors, encoded by `vae` in this process whenever one is drawn, and forgotten."""
    encoder = CropEncoder(VAEEncode(vae))
    return lambda crop: encoder(crop, crop.read())


def collect(
    keys: Sequence[Key],
    disk: DiskCache,
    ranks: Ranks,
    compute: Callable[[Sequence[int]], Sequence[np.ndarray]],
    shapes: Sequence[tuple[int, ...]],
) -> tuple[list[np.ndarray], set[int]]:
    """The row of every key, float32 of its shape, on every rank; and the numbers of the keys that some rank's disk had.

    The others are dealt out: `compute` is called on each rank that gets any, with the numbers of its keys.
    """
    kept = (disk.get(key, shape) for key, shape in zip(keys, shapes))
    rows = {number: row for number, row in enumerate(kept) if row is not None}
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
        rows |= _exchange(rows, wanted, giver, ranks)
    return [rows[number] for number in range(len(keys))], found


def _exchange(
    rows: Mapping[int, np.ndarray], wanted: Sequence[int], giver: Mapping[int, int], ranks: Ranks
) -> dict[int, np.ndarray]:
    """The wanted rows on every rank, each from its giver; they travel as one vector."""
    given = [rows[number] for number in wanted if giver[number] == ranks.rank]
    shapes = [shape for of_rank in ranks.share([list(row.shape) for row in given]) for shape in of_rank]
    flat = np.concatenate([np.asarray(row, np.float32).reshape(-1) for row in given] or [np.empty(0, np.float32)])
    whole = gather_rows(flat, ranks)
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
    parts = np.split(whole, ends[:-1])
    return {number: part.reshape(shape) for number, part, shape in zip(wanted, parts, shapes)}
