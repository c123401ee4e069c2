"""Which trainer a file is from, and its settings: JSON, TOML, YAML, a saved command line, or a LoRA."""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Mapping, Optional, Sequence

from gm.checkpoint.io import open_tensors
from gm.checkpoint.lora_files import RECIPE
from gm.config.yaml_text import read_yaml
from gm.errors import UserError, shortened, shown
from gm.recipes import ai_toolkit_file, onetrainer_file
from gm.recipes.ai_toolkit import read_ai_toolkit
from gm.recipes.command_line import command_of
from gm.recipes.diffusers import SCRIPT, is_diffusers, read_diffusers
from gm.recipes.draft import Draft, Settings
from gm.recipes.kohya_gui import read_kohya_gui
from gm.recipes.lora_metadata import PREFIX, read_lora_metadata
from gm.recipes.onetrainer import read_onetrainer
from gm.recipes.sd_scripts import expanded, read_sd_scripts
from gm.recipes.sd_scripts_toml import flat, read_sd_scripts_toml
from gm.recipes.updates import Hints
from gm.texts import read_text

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports] it is installed where it is needed

WEIGHTS = (".safetensors", ".ckpt")
LARGEST = 8_000_000  # bytes: saved metadata has tags


@dataclass
class Recipe:
    """What an importer has read, and what it has made of it."""

    settings: Settings
    draft: Draft = field(default_factory=Draft)
    own: Optional[str] = None  # the whole YAML, where this suite itself has trained the LoRA

    @property
    def tool(self) -> str:
        """Whose recipe it is."""
        return self.settings.tool


def read_recipe(paths: Sequence[Path], hints: Hints) -> Recipe:
    """The recipe in these files: one, or sd-scripts' configuration with its dataset configuration. UserError where a file is none."""
    metadata = _metadata(paths[0])
    if RECIPE in metadata:
        return Recipe(Settings({}, "this suite", str(paths[0])), own=metadata[RECIPE])
    settings, reader = _opened(paths, metadata)
    recipe = Recipe(settings)
    reader(settings, recipe.draft, hints)
    return recipe


def _metadata(path: Path) -> dict[str, str]:
    """What a file of weights says of itself; nothing of another file."""
    if path.suffix.lower() not in WEIGHTS:
        return {}
    with open_tensors(path) as file:
        return dict(file.metadata)


Reader = Callable[[Settings, Draft, Hints], None]


def _opened(paths: Sequence[Path], metadata: Mapping[str, str]) -> tuple[Settings, Reader]:
    first = paths[0]
    where = f"the recipe {first}"
    suffix = first.suffix.lower()
    if suffix in WEIGHTS:
        return read_lora_metadata(metadata, where), read_sd_scripts
    if suffix == ".json":
        return _of_json(_json(first), where, paths[1:])
    if suffix in (".yaml", ".yml"):
        return _of_job(_yaml(first), where)
    if suffix == ".toml":
        trees = [_toml(path) for path in paths]
        if "accelerate_launch" in trees[0]:  # the defaults of kohya_ss' interface
            return read_kohya_gui(flat(trees[0]), where), read_sd_scripts
        return read_sd_scripts_toml(trees, where), read_sd_scripts
    script, values = command_of(read_text(first, where, LARGEST))
    if "train_network" in script:
        for name in ("config_file", "dataset_config"):
            if isinstance(values.get(name), str) and len(paths) == 1 and (first.parent / values[name]).is_file():
                paths = [*paths, first.parent / values[name]]
        trees = [_toml(path) for path in paths[1:]]
        from_files = read_sd_scripts_toml(trees, where).values if trees else {}
        return Settings(expanded({**from_files, **values}), "sd-scripts", where), read_sd_scripts
    if is_diffusers(script):
        return Settings({SCRIPT: script, **values}, "diffusers", where), read_diffusers
    raise UserError(f"{where} starts {script}, which is no training of a LoRA for SDXL that is known here")


def _of_json(tree: Any, where: str, others: Sequence[Path]) -> tuple[Settings, Reader]:
    if not isinstance(tree, dict):
        raise UserError(f"{where} is {shown(tree)}, not the settings of a trainer")
    if any(name.startswith(PREFIX) for name in tree):
        return read_lora_metadata({name: str(value) for name, value in tree.items()}, where), read_sd_scripts
    if "LoRA_type" in tree or "sdxl_no_half_vae" in tree or "max_resolution" in tree:
        return read_kohya_gui(tree, where), read_sd_scripts
    if ai_toolkit_file.is_ai_toolkit(tree):
        return _of_job(tree, where)
    if onetrainer_file.is_onetrainer(tree):
        values = onetrainer_file.expanded(tree, _json(others[0]) if others else None)
        return Settings(values, "OneTrainer", where), read_onetrainer
    raise UserError(f"{where} is of no trainer that is known here: kohya_ss, sd-scripts, OneTrainer, ai-toolkit, diffusers")


def _of_job(tree: Any, where: str) -> tuple[Settings, Reader]:
    if not ai_toolkit_file.is_ai_toolkit(tree):
        raise UserError(f"{where} is no job of ai-toolkit: it must have job and config")
    return Settings(ai_toolkit_file.expanded(tree), "ai-toolkit", where), read_ai_toolkit


def _yaml(path: Path) -> Any:
    return read_yaml(read_text(path, f"the recipe {path}", LARGEST), f"the recipe {path}")


def _json(path: Path) -> Any:
    text = read_text(path, f"the recipe {path}", LARGEST)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"the recipe {path} is not JSON: {shortened(str(error), 200)}") from None


def _toml(path: Path) -> Mapping[str, Any]:
    text = read_text(path, f"the recipe {path}", LARGEST)
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"the recipe {path} is not TOML: {shortened(str(error), 200)}") from None
