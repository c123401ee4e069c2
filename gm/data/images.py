"""Finding and reading photos of any common kind as RGB, or refusing them by name. No MindSpore import."""

import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Sequence

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from gm.console import bar, log
from gm.errors import UserError
from gm.files import LOCK

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
BESIDE = (".txt", ".caption")  # endings of what may stand beside a photo of the same name
MASK = "-masklabel"  # what the name of a mask ends with
LARGEST = 100_000_000  # pixels
_named: set[Path] = set()


def count_images(folder: Path) -> list[Path]:
    """The image files directly in `folder`, sorted; empty when it does not exist. Other entries are named once."""
    if not folder.exists():
        return []
    if not folder.is_dir():
        raise UserError(f"{folder} is a file, but a folder of images is needed")
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror}): give a folder that can be listed") from None
    images = [e for e in entries if _is_photo(e)]
    stems = {image.stem for image in images}
    beside = [e for e in entries if e.suffix.lower() in BESIDE and e.stem in stems or e.stem.removesuffix(MASK) in stems]
    ignored = [entry.name for entry in entries if entry not in images and entry not in beside and entry.name != LOCK]
    if ignored and folder not in _named:
        _named.add(folder)
        shown = ", ".join(ignored[:5]) + (f" and {len(ignored) - 5} more" if len(ignored) > 5 else "")
        log.info("not counted as images in %s: %s", folder, shown)
    return images


def _is_photo(path: Path) -> bool:
    is_image = path.is_file() and not path.name.startswith(".") and path.suffix.lower() in SUFFIXES
    return is_image and not path.stem.endswith(MASK)


def list_images(folder: Path, flag: str) -> list[Path]:
    """The images of a folder that must have some; UserError naming `flag` otherwise."""
    if not folder.exists():
        raise UserError(f"{flag} {folder} does not exist: give the folder that holds the photos")
    if not folder.is_dir():
        raise UserError(f"{flag} {folder} is a file: give the folder that holds the photos")
    images = count_images(folder)
    if not images:
        heic = any(path.suffix.lower() in (".heic", ".heif") for path in folder.iterdir())
        how = "export the HEIC files as JPEG" if heic else f"put {', '.join(SUFFIXES)} files in it"
        raise UserError(f"{flag} {folder} holds no image: {how}")
    return images


def read_image(path: Path) -> np.ndarray:
    """The picture as a person sees it, (h, w, 3) uint8: EXIF orientation applied, transparency on white, 16-bit scaled.

    Raises UserError for a file that is not one still picture of at most 100 megapixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                return _to_rgb(image, path)
    except UserError:
        raise
    except Image.DecompressionBombError:
        raise UserError(_too_large(path, "")) from None
    except UnidentifiedImageError:
        what = "is empty" if path.stat().st_size == 0 else "is not a picture that can be read"
        raise UserError(f"{path} {what}: replace it or take it out of the folder") from None
    except Exception as error:  # Pillow's decoders raise many kinds for broken files
        raise UserError(f"{path} is broken ({error}): replace it or take it out of the folder") from None


def image_size(path: Path) -> tuple[int, int]:
    """(h, w) of what `read_image` gives, without decoding the pixels where the file kind allows it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(path) as image:
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
            return (image.width, image.height) if turned else (image.height, image.width)


def _too_large(path: Path, size: str) -> str:
    return f"{path} is too large{size}: scale it down to at most {LARGEST // 1_000_000} megapixels"


def _to_rgb(image: Image.Image, path: Path) -> np.ndarray:
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":  # a JPEG of a phone with a preview behind it
        raise UserError(f"{path} is animated ({image.n_frames} frames): save one frame as a still picture")
    if image.width * image.height > LARGEST:
        raise UserError(_too_large(path, f" ({image.width} x {image.height})"))
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":  # 16 bits a channel, grey
        grey = np.asarray(image, np.float64)
        if image.mode == "F" or grey.max(initial=0) > 65535 or grey.min(initial=0) < 0:
            raise UserError(f"{path} has {image.mode} pixels of unknown range: save it with 8 bits a channel")
        image = Image.fromarray(np.round(grey / 257.0).astype(np.uint8))
    if "A" in image.mode or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return np.asarray(image.convert("RGB"))


def check_images(paths: Sequence[Path], workers: int = 1) -> None:
    """Read every image once, so that a bad one is named before anything else is done."""
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for _ in bar(pool.map(read_image, paths), "checking images", total=len(paths), unit="image", leave=False):
            pass
