"""Draw pictures of a cartoon world with captions, or the photos of one unusual dog of it, to try the commands with."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Sequence

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gm import ending

if __name__ == "__main__":  # what is imported below takes a while
    ending.catch_signals()

import numpy as np
from PIL import Image

from gm import console
from gm.console import bar, log
from gm.data.images import MASK, count_images
from gm.errors import UserError
from gm.options.parser import REQUIRED, option, parse
from gm.pictures import contact_sheet, save_png
from gm.randomness import WORLD, generator
from tools.toy.drawing import draw
from tools.toy.scenes import caption, labels, random_scene
from tools.toy.subject import subject_captions, subject_masks, subject_pictures

COLUMNS = 4  # of the contact sheet
SUBJECT_NAME = "sks dog"  # in captions


@dataclass(frozen=True)
class Options:
    """What was asked."""

    output: Path = option(REQUIRED, "the folder to draw into; it must hold no images yet", metavar="FOLDER")
    number: Optional[int] = option(None, "how many pictures", least=1, shown="5 of the subject, 100 of the world")
    size: Optional[int] = option(None, "pixels of each side", least=16, shown="384 for the subject, 64 for the world")
    seed: int = option(0, "the same seed gives the same pictures", least=0)
    subject: Optional[str] = option(
        None,
        "draw the unusual dog, in the places to train it in or in others, instead of the world with its captions",
        choices=("training", "held-out"),
    )
    captions: bool = option(False, "with --subject training: write NAME.txt, what each shows, beside it")
    masks: bool = option(False, "with --subject training: write NAME-masklabel.png, where the subject is, beside it")
    sheet: Optional[Path] = option(None, "a PNG file for all pictures on one contact sheet, with the captions", metavar="PNG")


def main(argv: Optional[Sequence[str]] = None) -> None:
    """The command."""
    options = parse(Options, argv, "draw_world.py", __doc__.splitlines()[0])
    number = options.number or (5 if options.subject else 100)
    size = options.size or (384 if options.subject else 64)
    folder, sheet = options.output, options.sheet
    if count_images(folder):
        raise UserError(f"--output {folder} holds images already: give another folder")
    if sheet and sheet.suffix.lower() != ".png":
        raise UserError(f"--sheet {sheet} is no PNG: give a file name that ends in .png")
    if (options.captions or options.masks) and options.subject != "training":
        raise UserError("--captions and --masks are for training photos of the subject: give --subject training with them")
    folder.mkdir(parents=True, exist_ok=True)
    if options.subject:
        pictures = subject_pictures(number, size, options.seed, options.subject == "held-out")
        captions = [f"the subject, {i}" for i in range(number)]
        names = [_save(folder, i, picture) for i, picture in enumerate(pictures)]
        if options.captions:
            for name, text in zip(names, subject_captions(number, options.seed, SUBJECT_NAME)):
                (folder / name).with_suffix(".txt").write_text(text + "\n", encoding="utf-8")
        if options.masks:
            for name, mask in zip(names, subject_masks(number, size, options.seed)):
                save_png(folder / f"{Path(name).stem}{MASK}.png", np.asarray(mask), {})
    else:
        pictures, captions = draw_captioned(folder, number, size, options.seed, keep=sheet is not None)
    log.info("%d pictures drawn in %s", number, folder)
    if sheet:
        save_png(sheet, captioned_sheet(pictures, captions), {})
        log.info("contact sheet: %s", sheet)


def draw_captioned(folder: Path, number: int, size: int, seed: int, keep: bool) -> tuple[list[Image.Image], list[str]]:
    """Write pictures of the world and captions.jsonl, a line for each with its file, caption and labels.

    Returns the pictures, if they are to be kept, and the captions.
    """
    pictures, captions = [], []
    with (folder / "captions.jsonl").open("w", encoding="utf-8") as file:
        for i in bar(range(number), "drawing"):
            random = generator(seed, WORLD, i)
            scene = random_scene(random)
            picture, text = draw(scene, size), caption(scene, random)
            name = _save(folder, i, picture)
            file.write(json.dumps({"file": name, "caption": text, "labels": labels(scene)}) + "\n")
            captions.append(text)
            if keep:
                pictures.append(picture)
    return pictures, captions


def captioned_sheet(pictures: Sequence[Image.Image], captions: Sequence[str]) -> np.ndarray:
    """All pictures in rows, over each row its captions: (h, w, 3) uint8."""
    starts = range(0, len(pictures), COLUMNS)
    rows = [[np.asarray(picture) for picture in pictures[start : start + COLUMNS]] for start in starts]
    return contact_sheet(rows, [" | ".join(captions[start : start + COLUMNS]) for start in starts], cell=288)


def _save(folder: Path, number: int, picture: Image.Image) -> str:
    """Write a picture under its number; returns the file's name."""
    name = f"{number:05d}.png"
    save_png(folder / name, np.asarray(picture), {})
    return name


if __name__ == "__main__":
    sys.exit(console.run_command(main))
