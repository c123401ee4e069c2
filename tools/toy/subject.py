"""The pictures of the drawn world's subject: those to train it from, and those of places it was not trained in."""

import numpy as np
from PIL import Image

from gm.randomness import SUBJECT_PHOTOS, generator
from tools.toy.drawing import draw, draw_place
from tools.toy.scenes import HELD_OUT_PLACES, SUBJECT, SUBJECT_PLACES, Scene, random_scene


def subject_scenes(number: int, seed: int, held_out: bool) -> list[Scene]:
    """`number` scenes of the subject, each at the next of its training places or of the held-out ones."""
    places = HELD_OUT_PLACES if held_out else SUBJECT_PLACES
    keys = ((seed, SUBJECT_PHOTOS, int(held_out), i) for i in range(number))
    return [random_scene(generator(*key), SUBJECT, places[i % len(places)]) for i, key in enumerate(keys)]


def subject_pictures(number: int, size: int, seed: int, held_out: bool) -> list[Image.Image]:
    """`number` pictures of the subject, RGB, size x size pixels."""
    return [draw(scene, size) for scene in subject_scenes(number, seed, held_out)]


def subject_captions(number: int, seed: int, subject: str) -> list[str]:
    """What the training pictures show: the subject by this name, and its place."""
    return [f"A photo of a {subject} {scene.place}" for scene in subject_scenes(number, seed, False)]


def subject_masks(number: int, size: int, seed: int) -> list[Image.Image]:
    """Where the subject is in each of the training pictures: white, on black."""
    masks = []
    for scene in subject_scenes(number, seed, False):
        with_it, without = (np.asarray(image, np.int16) for image in (draw(scene, size), draw_place(scene, size)))
        masks.append(Image.fromarray(np.where(np.abs(with_it - without).max(2) > 0, 255, 0).astype(np.uint8)))
    return masks
