"""From the settings of the page to a task of the workshop: pictures, their place in the gallery, and their sheet."""

from pathlib import Path
from typing import Optional, Sequence

import numpy as np

from gm.options.sample import SampleOptions
from gm.pictures import contact_sheet, grid_sheet, save_new_png, sheets
from studio.choice import config_of
from studio.sampling.gallery import Gallery
from studio.sampling.settings import Settings
from studio.sampling.wanted import WIDE, Grid, grid_of, labels_of, options_of
from studio.sampling.workshop import Task, workshop
from studio.visit import Studio


def begin(studio: Studio, settings: Settings, start: SampleOptions, key: str, beside_base: bool) -> Task:
    """Ask for the pictures that are set; UserError for what cannot be made."""
    options = options_of(studio, settings, start)
    grid = grid_of(settings, options, beside_base)
    folder, gallery = Path(options.save_path), Gallery(studio.folder / "gallery.json")
    columns = len(grid.across) or WIDE

    made: list[Path] = []

    def saved(place: int, path: Path) -> None:
        made.append(path)
        gallery.add(path)

    def finish(pictures: Sequence[Optional[np.ndarray]]) -> Optional[Path]:
        return _sheet(grid, pictures, made[0])

    task = workshop().make(
        studio.visit,
        key,
        config_of(options),
        grid.wanted,
        folder,
        saved=saved,
        finish=finish,
        labels=labels_of(grid),
        preview=studio.folder / "preview.jpg",
        columns=min(columns, len(grid.wanted)),
    )
    settings.remember(options.prompt)
    return task


def _sheet(grid: Grid, pictures: Sequence[Optional[np.ndarray]], first: Path) -> Path:
    """Of all pictures, the labelled one where there is a grid; `first`: the file of a picture that it is called after."""
    there = [(one, picture) for one, picture in zip(grid.wanted, pictures) if picture is not None]
    prompt = grid.wanted[0].prompt
    if grid.across:
        wide = len(grid.across)
        rows = [pictures[place : place + wide] for place in range(0, len(pictures), wide)]
        sheet = grid_sheet(rows, grid.across, grid.down)
    else:
        found = [picture for _, picture in there]
        lines = [found[place : place + WIDE] for place in range(0, len(found), WIDE)]
        sheet = contact_sheet(lines, [prompt] + [""] * (len(lines) - 1))
    text = {
        "prompts": "\n".join(dict.fromkeys(one.prompt for one, _ in there)),
        "seeds": list(dict.fromkeys(one.seed for one, _ in there)),
        "weight": there[0][0].weight,
        "columns": ", ".join(grid.across),
        "rows": ", ".join(grid.down),
    }
    return save_new_png(sheets(first.parent, first), sheet, {name: words for name, words in text.items() if words})
