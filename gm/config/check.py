"""A plain tree, as YAML gives it, against the table of what may stand there: types, names, bounds.

What fits together is checked where the values become dataclasses: model.py, lora.py, optim.py, data.py.
"""

import difflib
import unicodedata
from typing import Any, Mapping, Sequence

from gm.config import table as t
from gm.errors import shown
from gm.texts import LARGEST, LONGEST_PROMPT, in_digits, number, path_text, prompt_text, require_text

MOST_ITEMS = {int: 16, str: 1000}  # of a list of numbers or texts
_NAMES = {
    int: "a whole number",
    float: "a finite number",
    bool: "True or False",
    str: "text",
    t.PATH: "the text of a path",
    t.PROMPT: "text",
    t.TEXT_OR_TEXTS: "text or a list of texts",
    t.NUMBER_OR_NUMBERS: "a whole number or a list of whole numbers",
}
_ONE_OR_MORE = {t.TEXT_OR_TEXTS: str, t.NUMBER_OR_NUMBERS: int}  # kind -> of each
_LISTS = {int: "a list of whole numbers", str: "a list of texts"}
_TYPES = {
    int: int,
    float: (int, float),
    bool: bool,
    str: str,
    t.PATH: str,
    t.PROMPT: str,
    **{kind: () for kind in _ONE_OR_MORE},
}


def _text(given: str) -> str:
    require_text(given)
    return given


_READ = {str: _text, t.PATH: path_text, t.PROMPT: prompt_text}


def _near(word: Any, known: Sequence[str]) -> str:
    plain = unicodedata.normalize("NFKC", str(word)[:100])  # full-width letters are the same words
    match = difflib.get_close_matches(plain, known, 1, 0.4)
    return f", did you mean {match[0]!r}?" if match else f": accepted are {', '.join(known)}"


def checked(given: Any, section: t.Section, at: str, problems: list[str]) -> dict[str, Any]:
    """The values of a section, defaults where it does not say them; what is wrong is added to `problems`."""
    if given is None:
        given = {}
    if not isinstance(given, Mapping):
        problems.append(f"{at or 'the file'} must be a mapping, not {shown(given)}")
        return {}
    entries = section.entries
    problems += [f"unknown key {shown(_at(at, key))}{_near(key, list(entries))}" for key in given if key not in entries]
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
    """What an entry means; where that is nothing, a sentence is added to `problems` and it is None."""
    kind = entry.kind
    if isinstance(kind, t.Section):
        return checked(given, kind, at, problems)
    if isinstance(kind, t.OneOf):
        return _one_of(given, kind, at, problems)
    if isinstance(kind, t.Each):
        if not isinstance(given, list):
            problems.append(f"{at} must be a list, not {shown(given)}")
            return []
        return [_value(item, t.Entry(kind.kind), f"{at}.{i}", problems) for i, item in enumerate(given)]
    try:
        return _plain(given, entry)
    except ValueError as error:
        problems.append(f"{at} {error}")
        return None


def _plain(given: Any, entry: t.Entry) -> Any:
    """The value of an entry that is no section; ValueError with the end of a sentence about it."""
    kind: Any = entry.kind
    one = None if isinstance(kind, list) else _ONE_OR_MORE.get(kind)
    if one and given != []:
        kind = [one] if isinstance(given, list) else one
    otherwise = f"must be {_LISTS[kind[0]] if isinstance(entry.kind, list) else _NAMES[entry.kind]}, not {shown(given)}"
    if isinstance(kind, list):
        if not isinstance(given, list):
            raise ValueError(otherwise)
        if not entry.fewest <= len(given) <= MOST_ITEMS[kind[0]]:
            raise ValueError(f"has {len(given)} items, but must have {entry.fewest} to {MOST_ITEMS[kind[0]]}")
        value: Any = [_one(item, kind[0], entry, otherwise) for item in given]
    else:
        value = _one(given, kind, entry, otherwise)
    if entry.only and value not in entry.only:
        accepted = " or ".join(repr(v) for v in entry.only)
        raise ValueError(f"is {shown(value)}, but only {accepted} is supported")
    return value


def _one(given: Any, kind: Any, entry: t.Entry, otherwise: str) -> Any:
    """One value, within its bounds. Numbers may be written as text, as quotes make it."""
    if kind is float and isinstance(given, str):
        try:
            given = number(given, float, least=float("-inf"), most=float("inf"))
        except ValueError:
            raise ValueError(otherwise) from None
    if not isinstance(given, _TYPES[kind]) or isinstance(given, bool) and kind is not bool:
        raise ValueError(otherwise)
    if kind in (int, float):
        return _within(given, kind, entry)
    if isinstance(given, str):
        if len(given) > LONGEST_PROMPT:
            raise ValueError(f"has {len(given)} characters: give at most {LONGEST_PROMPT}")
        given = _READ[kind](given)
    return given


def _within(given: Any, kind: type, entry: t.Entry) -> Any:
    """The number as its kind."""
    if given != given or given in (float("inf"), float("-inf")):
        raise ValueError(f"must be a finite number, not {given}")
    given = kind(given)
    least = -LARGEST[kind] if entry.least is None else entry.least
    most = LARGEST[kind] if entry.most is None else entry.most
    if not least <= given <= most:
        bound = f"at least {in_digits(least)}" if given < least else f"at most {in_digits(most)}"
        raise ValueError(f"is {shown(given)}, but must be {bound}")
    return given


def _one_of(given: Any, kind: t.OneOf, at: str, problems: list[str]) -> dict[str, Any]:
    if not isinstance(given, Mapping) or not isinstance(given.get("target"), str):
        problems.append(f"{at} must be a mapping with 'target' and 'params', not {shown(given)}")
        return {}
    extra = dict(kind.extra)
    keys = ("target", "params", *extra)
    problems += [f"unknown key {shown(_at(at, key))}{_near(key, keys)}" for key in given if key not in keys]
    target = given["target"]
    if target not in kind.targets:
        problems.append(f"{at}.target is {shown(target)}{_near(target, kind.targets)}")
        return {}
    beside = {key: given[key] for key in extra if key in given}
    params = checked(given.get("params"), t.Section(t.TARGETS[target]), f"{at}.params", problems)
    return {"target": target, "params": params, **checked(beside, t.Section(extra), at, problems)}
