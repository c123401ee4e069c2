"""A pen for flat shapes on a large canvas: lengths in hundredths of the picture's side."""

import math
from dataclasses import dataclass
from typing import Sequence, Union

from PIL import Image, ImageDraw

Point = tuple[float, float]
Colour = Union[str, int]


@dataclass(frozen=True)
class Shape:
    """An ellipse (centre, radii), a polygon (its points) or a rounded line (its points and its width)."""

    kind: str
    points: tuple[Point, ...]
    width: float = 0.0


def ellipse(x: float, y: float, rx: float, ry: float = 0.0) -> Shape:
    """An ellipse, or a circle when there is one radius only."""
    return Shape("ellipse", ((x, y), (rx, ry or rx)))


def polygon(*points: Point) -> Shape:
    """A polygon."""
    return Shape("polygon", points)


def box(x0: float, y0: float, x1: float, y1: float) -> Shape:
    """A rectangle."""
    return Shape("polygon", ((x0, y0), (x1, y0), (x1, y1), (x0, y1)))


def line(width: float, *points: Point) -> Shape:
    """A line with round ends and joints."""
    return Shape("line", points, width)


@dataclass(frozen=True)
class Pen:
    """Draws shapes around an origin. `scale` is pixels for one unit."""

    image: Image.Image
    scale: float
    x: float = 0.0  # pixels of the origin
    y: float = 0.0

    def on(self, image: Image.Image) -> "Pen":
        """The same pen on another image of the same size."""
        return Pen(image, self.scale, self.x, self.y)

    def draw(self, shape: Shape, colour: Colour, grown: float = 0.0) -> None:
        """Fill a shape, larger by `grown` units on every side."""
        pen = ImageDraw.Draw(self.image)
        if shape.kind == "ellipse":
            (x, y), (rx, ry) = shape.points
            self._ellipse(pen, self._at((x, y)), rx + grown, ry + grown, colour)
            return
        points = [self._at(point) for point in shape.points]
        width = shape.width + 2 * grown
        if shape.kind == "polygon":
            pen.polygon(points, fill=colour)
            if not grown:
                return
            points.append(points[0])
        for (x0, y0), (x1, y1) in zip(points, points[1:]):
            length = math.hypot(x1 - x0, y1 - y0) or 1.0
            nx, ny = (y0 - y1) / length * width * self.scale / 2, (x1 - x0) / length * width * self.scale / 2
            pen.polygon([(x0 + nx, y0 + ny), (x1 + nx, y1 + ny), (x1 - nx, y1 - ny), (x0 - nx, y0 - ny)], fill=colour)
        for point in points:
            self._ellipse(pen, point, width / 2, width / 2, colour)

    def draw_all(self, shapes: Sequence[tuple[Shape, Colour]]) -> None:
        """Fill shapes, each over those before it."""
        for shape, colour in shapes:
            self.draw(shape, colour)

    def _at(self, point: Point) -> Point:
        return self.x + point[0] * self.scale, self.y + point[1] * self.scale

    def _ellipse(self, pen: ImageDraw.ImageDraw, centre: Point, rx: float, ry: float, colour: Colour) -> None:
        x, y, rx, ry = *centre, rx * self.scale, ry * self.scale
        pen.ellipse((x - rx, y - ry, x + rx, y + ry), fill=colour)
