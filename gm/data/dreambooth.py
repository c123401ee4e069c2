"""Which sample is drawn when: the same stream for any number of ranks and any accumulation. Plain numpy.

Randomness is keyed: by seed, kind of sample and epoch for the order, by image and repeat for the crop.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Optional

import numpy as np

from gm.randomness import CROP, ORDER, generator

INSTANCE, CLASS = 0, 1


@dataclass(frozen=True)
class Draw:
    """One row of a micro-batch."""

    kind: int  # INSTANCE or CLASS
    image: int  # index into the kind's images
    repeat: int  # which of the image's repeats, for its crop
    position: int  # the sample's number in the whole run, over all ranks: the key of its noise
    loss_weight: float  # of this row's loss in the update's loss


@dataclass(frozen=True)
class SampleOrder:
    """An endless sequence of (image, repeat): every epoch holds each pair once, in its own order when shuffled."""

    num_images: int
    repeats: int
    shuffle: bool
    seed: int
    kind: int

    def at(self, position: int) -> tuple[int, int]:
        length = self.num_images * self.repeats
        epoch, place = divmod(position, length)
        number = int(_permutation(length, self.seed, self.kind, epoch)[place]) if self.shuffle else place
        return number % self.num_images, number // self.num_images


@lru_cache(maxsize=8)
def _permutation(length: int, seed: int, kind: int, epoch: int) -> np.ndarray:
    return generator(seed, ORDER, kind, epoch).permutation(length)


def crop_corner(seed: int, kind: int, image: int, repeat: int, mode: str) -> tuple[float, float]:
    """Where the square is cut, (y, x) in [0, 1]: the middle, or drawn for this image and repeat."""
    if mode == "center":
        return 0.5, 0.5
    y, x = generator(seed, CROP, kind, image, repeat).random(2)
    return float(y), float(x)


@dataclass(frozen=True)
class DreamBoothSchedule:
    """The rows of every micro-batch. Losses weighted by `loss_weight` and summed over all micro-batches and ranks of an
    update give mean(instance) + prior_loss_weight * mean(class) (arXiv 2208.12242, equation 2)."""

    instances: SampleOrder
    classes: Optional[SampleOrder]
    per_batch_size: int
    accumulation: int
    ranks: int
    prior_loss_weight: float

    def micro_batch(self, step: int, micro: int, rank: int) -> list[Draw]:
        """per_batch_size instance rows, then as many class rows; step, micro and rank count from 0."""
        first = ((step * self.accumulation + micro) * self.ranks + rank) * self.per_batch_size
        share = 1.0 / (self.per_batch_size * self.accumulation * self.ranks)
        rows = []
        for kind, order, weight in ((INSTANCE, self.instances, 1.0), (CLASS, self.classes, self.prior_loss_weight)):
            if order is not None:
                for position in range(first, first + self.per_batch_size):
                    rows.append(Draw(kind, *order.at(position), position, weight * share))
        return rows

    def distinct_draws(self, total_step: int) -> list[tuple[int, int, int]]:
        """All (kind, image, repeat) that `total_step` updates draw: what is worth computing once."""
        samples = total_step * self.accumulation * self.ranks * self.per_batch_size
        found = []
        for kind, order in ((INSTANCE, self.instances), (CLASS, self.classes)):
            if order is not None:
                epoch = min(samples, order.num_images * order.repeats)
                whole = samples >= order.num_images * order.repeats
                pairs = (
                    [(i, r) for r in range(order.repeats) for i in range(order.num_images)]
                    if whole
                    else [order.at(position) for position in range(epoch)]
                )
                found += [(kind, image, repeat) for image, repeat in dict.fromkeys(pairs)]
        return found
