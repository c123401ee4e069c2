"""The settings of the YAML and the flags of the command as controls, and where they are kept: Settings.overrides and .flags."""

import json
import re
from dataclasses import dataclass, replace
from typing import Any, Mapping, get_type_hints

from gm.config import table as t
from gm.config.yaml_text import read_yaml
from gm.options.parser import item_type, reader_of
from gm.options.train import TrainOptions
from studio.draft import Draft, Settings
from studio.recipe import command
from studio.recipe import flags as f
from studio.recipe.controls import Control, as_text, draw
from studio.recipe.fields import Field, entry_of, value_of
from studio.recipe.topics import ALL
from studio.recipe.topics_learning import PARAMS, SCHEDULE
from studio.recipe.topics_subject import RATE
from studio.recipe.tree import OPTIMIZER, Tree, found
from studio.visit import Studio
from studio.words import say

# an optimizer -> what is set with it: it expects another rate than the one before
SUGGESTED = {
    t.ADAMW: {RATE: "1e-4"},
    t.ADAM_WEIGHT_DECAY: {RATE: "1e-4"},
    t.PRODIGY: {
        RATE: "1.0",
        PARAMS + "beta2": "0.99",
        PARAMS + "weight_decay": "0.01",
        PARAMS + "use_bias_correction": "True",
        PARAMS + "safeguard_warmup": "True",
    },
    t.ADAFACTOR: {
        RATE: "5e-4",
        PARAMS + "scale_parameter": "False",
        PARAMS + "relative_step": "False",
    },
    t.LION: {RATE: "3e-5"},
}

RELATIVE = PARAMS + "relative_step"
OWN_RATE = {RATE: "null", SCHEDULE.rstrip("."): "null", "optim.rates": "null"}  # what a relative step goes without


@dataclass(frozen=True)
class Prepared:
    """What a run of the page knows of the training that is prepared."""

    studio: Studio
    draft: Draft
    settings: Settings
    tree: Tree  # all that counts, with the visitor's settings
    total_step: int  # updates

    def draw_field(self, field: Field) -> None:
        """The widget of a key of the YAML, where the key acts."""
        entry = entry_of(field.name, self.tree)
        if entry is None or field.when is not None and not field.when(self.tree):
            return
        value, is_section = value_of(field, self.tree), isinstance(entry.kind, t.Section)
        control = Control(
            name=field.name,
            label=say(field.label),
            help=f"{say(field.help)} `{field.name.rpartition('.')[2]}`",
            kind=bool if is_section else entry.kind,
            value=isinstance(value, dict) if is_section else as_text(value) if isinstance(value, list) else value,
            choices=field.choices or (entry.only if entry.only and entry.kind is not bool else None),
            optional=entry.default is None and not is_section and not field.name.endswith(".target"),
            least=entry.least,
            most=entry.most,
        )
        draw(control, lambda given: self.keep_field(field, given))

    def keep_field(self, field: Field, given: Any) -> None:
        """Keep what differs from what counts without it, and what goes with it."""
        overrides = dict(self.draft.settings().overrides)
        for key in list(overrides):
            above = any(one.startswith(key + ".") for one in field.keys) and overrides[key] == "null"
            inside = given in (False, None) and key.startswith(field.name + ".")
            if key in field.keys or above or inside or _goes_with(key, field):
                overrides.pop(key)
        entry = entry_of(field.name, self.tree)
        is_section = entry is not None and isinstance(entry.kind, t.Section)
        usual = value_of(field, self._tree_with(overrides))
        if (isinstance(usual, dict) if is_section else usual) != given:
            text = ("{}" if given else "null") if is_section else yaml_of(given)
            overrides |= dict.fromkeys(field.keys, text)
            overrides |= SUGGESTED.get(str(given), {}) if field.name == OPTIMIZER else {}
        if field.name == RELATIVE:
            overrides |= OWN_RATE if given else {RATE: SUGGESTED[t.ADAFACTOR][RATE]}
        self.draft.change(overrides=self._without_idle(overrides))

    def _tree_with(self, overrides: Mapping[str, str]) -> Tree:
        return command.whole_tree(self.studio, replace(self.draft.settings(), overrides=dict(overrides)))

    def _without_idle(self, overrides: dict[str, str]) -> dict[str, str]:
        """Without what does not act any more; what a recipe says there is taken back, where it would be refused."""
        tree = self._tree_with(overrides)
        idle = [key for field in ALL if field.when is not None and not field.when(tree) for key in field.keys]
        overrides = {key: value for key, value in overrides.items() if key not in idle}
        tree = self._tree_with(overrides)
        for key in idle:
            entry = entry_of(key, tree)
            if entry is not None and entry.default is not t.REQUIRED and found(tree, key) not in (None, entry.default):
                overrides[key] = yaml_of(entry.default)
        return overrides

    def draw_flag(self, name: str) -> None:
        """The widget of a flag of the command, where it can be given on this device."""
        if name not in f.acting(command.device_of(self.settings)):
            return
        flag, kind = f.known()[name], item_type(get_type_hints(TrainOptions)[name])
        read, text = reader_of(TrainOptions, name), self.flag_text(name)
        choices = f.FEATURES if name == "features" else flag.choices
        if name == "cache_text_products":
            kind, choices, text = str, ("auto", "True", "False"), text or "auto"
        value = text if choices == f.FEATURES or kind is str else read(text) if text else None
        control = Control(
            name=name,
            label=say(f.LABELS[name]),
            help=f"{f.help_of(name)} `--{name}`",
            kind=kind,
            value=value,
            choices=choices,
            optional=flag.default is None and name not in ("features", "cache_text_products"),
            least=flag.least,
            above=flag.above,
            most=flag.most,
            read=None if kind in (int, float, bool) else read,
        )
        draw(control, lambda given: self.keep_flag(name, given))

    def flag_text(self, name: str) -> str:
        """What is given for a flag, by the visitor, the page or the command's own default; empty: nothing."""
        of_page = command.defaults_of(self.studio, self.settings, self.total_step)
        return self.settings.flags.get(name, of_page.get(name, f.usual().get(name, "judge" if name == "features" else "")))

    def keep_flag(self, name: str, given: Any) -> None:
        """Keep what differs from what is given without it."""
        settings = self.draft.settings()
        flags = {other: value for other, value in settings.flags.items() if other != name}
        text = "" if given is None else as_text(given)
        before = replace(self, settings=replace(settings, flags=flags)).flag_text(name)
        if text and text != before and not (name == "cache_text_products" and text == "auto"):
            flags[name] = text
        self.draft.change(flags=flags)


def _goes_with(key: str, field: Field) -> bool:
    """Whether a setting was made for what stood at `field` before."""
    if field.name == OPTIMIZER:
        return key.startswith(PARAMS) or key == RATE or key in OWN_RATE
    return field.name == RELATIVE and key in OWN_RATE


def yaml_of(value: Any) -> str:
    """The value as YAML has it on one line."""
    if value is None:
        return "null"
    if not isinstance(value, str):
        return as_text(value)
    is_plain = re.fullmatch(r"[\w.-]+", value) and read_yaml(value, "") == value
    return value if is_plain else json.dumps(value, ensure_ascii=False)
