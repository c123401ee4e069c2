"""YAML files and --set -> one tree, not yet checked; what may stand in it is the table in table.py.

A file may say `base: other.yaml`, or a list of them, relative to itself, and then only what differs. Mappings are merged
at every depth, anything else is replaced; a mapping over a list changes the items whose numbers are its keys:

    emb_models:
      0: {is_trainable: True}     # the first; as --set model...emb_models.0.is_trainable=True would
"""

import difflib
import os
from pathlib import Path
from typing import Any, Mapping, Sequence

from gm.config.overrides import is_another, override
from gm.config.references import resolved
from gm.config.yaml_text import read_yaml
from gm.errors import UserError, shown
from gm.texts import path_text, read_text

DEEPEST = 8  # files above each other
LARGEST_YAML = 500_000  # bytes
MOST_FILES = 32  # that a file is merged from


def read_tree(path: str, overrides: Sequence[str]) -> dict[str, Any]:
    """The file with what it inherits, KEY=VALUE entries over it, and what its references mean. UserError naming the file or the
    entry."""
    return resolved(override(_whole(path, (), [0]), overrides), f"--config {path}")


def _whole(path: str, below: Sequence[Path], files: list[int]) -> dict[str, Any]:
    """The file as plain values, merged over its bases; `below`: the files that have led to it, `files`: how many were read."""
    given = f"--config {path}" if not below else f"--config {below[0]}: its base {path}"
    file = Path(path)
    if os.path.realpath(file) in [os.path.realpath(other) for other in below]:
        raise UserError(f"{given} leads back to itself: {' -> '.join(str(other) for other in (*below, file))}")
    if len(below) == DEEPEST:
        raise UserError(f"{given} is more than {DEEPEST} files deep: put some of them together")
    files[0] += 1
    if files[0] > MOST_FILES:
        raise UserError(f"--config {below[0]} is merged from more than {MOST_FILES} files: put some of them together")
    own = _read(path, given, at_top=not below)
    bases = own.pop("base", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise UserError(f"{given} has the base {shown(bases)}: give the name of a YAML file, or a list of them")
    tree: dict[str, Any] = {}
    for base in bases:
        try:
            path_text(base)
        except ValueError as error:
            raise UserError(f"{given} has a base that is no path: {error}") from None
        tree = _merged(tree, _whole(str(file.parent / base), (*below, file), files), given)
    return _merged(tree, own, given)


def _read(path: str, given: str, at_top: bool) -> dict[str, Any]:
    """One file as plain values; ${...} stays as it is written."""
    if not os.path.lexists(path):
        near = sorted(str(p) for p in Path("configs").glob("*/*.yaml")) if at_top and Path("configs").is_dir() else []
        match = difflib.get_close_matches(path, near, 1)
        raise UserError(f"{given} does not exist" + (f", did you mean {match[0]}?" if match else ": give a YAML file"))
    tree = read_yaml(read_text(Path(path), given, LARGEST_YAML), given)
    if not isinstance(tree, dict) or not tree:
        raise UserError(f"{given} is not a mapping with the sections version, model, optim and data")
    return tree


def _merged(under: Any, over: Any, given: str) -> Any:
    """`over` where it says something, else `under`; of another optimizer, not the params of the one below."""
    if isinstance(over, Mapping) and isinstance(under, Mapping):
        merged = dict(under)
        if is_another(under.get("target"), over.get("target")):
            merged["params"] = {}
        for key, value in over.items():
            merged[key] = _merged(merged[key], value, given) if key in merged else value
        return merged
    if isinstance(over, Mapping) and isinstance(under, list) and over and all(type(key) is int for key in over):
        wrong = [key for key in over if not 0 <= key < len(under)]
        if wrong:
            raise UserError(f"{given} changes item {wrong[0]} of a list with {len(under)}: the first is 0")
        return [_merged(item, over[i], given) if i in over else item for i, item in enumerate(under)]
    return over
