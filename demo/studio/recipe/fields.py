"""A key of the YAML as the page offers it: its words, and what gm/config/table.py says of its type and bounds."""

from dataclasses import dataclass
from typing import Any, Callable, Optional

from gm.config import table as t
from studio.recipe.tree import Tree, found

When = Callable[[Tree], bool]


@dataclass(frozen=True)
class Field:
    """One setting. Several keys have the same value."""

    keys: tuple[str, ...]
    label: str  # said by `say`
    help: str  # the same
    when: Optional[When] = None  # whether it acts, by the whole tree; None: always
    choices: tuple[str, ...] = ()  # where the table has none

    @property
    def name(self) -> str:
        return self.keys[0]


def field(key: str, label: str, help: str, when: Optional[When] = None, choices: tuple[str, ...] = ()) -> Field:
    """Of one key."""
    return Field((key,), label, help, when, choices)


def is_one(key: str, *values: Any) -> When:
    """Whether an entry has one of these values, or, of a target, one of these names at its end."""
    return lambda tree: str(found(tree, key)).rpartition(".")[2] in values


def is_there(key: str) -> When:
    """Whether a section is there."""
    return lambda tree: isinstance(found(tree, key), dict)


def entry_of(key: str, tree: Tree) -> Optional[t.Entry]:
    """What the table says of a key, None where there is no such key now: what stands at `target` decides which params there are."""
    entry, at = t.Entry(t.ROOT), tree
    for part in key.split("."):
        inner = _inner(entry.kind, part, at)
        if inner is None:
            return None
        entry, at = inner, found(at, part)
    return entry


def _inner(kind: Any, part: str, at: Any) -> Optional[t.Entry]:
    """The entry `part` of what has this kind and stands at `at`."""
    if isinstance(kind, t.Section):
        return kind.entries.get(part)
    if isinstance(kind, t.OneOf) and part == "target":
        return t.Entry(str, None, kind.targets)
    if isinstance(kind, t.OneOf) and part == "params":
        return t.Entry(t.Section(t.TARGETS.get(str(found(at, "target")), {})))
    if isinstance(kind, t.OneOf):
        return dict(kind.extra).get(part)
    return t.Entry(kind.kind) if isinstance(kind, t.Each) else None


def value_of(field: Field, tree: Tree) -> Any:
    """What counts: as the tree says, else the table's default."""
    value, entry = found(tree, field.name), entry_of(field.name, tree)
    return entry.default if value is None and entry is not None and entry.default is not t.REQUIRED else value
