"""sd-scripts' two TOML of a run, NAME.toml and NAME_dataset.toml: what is written into them, and how."""

import json
import os
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Mapping

from gm.errors import UserError
from gm.files import make_writable, replacing
from gm.recipes.export_words import HEAD

Entries = dict[str, Any]


@dataclass
class Exported:
    """What is written."""

    training: dict[str, Entries] = field(
        default_factory=dict
    )  # section -> its entries; sd-scripts does not read the sections' names
    dataset: Entries = field(default_factory=dict)  # of general, dataset, subsets
    remarks: list[str] = field(default_factory=list)  # what is otherwise there
    needs: list[str] = field(default_factory=list)  # what must be installed there


def recipe_files(path: str) -> tuple[Path, Path]:
    """The two files; UserError where the name is no .toml, or one of them is there already."""
    file = Path(path)
    if file.suffix != ".toml":
        raise UserError(f"--export_recipe {path} is no name of a TOML: give one that ends in .toml")
    files = file, file.with_name(f"{file.stem}_dataset.toml")
    there = next((one for one in files if one.exists()), None)
    if there:
        raise UserError(f"--export_recipe {path}: {there} is there already: give another name, or delete it")
    return files


def write_recipe(exported: Exported, files: tuple[Path, Path]) -> str:
    """Writes both; returns the command that sd-scripts is run with."""
    remarks = [f"# {line}" for line in (*HEAD, *exported.needs)] + [
        f"# otherwise there: {remark}" for remark in exported.remarks
    ]
    sections = [f"[{name}]\n{_lines(entries)}" for name, entries in exported.training.items() if _lines(entries)]
    data = exported.dataset
    of_data = [f"[general]\n{_lines(data['general'])}", f"[[datasets]]\n{_lines(data['dataset'])}"]
    of_data += [f"[[datasets.subsets]]\n{_lines(subset)}" for subset in data["subsets"]]
    make_writable(("--export_recipe", files[0].absolute().parent))
    for file, parts in zip(
        files, (["\n".join(remarks), *sections], ["# the photos of the recipe beside this file", *of_data])
    ):
        with replacing(file) as unfinished:
            unfinished.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return (
        "accelerate launch sdxl_train_network.py "
        f"--config_file {shlex.quote(os.path.abspath(files[0]))} --dataset_config {shlex.quote(os.path.abspath(files[1]))}"
    )


def _lines(entries: Mapping[str, Any]) -> str:
    return "\n".join(f"{name} = {_value(value)}" for name, value in entries.items() if value is not None)


def _value(value: Any) -> str:
    """As TOML has it, whose basic strings are JSON's but for DEL."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_value(part) for part in value)}]"
    if isinstance(value, (int, float)):
        return repr(value)
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
