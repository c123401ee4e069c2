"""Bring the settings of another trainer: a YAML of this suite, the command that runs it, and what became of every setting.

    python tools/import_recipe.py my_preset.json --instance_data_path photos --output configs/my_preset.yaml

Reads kohya_ss' and OneTrainer's JSON, sd-scripts' TOML (with its dataset TOML behind --dataset), ai-toolkit's YAML, a text with a
command of sd-scripts or diffusers, and what a LoRA's metadata says of its training. No setting is left out of the table.
"""

import sys
from pathlib import Path
from typing import Optional, Sequence

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gm import ending

if __name__ == "__main__":  # what is imported below takes a while
    ending.catch_signals()

from gm import console
from gm.console import log
from gm.files import make_writable
from gm.options.import_recipe import ImportOptions, parse_import
from gm.recipes.draft import TAKEN
from gm.recipes.files import Recipe, read_recipe
from gm.recipes.updates import Hints
from gm.recipes.written import command, counted, markdown, scaled_to, table_text, write_checked, write_new, yaml_text


def main(argv: Optional[Sequence[str]] = None) -> None:
    """The command."""
    options = parse_import(argv)
    hints = Hints(options.instance_data_path, options.class_data_path, options.num_photos, options.train_data_repeat)
    recipe = read_recipe([options.recipe, *([options.dataset] if options.dataset else [])], hints)
    make_writable(("--output", options.output.parent))
    if recipe.own is not None:
        write_checked(recipe.own, options.output, str(options.recipe))
        log.info("%s was trained by this suite: its whole YAML is in %s", options.recipe, options.output)
        return
    _take_over(options, recipe)
    draft, settings = recipe.draft, recipe.settings
    run = command(draft, str(options.output), options.weight, options.device_target)
    about = f"{options.recipe.name}, a recipe of {recipe.tool}, imported. What became of every setting: {options.report.name}"
    text = yaml_text(draft, options.base, options.output, f"{about}\n\n{run}")
    write_checked(text, options.output, str(options.recipe))
    write_new(options.report, markdown(settings.rows, draft.notes, settings.empty, f"# {options.recipe.name}", run))
    eyes = [row for row in settings.rows if row.outcome != TAKEN]
    if eyes:
        print(table_text(eyes))
    for note in draft.notes:
        log.info("%s", note)
    log.info("%s of %s's settings: %s and %s written", counted(settings.rows), recipe.tool, options.output, options.report)
    log.info("train it:\n%s", run)


def _take_over(options: ImportOptions, recipe: Recipe) -> None:
    """What the command line says counts before the recipe."""
    flags = recipe.draft.flags
    for name in ("instance_data_path", "instance_prompt", "class_data_path", "class_prompt", "train_data_repeat"):
        value = getattr(options, name)
        if value is not None:
            flags[name] = value
    if options.class_data_path and flags.get("prior_loss_weight") == 0:
        flags.pop("prior_loss_weight")
    if options.size is not None:
        scaled_to(recipe.draft, options.size)


if __name__ == "__main__":
    sys.exit(console.run_command(main))
