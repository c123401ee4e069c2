"""Writing what was made: PNGs that say how they were made, contact sheets, and the loss curve; and reading what they say."""

import errno
import gc
import json
import math
import os
import threading
import warnings
from contextlib import contextmanager
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Iterable, Iterator, Mapping, Optional, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from gm.console import log
from gm.errors import UserError
from gm.files import replacing
from gm.soundness import flat_colour

LONGEST_TEXT = 1_000_000  # letters of a text chunk; Pillow reads no file with 64 MB of them
LONGEST_LABEL = 10_000  # letters of a line on a sheet, most of which it is too narrow for
LARGEST_SHEET = 100_000_000  # pixels
DIGITS = 12  # of a picture's number; a longer name is somebody else's
A1111 = "parameters"  # the text that other tools look for (gm/sampling/a1111_text.py)
# ComfyUI takes a text "prompt" for its own graph, and fails where it is words: a chunk of its own kind says that there is none
NO_GRAPH = (b"comf", b"prompt\0")
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)

Text = Mapping[str, object]  # what stands in a PNG's text chunks


def save_png(path: Path, picture: np.ndarray, text: Text) -> None:
    """Write (h, w, 3) uint8 with `text` in the PNG's text chunks, in place of what has this name; appears under it only when
    complete. UserError when it cannot be written."""
    with writing(path, text):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as unfinished:
            _encode(unfinished, picture, text)


def save_new_png(names: Iterable[Path], picture: np.ndarray, text: Text) -> Path:
    """Write the picture under the first of these names, all in one folder, that nothing has yet, and return it. What another
    process or thread writes at the same time gets another name. Warns of a picture of one colour. UserError when all are
    taken, or the picture cannot be written."""
    names = iter(names)
    path = next(names)
    folder = path.parent
    # a thread of its own for each session of a page; the end is that of files.remove_unfinished
    unfinished = folder / f".{path.name}.{threading.get_ident()}.{os.uname().nodename}.{os.getpid()}.tmp"
    with writing(path, text):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            _encode(unfinished, picture, text)
            while not _claim(unfinished, path):
                following = next(names, None)
                if following is None:
                    raise UserError(f"{path} is there already: take it away, or give another folder")
                path = following
        finally:
            unfinished.unlink(missing_ok=True)
    warn_of_flat(path, picture)
    return path


def numbered(folder: Path) -> Iterator[Path]:
    """`00000.png` and so on, from the first number on that no picture of the folder has."""
    return (folder / f"{number:05d}.png" for number in count(next_number(folder)))


def sheets(folder: Path, first: Path) -> Iterator[Path]:
    """The names of a contact sheet, the best first; `first` is the first picture on it."""
    yield folder / f"sheet_{first.stem}.png"
    yield from (folder / f"sheet_{first.stem}_{again}.png" for again in count(2))


def next_number(folder: Path) -> int:
    """The first number no picture of `folder` has, so that nothing is overwritten."""
    stems = [path.stem for path in folder.glob("*.png")]
    return max((int(stem) for stem in stems if stem.isascii() and stem.isdigit() and len(stem) <= DIGITS), default=-1) + 1


def warn_of_flat(path: Path, picture: np.ndarray) -> None:
    """Warn, naming the file, of a picture that has one colour everywhere."""
    colour = flat_colour(picture)
    if colour:
        log.warning(
            "%s is %s everywhere: if that was not asked for, look at the weights with tools/inspect_weights.py", path, colour
        )


def _claim(unfinished: Path, path: Path) -> bool:
    """Give the finished file this name, unless something has it."""
    try:
        os.link(unfinished, path)
        return True
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
    try:  # where the file system has no links: an empty file keeps the name
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except FileExistsError:
        return False
    os.replace(unfinished, path)
    return True


@contextmanager
def writing(path: Path, text: Text = {}) -> Iterator[None]:
    """UserError for a folder that is full, read-only or gone; the picture is named, so that it can be made again."""
    try:
        yield
    except OSError as error:
        seed = f" (seed {text['seed']})" if "seed" in text else ""
        raise UserError(
            f"{path}{seed} could not be written ({error.strerror or error}): what was made before is kept, make room there or give "
            "another folder, and make this again"
        ) from None


def _encode(path: Path, picture: np.ndarray, text: Text) -> None:
    """The PNG itself. Any text can stand in it: what UTF-8 cannot say is written as an escape, what is endless is cut."""
    info = PngInfo()
    for key, value in text.items():
        words = str(value)
        words = words if len(words) <= LONGEST_TEXT else words[:LONGEST_TEXT] + "..."
        words = words.encode("utf-8", "backslashreplace").decode("utf-8")
        if key == A1111 and words.isascii():
            info.add_text(key, words)  # the kind that every reader of it knows
        else:
            info.add_itxt(key, words)
    if A1111 in text:
        info.add(*NO_GRAPH)
    Image.fromarray(picture).save(path, format="PNG", pnginfo=info)


def text_of(path: Path) -> dict[str, str]:
    """The text chunks of a picture, whoever wrote it, without those that are no text or too long to be ours; empty where it has
    none. UserError for a file that is no picture that can be read."""
    if not path.is_file():
        raise UserError(f"{path} is no file: take it away")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a size that is refused where pixels are read
            with Image.open(path) as image:
                found = dict(image.info)
    except Exception as error:  # Pillow's readers raise many kinds for broken files
        words = " ".join(str(error).split())[:200]
        raise UserError(f"{path} is not a picture that can be read ({words}): replace it or take it away") from None
    texts = {str(key): str(value) for key, value in found.items() if isinstance(value, str)}
    return {key: value for key, value in texts.items() if len(value) <= LONGEST_TEXT + 3}


def contact_sheet(rows: Sequence[Sequence[np.ndarray]], labels: Sequence[str], cell: int = 256) -> np.ndarray:
    """Rows of pictures under a line of text each, every picture fitted into `cell` pixels, or into fewer where the sheet would
    be larger than LARGEST_SHEET: (h, w, 3) uint8."""
    columns, line = max(len(row) for row in rows), 20
    while cell > 1 and (columns * (cell + 4) + 4) * (len(rows) * (cell + line + 4) + 4) > LARGEST_SHEET:
        cell = max(1, cell * 3 // 4)
    sheet = Image.new("RGB", (columns * (cell + 4) + 4, len(rows) * (cell + line + 4) + 4), "white")
    pen = ImageDraw.Draw(sheet)
    for y, (row, label) in enumerate(zip(rows, labels)):
        top = 4 + y * (cell + line + 4)
        write(pen, (6, top), label, columns * (cell + 4) - 8)
        for x, picture in enumerate(row):
            sheet.paste(Image.fromarray(fitted(picture, cell)), (4 + x * (cell + 4), top + line))
    return np.asarray(sheet)


def grid_sheet(rows: Sequence[Sequence[Optional[np.ndarray]]], across: Sequence[str], down: Sequence[str]) -> np.ndarray:
    """Rows of pictures, None where one is not there, each column under its label and each row beside its own: (h, w, 3) uint8."""
    cell, line = 256, 20
    side = 4 + max((len(label) for label in down), default=0) * 8
    side = min(side, cell) if any(down) else 4
    while cell > 1 and (len(across) * (cell + 4) + side) * (len(rows) * (cell + 4) + line) > LARGEST_SHEET:
        cell = max(1, cell * 3 // 4)
    sheet = Image.new("RGB", (len(across) * (cell + 4) + side, len(rows) * (cell + 4) + line + 4), "white")
    pen = ImageDraw.Draw(sheet)
    for x, label in enumerate(across):
        write(pen, (side + x * (cell + 4), 2), label, cell)
    for y, (row, label) in enumerate(zip(rows, down)):
        top = line + 4 + y * (cell + 4)
        write(pen, (4, top + cell // 2 - 8), label, side - 8)
        for x, picture in enumerate(row):
            if picture is not None:
                sheet.paste(Image.fromarray(fitted(picture, cell)), (side + x * (cell + 4), top))
    return np.asarray(sheet)


def write(pen: ImageDraw.ImageDraw, place: tuple[int, int], text: str, width: int) -> None:
    """One line of text of at most so many pixels, in a font that has its letters; where this host has none, it says where the
    text stands."""
    text = in_one_line(text)
    font = font_for(text)
    if font is None:
        text, font = "see the picture's text", font_for("")
    assert font
    short = text
    while len(short) > 1 and font.getlength(short if short == text else short + "...") > width:
        short = short[: min(len(short) - 1, max(1, int(len(short) * 0.9)))]
    pen.text(place, short if short == text else short + "...", "black", font)


def font_for(text: str) -> Optional[ImageFont.FreeTypeFont]:
    """A font with all letters of the text; None where this host has none."""
    if all(letter <= "\xff" or letter in "\u2013\u2014\u2018\u2019\u201c\u201d\u2026" for letter in text):
        return ImageFont.load_default(13)
    return _font_with("".join(sorted(set(text))))


@lru_cache(maxsize=64)
def _font_with(letters: str) -> Optional[ImageFont.FreeTypeFont]:
    from matplotlib.font_manager import fontManager
    from matplotlib.ft2font import FT2Font

    wanted = {ord(letter) for letter in letters if not letter.isspace()}
    plain = [one for one in fontManager.ttflist if one.style == "normal" and "Last Resort" not in one.name]  # which has boxes
    plain.sort(
        key=lambda one: ("Mono" in one.name, "Sans" not in one.name, str(one.weight) not in ("400", "normal", "regular"))
    )
    for one in plain:
        try:
            if wanted <= FT2Font(one.fname).get_charmap().keys():
                return ImageFont.truetype(one.fname, 13)
        except (OSError, RuntimeError):  # a font that cannot be read, or has no letters
            continue
    return None


def fitted(picture: np.ndarray, cell: int) -> np.ndarray:
    """The picture as large as `cell` pixels a side let it be."""
    image = Image.fromarray(picture)
    scale = min(cell / image.width, cell / image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    resample = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST
    return np.asarray(image.resize(size, resample))


def in_one_line(text: str) -> str:
    """The text as it can be drawn: line ends as spaces, what cannot be drawn as a question mark."""
    shown = (" " if one.isspace() else one if one.isprintable() else "?" for one in text[:LONGEST_LABEL])
    return "".join(shown)


def plot_losses(metrics: Path, target: Path) -> Optional[Path]:
    """Draw the losses and the learning rate of metrics.jsonl over the steps; None when there is nothing to draw."""
    records = [json.loads(line) for line in metrics.read_text().splitlines()]
    if not records:
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    steps = [record["step"] for record in records]
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.add_subplot()
    for key, label, colour in (
        ("loss", "loss", "tab:blue"),
        ("instance_loss", "instance", "tab:orange"),
        ("class_loss", "class", "tab:green"),
    ):
        values = [record[key] if record[key] is not None else math.nan for record in records]
        if all(math.isnan(value) for value in values):
            continue
        axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
        axes.plot(steps, running_mean(values), color=colour, label=f"{label}, mean of up to 50 steps")
    axes.set(xlabel="step (optimizer updates)", ylabel="loss", xlim=(min(steps), max(max(steps), min(steps) + 1)))
    rates = axes.twinx()
    rates.plot(steps, [record["lr"] for record in records], color="gray", linestyle=":", label="learning rate")
    rates.set_ylabel("learning rate")
    rates.set_ylim(bottom=0)
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    with replacing(target) as unfinished:
        FigureCanvasAgg(figure).print_png(str(unfinished))
    del figure, axes, rates
    gc.collect()  # figures refer to themselves: a plot after another would hold 4 MB each for a long while
    return target


def plot_bars(values: Mapping[tuple[str, str], float], label: str, title: str, target: Path) -> Path:
    """A bar for each (group, name), every group with a colour of its own, into a PNG that appears when complete."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(6.0, 1.5 + 0.22 * len(values)), 5), layout="constrained")
    axes = figure.add_subplot()
    groups = list(dict.fromkeys(group for group, _ in values))
    for i, group in enumerate(groups):
        places = [place for place, key in enumerate(values) if key[0] == group]
        axes.bar(places, [list(values.values())[place] for place in places], color=f"C{i}", label=group)
    axes.set_xticks(range(len(values)), [name for _, name in values], rotation=90, fontsize=8)
    axes.set(ylabel=label, title=title)
    axes.legend(frameon=False)
    target.parent.mkdir(parents=True, exist_ok=True)
    with writing(target), replacing(target) as unfinished:
        FigureCanvasAgg(figure).print_png(str(unfinished))
    return target


def running_mean(values: Sequence[float], window: int = 50) -> list[float]:
    """Of each value and up to `window` - 1 before it, those that are nan left out."""
    return [float(np.nanmean(values[max(0, i + 1 - window) : i + 1])) for i in range(len(values))]
