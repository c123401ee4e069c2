"""A frozen dataclass is a command line: one field is one flag, with its type, default, help and bounds in one line.

    @dataclass(frozen=True)
    class Options:
        config: str = option(REQUIRED, "the model", metavar="YAML")
        num_cols: int = option(1, "pictures per prompt", least=1, group="pictures")

    options = parse(Options, argv, "sample.py", "Sample pictures.")

The annotation says how the text is read: int, float, bool (True or False), str, Path, Optional of these, and a tuple for
numbers separated by commas; what its metavar calls a file or a folder is read as a path. Numbers without bounds of their own
have those of gm/texts.py. No MindSpore import.
"""

import argparse
import difflib
import json
import sys
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, Callable, Mapping, Optional, Sequence, TypeVar, Union, get_args, get_origin, get_type_hints

from gm.console import log
from gm.errors import UserError, shortened, shown
from gm.texts import number, path_text, require_text

REQUIRED = object()
PATHS = ("FOLDER", "FILE", "FILE.py", "YAML", "PATH", "PNG")  # metavars of flags whose text is a path
PATH_LISTS = ("BASE[,LORA]", "BASE,LORA[,LORA]")  # of several, separated by commas
Options = TypeVar("Options")


@dataclass(frozen=True)
class Flag:
    """What a field's metadata says of its flag."""

    help: str
    group: str
    default: Any  # REQUIRED, a value, or a function that finds one
    least: Optional[float]  # the smallest number
    above: Optional[float]  # numbers must be larger than this
    most: Optional[float]  # the largest number
    choices: Optional[tuple]
    metavar: Optional[str]
    shown: Optional[str]  # words for the default in --help
    read: Optional[Callable[[str], Any]]  # text -> value, where the annotation does not say it
    repeated: bool  # given any number of times; the field is a tuple
    positional: bool  # given without its name


def option(
    default: Any,
    help: str,
    *,
    group: str = "flags",
    least: Optional[float] = None,
    above: Optional[float] = None,
    most: Optional[float] = None,
    choices: Optional[Sequence] = None,
    metavar: Optional[str] = None,
    shown: Optional[str] = None,
    read: Optional[Callable[[str], Any]] = None,
    repeated: bool = False,
    positional: bool = False,
) -> Any:
    """A field that is a flag. `default`: REQUIRED, a value, or a function that finds one when nobody gives it.

    `read` raises ValueError with the end of a sentence ("'x' is not a size"), or UserError with a whole one.
    """
    chosen = tuple(choices) if choices is not None else None
    flag = Flag(help, group, default, least, above, most, chosen, metavar, shown, read, repeated, positional)
    if default is REQUIRED:
        return field(default_factory=_missing, metadata={"flag": flag})
    if callable(default):
        return field(default_factory=default, metadata={"flag": flag})
    return field(default=default, metadata={"flag": flag})


def _missing() -> None:
    raise TypeError("an option without a default was not given")


def parse(
    options: type[Options],
    argv: Optional[Sequence[str]],
    prog: str,
    about: str,
    ignored: Mapping[str, Sequence[str]] = {},
    moved: Mapping[str, str] = {},
) -> Options:
    """The dataclass from a command line, sys.argv's when None; UserError with one sentence for what is not accepted.

    `ignored`: flags of older scripts that change nothing and are not in --help, and the values they may have. `moved`: flags
    that are a key of the YAML now.
    """
    parser = parser_of(options, prog, about)
    for name, values in ignored.items():
        parser.add_argument(name, choices=tuple(values), help=argparse.SUPPRESS, default=argparse.SUPPRESS)
    argv = list(sys.argv[1:] if argv is None else argv)
    _require_text(argv)
    flags = ["--help", *(f"--{one.name}" for one in fields(options) if not one.metadata["flag"].positional)]
    for name in (word.split("=", 1)[0] for word in argv if word.startswith("--")):
        if name in moved:
            raise UserError(f"{name} is a key of the YAML now: give --set {moved[name]}=VALUE")
        if name not in flags and name not in ignored:
            near = difflib.get_close_matches(name[:80], flags, 1)
            raise UserError(
                f"unknown flag {shortened(name, 80)}"
                + (f", did you mean {near[0]}?" if near else "; --help lists the known ones")
            )
    try:
        known, unknown = parser.parse_known_args(argv)
    except _Sentence as sentence:
        raise sentence.error from None
    if unknown:
        raise UserError(f"unexpected {shown(unknown[0])}: values follow their flag, and one with spaces needs quotes")
    given = {name: value for name, value in vars(known).items() if f"--{name}" not in ignored}
    repeated = {one.name for one in fields(options) if one.metadata["flag"].repeated}
    _tell_of_repeated(argv, {f"--{name}" for name in repeated})
    return options(**{name: tuple(value) if name in repeated else value for name, value in given.items()})


def _require_text(argv: Sequence[str]) -> None:
    """UserError naming the flag whose words are no text."""
    flag = "the command line"
    for word in argv:
        flag = word.split("=", 1)[0] if word.startswith("--") else flag
        try:
            require_text(word)
        except ValueError as error:
            raise UserError(f"{flag}: {error}") from None


def _tell_of_repeated(argv: Sequence[str], repeatable: set[str]) -> None:
    """Say which of several values counts: as everywhere on command lines, the last."""
    given: dict[str, list[str]] = {}
    for place, word in enumerate(argv):
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            given.setdefault(name, []).append(value if equals else " ".join(argv[place + 1 : place + 2]))
    for name, values in given.items():
        if name not in repeatable and len(set(values)) > 1:
            log.warning("%s was given %d times, the last counts: %s", name, len(values), shown(values[-1]))


def parser_of(options: type, prog: str, about: str) -> argparse.ArgumentParser:
    """The argparse parser of a dataclass; its --help shows the groups in the order in which the fields name them."""
    required = [_usage(one) for one in fields(options) if one.metadata["flag"].default is REQUIRED]
    usage = " ".join(["%(prog)s", *required, "[--flag VALUE ...]"])
    parser = _Parser(prog=prog, usage=usage, description=about, allow_abbrev=False)
    types, groups = get_type_hints(options), {}
    for one in fields(options):
        flag: Flag = one.metadata["flag"]
        if flag.group not in groups:
            groups[flag.group] = parser.add_argument_group(flag.group)
        kind = item_type(types[one.name])
        settings = {
            "type": _reader(types[one.name], flag),
            "choices": flag.choices,
            "help": _help(flag).replace("%", "%%"),
            "metavar": flag.metavar or _metavar(kind, flag),
            "default": argparse.SUPPRESS,  # the dataclass has the defaults
        }
        if flag.positional:
            groups[flag.group].add_argument(one.name, **settings)
            continue
        action = "append" if flag.repeated else "store"
        groups[flag.group].add_argument(f"--{one.name}", action=action, required=flag.default is REQUIRED, **settings)
    return parser


class _Parser(argparse.ArgumentParser):
    """Raises UserError instead of printing usage and leaving."""

    def error(self, message: str) -> None:
        raise UserError(f"{message}; --help lists what is accepted")


class _Sentence(Exception):
    """A UserError on its way through argparse, which would reword a ValueError."""

    def __init__(self, error: UserError):
        super().__init__(str(error))
        self.error = error


def item_type(annotation: Any) -> Any:
    """The type of one value: X of Optional[X] and of tuple[X, ...]."""
    if get_origin(annotation) is Union:
        return item_type(next(part for part in get_args(annotation) if part is not type(None)))
    return get_args(annotation)[0] if get_origin(annotation) is tuple else annotation


def _is_tuple(annotation: Any) -> bool:
    """Whether it is tuple[...] or Optional of one."""
    parts = get_args(annotation) if get_origin(annotation) is Union else (annotation,)
    return any(get_origin(part) is tuple for part in parts)


def _reader(annotation: Any, flag: Flag) -> Callable[[str], Any]:
    """text -> value for argparse, by the annotation or by the flag's own function."""
    one = flag.read or _reader_of_one(item_type(annotation), flag)
    is_list = _is_tuple(annotation) and not flag.repeated and flag.read is None

    def read(text: str) -> Any:
        try:
            return tuple(one(part) for part in text.split(",")) if is_list else one(text)
        except UserError as error:
            raise _Sentence(error) from None
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read


def _reader_of_one(kind: Any, flag: Flag) -> Callable[[str], Any]:
    if kind is bool:
        return boolean
    if kind in (int, float):
        return lambda text: number(text, kind, flag.least, flag.above, flag.most)
    if flag.metavar in PATH_LISTS:
        return lambda text: ",".join(path_text(part) for part in text.split(","))
    return (lambda text: kind(path_text(text))) if flag.metavar in PATHS else kind


def fields_of(options: type) -> dict[str, Flag]:
    """Name of a field -> its flag."""
    return {one.name: one.metadata["flag"] for one in fields(options)}


def reader_of(options: type, name: str) -> Callable[[object], Any]:
    """What a file says of a flag, as text, number, truth or list of numbers -> its value; ValueError with the end of a sentence."""
    flag, annotation = fields_of(options)[name], get_type_hints(options)[name]
    one, is_list = flag.read or _reader_of_one(item_type(annotation), flag), _is_tuple(annotation) and flag.read is None

    def read(value: object) -> Any:
        parts = value if is_list and isinstance(value, list) else str(value).split(",") if is_list else [value]
        found = [one(str(part).strip()) for part in parts]
        if flag.choices is not None and any(part not in flag.choices for part in found):
            raise ValueError(f"{shown(value)} is not one of {', '.join(str(choice) for choice in flag.choices)}")
        return tuple(found) if is_list else found[0]

    return read


def as_text(options: Any, name: str) -> Optional[str]:
    """What would be given for a flag to have its value; that of a repeatable one as a JSON list. None where it is the default."""
    flag, value = fields_of(type(options))[name], getattr(options, name)
    if value is None or value == (flag.default() if callable(flag.default) else flag.default):
        return None
    if flag.repeated:
        return json.dumps([as_given(part) for part in value], ensure_ascii=False)
    return ",".join(map(as_given, value)) if isinstance(value, tuple) else as_given(value)


def as_given(value: Any) -> str:
    """A value as it is typed."""
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return str(value)


def boolean(text: str) -> bool:
    """True or False; ValueError for anything else."""
    if text.lower() not in ("true", "false"):
        raise ValueError(f"{shown(text)} is neither True nor False")
    return text.lower() == "true"


def _metavar(kind: Any, flag: Flag) -> Optional[str]:
    if flag.choices is not None:
        return "|".join(str(choice) for choice in flag.choices) if len(flag.choices) <= 5 else "NAME"
    return {bool: "True|False", int: "N", float: "NUMBER", Path: "PATH"}.get(kind, "TEXT")


def _usage(one: Field) -> str:
    flag = one.metadata["flag"]
    value = flag.metavar or "..."
    return value if flag.positional else f"--{one.name} {value}"


def _help(flag: Flag) -> str:
    """The help text, with the choices that are too many for its head and the default where there is one."""
    words = flag.help
    if flag.choices is not None and len(flag.choices) > 5:
        words += f": {', '.join(str(choice) for choice in flag.choices)}"
    shown = flag.shown
    if shown is None and flag.default is not REQUIRED and flag.default not in (None, "", ()) and not callable(flag.default):
        shown = str(flag.default)
    if flag.default is REQUIRED:
        return f"{words} (required)"
    return words if shown is None else f"{words} (default: {shown})"
