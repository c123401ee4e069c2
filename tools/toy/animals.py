"""Dogs and cats of the drawn world, seen from the side and looking left: the shapes of their bodies and what they wear.

Units are those of the pen; the feet are at y = 0 and up is negative, the middle of the body is near x = 0.
"""

import math
from dataclasses import dataclass

from PIL import Image, ImageChops

from tools.toy.pen import Pen, Point, Shape, ellipse, line, polygon
from tools.toy.scenes import Look

OUTLINE, GROWN = "#1b1720", 1.6
STRIPE, PALE = "#ffdb1a", "#fff0d6"
# coat and its darker shade
COLOURS = {
    "brown": ("#96561f", "#6b3a12"),
    "golden": ("#f0a63a", "#c27a1c"),
    "black": ("#3a3a44", "#24242c"),
    "white": ("#fbfaf5", "#d5d2c8"),
    "grey": ("#9aa0a8", "#71777f"),
    "purple": ("#9a3fe0", "#6d22ad"),
    "green": ("#2fbf71", "#1c8a4d"),
}
WORN = {"red": "#e8232f", "blue": "#1d5bea", "green": "#35e05a"}


@dataclass(frozen=True)
class Build:
    """What one breed has of its own."""

    ears: str
    muzzle: float  # its length from the middle of the head
    leg: float
    half: float  # half the length of the back
    thick: float  # of the body
    head: float  # radius
    tail: str


BUILDS = {
    "husky": Build("pointed", 18, 17, 16, 21, 15, "curled"),
    "spaniel": Build("long", 17, 15, 16, 21, 15, "straight"),
    "dachshund": Build("floppy", 20, 7, 18, 18, 13, "thin"),
    "poodle": Build("curly", 20, 19, 14, 18, 13, "ball"),
    "bulldog": Build("folded", 12, 11, 16, 26, 18, "stub"),
    "": Build("cat", 8, 15, 15, 17, 15, "cat"),
}


@dataclass(frozen=True)
class Body:
    """The shapes of one animal in one pose, from the far ones to the near ones."""

    far: list[Shape]  # in the darker shade
    coat: list[Shape]  # where stripes go
    neck: tuple[Point, Point]
    head: Point
    belly: Shape
    build: Build

    @property
    def head_top(self) -> Point:
        return self.head[0] + 1, self.head[1] - self.build.head - (6 if self.build.ears == "curly" else 0)


def standing(build: Build) -> Body:
    """On four legs."""
    half, thick = build.half, build.thick
    back = -build.leg - thick / 2
    head = (-half - 6, back - thick / 2 - (5 if build.thick > 22 else 9))
    neck = ((-half, back), (head[0] + 2, head[1] + 3))
    legs = [line(8, (x, back), (x, -4)) for x in (-half - 3, half + 4)]
    far = [line(8, (x, back), (x, -4)) for x in (-half + 7, half - 6)]
    if build.ears == "curly":
        legs += [ellipse(leg.points[1][0], -6, 6) for leg in legs]
    body = [line(thick, (-half, back), (half, back)), *legs, line(14, *neck)]
    belly = line(thick * 0.36, (-half + 4, back + thick * 0.28), (half - 3, back + thick * 0.28))
    return Body(far, tail(build, (half + thick / 2 - 2, back - thick / 4)) + body, neck, head, belly, build)


def sitting(build: Build) -> Body:
    """On the haunches, the front upright."""
    rise = build.leg / 3 - 5
    chest = (-6.0, -25 - rise)
    head = (-9.0, -43 - rise - (2 if build.head > 12 else 0))
    neck = (chest, (head[0] + 2, head[1] + 3))
    front = line(8, (chest[0] - 4, chest[1]), (chest[0] - 4, -4))
    far = [line(8, (chest[0] + 5, chest[1]), (chest[0] + 4, -4))]
    thick = max(19.0, build.thick)
    body = [line(thick, (9, -12), chest), ellipse(13, -13, 13), line(8, (16, -4), (4, -4)), front, line(15, *neck)]
    belly = ellipse(chest[0] - 5, chest[1] + 4, 5, 9)
    return Body(far, tail(build, (22, -8)) + body, neck, head, belly, build)


def upright(build: Build) -> Body:
    """On the hind legs, of which nothing is seen, the front towards whoever looks."""
    head = (-14.0, -46.0)
    neck = ((-3.0, -24.0), (head[0] + 3, head[1] + 3))
    body = [line(30, (2, -8), (1, -19)), line(16, *neck)]
    return Body([], body, neck, head, ellipse(-5, -16, 7, 10), build)


def tail(build: Build, root: Point) -> list[Shape]:
    """The tail from its root at the back's end."""
    x, y = root
    return {
        "curled": [line(9, (x, y), (x + 9, y - 3), (x + 12, y - 12), (x + 6, y - 18))],
        "straight": [line(9, (x - 2, y), (x + 11, y - 6))],
        "thin": [line(5, (x, y), (x + 8, y - 5), (x + 11, y - 13))],
        "ball": [line(4, (x - 2, y), (x + 5, y - 9)), ellipse(x + 6, y - 12, 7)],
        "stub": [ellipse(x + 2, y, 4)],
        "cat": [line(5, (x, y), (x + 8, y - 4), (x + 10, y - 16), (x + 6, y - 26))],
    }[build.tail]


def head_shapes(build: Build, head: Point) -> tuple[list[Shape], list[Shape], Shape, Point]:
    """Those in the coat's colour, the ears in the darker shade, the muzzle, and where the nose is."""
    x, y = head
    r = build.head
    muzzle = line(10 if r < 13 else 14, (x - 4, y + 3), (x - build.muzzle, y + (4 if r < 13 else 5)))
    nose = (x - build.muzzle - 4, y + 1.5)
    skull, ears = [ellipse(x, y, r)], []
    if build.ears in ("pointed", "cat"):
        skull.append(polygon((x - r * 0.7, y - r * 0.5), (x - r * 0.5, y - r - 9), (x + r * 0.2, y - r * 0.8)))
        ears = [polygon((x, y - r * 0.7), (x + r * 0.7, y - r - 11), (x + r, y - 1))]
    elif build.ears == "long":
        ears = [line(10, (x + 6, y - 4), (x + 9, y + 8)), ellipse(x + 9, y + 10, 7, 8)]
    elif build.ears == "floppy":
        ears = [line(9, (x + 5, y - 4), (x + 8, y + 9))]
    elif build.ears == "curly":
        skull.append(ellipse(x + 1, y - r + 1, 9.5, 7))
        ears = [ellipse(x + 9, y + 2, 7.5, 9)]
    elif build.ears == "folded":
        ears = [polygon((x + 2, y - r + 1), (x + r + 2, y - r + 2), (x + r, y - 1))]
    if build.ears == "cat":
        muzzle, nose = ellipse(x - 7, y + 4, 6, 5), (x - 11, y + 2)
    return skull, ears, muzzle, nose


def body_of(look: Look, pose: str) -> Body:
    """Its body in a pose of a scene."""
    return {"sitting": sitting, "in the bucket": upright}.get(pose, standing)(BUILDS[look.breed])


def draw_animal(pen: Pen, look: Look, pose: str) -> None:
    """Draw it with its feet at the height of the pen's origin."""
    body = body_of(look, pose)
    build = body.build
    coat, shade = COLOURS[look.coat]
    skull, ears, muzzle, nose = head_shapes(build, body.head)
    x, y = body.head
    for shape in (*body.far, *body.coat, *skull, *ears, muzzle):
        pen.draw(shape, OUTLINE, GROWN)
    pen.draw(ellipse(*nose, 3.6), OUTLINE)
    for shape in body.far:
        pen.draw(shape, shade)
    for shape in body.coat:
        pen.draw(shape, coat)
    if look.marking == "striped":
        draw_stripes(pen, body.coat)
    pale = look.marking == "light belly"
    if pale:
        pen.draw(body.belly, PALE)
    if look.accessory.endswith("collar"):
        draw_collar(pen, body, WORN[look.accessory.split()[0]])
    for shape in skull:
        pen.draw(shape, coat)
    pen.draw(muzzle, PALE if pale else coat)
    for shape in ears:
        pen.draw(shape, shade)
    pen.draw(ellipse(*nose, 3 if look.kind == "cat" else 3.6), "#ff7f98" if look.kind == "cat" else OUTLINE)
    pen.draw(ellipse(x - 4, y - 3, 3.6), "#ffffff")
    pen.draw(ellipse(x - 4.8, y - 3, 2.2), OUTLINE)
    if look.accessory.endswith("hat"):
        draw_hat(pen, body.head_top, WORN[look.accessory.split()[0]])


def draw_stripes(pen: Pen, shapes: list[Shape]) -> None:
    """Slanted bands over these shapes."""
    where, bands = Image.new("L", pen.image.size), Image.new("L", pen.image.size)
    for shape in shapes:
        pen.on(where).draw(shape, 255)
    for x in range(-63, 70, 13):
        pen.on(bands).draw(polygon((x, 0), (x + 6.5, 0), (x - 3.5, -70), (x - 10, -70)), 255)
    pen.image.paste(STRIPE, mask=ImageChops.multiply(where, bands))


def draw_collar(pen: Pen, body: Body, colour: str) -> None:
    """A band across the neck under the head."""
    (x0, y0), (x1, y1) = body.neck
    length = math.hypot(x1 - x0, y1 - y0)
    ux, uy = (x1 - x0) / length, (y1 - y0) / length
    x, y = x1 - body.build.head * ux, y1 - body.build.head * uy
    pen.draw(line(6.5, (x - 9 * uy, y + 9 * ux), (x + 9 * uy, y - 9 * ux)), colour)


def draw_hat(pen: Pen, top: Point, colour: str) -> None:
    """A party hat on top of the head."""
    x, y = top
    cone, ball = polygon((x - 9, y + 4), (x + 9, y + 4), (x + 1, y - 17)), ellipse(x + 1, y - 17, 3.5)
    pen.draw(cone, OUTLINE, GROWN)
    pen.draw(ball, OUTLINE, GROWN)
    pen.draw(cone, colour)
    pen.draw(ball, "#ffffff")
