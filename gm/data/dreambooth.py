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
    share: float  # 1 / samples of its kind in the update


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

    def first(self, samples: int) -> list[tuple[int, int]]:
        """The distinct pairs among the first `samples`."""
        if samples >= self.num_images * self.repeats:
            return [(image, repeat) for repeat in range(self.repeats) for image in range(self.num_images)]
        return list(dict.fromkeys(self.at(position) for position in range(samples)))


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
    """The rows of every micro-batch. Losses times `share` and the weight of their sample, summed over all micro-batches
    and ranks of an update, give mean(instance) + prior_loss_weight * mean(class) (arXiv 2208.12242, equation 2)."""

    instances: SampleOrder
    classes: Optional[SampleOrder]
    per_batch_size: int
    accumulation: int
    ranks: int

    @property
    def orders(self) -> list[SampleOrder]:
        return [self.instances] + ([self.classes] if self.classes else [])

    def micro_batch(self, step: int, micro: int, rank: int) -> list[Draw]:
        """per_batch_size instance rows, then as many class rows; step, micro and rank count from 0."""
        first = ((step * self.accumulation + micro) * self.ranks + rank) * self.per_batch_size
        share = 1.0 / (self.per_batch_size * self.accumulation * self.ranks)
        positions = range(first, first + self.per_batch_size)
        return [Draw(order.kind, *order.at(at), at, share) for order in self.orders for at in positions]

    def distinct_draws(self, total_step: int) -> list[tuple[int, int, int]]:
        """All (kind, image, repeat) that `total_step` updates draw: what is worth computing once."""
        samples = total_step * self.accumulation * self.ranks * self.per_batch_size
        return [(order.kind, *pair) for order in self.orders for pair in order.first(samples)]
