"""What is set on the page: names of flags -> values, kept in a file of the visitor, so that a reload loses nothing.

A widget shows a setting by its key (`keyed`); what it returns is put back. A setting that is changed otherwise - by "again", by a
preset - takes the widget's state away, so that the widget shows the setting again.
"""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any, Mapping, Optional

import streamlit as st

from gm.checkpoint.weights import split_weight_argument
from gm.files import replacing
from gm.options.sample import SampleOptions
from studio.visit import Studio

KEY = "sampling:"  # what the keys of this part's widgets begin with
KEPT = "sampling.settings"  # of the session
PROMPTS = 30  # that are remembered
NUMBERS = (
    *("seed", "sample_step", "guidance_scale", "guidance_rescale", "guidance_start", "guidance_stop", "eta", "clip_skip"),
    *("hires_scale", "hires_strength", "hires_steps", "strength", "mask_blur", "max_tokens"),
    *("orig_height", "orig_width", "target_height", "target_width", "crop_coords_top", "crop_coords_left"),
    *(f"negative_{name}" for name in ("orig_height", "orig_width", "crop_coords_top", "crop_coords_left")),
    *("negative_target_height", "negative_target_width"),
)
WORDS = (
    *("prompt", "negative_prompt", "sampler", "schedule", "guider", "noise", "prompt_style", "hires_upscaler", "task"),
    *("resize_mode", "img", "mask", "vae", "init_latent_path"),
)
FLAGS = (*NUMBERS, *WORDS)  # that are set by their own names and values


def begin_with(options: SampleOptions) -> dict[str, Any]:
    """The settings that these options say."""
    height, width = options.size()
    _, paths = split_weight_argument(options.weight)
    scales = [*(options.lora_scale or ()), *[1.0] * len(paths)]
    from_picture = options.img is not None and not (options.height or options.width or options.sd_xl_base_ratios)
    return {
        **{name: getattr(options, name) for name in FLAGS},
        "num_cols": options.num_cols,
        "height": None if from_picture else height,
        "width": None if from_picture else width,
        "embedding": ",".join(options.embedding),
        "lora": [{"path": path, "strength": scale, "on": True} for path, scale in zip(paths, scales)],
        "across": "",
        "across_values": "",
        "down": "",
        "down_values": "",
    }


class Settings:
    """Of one visitor."""

    def __init__(self, path: Path, model: str, values: Mapping[str, Any], prompts: list[str]):
        """`values`: those of the model where nothing was set."""
        self.path, self.model, self.values, self.prompts = path, model, dict(values), prompts
        self._start, self._written = dict(values), ""

    def load(self) -> None:
        """What was set last time, as far as it is of the same kind."""
        with suppress(OSError, ValueError, TypeError, AttributeError):
            content = json.loads(self.path.read_text(encoding="utf-8"))
            self.prompts = [str(one) for one in content["prompts"]][:PROMPTS]
            self.values |= {name: value for name, value in content["values"].items() if self._fits(name, value)}

    def _fits(self, name: str, value: Any) -> bool:
        if name not in self.values:
            return False
        if name == "lora":
            return isinstance(value, list) and all(isinstance(one.get("path"), str) for one in value)
        kinds = (int, float) if name in NUMBERS or name in ("width", "height", "num_cols") else (str,)
        return value is None or isinstance(value, kinds)

    def save(self) -> None:
        """Written where something has changed."""
        content = {"model": self.model, "values": self.values, "prompts": self.prompts}
        words = json.dumps(content, ensure_ascii=False, indent=1)
        if words != self._written:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self.path) as unfinished:
                unfinished.write_text(words, encoding="utf-8")
            self._written = words

    def change(self, **values: Any) -> None:
        """Set these; the widgets show them."""
        self.values |= values
        for key in [key for key in st.session_state if str(key).startswith(KEY)]:
            del st.session_state[key]

    def change_model(self, model: str, start: Mapping[str, Any]) -> None:
        """To a model that starts with other values: what was not set goes to them, all else stays."""
        same = {name: value for name, value in start.items() if self.values.get(name) == self._start.get(name)}
        same.pop("lora", None)
        self.model, self._start = model, dict(start)
        self.change(**same)

    def remember(self, prompt: str) -> None:
        """The newest first, each once."""
        self.prompts = [prompt, *(one for one in self.prompts if one != prompt)][:PROMPTS]

    def keyed(self, name: str, value: Any = None) -> str:
        """The key of the widget that shows a setting, or `value` where a setting is something else for it."""
        key = KEY + name
        if key not in st.session_state:
            st.session_state[key] = self.values[name] if name in self.values else value
        return key


def stored_model(path: Path) -> Optional[str]:
    """The model that was chosen last time."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        return str(json.loads(path.read_text(encoding="utf-8"))["model"])
    return None


def file_of(studio: Studio) -> Path:
    return studio.folder / "sampling.json"
