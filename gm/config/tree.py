"""YAML files and --set -> one tree, not yet checked; what may stand in it is the table in table.py.

A file may say `base: other.yaml`, or a list of them, relative to itself, and then only what differs. Mappings are merged
at every depth, anything else is replaced; a mapping over a list changes the items whose numbers are its keys:

    emb_models:
      0: {is_trainable: True}     # the first; as --set model...emb_models.0.is_trainable=True would
"""

import difflib
from pathlib import Path
from typing import Any, Mapping, Sequence

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gm.config.table import OPTIMIZERS, RESIZE, TARGETS
from gm.errors import UserError

TARGET_SIZE = "data.dataset_config.params.target_size"
OPTIMIZER = "optim.optimizer_config"
DEEPEST = 8  # files above each other


def read_tree(path: str, overrides: Sequence[str]) -> DictConfig:
    """The file with what it inherits, and KEY=VALUE entries over it. UserError naming the file or the entry."""
    return _override(OmegaConf.create(_whole(path, ())), overrides)


def _whole(path: str, below: Sequence[Path]) -> dict[str, Any]:
    """The file as plain values, merged over its bases; `below`: the files that have led to it."""
    given = f"--config {path}" if not below else f"--config {below[0]}: its base {path}"
    file = Path(path)
    if file.resolve() in [other.resolve() for other in below]:
        raise UserError(f"{given} leads back to itself: {' -> '.join(str(other) for other in (*below, file))}")
    if len(below) == DEEPEST:
        raise UserError(f"{given} is more than {DEEPEST} files deep: put some of them together")
    own = _read(path, given, at_top=not below)
    bases = own.pop("base", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise UserError(f"{given} has the base {bases!r}: give the name of a YAML file, or a list of them")
    tree: dict[str, Any] = {}
    for base in bases:
        tree = _merged(tree, _whole(str(file.parent / base), (*below, file)), given)
    return _merged(tree, own, given)


def _read(path: str, given: str, at_top: bool) -> dict[str, Any]:
    """One file as plain values; ${...} stays as it is written."""
    file = Path(path)
    if not file.is_file():
        near = sorted(str(p) for p in Path("configs").glob("*/*.yaml")) if at_top and Path("configs").is_dir() else []
        match = difflib.get_close_matches(path, near, 1)
        raise UserError(f"{given} does not exist" + (f", did you mean {match[0]}?" if match else ": give a YAML file"))
    try:
        tree = OmegaConf.load(file)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{given} cannot be read ({error}): give a YAML text file") from None
    except (yaml.YAMLError, OmegaConfBaseException, ValueError) as error:
        raise UserError(f"{given} is not valid YAML: {' '.join(str(error).split())}") from None
    if not OmegaConf.is_dict(tree) or not len(tree):
        raise UserError(f"{given} is not a mapping with the sections version, model, optim and data")
    return OmegaConf.to_container(tree, resolve=False)


def _merged(under: Any, over: Any, given: str) -> Any:
    """`over` where it says something, else `under`; of another optimizer, not the params of the one below."""
    if isinstance(over, Mapping) and isinstance(under, Mapping):
        merged = dict(under)
        if _is_another(under.get("target"), over.get("target")):
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


def _is_another(target: Any, new: Any) -> bool:
    """Whether both are optimizers, and the params of `target` are not those of `new`."""
    return target in OPTIMIZERS and new in OPTIMIZERS and set(TARGETS[target]) != set(TARGETS[new])


def _override(tree: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """Apply KEY=VALUE entries; a literal Resize size that equals target_size goes with it."""
    size_before = OmegaConf.select(tree, TARGET_SIZE)
    for override in overrides:  # first of all, so that its params may be set in any order
        key, _, target = override.partition("=")
        if key.strip() == f"{OPTIMIZER}.target" and _is_another(OmegaConf.select(tree, key.strip()), target.strip()):
            OmegaConf.update(tree, f"{OPTIMIZER}.params", {}, merge=False)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key.strip():
            raise UserError(f"--set {override!r} is not KEY=VALUE, e.g. --set data.total_step=20")
        try:
            OmegaConf.update(tree, key, yaml.safe_load(text), merge=False)
        except (yaml.YAMLError, OmegaConfBaseException, ValueError, IndexError, TypeError) as error:
            raise UserError(f"--set {override}: {str(error).splitlines()[0]}") from None
    size = OmegaConf.select(tree, TARGET_SIZE)
    transforms = OmegaConf.select(tree, "data.dataset_config.params.transforms")
    if size != size_before and OmegaConf.is_list(transforms):
        for transform in transforms:
            if OmegaConf.is_dict(transform) and transform.get("target") == RESIZE:
                if OmegaConf.select(transform, "params.size") == size_before:
                    transform.params.size = size
    return tree
