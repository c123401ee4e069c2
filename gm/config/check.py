"""A plain tree, as YAML gives it, against the table of what may stand there: types, names, bounds.

What fits together is checked where the values become dataclasses: model.py, lora.py, optim.py, data.py.
"""

import difflib
from typing import Any, Mapping, Sequence

from gm.config import table as t


def _near(word: Any, known: Sequence[str]) -> str:
    match = difflib.get_close_matches(str(word), known, 1, 0.4)
    return f", did you mean {match[0]!r}?" if match else f": accepted are {', '.join(known)}"


_LISTS = {int: "a list of whole numbers", str: "a list of texts"}


def checked(given: Any, section: t.Section, at: str, problems: list[str]) -> dict[str, Any]:
    """The values of a section, defaults where it does not say them; what is wrong is added to `problems`."""
    if given is None:
        given = {}
    if not isinstance(given, Mapping):
        problems.append(f"{at or 'the file'} must be a mapping, not {given!r}")
        return {}
    entries = section.entries
    problems += [f"unknown key {_at(at, key)!r}{_near(key, list(entries))}" for key in given if key not in entries]
    values = {}
    for key, entry in entries.items():
        if given.get(key) is None:
            if entry.default is t.REQUIRED:
                problems.append(f"{_at(at, key)!r} is missing")
            values[key] = entry.default
        else:
            values[key] = _value(given[key], entry, _at(at, key), problems)
    return values


def _at(at: str, key: Any) -> str:
    return f"{at}.{key}" if at else str(key)


def _value(given: Any, entry: t.Entry, at: str, problems: list[str]) -> Any:
    kind = entry.kind
    if isinstance(kind, t.Section):
        return checked(given, kind, at, problems)
    if isinstance(kind, t.OneOf):
        return _one_of(given, kind, at, problems)
    if isinstance(kind, t.Each):
        if not isinstance(given, list):
            problems.append(f"{at} must be a list, not {given!r}")
            return []
        return [_value(item, t.Entry(kind.kind), f"{at}.{i}", problems) for i, item in enumerate(given)]
    if kind is t.TEXT_OR_TEXTS:
        if isinstance(given, str) or isinstance(given, list) and given and all(isinstance(item, str) for item in given):
            return given
        problems.append(f"{at} must be text or a list of texts, not {given!r}")
        return entry.default
    value = _typed(given, kind)
    if value is None:
        name = _LISTS[kind[0]] if isinstance(kind, list) else {int: "a whole number", float: "a number"}.get(kind, kind)
        words = {bool: "True or False", str: "text"}.get(kind, name)
        problems.append(f"{at} must be {words}, not {given!r}")
    elif entry.only and value not in entry.only:
        accepted = " or ".join(repr(v) for v in entry.only)
        problems.append(f"{at} is {value!r}, but only {accepted} is supported")
    elif isinstance(value, (int, float)) and value < entry.least:
        problems.append(f"{at} is {value}, but must be at least {entry.least:g}")
    elif kind == [int] and any(number < 1 for number in value):
        problems.append(f"{at} is {value}, but its numbers must be at least 1")
    return value


def _typed(given: Any, kind: Any) -> Any:
    """`given` as `kind`, or None. Numbers may be written as text (YAML reads 1e-4, without a point, as text)."""
    if kind is bool or isinstance(given, bool):
        return given if kind is bool and isinstance(given, bool) else None
    if kind is float:
        try:
            value = float(given)
        except (TypeError, ValueError):
            return None
        return value if value - value == 0 else None
    if kind is int:
        return given if isinstance(given, int) else None
    if isinstance(kind, list):
        return list(given) if isinstance(given, list) and all(type(item) is kind[0] for item in given) else None
    return given if isinstance(given, kind) else None


def _one_of(given: Any, kind: t.OneOf, at: str, problems: list[str]) -> dict[str, Any]:
    if not isinstance(given, Mapping) or not isinstance(given.get("target"), str):
        problems.append(f"{at} must be a mapping with 'target' and 'params'")
        return {}
    extra = dict(kind.extra)
    keys = ("target", "params", *extra)
    problems += [f"unknown key {_at(at, key)!r}{_near(key, keys)}" for key in given if key not in keys]
    target = given["target"]
    if target not in kind.targets:
        problems.append(f"{at}.target is {target!r}{_near(target, kind.targets)}")
        return {}
    beside = {key: given[key] for key in extra if key in given}
    params = checked(given.get("params"), t.Section(t.TARGETS[target]), f"{at}.params", problems)
    return {"target": target, "params": params, **checked(beside, t.Section(extra), at, problems)}
