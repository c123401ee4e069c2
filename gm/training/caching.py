"""What is computed once, before training: each prompt and each crop on one of the ranks, in a process of its own whose
memory is free again afterwards; then every rank has all of it."""

from typing import Sequence

import numpy as np

from gm.apart import run_apart
from gm.checkpoint.weights import BasePaths, open_base
from gm.config import ModelConfig
from gm.data.cache import Photos, PosteriorCache, share_out
from gm.inference import embed_prompts
from gm.models import sdxl
from gm.models.vae import VAEEncode
from gm.parallel.ranks import Ranks, deal
from gm.runtime import Runtime, gather_rows
from gm.sampling import Compiling, Text


def embed_on_all_ranks(
    model: ModelConfig, weight: BasePaths, machine: Runtime, ranks: Ranks, prompts: Sequence[str]
) -> dict[str, Text]:
    """The prompts by the base model's text encoders."""
    prompts = list(dict.fromkeys(prompts))
    mine = deal(prompts, ranks.size, ranks.rank)
    arguments = (mine, sdxl.without_lora(model), weight.weight, machine, (), False, weight.vae)
    texts = run_apart(embed_prompts, *arguments) if mine else {}
    if ranks.size == 1:
        return texts
    shapes = next(shape for shape in ranks.share([[*text.context.shape, *text.pooled.shape] for text in texts.values()]) if shape)[0]
    tokens, width, pooled = shapes
    rows = [np.concatenate([texts[prompt].context.reshape(-1), texts[prompt].pooled]) for prompt in mine]
    rows = gather_rows(np.array(rows, np.float32).reshape(len(rows), tokens * width + pooled), ranks)
    order = [prompt for rank in range(ranks.size) for prompt in deal(prompts, ranks.size, rank)]
    split = tokens * width
    return {prompt: Text(row[:split].reshape(tokens, width), row[split:]) for prompt, row in zip(order, rows)}


def encode_on_all_ranks(
    model: ModelConfig,
    weight: BasePaths,
    machine: Runtime,
    ranks: Ranks,
    photos: Sequence[Photos],
    draws: Sequence[tuple[int, int, int]],
) -> PosteriorCache:
    """The VAE posteriors of all draws (kind, image, repeat)."""
    mine = share_out(draws, ranks.size)[ranks.rank]
    cache = run_apart(encode_photos, model, weight, machine, photos, mine) if mine else PosteriorCache()
    if ranks.size == 1:
        return cache
    about, rows = cache.to_rows()
    abouts = ranks.share(about)
    shape = next(shape for shape in ranks.share(list(rows.shape[1:])) if shape)
    return PosteriorCache.of_rows(abouts, gather_rows(rows.reshape(-1, *shape), ranks))


def encode_photos(
    model: ModelConfig, weight: BasePaths, machine: Runtime, photos: Sequence[Photos], draws: Sequence[tuple[int, int, int]]
) -> PosteriorCache:
    """The VAE posteriors of the draws, in the process that calls it."""
    machine.enter()
    vae = sdxl.load(sdxl.build_vae(model), open_base(*weight).read, "VAE")
    encode, cache = Compiling(VAEEncode(vae), "compiling the image encoder"), PosteriorCache()
    for kind in photos:
        cache.fill(kind, [(image, repeat) for k, image, repeat in draws if k == kind.kind], encode)
    return cache
