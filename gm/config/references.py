"""`${data.dataset_config.params.target_size}` in a YAML: the value of another entry, by its whole name, or its text within a text.

Nothing but entries of the same tree can be meant: not the environment, not a function.
"""

import re
from typing import Any

from gm.errors import UserError, shown

DEEPEST = 8  # references that lead to references
MOST_VALUES = 100_000  # values and characters that all of them together give
_REFERENCE = re.compile(r"\$\{([^${}]*)\}")
_NAME = re.compile(r"[^.\[\]:\s]+(?:\.[^.\[\]:\s]+|\[[0-9]+\])*")


def resolved(tree: Any, where: str) -> Any:
    """The tree with what its references mean. `where`: how messages begin. UserError for one that means nothing, means itself, or
    makes the tree too large."""
    return _Resolver(tree, where).value(tree, ())


class _Resolver:
    def __init__(self, tree: Any, where: str):
        self.tree, self.where, self.left = tree, where, MOST_VALUES

    def value(self, given: Any, on_the_way: tuple[str, ...]) -> Any:
        """`given` without references; `on_the_way`: those that have led to it."""
        self._spend(1)
        if isinstance(given, dict):
            return {key: self.value(one, on_the_way) for key, one in given.items()}
        if isinstance(given, list):
            return [self.value(one, on_the_way) for one in given]
        if not isinstance(given, str) or "${" not in given:
            return given
        whole = _REFERENCE.fullmatch(given)
        if whole:
            return self._meant(whole[1], on_the_way)
        parts, end = [], 0
        for match in _REFERENCE.finditer(given):
            parts += [given[end : match.start()], self._text(match[1], on_the_way)]
            end = match.end()
        text = "".join([*parts, given[end:]])
        if "${" in text:
            raise UserError(f"{self.where}: {shown(given)} has a ${{ that is no reference: write ${{name.of.an.entry}}")
        return text

    def _text(self, name: str, on_the_way: tuple[str, ...]) -> str:
        value = self._meant(name, on_the_way)
        if isinstance(value, (dict, list)):
            raise UserError(f"{self.where}: ${{{name}}} stands within a text, but is a list or mapping: let it stand alone")
        self._spend(len(str(value)))
        return str(value)

    def _meant(self, name: str, on_the_way: tuple[str, ...]) -> Any:
        if not _NAME.fullmatch(name):
            raise UserError(
                f"{self.where}: {shown('${' + name + '}')} is no reference: write ${{name.of.an.entry}} of this YAML"
            )
        if name in on_the_way:
            raise UserError(f"{self.where}: ${{{name}}} leads back to itself: write the value in one of the places")
        if len(on_the_way) == DEEPEST:
            raise UserError(f"{self.where}: ${{{name}}} is a reference more than {DEEPEST} deep: write the value")
        found = self.tree
        for part in re.findall(r"[^.\[\]]+", name):
            if isinstance(found, dict):
                found = found.get(part, _ABSENT)
            elif isinstance(found, list) and part.isascii() and part.isdigit() and int(part[:9]) < len(found):
                found = found[int(part[:9])]
            else:
                found = _ABSENT
            if found is _ABSENT:
                raise UserError(f"{self.where}: ${{{name}}} means an entry that there is not: {shown(part)} is not in it")
        return self.value(found, (*on_the_way, name))

    def _spend(self, values: int) -> None:
        self.left -= values
        if self.left < 0:
            raise UserError(f"{self.where}: its references make it larger than {MOST_VALUES} values: write out what is meant")


_ABSENT = object()
