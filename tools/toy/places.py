"""The places of the drawn world, behind and in front of what stands there. All shapes in hundredths of the side."""

import math
from typing import Callable

from tools.toy.pen import Colour, Shape, box, ellipse, line, polygon

Painting = list[tuple[Shape, Colour]]

WATER_LINE, BUCKET_RIM, DOOR = 66.0, 75.0, (28.0, 72.0)  # y of the water and of the rim; x of the door's edges


def behind(place: str, horizon: float) -> Painting:
    """The background of a place, its horizon moved by `horizon`."""
    return BACKGROUNDS[place](horizon)


def grass(h: float) -> Painting:
    """A sunny lawn with flowers."""
    flowers = [(10, 70), (90, 66), (84, 93), (8, 92), (50, 96)]
    return [
        (box(0, 0, 100, 100), "#8fd3ff"),
        (ellipse(85, 13, 12), "#ffd93b"),
        (ellipse(20, 62 + h, 45, 14), "#5aa83a"),
        (box(0, 58 + h, 100, 100), "#86cc3f"),
        *((ellipse(x, y, 4), "#ff5a6e") for x, y in flowers),
        *((ellipse(x, y, 1.7), "#fff3b0") for x, y in flowers),
    ]


def beach(h: float) -> Painting:
    """Sand, the sea, and a parasol."""
    return [
        (box(0, 0, 100, 100), "#c5f0ff"),
        (box(0, 36 + h, 100, 100), "#1f7fd6"),
        (box(0, 56 + h, 100, 100), "#ffffff"),
        (box(0, 60 + h, 100, 100), "#f6d98a"),
        (line(3, (84, 18), (84, 74)), "#8a5a33"),
        (polygon((62, 26), (66, 15), (75, 8), (84, 5), (93, 8), (102, 15), (106, 26)), "#ff4d3d"),
        (polygon((75, 26), (78, 14), (84, 5), (90, 14), (93, 26)), "#ffffff"),
    ]


def snow(h: float) -> Painting:
    """Snow falling around a snowman."""
    flakes = [(8, 10), (28, 22), (46, 8), (60, 26), (74, 5), (94, 20), (12, 40), (62, 46)]
    return [
        (box(0, 0, 100, 100), "#9db7d6"),
        (ellipse(20, 62 + h, 40, 16), "#dbe6f2"),
        (box(0, 56 + h, 100, 100), "#f7fbff"),
        *((ellipse(x, y, 2.8), "#ffffff") for x, y in flakes),
        (ellipse(86, 58, 12), "#c3d3e6"),
        (ellipse(86, 58, 11), "#ffffff"),
        (ellipse(86, 38, 9), "#c3d3e6"),
        (ellipse(86, 38, 8), "#ffffff"),
        (box(79, 19, 93, 32), "#3a3f4f"),
        (box(75, 29, 97, 33), "#3a3f4f"),
        (polygon((84, 37), (74, 40), (84, 42)), "#ff8a1f"),
    ]


def city(h: float) -> Painting:
    """Houses with lit windows along a road."""
    windows = [(x, y) for x, top in ((4, 14), (15, 14), (73, 6), (84, 6)) for y in range(top, 56, 12)]
    return [
        (box(0, 0, 100, 100), "#ffd9b8"),
        (box(0, 8, 27, 100), "#b5533f"),
        (box(29, 30, 46, 100), "#6f7fa6"),
        (box(48, 18, 66, 100), "#8d9cc0"),
        (box(69, 0, 97, 100), "#475b8f"),
        *((box(x, y, x + 7, y + 7), "#ffe873") for x, y in windows),
        (box(0, 66 + h, 100, 100), "#c9c9cf"),
        (box(0, 72 + h, 100, 100), "#5b5d66"),
        *((box(x, 90, x + 18, 94), "#ffffff") for x in (4, 41, 78)),
    ]


def forest(h: float) -> Painting:
    """Tree trunks under leaves."""
    return [
        (box(0, 0, 100, 100), "#3f9a55"),
        *((box(x, 0, x + w, 100), "#5b3518") for x, w in ((4, 12), (36, 9), (62, 9), (84, 13))),
        *((ellipse(x, y, 19, 13), "#1d6b35") for x, y in ((0, 4), (28, 0), (55, 5), (80, 0), (102, 6))),
        (box(0, 66 + h, 100, 100), "#8a6b33"),
        *((ellipse(x, 68 + h, 11, 7), "#1d6b35") for x in (0, 24, 78, 98)),
    ]


def night(h: float) -> Painting:
    """The moon and stars over hills."""
    stars = [(8, 12), (26, 26), (40, 8), (58, 22), (94, 42), (8, 44)]
    return [
        (box(0, 0, 100, 100), "#20286e"),
        (ellipse(82, 17, 13), "#fff4b8"),
        (ellipse(77, 14, 3), "#e3d48c"),
        (ellipse(86, 22, 4), "#e3d48c"),
        *((polygon((x - 3, y), (x, y - 3), (x + 3, y), (x, y + 3)), "#ffffff") for x, y in stars),
        (ellipse(70, 66 + h, 50, 14), "#2b4b7d"),
        (box(0, 64 + h, 100, 100), "#3b6a8c"),
    ]


def kitchen(h: float) -> Painting:
    """A refrigerator, a counter and a window over a chequered floor."""
    tiles = [(x, y) for row, y in enumerate((70, 80, 90)) for x in range(-10 + 14 * (row % 2), 100, 28)]
    return [
        (box(0, 0, 100, 100), "#ffc56b"),
        (box(0, 70 + h, 100, 100), "#f4f0e6"),
        *((box(x, y + h, x + 14, y + h + 10), "#c0392b") for x, y in tiles),
        (box(0, 46, 64, 70 + h), "#4f9a94"),
        (box(0, 42, 64, 47), "#e9e4d8"),
        (box(14, 8, 42, 30), "#ffffff"),
        (box(17, 11, 39, 27), "#8fd3ff"),
        (box(26.5, 8, 29.5, 30), "#ffffff"),
        (box(69, 8, 97, 76 + h), "#aebac4"),
        (box(71, 10, 95, 74 + h), "#f2f6f9"),
        (box(71, 34, 95, 37), "#aebac4"),
        (line(3, (75, 18), (75, 28)), "#5d6872"),
        (line(3, (75, 43), (75, 57)), "#5d6872"),
    ]


def pool(h: float) -> Painting:
    """Water with waves, its edge, and a ladder."""
    waves = [(6, 50), (70, 46), (20, 78), (66, 76), (2, 92), (48, 92)]
    return [
        (box(0, 0, 100, 100), "#ffe3c2"),
        (box(0, 20 + h, 100, 100), "#f08a5d"),
        (box(0, 32 + h, 100, 100), "#ffffff"),
        (box(0, 38 + h, 100, 100), "#19b4ea"),
        *((line(3.4, (x, y), (x + 8, y - 4), (x + 16, y), (x + 24, y - 4)), "#8fe3ff") for x, y in waves),
        (line(4, (80, 62), (80, 14), (86, 9), (92, 14), (92, 62)), "#7d8791"),
        (line(3.4, (80, 34), (92, 34)), "#7d8791"),
        (line(3.4, (80, 48), (92, 48)), "#7d8791"),
    ]


def bucket(h: float) -> Painting:
    """A room with the inside of the bucket."""
    return [
        (box(0, 0, 100, 100), "#ffd0d6"),
        (box(0, 74 + h, 100, 100), "#b7776b"),
        (ellipse(50, BUCKET_RIM, 34, 6), "#0b5f6b"),
    ]


def doghouse(h: float) -> Painting:
    """A doghouse with a red roof and its dark door."""
    planks = [(box(16, y, 84, y + 1.6), "#3f8fc7") for y in (52, 66, 80)]
    return [
        (box(0, 0, 100, 100), "#fff1c9"),
        (box(0, 70 + h, 100, 100), "#7cc04a"),
        (box(16, 36, 84, 92), "#5fb0e6"),
        *planks,
        (polygon((50, 2), (98, 40), (90, 47), (50, 16), (10, 47), (2, 40)), "#c92f2f"),
        (polygon((50, 14), (88, 45), (12, 45)), "#5fb0e6"),
        (ellipse(50, 54, 22, 20), "#1f2a44"),
        (box(DOOR[0], 54, DOOR[1], 92), "#1f2a44"),
    ]


BACKGROUNDS: dict[str, Callable[[float], Painting]] = {
    "on the grass": grass,
    "on a beach": beach,
    "in the snow": snow,
    "in the city": city,
    "in the forest": forest,
    "at night": night,
    "in a kitchen": kitchen,
    "swimming in a pool": pool,
    "in a bucket": bucket,
    "in a doghouse": doghouse,
}


def bucket_front() -> Painting:
    """The bucket before whoever sits in it."""
    rim = BUCKET_RIM
    handle = [(50 - 29 * math.cos(a * math.pi / 8), rim + 5 + 15 * math.sin(a * math.pi / 8)) for a in range(9)]
    return [
        (polygon((17, rim), (83, rim), (74, 98), (26, 98)), "#0b5f6b"),
        (polygon((19.5, rim), (80.5, rim), (72, 96), (28, 96)), "#19b9c6"),
        (line(3, *handle), "#ffffff"),
        (line(6, (17, rim + 2), (83, rim + 2)), "#0b5f6b"),
    ]
