"""Put folders of pictures below each other in one: photos, the base model's pictures, the tuned model's.

    python tools/contact_sheet.py --row "photos=runs/photos" --row "with LoRA=outputs/lora" --output sheet.png

A row is named by what stands before "=" and by the prompts that the pictures of this project carry in their text chunks.
"""

import argparse
import sys
from pathlib import Path
from typing import Optional, Sequence

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from PIL import Image

from gm import console
from gm.console import log
from gm.data.images import list_images, read_image
from gm.errors import UserError
from gm.pictures import contact_sheet, save_png


def main(argv: Optional[Sequence[str]] = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--row", action="append", required=True, metavar="NAME=FOLDER", help="repeat for more rows")
    parser.add_argument("--output", required=True, help="the .png to write")
    parser.add_argument("--size", type=int, default=144, help="pixels of one picture's longer side")
    options = parser.parse_args(argv)
    if Path(options.output).suffix != ".png" or options.size < 1:
        raise UserError(f"--output {options.output} must end with .png, and --size {options.size} be at least 1")
    rows, labels = [], []
    for row in options.row:
        name, equals, folder = row.partition("=")
        if not (name and equals and folder):
            raise UserError(f"--row {row} is not NAME=FOLDER")
        paths = [path for path in list_images(Path(folder), "--row") if not path.name.startswith("sheet_")]
        if not paths:
            raise UserError(f"--row {row}: {folder} holds contact sheets only: give a folder with pictures")
        rows.append([read_image(path) for path in paths])
        prompts = "; ".join(prompts_of(paths))
        labels.append(f"{name}: {prompts}" if prompts else name)
    save_png(Path(options.output), contact_sheet(rows, labels, options.size), {"rows": "\n".join(labels)})
    log.info("%s", options.output)


def prompts_of(paths: Sequence[Path]) -> list[str]:
    """The different prompts in the pictures' text chunks, in their order."""
    prompts = []
    for path in paths:
        with Image.open(path) as image:
            prompts.append(image.info.get("prompt"))
    return [prompt for prompt in dict.fromkeys(prompts) if prompt]


if __name__ == "__main__":
    sys.exit(console.run_command(main))
