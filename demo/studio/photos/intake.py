"""Photos come into a draft: from the visitor's machine, from a folder, or drawn. What is refused is said, one sentence each.

A photo is kept as NAME.jpg, .png or .webp, which its content decides; its caption and mask come along when they are named as it is.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import unicodedata
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Iterable, Iterator, Mapping, Optional, Sequence

from PIL import Image

from gm.data.captions import read_caption
from gm.data.images import BESIDE, MASK, SUFFIXES, count_images, digest_of, opened, read_image
from gm.data.masks import mask_file, read_grey
from gm.errors import UserError, shortened, shown
from gm.files import replacing
from studio.access import inside
from studio.visit import Studio
from studio.words import say

MOST = 200  # photos of a draft
LARGEST = 100_000_000  # bytes of a file
LONGEST_NAME = 60  # characters
KINDS = {"JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png", "WEBP": ".webp"}  # what stays as it is; others become PNG
ROOT = Path(__file__).resolve().parents[3]
DRAWING = ROOT / "tools" / "draw_world.py"
DRAWN_PROMPT = "A photo of a sks dog"
DEEPEST, MOST_FOLDERS = 4, 2000  # of what is looked through for folders of photos


@dataclass
class Given:
    """A file by its name, and a path that has its content."""

    name: str
    path: Path


@dataclass
class Taken:
    """What came in, and sentences about what did not."""

    names: list[str] = field(default_factory=list)
    besides: int = 0  # captions and masks
    refused: list[str] = field(default_factory=list)


def take(photos: Path, given: Sequence[Given]) -> Taken:
    """Copy these into the folder `photos` of a draft: photos first, then captions and masks of the same names."""
    photos.mkdir(parents=True, exist_ok=True)
    taken, there = Taken(), count_images(photos)
    stems: dict[str, Optional[Path]] = {path.stem: path for path in there}
    digests = {digest_of(path): path for path in there}
    beside = [one for one in given if Path(one.name).suffix.lower() in BESIDE or Path(one.name).stem.endswith(MASK)]
    for one in given:
        stem = Path(one.name).stem
        if one not in beside:
            with _refused(taken, one):
                stems[stem] = None  # what comes beside it is not for an older one of this name
                if len(digests) >= MOST:
                    raise UserError(
                        say(
                            "{name}: there are {most} photos already, which is as many as fit", name=shown(one.name), most=MOST
                        )
                    )
                _require_small(one)
                digest = digest_of(one.path)
                if digest in digests:
                    stems[stem] = digests[digest]
                    raise UserError(say("{name} is here already", name=shown(one.name)))
                photo = stems[stem] = digests[digest] = _take_photo(photos, one)
                taken.names.append(photo.name)
    for one in beside:
        with _refused(taken, one):
            _require_small(one)
            _take_beside(one, stems)
            taken.besides += 1
    return taken


@contextmanager
def _refused(taken: Taken, one: Given) -> Iterator[None]:
    """What is wrong with this file is kept, by its own name."""
    try:
        yield
    except UserError as error:
        taken.refused.append(str(error).replace(str(one.path), shown(one.name)))


def _require_small(one: Given) -> None:
    size = os.path.getsize(one.path)
    if size > LARGEST:
        raise UserError(
            say(
                "{name} has {size} MB: give files of at most {most} MB",
                name=shown(one.name),
                size=size // 10**6,
                most=LARGEST // 10**6,
            )
        )


def _take_photo(photos: Path, one: Given) -> Path:
    """The photo under its name in the draft, once it was read whole."""
    pixels = read_image(one.path)
    with opened(one.path) as image:
        suffix = KINDS.get(image.format or "")
    path = photos / (free_stem(photos, Path(one.name).stem) + (suffix or ".png"))
    with replacing(path) as unfinished:
        if suffix:
            shutil.copyfile(one.path, unfinished)
        else:
            Image.fromarray(pixels).save(unfinished, "PNG", compress_level=1)
    return path


def _take_beside(one: Given, stems: Mapping[str, Optional[Path]]) -> None:
    """A caption or mask, for the photo that had the same name."""
    name = Path(one.name)
    of = name.stem if name.suffix.lower() in BESIDE else name.stem[: -len(MASK)]
    photo = stems[of] if of in stems else stems.get(plain_name(of))
    if photo is None:
        raise UserError(say("{name} belongs to no photo here: give it together with its photo", name=shown(one.name)))
    if name.suffix.lower() in BESIDE:
        write_caption(photo, read_caption(one.path))
    else:
        write_mask(photo, Image.fromarray(read_grey(one.path)))


def plain_name(name: str) -> str:
    """The name with letters, digits, - and _ alone, not too long, and none of a mask."""
    plain = re.sub(r"[^\w-]+", "_", unicodedata.normalize("NFC", name))
    return plain[:LONGEST_NAME].strip("_-").removesuffix(MASK) or "photo"


def free_stem(photos: Path, name: str) -> str:
    """A plain name that no photo here has."""
    plain = plain_name(name)
    there = {path.stem.removesuffix(MASK) for path in photos.iterdir()}
    number, stem = 1, plain
    while stem in there:
        number, stem = number + 1, f"{plain}_{number + 1}"
    return stem


def write_caption(photo: Path, text: str) -> None:
    """Say this of the photo; nothing when it is empty, as if it never had a caption."""
    for ending in BESIDE:
        if not text or ending != BESIDE[0]:
            photo.with_suffix(ending).unlink(missing_ok=True)
    if text:
        with replacing(photo.with_suffix(BESIDE[0])) as unfinished:
            unfinished.write_text(text + "\n", encoding="utf-8")


def write_mask(photo: Path, mask: Optional[Image.Image]) -> None:
    """Where the photo counts, (h, w) grey of its size; None: everywhere."""
    target = photo.with_name(photo.stem + MASK + ".png")
    for suffix in SUFFIXES:
        other = photo.with_name(photo.stem + MASK + suffix)
        if mask is None or other != target:
            other.unlink(missing_ok=True)
    if mask is not None:
        with replacing(target) as unfinished:
            mask.save(unfinished, "PNG", compress_level=1)


def remove(photo: Path) -> None:
    """The photo with its caption and mask."""
    write_mask(photo, None)
    write_caption(photo, "")
    photo.unlink(missing_ok=True)


# -- from the visitor's machine ---------------------------------------------------------------------------------


def take_uploads(photos: Path, uploads: Sequence[Any]) -> Taken:
    """What Streamlit's uploader gives."""
    with tempfile.TemporaryDirectory() as folder:
        given = []
        for number, upload in enumerate(uploads):
            path = Path(folder) / str(number)
            if upload.size <= LARGEST:
                path.write_bytes(upload.getbuffer())
            else:
                os.truncate(_made(path), upload.size)  # refused by its size alone
            given.append(Given(_base_name(upload.name), path))
        return take(photos, given)


def _made(path: Path) -> Path:
    path.touch()
    return path


def _base_name(name: str) -> str:
    return shortened(re.split(r"[/\\]", name)[-1], 200) or "photo"


# -- from a folder of this machine ------------------------------------------------------------------------------


def folders_with_photos(studio: Studio) -> list[Path]:
    """Those among the folders of the page that hold images; of visitors' folders only this visitor's."""
    found = []
    for root in dict.fromkeys(studio.roots):
        found += [folder for folder in _walk(root, studio) if any(_is_photo(entry) for entry in _entries(folder))]
    return sorted(dict.fromkeys(found))


def _walk(root: Path, studio: Studio) -> Iterator[Path]:
    """The folders in `root`, links not followed, those of other visitors and of drafts left out."""
    ahead, seen = [(root, 0)], 0
    while ahead and seen < MOST_FOLDERS:
        folder, depth = ahead.pop(0)
        seen += 1
        yield folder
        if depth < DEEPEST:
            inner = [entry for entry in _entries(folder) if entry.is_dir(follow_symlinks=False)]
            ahead += [
                (Path(entry.path), depth + 1)
                for entry in inner
                if not entry.name.startswith(".") and Path(entry.path) != studio.runs / "visits"
            ]


def _entries(folder: Path) -> list[os.DirEntry]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError:
        return []


def _is_photo(entry: os.DirEntry) -> bool:
    stem, suffix = os.path.splitext(entry.name)
    return suffix.lower() in SUFFIXES and not stem.startswith(".") and not stem.endswith(MASK)


def take_folder(studio: Studio, photos: Path, folder: str) -> Taken:
    """Copy the photos of a folder with their captions and masks; it stays as it is. UserError for one that may not be read."""
    real = allowed(studio, folder)
    images = count_images(real)
    if not images:
        raise UserError(say("{folder} holds no photos: choose another folder", folder=shown(folder)))
    given, outside = [], Taken()
    for image in images:
        mask = mask_file(image, None)
        captions = [image.with_suffix(ending) for ending in BESIDE if image.with_suffix(ending).is_file()]
        for path in (image, *captions, *([mask] if mask else [])):
            one = Given(path.name, path)
            with _refused(outside, one):
                one.path = inside(path, studio.roots)  # it may be a link
                given.append(one)
    taken = take(photos, given)
    taken.refused += outside.refused
    return taken


def allowed(studio: Studio, folder: str) -> Path:
    """The folder, where this visitor may read it. UserError otherwise."""
    real = inside(folder, studio.roots)
    visits = Path(os.path.realpath(studio.runs / "visits"))
    if real.is_relative_to(visits) and not real.is_relative_to(os.path.realpath(studio.folder)):
        raise UserError(say("{folder} is another visitor's: choose another folder", folder=shown(folder)))
    return real


# -- drawn ------------------------------------------------------------------------------------------------------


def can_draw() -> bool:
    """Whether the drawing command is here."""
    return DRAWING.is_file()


def take_drawn(photos: Path) -> Taken:
    """Five drawn photos of a dog."""
    with tempfile.TemporaryDirectory() as folder:
        command = (sys.executable, str(DRAWING), "--output", folder, "--subject", "training")
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
        if done.returncode:
            raise UserError(say("the photos could not be drawn: {why}", why=shortened(done.stderr.strip(), 500)))
        return take(photos, list(_numbered(count_images(Path(folder)))))


def _numbered(paths: Iterable[Path]) -> Iterator[Given]:
    for number, path in enumerate(paths, 1):
        yield Given(f"dog_{number}.png", path)
