"""A recipe on its way into this suite: the settings of another trainer, what became of each, and what is written of them.

An importer reads `Settings`, one topic after the other. For each name it says what became of it, by `taken`, `differs` or
`unsupported`, and it puts what this suite shall do into the `Draft`. What no topic has looked at is `unknown`: nothing is dropped
without a row.
"""

from dataclasses import dataclass, field
from typing import Any, Mapping, Optional, Sequence, Union

from gm.errors import UserError, shown
from gm.texts import number

TAKEN = "taken over"  # it means the same here
DIFFERS = "differs"  # it means something else here: the words say what and how much
UNSUPPORTED = "not supported"  # the words say what is done instead
UNKNOWN = "unknown"  # no setting that the importer has heard of
OUTCOMES = (TAKEN, DIFFERS, UNSUPPORTED, UNKNOWN)
DEFAULT = "(its default)"  # beside the value of a setting that the source leaves out

# beginnings of keys of the YAML
ENGINE = "model.params."
UNET = ENGINE + "network_config.params."
EMBEDDERS = ENGINE + "conditioner_config.params.emb_models."
DENOISER = ENGINE + "denoiser_config.params."
LOSS = ENGINE + "loss_fn_config.params."
TIMESTEPS = ENGINE + "sigma_sampler_config.params."
DATASET = "data.dataset_config.params."
MODULES = "gm.modules.diffusionmodules."

LARGEST = 2.0**64  # of a number in a recipe

Names = Union[str, Sequence[str]]


@dataclass(frozen=True)
class Row:
    """What became of one setting."""

    name: str  # in the source
    given: str
    outcome: str  # one of OUTCOMES
    words: str  # where it went, or what is done instead


class Settings:
    """The settings of a source by its names, and what became of each."""

    def __init__(self, values: Mapping[str, Any], tool: str, where: str, shown_as: Mapping[str, str] = {}):
        """`tool`: whose settings they are, for people. `where`: how messages begin, e.g. "--recipe a.json". `shown_as`: names that are
        others in the file that was read. What is None, or an empty text, is not given."""
        self.values = {name: value for name, value in values.items() if value is not None and value != "" and value != []}
        self.empty = [name for name, value in values.items() if name not in self.values]
        self.tool, self.where, self.shown_as = tool, where, shown_as
        self.rows: list[Row] = []
        self._done: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def number(self, name: str, kind: type, default: Any = None) -> Any:
        """An int or a float, as a number or a text says it. UserError for anything else."""
        return self._number(name, self.values.get(name, default), kind)

    def numbers(self, name: str) -> list[float]:
        """Those of a list, or of a text that parts them by spaces, commas or x, in brackets or not. UserError for anything else."""
        value = self.values.get(name, [])
        parts = value if isinstance(value, list) else str(value).replace(",", " ").replace("x", " ").strip("()[] ").split()
        return [self._number(name, part, float) for part in parts]

    def _number(self, name: str, value: Any, kind: type) -> Any:
        if value is None or isinstance(value, kind) and not isinstance(value, bool) and abs(value) <= LARGEST:
            return value
        try:
            found = number(str(value).strip(), float, least=-LARGEST, most=LARGEST)
            if kind is int and found != int(found):
                raise ValueError(f"{shown(value)} is not a whole number")
        except ValueError as error:
            raise UserError(f"{self.where}: {name}: {error}") from None
        return kind(found)

    def flag(self, name: str, default: bool = False) -> bool:
        """True or False, as JSON, or as texts and numbers say it. UserError for anything else."""
        value = self.values.get(name, default)
        known = {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}
        found = known.get(str(value).strip().lower())
        if found is None:
            raise UserError(f"{self.where}: {name} is {shown(value)}: it must be true or false")
        return found

    def text(self, name: str, default: Optional[str] = None) -> Optional[str]:
        """A text; numbers become one. UserError for a list or a mapping."""
        value = self.values.get(name, default)
        if isinstance(value, (list, dict)):
            raise UserError(f"{self.where}: {name} is {shown(value)}: it must be a text")
        return None if value is None else str(value)

    def words(self, name: str) -> list[str]:
        """A list of texts; a text is split at spaces, quotes are taken off."""
        value = self.values.get(name, [])
        parts = value if isinstance(value, list) else str(value).split()
        return [str(part).replace('"', "").replace("'", "").strip() for part in parts if str(part).strip()]

    def taken(self, names: Names, words: str) -> None:
        """The setting means the same here. Of several `names`, and in the two below, each that is given gets the row."""
        self.say(TAKEN, names, words)

    def differs(self, names: Names, words: str) -> None:
        """It means something else here; `words`: what, and how much."""
        self.say(DIFFERS, names, words)

    def unsupported(self, names: Names, words: str) -> None:
        """There is no such thing here; `words`: what is done instead."""
        self.say(UNSUPPORTED, names, words)

    def say(self, outcome: str, names: Names, words: str) -> None:
        """The row of a setting, unless it has one."""
        for name in [names] if isinstance(names, str) else names:
            if name in self and name not in self._done:
                self._done.add(name)
                self.row(self.shown_as.get(name, name), self.values[name], outcome, words)

    def default(self, name: str, value: object, words: str, outcome: str = TAKEN) -> None:
        """A row for a setting that is not given, whose default in the source must be written out here."""
        if name not in self:
            self.rows.append(Row(name, f"{value} {DEFAULT}", outcome, words))

    def off(self, names: Names) -> None:
        """Settings that are given with a value that means: not at all."""
        self.say(TAKEN, names, "off, as here")

    def close(self) -> None:
        """What has no row becomes unknown."""
        self.say(UNKNOWN, list(self.values), "not a setting that this importer knows: look up what it does")

    def row(self, name: str, value: object, outcome: str, words: str) -> None:
        """A row for what is no setting of its own."""
        self.rows.append(Row(name, shown(value), outcome, words))


@dataclass
class Draft:
    """What this suite shall do."""

    tree: dict[str, Any] = field(default_factory=dict)  # of the YAML
    flags: dict[str, Any] = field(default_factory=dict)  # of the command, without --
    notes: list[str] = field(default_factory=list)  # sentences below the table: arithmetic, warnings

    def put(self, key: str, value: Any) -> None:
        """An entry of the YAML; its parts are separated by dots, and a number stands for an item of a list."""
        parts: list[Any] = [int(part) if part.isdigit() else part for part in key.split(".")]
        *above, last = parts
        at: dict[Any, Any] = self.tree
        for part in above:
            at = at.setdefault(part, {})
        at[last] = value

    def target(self, key: str, target: str, params: Optional[Mapping[str, Any]] = None) -> None:
        """A section with `target` and `params`."""
        self.put(key, {"target": target, "params": dict(params or {})})
