"""Draws -> the numbers of a micro-batch, on the host.

A row is one sample: its posterior, its noise, its text, its sizes and the weight of its loss. All rows of a micro-batch
have one latent shape (z, h, w).
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Callable, Mapping, Optional

import numpy as np

from gm.config.types import WeightingConfig
from gm.data.crops import PhotoCrop, Samples
from gm.data.dreambooth import DreamBoothSchedule
from gm.diffusion.schedule import train_sigmas
from gm.diffusion.weighting import level_weights
from gm.encoding.text import TextEmbedding
from gm.models.conditioner import tokenize
from gm.models.tokenizer import CHUNK
from gm.training.noise import draw_noise

TextArrays = tuple[np.ndarray, np.ndarray]  # (context as the UNet takes it, pooled), or (tokens_l, tokens_g)
KEPT = 8  # combinations of prompts whose arrays are kept


@dataclass(frozen=True)
class MicroBatch:
    """The rows of one forward and backward pass: instance samples, then class samples."""

    mean: np.ndarray  # (B, z, h, w) VAE posterior
    logvar: np.ndarray  # (B, z, h, w)
    posterior_noise: np.ndarray  # (B, z, h, w) unit normal
    noise: np.ndarray  # (B, z, h, w) unit normal
    sigma: np.ndarray  # (B,) noise level
    timestep: np.ndarray  # (B,) its index
    text: TextArrays  # a row for each sample
    sizes: np.ndarray  # (B, 6)
    weight: np.ndarray  # (B,) of each row's loss in the update's loss
    kind: np.ndarray  # (B,) INSTANCE or CLASS

    @property
    def latent_shape(self) -> tuple[int, int, int, int]:
        """(B, z, h, w): what a graph is compiled for."""
        return self.mean.shape

    @classmethod
    def blank(cls, latent: tuple[int, int, int, int], text: TextArrays) -> "MicroBatch":
        """One to compile for: latents of this shape (B, z, h, w), and text of the right shapes and types."""
        image, row = np.zeros(latent, np.float32), np.zeros(latent[0])
        return cls(
            mean=image,
            logvar=image,
            posterior_noise=image,
            noise=image,
            sigma=row + 1,
            timestep=row,
            text=text,
            sizes=np.zeros((latent[0], 6)),
            weight=row,
            kind=row.astype(int),
        )


class TextRows:
    """Prompts of a micro-batch's rows -> their text arrays. The same prompts give the same arrays, which may be large."""

    def __init__(self, embeddings: Optional[Mapping[str, TextEmbedding]], max_tokens: int = CHUNK):
        """`embeddings` of every prompt; None where the text encoders train: then the rows are up to `max_tokens` tokens."""
        self._embeddings, self._max_tokens = embeddings, max_tokens
        self._kept: OrderedDict[tuple[str, ...], TextArrays] = OrderedDict()

    def __call__(self, prompts: tuple[str, ...]) -> TextArrays:
        if prompts not in self._kept:
            self._kept[prompts] = self._stack(prompts)
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(prompts)
        return self._kept[prompts]

    def _stack(self, prompts: tuple[str, ...]) -> TextArrays:
        if self._embeddings is None:
            return tokenize(prompts, self._max_tokens)
        rows = [self._embeddings[prompt] for prompt in prompts]
        return np.stack([row.context for row in rows]), np.stack([row.pooled for row in rows])


class BatchMaker:
    """(step, micro, rank) -> MicroBatch."""

    def __init__(
        self,
        schedule: DreamBoothSchedule,
        samples: Samples,
        posterior: Callable[[PhotoCrop], np.ndarray],
        text: Callable[[tuple[str, ...]], TextArrays],
        seed: int,
        num_timesteps: int,
        weighting: WeightingConfig = WeightingConfig(),
        noise_offset: float = 0.0,
    ):
        """`posterior` gives mean and logvar (2, z, h, w) of a crop, from memory or by encoding it."""
        self.schedule, self.samples, self.posterior, self.text, self.seed = schedule, samples, posterior, text, seed
        self.sigmas, self.weighting, self.noise_offset = train_sigmas(num_timesteps), weighting, noise_offset

    def __call__(self, step: int, micro: int, rank: int) -> MicroBatch:
        draws = self.schedule.micro_batch(step, micro, rank)
        samples = [self.samples[draw.kind, draw.image, draw.repeat] for draw in draws]
        posteriors = np.stack([self.posterior(sample.crop) for sample in samples])
        shape = posteriors.shape[2:]
        index, noise, posterior_noise = draw_noise(draws, self.seed, shape, len(self.sigmas), self.noise_offset)
        shares = np.array([draw.share * sample.loss_weight for draw, sample in zip(draws, samples)])
        return MicroBatch(
            mean=posteriors[:, 0],
            logvar=posteriors[:, 1],
            posterior_noise=posterior_noise,
            noise=noise,
            sigma=self.sigmas[index],
            timestep=index,
            text=self.text(tuple(sample.prompt for sample in samples)),
            sizes=np.stack([sample.sizes for sample in samples]),
            weight=shares * level_weights(self.weighting, self.sigmas[index]),
            kind=np.array([draw.kind for draw in draws]),
        )
