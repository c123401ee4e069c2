"""How many updates a recipe means: epochs, repeats and batch, with the arithmetic shown."""

import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Optional

from gm.data.concepts import REPEATS_AND_PROMPT
from gm.data.images import count_images, entries_of


@dataclass(frozen=True)
class Photos:
    """The photos that a recipe is for, as far as they are known."""

    count: int
    samples: int  # with repeats: the samples of an epoch
    words: str  # where the number is from

    @classmethod
    def of(cls, count: int, repeats: int, words: str) -> "Photos":
        """Each photo `repeats` times."""
        return cls(count, count * repeats, words)


@dataclass(frozen=True)
class Hints:
    """What the command says beside the recipe; None: nothing."""

    instance_data_path: Optional[str] = None
    class_data_path: Optional[str] = None
    num_photos: Optional[int] = None
    repeats: Optional[int] = None  # of each photo in an epoch

    def photos(self, folder: Optional[str] = None, repeats: int = 1) -> "Photos":
        """The photos to count: those of the command, else of the recipe's `folder`, `repeats` times each; else a number that is assumed."""
        repeats = self.repeats or repeats
        if self.num_photos:
            return Photos.of(self.num_photos, repeats, f"--num_photos {self.num_photos}, {repeats} times each")
        for path in (self.instance_data_path, folder):
            found = photos_in(Path(path), repeats) if path else None
            if found:
                return found
        return replace(ASSUMED, samples=ASSUMED.count * repeats)


ASSUMED = Photos.of(20, 1, "nobody says how many photos: 20 are assumed, give --instance_data_path or --num_photos")


def photos_in(folder: Path, repeats: int = 1) -> Optional[Photos]:
    """Those of a folder: its own, or in folders named as sd-scripts does, 10_sks dog, which say the repeats. None when it is not
    there or holds none."""
    if not os.path.isdir(folder):  # unlike Path's, it takes any text
        return None
    own = len(count_images(folder))
    if own:
        return Photos.of(own, repeats, f"{own} photos in {folder}")
    named = [(child, REPEATS_AND_PROMPT.fullmatch(child.name)) for child in entries_of(folder) if child.is_dir()]
    counted = [(len(count_images(child)), int(match[1]), child.name) for child, match in named if match and int(match[1]) > 0]
    if not sum(count for count, _, _ in counted):
        return None
    words = " + ".join(f"{count} x {repeats} ({name})" for count, repeats, name in counted)
    return Photos(sum(count for count, _, _ in counted), sum(count * repeats for count, repeats, _ in counted), words)


def has_prompts(folder: Optional[str]) -> bool:
    """Whether a folder of photos says what they show: by folders in it that are named as sd-scripts does. True where it is not here,
    because a recipe of sd-scripts wants it so."""
    if folder is None:
        return False
    path = Path(folder)
    return not path.is_dir() or any(child.is_dir() and REPEATS_AND_PROMPT.fullmatch(child.name) for child in entries_of(path))


def updates_of(
    epochs: float,
    photos: Photos,
    batch: int,
    accumulation: int = 1,
    processes: int = 1,
    doubled: bool = False,
    rounded_once: bool = False,
) -> tuple[int, str]:
    """Updates in so many epochs, as sd-scripts and diffusers count them (a last incomplete batch counts), and the arithmetic.

    `doubled`: as many class images are trained in between, each in a place of a batch (sd-scripts' reg images). `rounded_once`: as
    kohya_ss' interface counts, which rounds up at the end and not in every epoch.
    """
    samples = photos.samples * (2 if doubled else 1)
    words = f"{photos.samples} samples an epoch" + (" x 2 with class images" if doubled else "") + f" / batch {batch}"
    together = accumulation * processes
    of_update = (
        f" / {accumulation} accumulated" + (f" x {processes} processes" if processes > 1 else "") if together > 1 else ""
    )
    if rounded_once:
        total = max(1, math.ceil(samples / batch / together * epochs))
        return total, f"{words}{of_update} x {epochs:g} epochs = {total} updates ({photos.words})"
    batches = math.ceil(samples / batch)
    an_epoch = math.ceil(batches / together)
    total = max(1, math.ceil(an_epoch * epochs))
    words += f" = {batches}" + (f",{of_update} = {an_epoch}" if of_update else "")
    return total, f"{words}; x {epochs:g} epochs = {total} updates ({photos.words})"
