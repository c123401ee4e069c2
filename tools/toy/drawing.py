"""Drawing a scene: the place, who is there, and what is before it."""

from PIL import Image

from tools.toy import places
from tools.toy.animals import COLOURS, GROWN, OUTLINE, body_of, draw_animal
from tools.toy.pen import Pen, ellipse, line, polygon
from tools.toy.scenes import ANIMALS, Scene

FINER = 3  # pixels drawn along each side of a pixel of the picture
# Where the head of every animal is, in all poses and places, and where things stand
HEAD, GROUND = (31.0, 45.0), (50.0, 90.0)


def draw(scene: Scene, size: int) -> Image.Image:
    """The picture of a scene: RGB, size x size pixels."""
    image, unit = _place(scene, size)
    x, y = scene.dx, scene.dy
    if scene.look.kind in ANIMALS:
        head = body_of(scene.look, scene.pose).head
        x, y = x + HEAD[0] - head[0] * scene.scale, y + HEAD[1] - head[1] * scene.scale
        PUT[scene.pose](scene, image, unit, Pen(image, unit * scene.scale, x * unit, y * unit))
    else:
        draw_thing(Pen(image, unit * scene.scale, (x + GROUND[0]) * unit, (y + GROUND[1]) * unit), scene.look.kind)
    return image.reduce(FINER)


def draw_place(scene: Scene, size: int) -> Image.Image:
    """The same without anybody."""
    return _place(scene, size)[0].reduce(FINER)


def _place(scene: Scene, size: int) -> tuple[Image.Image, float]:
    """What is behind, FINER times as large, and its pixels in a hundredth of the side."""
    side = FINER * size
    image, unit = Image.new("RGB", (side, side)), side / 100
    Pen(image, unit).draw_all(places.behind(scene.place, scene.horizon))
    return image, unit


def _in_the_open(scene: Scene, image: Image.Image, unit: float, pen: Pen) -> None:
    """On the ground."""
    draw_animal(pen, scene.look, scene.pose)


def _swimming(scene: Scene, image: Image.Image, unit: float, pen: Pen) -> None:
    """The water in front covers the legs and some of the body."""
    top = round(places.WATER_LINE * unit)
    water = image.crop((0, top, *image.size))
    draw_animal(pen, scene.look, scene.pose)
    image.paste(water, (0, top))
    Pen(image, unit).draw(line(4, (24, places.WATER_LINE), (86, places.WATER_LINE)), "#ffffff")


def _in_the_bucket(scene: Scene, image: Image.Image, unit: float, pen: Pen) -> None:
    """The bucket hides what is below its rim, and the front paws lie on it."""
    draw_animal(pen, scene.look, scene.pose)
    Pen(image, unit).draw_all(places.bucket_front())
    coat = COLOURS[scene.look.coat][0]
    for grown, colour in ((GROWN, OUTLINE), (0.0, coat)):
        for x in (33, 61):
            Pen(image, unit).draw(ellipse(x, places.BUCKET_RIM + 2, 5, 5.5), colour, grown)


def _in_the_doghouse(scene: Scene, image: Image.Image, unit: float, pen: Pen) -> None:
    """The wall beside the door hides the back half."""
    wall = (round(places.DOOR[1] * unit), 0, *image.size)
    hidden = image.crop(wall)
    draw_animal(pen, scene.look, scene.pose)
    image.paste(hidden, wall[:2])


def draw_thing(pen: Pen, kind: str) -> None:
    """A ball, a car or a mushroom."""
    shapes = {
        "ball": [
            (ellipse(0, -24, 24), "#ff3b30"),
            (polygon((-9, -46), (9, -46), (9, -2), (-9, -2)), "#ffffff"),
            (ellipse(0, -24, 7), "#1d5bea"),
        ],
        "car": [
            (polygon((-16, -20), (-8, -38), (14, -38), (24, -20)), "#1d5bea"),
            (polygon((-9, -21), (-4, -33), (2, -33), (2, -21)), "#d8f1ff"),
            (polygon((6, -21), (6, -33), (11, -33), (17, -21)), "#d8f1ff"),
            (line(16, (-25, -15), (25, -15)), "#1d5bea"),
            (ellipse(-30, -17, 3), "#ffe873"),
            *((ellipse(x, -8, 8), OUTLINE) for x in (-17, 17)),
            *((ellipse(x, -8, 3.5), "#d5d5da") for x in (-17, 17)),
        ],
        "mushroom": [
            (line(16, (0, -30), (0, -8)), "#fff0d6"),
            (polygon((-30, -28), (-26, -42), (-14, -53), (0, -56), (14, -53), (26, -42), (30, -28)), "#e8232f"),
            *((ellipse(x, y, 5), "#ffffff") for x, y in ((-16, -38), (0, -47), (15, -37))),
        ],
    }[kind]
    for shape, _ in shapes:
        pen.draw(shape, OUTLINE, GROWN)
    pen.draw_all(shapes)


PUT = {
    "standing": _in_the_open,
    "sitting": _in_the_open,
    "swimming": _swimming,
    "in the bucket": _in_the_bucket,
    "in the doghouse": _in_the_doghouse,
}
