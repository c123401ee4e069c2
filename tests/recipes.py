"""What the tests of importers share: a recipe out of a text, and what became of its settings."""

from pathlib import Path
from typing import Any, Mapping, Sequence

from gm.config.load import load_config
from gm.config.types import Config
from gm.recipes.files import Recipe, read_recipe
from gm.recipes.updates import Hints
from gm.recipes.written import write_checked, yaml_text

ROOT = Path(__file__).resolve().parent.parent
BASE = ROOT / "configs/training/sd_xl_base_finetune_dreambooth_lora_910b.yaml"


def imported(folder: Path, name: str, *texts: str, hints: Hints = Hints(num_photos=10)) -> Recipe:
    """The recipe in files of these texts, the first called `name`."""
    paths = []
    for number, text in enumerate(texts):
        path = folder / (name if number == 0 else f"more{number}{Path(name).suffix}")
        path.write_text(text, encoding="utf-8")
        paths.append(path)
    return read_recipe(paths, hints)


def outcomes(recipe: Recipe) -> dict[str, str]:
    """Name of a setting -> what became of it."""
    return {row.name: row.outcome for row in recipe.settings.rows}


def words_of(recipe: Recipe, name: str) -> str:
    """What the table says of a setting."""
    return next(row.words for row in recipe.settings.rows if row.name == name)


def loaded(recipe: Recipe, folder: Path, base: Path = BASE) -> Config:
    """The configuration that training would read."""
    output = folder / "written.yaml"
    output.unlink(missing_ok=True)
    write_checked(yaml_text(recipe.draft, str(base), output, "a recipe"), output, "the recipe")
    return load_config(str(output))


def loads(recipe: Recipe, folder: Path, base: Path = BASE) -> None:
    """UserError where training would refuse the YAML; `loaded` in half the time."""
    write_checked(
        yaml_text(recipe.draft, str(base), folder / "checked.yaml", "a recipe"), folder / "checked.yaml", "the recipe"
    )


def at(tree: Mapping[Any, Any], key: str) -> Any:
    """An entry of a draft's tree by its dotted key."""
    for part in key.split("."):
        tree = tree[int(part) if part.isdigit() else part]
    return tree


def every_setting_has_a_row(recipe: Recipe, names: Sequence[str]) -> bool:
    """Nothing is dropped: each name has exactly one row."""
    found = [row.name for row in recipe.settings.rows]
    return all(found.count(name) == 1 for name in names)
