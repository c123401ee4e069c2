"""The pictures of the drawn world's subject: those to train it from, and those of places it was not trained in."""

from PIL import Image

from gm.randomness import SUBJECT_PHOTOS, generator
from tools.toy.drawing import draw
from tools.toy.scenes import HELD_OUT_PLACES, SUBJECT, SUBJECT_PLACES, Scene, random_scene


def subject_scenes(number: int, seed: int, held_out: bool) -> list[Scene]:
    """`number` scenes of the subject, each at the next of its training places or of the held-out ones."""
    places = HELD_OUT_PLACES if held_out else SUBJECT_PLACES
    keys = ((seed, SUBJECT_PHOTOS, int(held_out), i) for i in range(number))
    return [random_scene(generator(*key), SUBJECT, places[i % len(places)]) for i, key in enumerate(keys)]


def subject_pictures(number: int, size: int, seed: int, held_out: bool) -> list[Image.Image]:
    """`number` pictures of the subject, RGB, size x size pixels."""
    return [draw(scene, size) for scene in subject_scenes(number, seed, held_out)]
