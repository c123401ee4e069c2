"""Drawing a scene: the place, who is there, and what is before it."""

from PIL import Image

from tools.world import places
from tools.world.animals import BUILDS, COLOURS, GROWN, OUTLINE, body_of, draw_animal
from tools.world.pen import Pen, ellipse, line, polygon
from tools.world.scenes import ANIMALS, Scene

FINER = 3  # pixels drawn along each side of a pixel of the picture
GROUND = 88.0  # y of the feet in an open place
# y of the middle of whoever is there, by pose
MIDDLE = {"standing": 62.0, "sitting": 60.0, "swimming": 48.0, "in the bucket": 35.0, "in the doghouse": 60.0, "": 65.0}


def draw(scene: Scene, size: int) -> Image.Image:
    """The picture of a scene: RGB, size x size pixels."""
    side = FINER * size
    unit = side / 100
    image = Image.new("RGB", (side, side))
    place = Pen(image, unit, side * scene.mirrored, 0.0, scene.mirrored)
    place.draw_all(places.behind(scene.place, scene.horizon))
    if scene.look.kind in ANIMALS:
        PUT[scene.pose](scene, image, unit)
    else:
        draw_thing(_pen(scene, image, unit, 0, GROUND, 1), scene.look.kind)
    return image.reduce(FINER)


def _pen(scene: Scene, image: Image.Image, unit: float, x: float, y: float, scale: float = 0.84) -> Pen:
    """A pen for shapes that look left, its origin x units left of the middle (right when facing right), at height y."""
    right = scene.facing == "right"
    x = 50 + (x if right else -x) + scene.dx
    return Pen(image, unit * scale * scene.scale, x * unit, (y + scene.dy) * unit, right)


def _in_the_open(scene: Scene, image: Image.Image, unit: float) -> None:
    """On the ground."""
    middle = body_of(scene.look, scene.pose).middle
    draw_animal(_pen(scene, image, unit, 0.84 * middle, GROUND), scene.look, scene.pose)


def _swimming(scene: Scene, image: Image.Image, unit: float) -> None:
    """The water in front covers the legs and half of the body."""
    body, scale = body_of(scene.look, scene.pose), 0.9
    top = round((places.WATER_LINE + scene.dy) * unit)
    water = image.crop((0, top, *image.size))
    under = (body.build.leg + 0.25 * body.build.thick) * scale * scene.scale
    pen = _pen(scene, image, unit, scale * body.middle, places.WATER_LINE + under, scale)
    draw_animal(pen, scene.look, scene.pose)
    image.paste(water, (0, top))
    half = body.build.half + body.build.thick / 2 + 5
    foam = _pen(scene, image, unit, scale * body.middle, places.WATER_LINE, scale)
    foam.draw(line(4, (-half, 0), (half, 0)), "#ffffff")


def _in_the_bucket(scene: Scene, image: Image.Image, unit: float) -> None:
    """The bucket hides what is below its rim, and the front paws lie on it."""
    rim = places.BUCKET_RIM
    draw_animal(_pen(scene, image, unit, -3, rim - scene.dy + 9, 0.88), scene.look, scene.pose)
    Pen(image, unit).draw_all(places.bucket_front())
    coat = COLOURS[scene.look.coat][0]
    paws = _pen(scene, image, unit, -3, rim - scene.dy, 0.88)
    for grown, colour in ((GROWN, OUTLINE), (0.0, coat)):
        for x in (-9, 9):
            paws.draw(ellipse(x, 2, 5, 5.5), colour, grown)


def _in_the_doghouse(scene: Scene, image: Image.Image, unit: float) -> None:
    """The wall beside the door hides the back half."""
    left, right = (round(edge * unit) for edge in places.DOOR)
    wall = (0, 0, left, image.height) if scene.facing == "right" else (right, 0, *image.size)
    hidden = image.crop(wall)
    half = BUILDS[scene.look.breed].half
    draw_animal(_pen(scene, image, unit, 2 - half, 90, 0.9), scene.look, scene.pose)
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
