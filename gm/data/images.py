"""Finding and reading photos of any common kind as RGB, or refusing them by name. No MindSpore import."""

import hashlib
import io
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Iterator, Optional, Sequence

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from gm.console import bar, log
from gm.errors import UserError, one_line, shortened
from gm.files import LOCK

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")  # by content; the last two where a name is wrong
BESIDE = (".txt", ".caption")  # endings of what may stand beside a photo of the same name
MASK = "-masklabel"  # what the name of a mask ends with
LARGEST = 100_000_000  # pixels
LARGEST_FILE = 1_000_000_000  # bytes; 100 megapixels with 16 bits of three channels have 600 million
UPRIGHT = {  # EXIF orientation -> what makes a picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_named: set[Path] = set()


def entries_of(folder: Path) -> list[Path]:
    """What is in a folder, sorted; UserError when it cannot be listed."""
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror}): give a folder that can be listed") from None


def count_images(folder: Path) -> list[Path]:
    """The image files directly in `folder`, sorted; empty when it does not exist. Other entries are named once."""
    if not os.path.exists(folder):
        return []
    if not os.path.isdir(folder):
        raise UserError(f"{folder} is a file, but a folder of images is needed")
    entries = entries_of(folder)
    images = [e for e in entries if _is_photo(e)]
    stems, counted = {image.stem for image in images}, set(images)
    beside = {e for e in entries if e.suffix.lower() in BESIDE and e.stem in stems or e.stem.removesuffix(MASK) in stems}
    ignored = [entry.name for entry in entries if entry not in counted and entry not in beside and entry.name != LOCK]
    if ignored and folder not in _named:
        _named.add(folder)
        shown = ", ".join(ignored[:5]) + (f" and {len(ignored) - 5} more" if len(ignored) > 5 else "")
        log.info("not counted as images in %s: %s", one_line(str(folder)), one_line(shown))
    return images


def _is_photo(path: Path) -> bool:
    is_image = not path.name.startswith(".") and path.suffix.lower() in SUFFIXES and os.path.isfile(path)
    return is_image and not path.stem.endswith(MASK)


def list_images(folder: Path, flag: str) -> list[Path]:
    """The images of a folder that must have some; UserError naming `flag` otherwise."""
    if not os.path.exists(folder):
        raise UserError(f"{flag} {folder} does not exist: give the folder that holds the photos")
    if not os.path.isdir(folder):
        raise UserError(f"{flag} {folder} is a file: give the folder that holds the photos")
    images = count_images(folder)
    if not images:
        heic = any(path.suffix.lower() in (".heic", ".heif") for path in entries_of(folder))
        how = "export the HEIC files as JPEG" if heic else f"put {', '.join(SUFFIXES)} files in it"
        raise UserError(f"{flag} {folder} holds no image: {how}")
    return images


def read_image(path: Path, digest: Optional[str] = None) -> np.ndarray:
    """The picture as a person sees it, (h, w, 3) uint8: EXIF orientation applied, transparency on white, 16-bit scaled.

    Raises UserError for a file that is not one still picture of at most 100 megapixels, or whose content has another digest
    than `digest`.
    """
    with opened(path, digest=digest) as image:
        if image.format != "MPO" and _is_animated(image):  # MPO: a JPEG of a phone with a preview behind it
            frames = (
                image.n_frames if image.format in ("PNG", "WEBP") else "several"
            )  # of others they would have to be counted
            raise UserError(f"{path} is animated ({frames} frames): save one frame as a still picture")
        image.load()
        image = eight_bits(upright(image), path)
        if "A" in image.mode or "transparency" in image.info:
            image = image.convert("RGBA")
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image)
        return np.asarray(image.convert("RGB"))


def image_size(path: Path) -> tuple[int, int]:
    """(h, w) of what `read_image` gives, without decoding the pixels where the file kind allows it; of a file that has not
    changed it is read once."""
    try:
        stat = os.stat(path)
    except OSError as error:
        raise _gone(path, error) from None
    return _image_size(path, stat.st_mtime_ns, stat.st_size, stat.st_ino)


@lru_cache(maxsize=100_000)
def _image_size(path: Path, *version: int) -> tuple[int, int]:
    with opened(path) as image:
        return (image.width, image.height) if _orientation(image) in (5, 6, 7, 8) else (image.height, image.width)


def digest_of(path: Path) -> str:
    """The hash of a file's bytes; UserError when it cannot be read any more."""
    found = hashlib.blake2b(digest_size=16)
    try:
        with open(path, "rb") as file:
            while part := file.read(1 << 20):
                found.update(part)
    except OSError as error:
        raise _gone(path, error) from None
    return found.hexdigest()


@contextmanager
def opened(path: Path, what: str = "", digest: Optional[str] = None) -> Iterator[Image.Image]:
    """A picture file while the body runs, of at most 100 megapixels; whatever Pillow says of a bad one is a UserError. `what`: how
    messages begin when not with the path; `digest`: what its content must have."""
    name = what or str(path)
    instead = "replace it or take it out of the folder"
    try:
        if os.path.getsize(path) > LARGEST_FILE:
            raise UserError(f"{name} has {os.path.getsize(path)} bytes: save it with at most {LARGEST_FILE}")
        source = path if digest is None else io.BytesIO(_of_digest(path, digest))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(source, formats=FORMATS) as image:
                if image.width * image.height > LARGEST:
                    raise UserError(_too_large(name, f" ({image.width} x {image.height})"))
                yield image
    except UserError:
        raise
    except Image.DecompressionBombError:
        raise UserError(_too_large(name, "")) from None
    except UnidentifiedImageError:
        what = "is empty" if os.path.isfile(path) and not os.path.getsize(path) else "is not a picture that can be read"
        raise UserError(f"{name} {what}: {instead}") from None
    except Exception as error:  # Pillow's decoders raise many kinds for broken files
        if isinstance(error, OSError) and error.errno is not None:
            raise _gone(path, error) from None
        raise UserError(f"{name} is broken ({shortened(str(error) or type(error).__name__, 200)}): {instead}") from None


def _of_digest(path: Path, digest: str) -> bytes:
    content = path.read_bytes()
    if hashlib.blake2b(content, digest_size=16).hexdigest() != digest:
        raise UserError(f"{path} is not what it was at the start of the run: leave the photos as they are while training")
    return content


def _gone(path: Path, error: OSError) -> UserError:
    since = " any more" if isinstance(error, FileNotFoundError) else ""
    return UserError(
        f"{path} cannot be read{since} ({error.strerror}): make it readable, and leave the photos in place while training"
    )


def _too_large(name: str, size: str) -> str:
    return f"{name} is too large{size}: scale it down to at most {LARGEST // 1_000_000} megapixels"


def _is_animated(image: Image.Image) -> bool:
    """Whether there is a second frame."""
    if image.format not in ("GIF", "TIFF"):
        return getattr(image, "n_frames", 1) > 1
    try:
        image.seek(1)
    except EOFError:
        return False
    finally:
        image.seek(0)
    return True


def _orientation(image: Image.Image) -> int:
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # an EXIF that is broken in one of many ways says nothing about the pixels, which can be good
        return 1
    return found if isinstance(found, int) else 1


def upright(image: Image.Image) -> Image.Image:
    """The picture turned as its EXIF says."""
    turn = UPRIGHT.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def eight_bits(image: Image.Image, path: Path) -> Image.Image:
    """The picture, with 16 bits a channel scaled down to 8."""
    if not image.mode.startswith("I") and image.mode != "F":
        return image
    grey = np.asarray(image)
    if image.mode == "F" or grey.max(initial=0) > 65535 or grey.min(initial=0) < 0:
        raise UserError(f"{path} has {image.mode} pixels of unknown range: save it with 8 bits a channel")
    table = np.round(np.arange(65536) / 257.0).astype(np.uint8)
    return Image.fromarray(table[grey])


def check_images(paths: Sequence[Path], workers: int = 1) -> None:
    """Read every image once, so that a bad one is named before anything else is done."""
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for _ in bar(pool.map(read_image, paths), "checking images", total=len(paths), unit="image", leave=False):
            pass
