"""--set KEY=VALUE entries over the tree of a YAML."""

import re
from typing import Any, Sequence

from gm.config.table import OPTIMIZERS, RESIZE, TARGETS
from gm.config.yaml_text import DEEPEST, read_yaml
from gm.errors import UserError, shown

TARGET_SIZE = ("data", "dataset_config", "params", "target_size")
TRANSFORMS = ("data", "dataset_config", "params", "transforms")
OPTIMIZER = ("optim", "optimizer_config")
_KEY = re.compile(r"[^.\[\]\s]+(?:\.[^.\[\]\s]+|\[[0-9]+\])*")


def override(tree: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Change the tree in place; a literal Resize size that equals target_size goes with it. UserError naming the entry."""
    size_before = _found(tree, TARGET_SIZE)
    given = [_parsed(one) for one in overrides]
    for _, parts, value in given:  # first of all, so that its params may be set in any order
        if parts == (*OPTIMIZER, "target") and is_another(_found(tree, parts), value):
            _set(tree, (*OPTIMIZER, "params"), {}, "--set")
    for where, parts, value in given:
        _set(tree, parts, value, where)
    size, transforms = _found(tree, TARGET_SIZE), _found(tree, TRANSFORMS)
    if size != size_before and isinstance(transforms, list):
        for transform in transforms:
            params = transform.get("params") if isinstance(transform, dict) and transform.get("target") == RESIZE else None
            if isinstance(params, dict) and params.get("size") == size_before:
                params["size"] = size
    return tree


def is_another(target: Any, new: Any) -> bool:
    """Whether both are optimizers, and the params of `target` are not those of `new`."""
    both = isinstance(target, str) and isinstance(new, str) and target in OPTIMIZERS and new in OPTIMIZERS
    return both and set(TARGETS[target]) != set(TARGETS[new])


def _parsed(override: str) -> tuple[str, tuple[str, ...], Any]:
    """How messages about it begin, the parts of its key, its value."""
    key, equals, text = override.partition("=")
    key, where = key.strip(), f"--set {shown(override)}"
    parts = tuple(re.findall(r"[^.\[\]]+", key))
    if not equals or not _KEY.fullmatch(key) or len(parts) > DEEPEST:
        raise UserError(f"{where} is not KEY=VALUE, e.g. --set data.total_step=20: a key is names with dots between them")
    return where, parts, read_yaml(text, where)


def _set(tree: dict[str, Any], parts: Sequence[str], value: Any, where: str) -> None:
    """Mappings that the key names and that are not there are made."""
    node: Any = tree
    for depth, part in enumerate(parts):
        above, last = ".".join(parts[:depth]), depth == len(parts) - 1
        if isinstance(node, list):
            if not re.fullmatch("[0-9]{1,9}", part) or int(part) >= len(node):
                raise UserError(
                    f"{where}: {above} is a list of {len(node)}, so there is no {shown(part)} in it: the first is 0"
                )
            key: Any = int(part)
        elif isinstance(node, dict):
            key = part
        else:
            raise UserError(f"{where}: {above} is {shown(node)}, so nothing in it can be set: give the whole of it")
        if last:
            node[key] = value
        elif isinstance(node, dict) and node.get(key) is None:
            node[key] = {}
        node = node[key]


def _found(tree: Any, parts: Sequence[str]) -> Any:
    """What stands there, or None."""
    for part in parts:
        tree = tree.get(part) if isinstance(tree, dict) else None
    return tree
