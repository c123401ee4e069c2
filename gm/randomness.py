"""The one way numbers are drawn on the host: generators that depend on their key alone."""

import numpy as np


def generator(*key: int) -> np.random.Generator:
    """A generator for this key of non-negative integers; the first is the seed, the second says what is drawn."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


def picture_seed(seed: int, number: int) -> int:
    """The seed of picture `number` of a set that has the seed `seed`."""
    return seed * 1_000_003 + number


# What is drawn, the second number of a key
TRAINING_NOISE, ORDER, CROP, LORA_INIT, PICTURE_NOISE, RANDOM_WEIGHTS, SUBJECT_PHOTOS, SKETCH = range(1, 9)
WORLD, FIRST_STAGE, CAPTION, JUDGE = range(9, 13)
CAPTION_CHOICE, CAPTION_VARIANT, BUCKET_ORDER = range(13, 16)
