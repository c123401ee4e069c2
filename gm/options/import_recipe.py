"""The command line of tools/import_recipe.py. No MindSpore import."""

from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Sequence

from gm.config.bounds import LARGEST_SIDE, MOST_IMAGES, MOST_REPEATS
from gm.errors import UserError
from gm.options.parser import REQUIRED, option, parse
from gm.options.train import TRAINING
from gm.texts import prompt_text


@dataclass(frozen=True)
class ImportOptions:
    """What was asked of tools/import_recipe.py."""

    recipe: Path = option(
        REQUIRED,
        "kohya_ss' .json, sd-scripts' .toml, OneTrainer's .json, ai-toolkit's .yaml, a text with a command of sd-scripts or diffusers, or a "
        "trained LoRA",
        positional=True,
        metavar="PATH",
        group="what is read",
    )
    dataset: Optional[Path] = option(
        None,
        "what a recipe keeps apart: sd-scripts' dataset .toml, OneTrainer's concepts",
        metavar="FILE",
        group="what is read",
    )
    instance_data_path: Optional[str] = option(
        None, "the photos, counted for epochs", metavar="FOLDER", shown="as the recipe says", group="your subject"
    )
    instance_prompt: Optional[str] = option(
        None, "what they show", read=prompt_text, shown="as the recipe says", group="your subject"
    )
    class_data_path: Optional[str] = option(
        None, "class images", metavar="FOLDER", shown="as the recipe says", group="your subject"
    )
    class_prompt: Optional[str] = option(
        None, "what those show", read=prompt_text, shown="as the recipe says", group="your subject"
    )
    num_photos: Optional[int] = option(
        None, "how many photos, where their folder is not here", least=1, most=MOST_IMAGES, group="your subject"
    )
    train_data_repeat: Optional[int] = option(
        None,
        "times each occurs in an epoch",
        least=1,
        most=MOST_REPEATS,
        shown="as the recipe says, or 1",
        group="your subject",
    )
    base: str = option(TRAINING, "the YAML that the written one inherits from", metavar="YAML", group="what is written")
    size: Optional[int] = option(None, "pixels, instead of the recipe's", least=8, most=LARGEST_SIDE, group="what is written")
    weight: str = option(
        "checkpoints/sd_xl_base_1.0.safetensors", "base weights in the command", metavar="FILE", group="what is written"
    )
    device_target: str = option("Ascend", "in the command", choices=("Ascend", "CPU", "GPU"), group="what is written")
    output: Path = option(
        REQUIRED, "the .yaml to write, and the table beside it as .md", metavar="YAML", group="what is written"
    )

    @property
    def report(self) -> Path:
        """The table's file."""
        return self.output.with_suffix(".md")


def parse_import(argv: Optional[Sequence[str]]) -> ImportOptions:
    """The options; UserError for anything that cannot be right by itself."""
    about = "Bring the settings of another trainer: a YAML of this suite, the command, and what became of every setting."
    options = parse(ImportOptions, argv, "import_recipe.py", about)
    if options.output.suffix not in (".yaml", ".yml"):
        raise UserError(f"--output {options.output} must end in .yaml")
    for path in (options.output, options.report):
        if path.exists():
            raise UserError(f"--output {options.output}: {path} exists already: give another name or remove it")
    if not Path(options.base).is_file():
        raise UserError(f"--base {options.base} does not exist: give a YAML of configs/training")
    return options
