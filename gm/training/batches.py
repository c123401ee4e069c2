"""Draws -> the numbers of a micro-batch, on the host.

A row is one sample: its posterior, its noise, its text, its sizes and the weight of its loss. All rows of a micro-batch
have one latent shape (z, h, w).
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Callable, Mapping, Optional, Sequence

import numpy as np

from gm.config.types import Config, NoiseConfig
from gm.data.captions import CaptionChooser
from gm.data.crops import PhotoCrop, Sample, Samples
from gm.data.dreambooth import DreamBoothSchedule
from gm.diffusion.levels import Levels
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
    sigma: np.ndarray  # (B,) noise level; infinite where there is noise alone
    timestep: np.ndarray  # (B,) its index
    text: TextArrays  # a row for each sample
    sizes: np.ndarray  # (B, 6)
    weight: np.ndarray  # (B,) of each row's loss in the update's loss
    kind: np.ndarray  # (B,) INSTANCE or CLASS
    input_noise: Optional[np.ndarray] = None  # (B, z, h, w) what the network sees of `noise`, where that is another
    huber_c: Optional[np.ndarray] = None  # (B,) threshold of a Huber loss
    mask: Optional[np.ndarray] = None  # (B, 1, h, w) float32 in [0, 1]: where the subject is

    @property
    def latent_shape(self) -> tuple[int, int, int, int]:
        """(B, z, h, w): what a graph is compiled for."""
        return self.mean.shape

    @classmethod
    def blank(cls, latent: tuple[int, int, int, int], text: TextArrays, config: Optional[Config] = None) -> "MicroBatch":
        """One to compile for: latents of this shape (B, z, h, w), text of the right shapes and types, and what options of
        the YAML need."""
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
            input_noise=image if config and config.noise.input_perturbation else None,
            huber_c=row + 1 if config and config.loss.loss_type != "l2" else None,
            mask=image[:, :1] if config and config.data and config.data.masks else None,
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
        captions: Mapping[int, CaptionChooser],
        posterior: Callable[[PhotoCrop], np.ndarray],
        text: Callable[[tuple[str, ...]], TextArrays],
        seed: int,
        levels: Levels,
        noise: NoiseConfig = NoiseConfig(),
        masked: bool = False,
    ):
        """`captions`: of each kind of samples; `posterior` gives mean and logvar (2, z, h, w) of a crop, from memory or by
        encoding it. `masked`: the samples' masks count in the loss."""
        self.schedule, self.samples, self.captions = schedule, samples, captions
        self.posterior, self.text, self.seed = posterior, text, seed
        self.levels, self.noise, self.masked = levels, noise, masked

    def __call__(self, step: int, micro: int, rank: int) -> MicroBatch:
        draws = self.schedule.micro_batch(step, micro, rank)
        samples = [self.samples[draw.kind, draw.image, draw.repeat] for draw in draws]
        posteriors = np.stack([self.posterior(sample.crop) for sample in samples])
        shape = posteriors.shape[2:]
        levels = self.levels
        drawn = draw_noise(draws, self.seed, shape, len(levels.sigma), self.noise)
        index = drawn.timestep
        shares = np.array([draw.share * sample.loss_weight for draw, sample in zip(draws, samples)])
        return MicroBatch(
            mean=posteriors[:, 0],
            logvar=posteriors[:, 1],
            posterior_noise=drawn.posterior_noise,
            noise=drawn.noise,
            sigma=levels.sigma[index],
            timestep=index,
            text=self.text(tuple(self.captions[draw.kind](draw.image, draw.position) for draw in draws)),
            sizes=np.stack([sample.sizes for sample in samples]),
            weight=shares * levels.weight[index],
            kind=np.array([draw.kind for draw in draws]),
            input_noise=drawn.input_noise if self.noise.input_perturbation else None,
            huber_c=None if levels.huber_c is None else levels.huber_c[index],
            mask=_masks(samples, shape[1:]) if self.masked else None,
        )


def _masks(samples: Sequence[Sample], size: tuple[int, ...]) -> np.ndarray:
    """(B, 1, h, w), ones where a sample has no mask."""
    return np.stack([np.ones((1, *size), np.float32) if one.mask is None else one.mask for one in samples])
