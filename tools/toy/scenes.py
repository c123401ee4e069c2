"""What is in a picture of the drawn world, and the words for it: looks, scenes, captions, labels. Nothing is drawn here.

An individual is a Look; a Scene is a Look somewhere. A few traits are rare, and a random individual has at most one of
them. SUBJECT has three of them at once: somebody that a model of this world has never seen.
"""

from dataclasses import dataclass
from typing import Optional

import numpy as np

OPEN_PLACES = ("on the grass", "on a beach", "in the snow", "in the city", "in the forest", "at night", "in a kitchen")
POSE_OF_PLACE = {"swimming in a pool": "swimming", "in a bucket": "in the bucket", "in a doghouse": "in the doghouse"}
PLACES = OPEN_PLACES + tuple(POSE_OF_PLACE)

ANIMALS, THINGS = ("dog", "cat"), ("ball", "car", "mushroom")
KINDS = ANIMALS + THINGS
BREEDS = ("husky", "spaniel", "dachshund", "poodle", "bulldog")
COATS = ("brown", "golden", "black", "white", "grey", "purple", "green")
STRIPED_COATS = ("brown", "black", "grey", "purple", "green")  # those that yellow stripes are seen on
MARKINGS = ("plain", "light belly", "striped")
ACCESSORIES = ("nothing", "red collar", "blue collar", "green hat", "red hat")

# How often: of the pictures, of the animals, and of the traits in the captions
KIND_SHARES = (0.75, 0.13, 0.04, 0.04, 0.04)
RARE_TRAITS = (
    ("coat", "purple"),
    ("coat", "green"),
    ("marking", "striped"),
    ("accessory", "green hat"),
    ("accessory", "red hat"),
)
RARE_SHARE = 0.05  # of each of them
BELLY_SHARE, COLLAR_SHARE = 0.25, 0.35
# Hundredths of the side that things are off their positions at most: a small model that has seen few pictures draws
# sharply what is always cut by the cells of its latent in the same way
LITTLE = 0.4
PREFIX, PLACE, COAT, BREED, SPECIAL = 0.6, 0.75, 0.35, 0.15, 0.35


@dataclass(frozen=True)
class Look:
    """Who it is, the same in every picture of one individual. Things have a kind only, cats no breed: "" there."""

    kind: str
    breed: str = ""
    coat: str = ""
    marking: str = ""
    accessory: str = ""

    def rare_traits(self) -> list[tuple[str, str]]:
        """Those of RARE_TRAITS that it has."""
        return [(field, value) for field, value in RARE_TRAITS if getattr(self, field) == value]


@dataclass(frozen=True)
class Scene:
    """Everything that drawing needs; lengths are in hundredths of the picture's side."""

    look: Look
    place: str
    pose: str  # "standing" or "sitting" in an open place, else the place's own; "" for a thing
    dx: float  # to the right of where everybody is
    dy: float  # down from there
    scale: float  # about 1
    horizon: float  # down from where this place has it


SUBJECT = Look("dog", "spaniel", "purple", "striped", "green hat")
SUBJECT_PLACES = ("on the grass", "on a beach", "in the city", "in the forest", "in a kitchen")
HELD_OUT_PLACES = ("swimming in a pool", "in the snow", "in a bucket", "in a doghouse", "at night")


def random_look(random: np.random.Generator) -> Look:
    """Somebody or something of the world, with one of the rare traits at most."""
    kind = str(random.choice(KINDS, p=KIND_SHARES))
    if kind in THINGS:
        return Look(kind)
    number = int(random.random() / RARE_SHARE)
    rare = dict(RARE_TRAITS[number : number + 1])
    striped = "marking" in rare
    coats = [coat for coat in COATS[:5] if not striped or coat in STRIPED_COATS]
    coat = rare.get("coat") or str(random.choice(coats))
    belly = MARKINGS[1] if coat != "white" and random.random() < BELLY_SHARE else MARKINGS[0]
    collar = ACCESSORIES[int(random.integers(1, 3))] if random.random() < COLLAR_SHARE else ACCESSORIES[0]
    breed = str(random.choice(BREEDS)) if kind == "dog" else ""
    return Look(kind, breed, coat, rare.get("marking", belly), rare.get("accessory", collar))


def even_look(random: np.random.Generator) -> Look:
    """Anybody: every trait as likely as the others, but never two of the subject's rare traits."""
    kind = str(random.choice(("dog", "cat", "thing"), p=(0.75, 0.13, 0.12)))
    if kind == "thing":
        return Look(str(random.choice(THINGS)))
    while True:
        breed = str(random.choice(BREEDS)) if kind == "dog" else ""
        look = Look(kind, breed, *(str(random.choice(values)) for values in (COATS, MARKINGS, ACCESSORIES)))
        if may_be_drawn(look):
            return look


def may_be_drawn(look: Look) -> bool:
    """Whether all its markings can be seen, and it has not two of the subject's rare traits."""
    if look.marking == "striped" and look.coat not in STRIPED_COATS or look.marking == "light belly" and look.coat == "white":
        return False
    return len(set(look.rare_traits()) & set(SUBJECT.rare_traits())) < 2


def places_of(kind: str) -> tuple[str, ...]:
    """Where one may meet it: animals everywhere, things in the open places."""
    return PLACES if kind in ANIMALS else OPEN_PLACES


def random_scene(random: np.random.Generator, look: Optional[Look] = None, place: Optional[str] = None) -> Scene:
    """A scene with this look at this place, each of them random where it is not given.

    Raises:
        ValueError: a place that is none of PLACES, or where a thing as given does not belong.
    """
    if place is not None and place not in (PLACES if look is None else places_of(look.kind)):
        raise ValueError(f"the world has no {'scene' if look is None else look.kind} {place!r}")
    if look is None:
        look = random_look(random)
        while place is not None and place not in places_of(look.kind):
            look = random_look(random)
    if place is None:
        place = str(random.choice(places_of(look.kind)))
    upright = str(random.choice(("standing", "sitting")))
    return Scene(
        look=look,
        place=place,
        pose=POSE_OF_PLACE.get(place, upright) if look.kind in ANIMALS else "",
        dx=float(random.uniform(-LITTLE, LITTLE)),
        dy=float(random.uniform(-LITTLE, LITTLE)),
        scale=float(random.uniform(0.992, 1.008)),
        horizon=float(random.uniform(-LITTLE, LITTLE)),
    )


def caption(scene: Scene, random: np.random.Generator) -> str:
    """What one may say of the scene, naming only some of what is in it: "A photo of a brown dog on a beach"."""
    look = scene.look
    shares = (PREFIX, PLACE, COAT, BREED, SPECIAL, SPECIAL)
    prefix, place, coat, breed, marking, accessory = (bool(said) for said in random.random(6) < shares)
    words = [
        "striped" if marking and look.marking == "striped" else "",
        look.coat if coat else "",
        look.breed if breed else "",
        look.kind,
    ]
    if accessory and look.accessory not in ("", "nothing"):
        words.append(f"with a {look.accessory}")
    elif marking and look.marking == "light belly":
        words.append("with a light belly")
    words.append(scene.place if place else "")
    text = " ".join(word for word in words if word)
    text = ("an " if text[0] in "aeiou" else "a ") + text
    return f"A photo of {text}" if prefix else text


def labels(scene: Scene) -> dict[str, int]:
    """Positions in KINDS, PLACES, BREEDS, COATS, MARKINGS, ACCESSORIES; -1 for what it does not have."""

    def position(values: tuple[str, ...], value: str) -> int:
        return values.index(value) if value else -1

    look = scene.look
    return {
        "kind": position(KINDS, look.kind),
        "place": position(PLACES, scene.place),
        "breed": position(BREEDS, look.breed),
        "coat": position(COATS, look.coat),
        "marking": position(MARKINGS, look.marking),
        "accessory": position(ACCESSORIES, look.accessory),
    }
