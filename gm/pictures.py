"""Writing what was made: PNGs that say how they were made, contact sheets, and the loss curve."""

import json
import math
from pathlib import Path
from typing import Mapping, Optional, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from gm.files import replacing


def save_png(path: Path, picture: np.ndarray, text: Mapping[str, object]) -> None:
    """Write (h, w, 3) uint8 with `text` in the PNG's text chunks; appears under its name only when complete."""
    info = PngInfo()
    for key, value in text.items():
        info.add_itxt(key, str(value))
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as unfinished:
        Image.fromarray(picture).save(unfinished, format="PNG", pnginfo=info)


def contact_sheet(rows: Sequence[Sequence[np.ndarray]], labels: Sequence[str], cell: int = 256) -> np.ndarray:
    """Rows of pictures under a line of text each, every picture fitted into `cell` pixels: (h, w, 3) uint8."""
    columns, line = max(len(row) for row in rows), 20
    sheet = Image.new("RGB", (columns * (cell + 4) + 4, len(rows) * (cell + line + 4) + 4), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for y, (row, label) in enumerate(zip(rows, labels)):
        top = 4 + y * (cell + line + 4)
        longest = max(8, columns * cell // 7)
        pen.text((6, top), label if len(label) <= longest else label[: longest - 3] + "...", "black", font)
        for x, picture in enumerate(row):
            image = Image.fromarray(picture)
            scale = min(cell / image.width, cell / image.height)
            size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
            resample = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST
            sheet.paste(image.resize(size, resample), (4 + x * (cell + 4), top + line))
    return np.asarray(sheet)


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
    with replacing(target) as unfinished:
        FigureCanvasAgg(figure).print_png(str(unfinished))
    return target


def running_mean(values: Sequence[float], window: int = 50) -> list[float]:
    """Of each value and up to `window` - 1 before it, those that are nan left out."""
    return [float(np.nanmean(values[max(0, i + 1 - window) : i + 1])) for i in range(len(values))]
