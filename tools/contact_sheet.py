"""Put folders of pictures below each other in one: photos, the base model's pictures, the tuned model's.

    python tools/contact_sheet.py --row "photos=runs/photos" --row "with LoRA=outputs/lora" --output sheet.png

A row is named by what stands before "=" and by the prompts that the pictures of this project carry in their text chunks.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Sequence

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gm import ending

if __name__ == "__main__":  # what is imported below takes a while
    ending.catch_signals()


from gm import console
from gm.console import log
from gm.data.images import list_images, read_image
from gm.errors import UserError
from gm.options.parser import REQUIRED, option, parse
from gm.pictures import LARGEST_SHEET, contact_sheet, fitted, save_png, text_of

SHEET = "rows"  # the text that a sheet of this command carries


def _named_folder(text: str) -> tuple[str, Path]:
    name, equals, folder = text.partition("=")
    if not (name and equals and folder):
        raise UserError(f"--row {text} is not NAME=FOLDER")
    return name, Path(folder)


@dataclass(frozen=True)
class Options:
    """What was asked."""

    row: tuple[tuple[str, Path], ...] = option(
        REQUIRED, "repeat for more rows", repeated=True, read=_named_folder, metavar="NAME=FOLDER"
    )
    output: Path = option(REQUIRED, "the .png to write", metavar="FILE")
    size: int = option(144, "pixels of one picture's longer side", least=8, most=4096)


def main(argv: Optional[Sequence[str]] = None) -> None:
    """The command."""
    options = parse(Options, argv, "contact_sheet.py", __doc__.splitlines()[0])
    if options.output.suffix != ".png":
        raise UserError(f"--output {options.output} must end with .png")
    _require_own(options.output)
    rows, labels = [], []
    folders = [(name, folder, _pictures(name, folder)) for name, folder in options.row]
    pixels = max(len(paths) for _, _, paths in folders) * len(folders) * options.size**2
    if pixels > LARGEST_SHEET:
        most = f"{LARGEST_SHEET // 1_000_000} megapixels"
        raise UserError(
            f"--size {options.size} makes a sheet of {pixels // 1_000_000} megapixels, at most {most}: give a smaller one"
        )
    for name, _, paths in folders:
        rows.append([fitted(read_image(path), options.size) for path in paths])  # so small that hundreds have room
        prompts = "; ".join(prompts_of(paths))
        labels.append(f"{name}: {prompts}" if prompts else name)
    save_png(options.output, contact_sheet(rows, labels, options.size), {SHEET: "\n".join(labels)})
    log.info("%s", options.output)


def _pictures(name: str, folder: Path) -> list[Path]:
    paths = [path for path in list_images(folder, "--row") if not path.name.startswith("sheet_")]
    if not paths:
        raise UserError(f"--row {name}={folder}: {folder} holds contact sheets only: give a folder with pictures")
    return paths


def _require_own(output: Path) -> None:
    """UserError where something else than a sheet of this command would be written over."""
    if (output.exists() or output.is_symlink()) and SHEET not in text_of(output):
        raise UserError(f"--output {output} is there and is no sheet that this command has made: give another name")


def prompts_of(paths: Sequence[Path]) -> list[str]:
    """The different prompts in the pictures' text chunks, in their order."""
    prompts = [text_of(path).get("prompt") for path in paths]
    return [prompt for prompt in dict.fromkeys(prompts) if prompt]


if __name__ == "__main__":
    sys.exit(console.run_command(main))
