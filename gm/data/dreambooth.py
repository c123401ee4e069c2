"""Which sample is drawn when: the same stream for any number of ranks and any accumulation. Plain numpy.

Randomness is keyed: by seed, kind of sample and epoch for the order, by image and repeat for the crop. Photos of one shape
are a bucket, and a micro-batch holds one of them.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from gm.randomness import BUCKET_ORDER, CROP, ORDER, generator

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

    images: tuple[int, ...]  # their numbers among all of their kind
    repeats: tuple[int, ...]  # of each of them in an epoch
    shuffle: bool
    seed: int
    kind: int
    bucket: int = 0  # number of their shape

    @classmethod
    def of(cls, images: int, repeats: int, shuffle: bool, seed: int, kind: int) -> "SampleOrder":
        """Of so many images, all with the same repeats."""
        return cls(tuple(range(images)), (repeats,) * images, shuffle, seed, kind)

    def __len__(self) -> int:
        """Pairs in an epoch."""
        return sum(self.repeats)

    def at(self, position: int) -> tuple[int, int]:
        epoch, place = divmod(position, len(self))
        number = int(_permutation(len(self), self.seed, self._key(epoch))[place]) if self.shuffle else place
        return _pairs(self.images, self.repeats)[number]

    def first(self, samples: int) -> list[tuple[int, int]]:
        """The distinct pairs among the first `samples`."""
        if samples >= len(self):
            return list(_pairs(self.images, self.repeats))
        return list(dict.fromkeys(self.at(position) for position in range(samples)))

    def _key(self, epoch: int) -> tuple[int, ...]:
        return (ORDER, self.kind, epoch, self.bucket) if self.bucket else (ORDER, self.kind, epoch)


@lru_cache(maxsize=32)
def _pairs(images: tuple[int, ...], repeats: tuple[int, ...]) -> list[tuple[int, int]]:
    return [(image, n) for n in range(max(repeats)) for image, count in zip(images, repeats) if n < count]


@lru_cache(maxsize=32)
def _permutation(length: int, seed: int, key: tuple[int, ...]) -> np.ndarray:
    return generator(seed, *key).permutation(length)


@dataclass(frozen=True)
class BucketOrder:
    """Which bucket each micro-batch of a run is of. A cycle has as many batches of a bucket as hold each of its samples once;
    the last of them may go on with the bucket's next epoch."""

    batches: tuple[int, ...]  # of each bucket in a cycle
    shuffle: bool
    seed: int

    def at(self, number: int) -> tuple[int, int]:
        """(bucket, how many batches of it have been before) of micro-batch `number`."""
        if len(self.batches) == 1:
            return 0, number
        cycle, place = divmod(number, sum(self.batches))
        order = self._cycle(cycle)
        bucket = int(order[place])
        return bucket, cycle * self.batches[bucket] + int((order[:place] == bucket).sum())

    def counts(self, numbers: int) -> list[int]:
        """How many of the first micro-batches are of each bucket."""
        if len(self.batches) == 1:
            return [numbers]
        cycles, rest = divmod(numbers, sum(self.batches))
        begun = self._cycle(cycles)[:rest]
        return [cycles * batches + int((begun == bucket).sum()) for bucket, batches in enumerate(self.batches)]

    def _cycle(self, cycle: int) -> np.ndarray:
        order = np.repeat(np.arange(len(self.batches)), self.batches)
        return order[_permutation(len(order), self.seed, (BUCKET_ORDER, cycle))] if self.shuffle else order


def crop_corner(seed: int, kind: int, image: int, repeat: int, mode: str) -> tuple[float, float]:
    """Where the square is cut, (y, x) in [0, 1]: the middle, or drawn for this image and repeat."""
    if mode == "center":
        return 0.5, 0.5
    y, x = generator(seed, CROP, kind, image, repeat).random(2)
    return float(y), float(x)


@dataclass(frozen=True)
class DreamBoothSchedule:
    """The rows of every micro-batch, all of one bucket. Losses times `share` and the weight of their sample, summed over all
    micro-batches and ranks of an update, give mean(instance) + prior_loss_weight * mean(class) (arXiv 2208.12242, equation 2).
    """

    instances: tuple[SampleOrder, ...]  # of each bucket
    classes: tuple[SampleOrder, ...]  # of each bucket, or of none
    per_batch_size: int
    accumulation: int
    ranks: int

    @property
    def buckets(self) -> BucketOrder:
        batches = tuple(math.ceil(len(order) / self.per_batch_size) for order in self.instances)
        return BucketOrder(batches, self.instances[0].shuffle, self.instances[0].seed)

    def orders(self, bucket: int) -> list[SampleOrder]:
        """Of the instance and of the class samples in a bucket."""
        return [kind[bucket] for kind in (self.instances, self.classes) if kind]

    def micro_batch(self, step: int, micro: int, rank: int) -> list[Draw]:
        """per_batch_size instance rows, then as many class rows; step, micro and rank count from 0."""
        number = (step * self.accumulation + micro) * self.ranks + rank
        bucket, before = self.buckets.at(number)
        share = 1.0 / (self.per_batch_size * self.accumulation * self.ranks)
        rows = range(self.per_batch_size)
        return [
            Draw(order.kind, *order.at(before * self.per_batch_size + row), number * self.per_batch_size + row, share)
            for order in self.orders(bucket)
            for row in rows
        ]

    def distinct_draws(self, total_step: int) -> list[tuple[int, int, int]]:
        """All (kind, image, repeat) that `total_step` updates draw: what is worth computing once."""
        counts = self.buckets.counts(total_step * self.accumulation * self.ranks)
        by_bucket = [(order, count) for bucket, count in enumerate(counts) for order in self.orders(bucket)]
        by_bucket.sort(key=lambda one: one[0].kind)
        return [(order.kind, *pair) for order, count in by_bucket for pair in order.first(count * self.per_batch_size)]
