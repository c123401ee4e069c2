"""Draw a few pictures of one cartoon dog in different places: a subject for trying the commands without photos."""

import argparse
import sys
from pathlib import Path
from typing import Optional, Sequence

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from PIL import Image, ImageDraw

from gm import console
from gm.console import log
from gm.data.images import count_images
from gm.errors import UserError
from gm.randomness import DRAWINGS, generator

# (sky or wall, ground) by place
PLACES = {
    "meadow": ("#9fd3f5", "#6fae4f"),
    "beach": ("#b9e4f7", "#ecd9a0"),
    "snow": ("#c9d6e8", "#f4f7fb"),
    "room": ("#d9c3a5", "#8a5a3b"),
    "night": ("#26305c", "#37563d"),
}
COAT, PATCH, COLLAR = "#d98b3a", "#fff3df", "#2f6fd0"


def main(argv: Optional[Sequence[str]] = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--output", required=True, help="the folder to draw into; it must hold no images yet")
    parser.add_argument("--number", type=int, default=5, help="how many pictures")
    parser.add_argument("--size", type=int, default=320, help="pixels of the shorter side")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    folder = Path(options.output)
    if count_images(folder):
        raise UserError(f"--output {folder} holds images already: give another folder")
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(options.number):
        draw_photo(number, options.size, options.seed).save(folder / f"{number:02d}.png")
    log.info("%d pictures drawn in %s", options.number, folder)


def draw_photo(number: int, size: int, seed: int) -> Image.Image:
    """Picture `number` of the dog, landscape or portrait, drawn at twice the size and scaled down."""
    random = generator(seed, DRAWINGS, number)
    wide = bool(random.integers(2))
    width, height = (size * 5 // 4, size) if wide else (size, size * 5 // 4)
    wall, ground = list(PLACES.values())[number % len(PLACES)]
    image = Image.new("RGB", (2 * width, 2 * height), wall)
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, 2 * height * random.uniform(0.5, 0.65), 2 * width, 2 * height), ground)
    unit = 2 * size * random.uniform(0.7, 0.95) / 100
    left, top = width - 50 * unit + random.uniform(-8, 8) * unit, height - 45 * unit + random.uniform(-4, 8) * unit
    flip = bool(random.integers(2))

    def box(shape: str, x0: float, y0: float, x1: float, y1: float, colour: str) -> None:
        """A shape in a 100 x 100 drawing of the dog, looking left, or right when flipped."""
        x0, x1 = (100 - x1, 100 - x0) if flip else (x0, x1)
        getattr(pen, shape)((left + x0 * unit, top + y0 * unit, left + x1 * unit, top + y1 * unit), fill=colour)

    box("ellipse", 84, 38, 97, 58, COAT)  # tail
    for x in (36, 46, 72, 82):
        box("rectangle", x, 66, x + 6, 92, COAT)
        box("ellipse", x - 2, 88, x + 7, 95, PATCH)
    box("ellipse", 30, 44, 92, 76, COAT)  # body
    box("ellipse", 52, 50, 72, 68, PATCH)
    box("rectangle", 28, 46, 44, 51, COLLAR)
    box("ellipse", 12, 14, 48, 50, COAT)  # head
    box("ellipse", 38, 16, 52, 44, PATCH)  # ear
    box("ellipse", 4, 30, 28, 48, PATCH)  # muzzle
    box("ellipse", 4, 32, 11, 39, "black")
    box("ellipse", 22, 23, 29, 30, "black")
    return image.resize((width, height), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    sys.exit(console.run_command(main))
