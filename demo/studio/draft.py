"""The training that a visitor prepares: its photos, and what is set, kept in files so that a reload loses nothing."""

import json
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from gm.files import replacing


@dataclass(frozen=True)
class Settings:
    """What the visitor has set."""

    model: str = ""  # a name among Studio.models; empty: the first that can be trained
    preset: str = ""  # of configs/recipes, or empty: the model's own YAML
    recipe: str = ""  # the name of an imported YAML in the draft's folder, instead of a preset
    name: str = ""  # of the job; empty: made from the prompt
    device: str = ""  # --device_target; empty: what is here
    instance_prompt: str = ""
    class_prompt: str = ""  # empty: without class images
    flags: dict[str, str] = field(default_factory=dict)  # of train_dreambooth.py, without --, as on the command line
    overrides: dict[str, str] = field(default_factory=dict)  # KEY -> VALUE of --set
    excluded: tuple[str, ...] = ()  # names of photos that are left out


@dataclass(frozen=True)
class Draft:
    """A folder: photos/ with captions and masks beside them, settings.json, and what other parts keep there."""

    folder: Path

    @property
    def photos(self) -> Path:
        return self.folder / "photos"

    def settings(self) -> Settings:
        """What was set last; what cannot be read is as if it was never set."""
        try:
            content = json.loads((self.folder / "settings.json").read_text(encoding="utf-8"))
            known = {one.name: one for one in fields(Settings)}
            given: dict[str, Any] = {name: value for name, value in content.items() if name in known}
            if "excluded" in given:
                given["excluded"] = tuple(given["excluded"])
            return Settings(**given)
        except (OSError, ValueError, TypeError, AttributeError):
            return Settings()

    def change(self, **changes: Any) -> Settings:
        """Set these fields, keep the others."""
        settings = replace(self.settings(), **changes)
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(self.folder / "settings.json") as unfinished:
            unfinished.write_text(json.dumps(asdict(settings), ensure_ascii=False, indent=1), encoding="utf-8")
        return settings
