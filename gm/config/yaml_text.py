"""Text of YAML -> plain values: dict, list, str, int, float, bool, None. No more of YAML than a configuration needs.

What is plain is read as YAML 1.1 does, but for numbers: they are decimal (1e-4 is one, 010 and 1_000 are text), and dates are
text. Tags, keys given twice, more than one document, and anchors that make a short text a large tree are refused. It is read
event by event, so that no nesting is too deep for Python.
"""

import copy
import re
from dataclasses import dataclass, field
from typing import Any, Optional

import yaml

from gm.errors import UserError, shortened, shown

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
DEEPEST = 40  # lists and mappings in each other
MOST_VALUES = 20_000  # keys, values, lists and mappings, those that anchors repeat as well
_MERGE = "<<"
_NULL = ("", "~", "null", "Null", "NULL")
_BOOLEAN = re.compile(r"(?:(y(?:es|ES)|Y(?:es|ES)|true|True|TRUE|on|On|ON)|(no|No|NO|false|False|FALSE|off|Off|OFF))")
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,39})")
_FLOAT = re.compile(r"[-+]?(?:[0-9]+\.[0-9]*(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.[0-9]+(?:[eE][-+]?[0-9]+)?)")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")


def read_yaml(text: str, where: str) -> Any:
    """The value. `where`: how messages begin, e.g. "--config a.yaml". UserError for what is not accepted."""
    return _built(text, where).value


def read_yaml_list(text: str, where: str) -> tuple[Any, list[int]]:
    """The value, and when it is a list the line of each of its items, from 1."""
    tree = _built(text, where)
    return tree.value, tree.lines


def _built(text: str, where: str) -> "_Tree":
    tree = _Tree(where)
    try:
        for event in yaml.parse(text, Loader=_Loader):
            tree.take(event)
    except yaml.YAMLError as error:
        raise UserError(f"{where} is not valid YAML: {shortened(' '.join(str(error).split()), 300)}") from None
    return tree


@dataclass
class _Open:
    """A list or mapping that is not at its end."""

    value: Any
    anchor: Optional[str]
    size: int = 1  # values in it, and itself
    keys: dict = field(default_factory=dict)  # of a mapping: those given -> their lines
    key: Any = None  # whose value comes next
    has_key: bool = False


class _Tree:
    """The values of a text's events."""

    def __init__(self, where: str):
        self.where = where
        self.value: Any = None
        self.lines: list[int] = []
        self._open: list[_Open] = []
        self._anchors: dict[str, tuple[Any, int]] = {}  # what stands there, and how many values it has
        self._values = 0
        self._documents = 0

    def take(self, event: yaml.Event) -> None:
        """One more of the text's events."""
        line = event.start_mark.line + 1 if event.start_mark else 0
        if getattr(event, "tag", None) is not None:
            raise self._refused(line, f"has the tag {shown(event.tag)}, but tags are not accepted: take it away")
        if isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                raise self._refused(line, "begins a second document: put it into a file of its own")
        elif isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            self._note_line(line)
            self._count(1, line)
            self._open.append(_Open({} if isinstance(event, yaml.MappingStartEvent) else [], event.anchor))
            if len(self._open) > DEEPEST:
                raise self._refused(line, f"is more than {DEEPEST} lists and mappings deep: write it flatter")
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            done = self._open.pop()
            self._put(done.value, done.size, done.anchor, line)
        elif isinstance(event, yaml.ScalarEvent):
            self._note_line(line)
            self._count(1, line)
            value = plain_value(event.value) if event.implicit[0] else event.value
            self._put(value, 1, event.anchor, line, merges=event.implicit[0] and event.value == _MERGE)
        elif isinstance(event, yaml.AliasEvent):
            self._note_line(line)
            if event.anchor not in self._anchors:
                raise self._refused(line, f"repeats *{event.anchor}, but no &{event.anchor} is complete above it")
            value, size = self._anchors[event.anchor]
            self._count(size, line)
            self._put(copy.deepcopy(value), size, None, line)

    def _refused(self, line: int, words: str) -> UserError:
        return UserError(f"{self.where}, line {line} {words}")

    def _count(self, values: int, line: int) -> None:
        self._values += values
        if self._values > MOST_VALUES:
            raise self._refused(line, f"makes it more than {MOST_VALUES} values: a configuration has a few hundred")

    def _note_line(self, line: int) -> None:
        if len(self._open) == 1 and isinstance(self._open[0].value, list):
            self.lines.append(line)

    def _put(self, value: Any, size: int, anchor: Optional[str], line: int, merges: bool = False) -> None:
        """The value goes where it belongs: into the list or mapping that is open, or it is the whole."""
        if anchor is not None:
            self._anchors[anchor] = value, size
        if not self._open:
            self.value = value
            return
        top = self._open[-1]
        top.size += size
        if isinstance(top.value, list):
            top.value.append(value)
        elif not top.has_key:
            if isinstance(value, (dict, list)):
                raise self._refused(line, "has a list or mapping as a key: keys are words")
            key = _MERGE if merges else value
            if key in top.keys:
                raise self._refused(
                    line, f"has the key {shown(key)} again, which line {top.keys[key]} gives: keep one of them"
                )
            top.key, top.has_key, top.keys[key] = key, True, line
        else:
            self._put_in_mapping(top, value, line)
            top.has_key = False

    def _put_in_mapping(self, top: _Open, value: Any, line: int) -> None:
        if top.key != _MERGE:
            top.value[top.key] = value
            return
        for one in value if isinstance(value, list) else [value]:  # the first counts most, and what is given itself more
            if not isinstance(one, dict):
                raise self._refused(line, f"merges {shown(one)} with <<, but only mappings can be merged")
            for key, inherited in one.items():
                top.value.setdefault(key, inherited)


def plain_value(text: str) -> Any:
    """What a text without quotes means."""
    if text in _NULL:
        return None
    boolean = _BOOLEAN.fullmatch(text)
    if boolean:
        return boolean[1] is not None
    if _INT.fullmatch(text):
        return int(text)
    if len(text) <= 40 and _FLOAT.fullmatch(text):
        return float(text)
    if _NOT_FINITE.fullmatch(text):
        return float(text.replace(".", "").lower())
    return text
