"""The visitor's pictures, the newest first: a list in a file, so that a reload finds them; each with what it was made with."""

import json
import re
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Mapping

from gm.checkpoint.weights import split_weight_argument
from gm.diffusion.names import SAMPLER_NAMES
from gm.errors import UserError, shortened
from gm.files import replacing
from studio.errors import in_plain_words
from studio.sampling.loras import in_words, step_of
from studio.words import say

MOST = 1000  # pictures that are remembered
SHOWN = 12  # at a time
LARGEST_THUMBNAIL = 512  # pixels a side
AT_ONCE = 8_000_000  # bytes of files that are sent to the browser before anybody asks for them
_lock = threading.Lock()


@dataclass(frozen=True)
class Gallery:
    """`file`: JSON, a list of paths, the newest last."""

    file: Path

    def paths(self) -> list[Path]:
        """The newest first, those that are there still."""
        return [path for path in reversed(self._read()) if path.is_file()]

    def add(self, path: Path) -> None:
        """Called by the thread that makes pictures."""
        self._change(lambda paths: [*paths, path])

    def remove(self, path: Path) -> None:
        """From the list; the file stays."""
        self._change(lambda paths: [one for one in paths if one != path])

    def _read(self) -> list[Path]:
        with suppress(OSError, ValueError):
            content = json.loads(self.file.read_text(encoding="utf-8"))
            return [Path(one) for one in content if isinstance(one, str)] if isinstance(content, list) else []
        return []

    def _change(self, change) -> None:
        with _lock:
            paths = change(self._read())[-MOST:]
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self.file) as unfinished:
                unfinished.write_text(json.dumps([str(path) for path in paths], ensure_ascii=False), encoding="utf-8")


def speaking_name(texts: Mapping[str, str]) -> str:
    """How a download is called: a_sks_dog_seed42_step400.png"""
    words = re.sub(r"\W+", "_", shortened(texts.get("prompt") or "picture", 60).replace(" ... ", " ")).strip("_").lower()
    seed = re.sub(r"\W+", "", texts.get("seed", ""))[:20]
    _, loras = _weights(texts)
    steps = [step for path in loras if (step := step_of(path)) is not None]
    return words[:48].strip("_") + (f"_seed{seed}" if seed else "") + "".join(f"_step{step}" for step in steps[:1]) + ".png"


def described(texts: Mapping[str, str]) -> str:
    """What it was made with, in one line, as it is."""
    _, loras = _weights(texts)
    scales = [float(one) for one in texts.get("lora_scale", "").split(",") if _is_number(one)]
    lora = in_words(dict(zip(loras, [*scales, *[1.0] * len(loras)])))
    parts = [
        say("seed {seed}", seed=texts.get("seed", "?")),
        texts.get("size", "").replace("x", " × "),
        say("{count} steps", count=texts.get("steps", "?")),
        SAMPLER_NAMES.get(texts.get("sampler", ""), ("",))[0],
        say("guidance {scale}", scale=texts.get("guidance_scale", "?").removesuffix(".0"))
        if texts.get("guider") != "IdentityGuider"
        else "",
        {"img2img": say("from a picture"), "inpaint": say("painted into a picture")}.get(texts.get("task", ""), ""),
        lora or say("no LoRA"),
    ]
    return " · ".join(filter(None, parts))


def _weights(texts: Mapping[str, str]) -> tuple[str, list[str]]:
    try:
        return split_weight_argument(texts.get("weight") or "?")
    except UserError:
        return "?", []


def _is_number(text: str) -> bool:
    try:
        float(text)
        return True
    except ValueError:
        return False


def download(place, label: str, path: Path, name: str, key: str) -> None:
    """A button that saves the file under a speaking name."""
    with suppress(OSError):  # somebody has taken it away
        content, icon = path.read_bytes(), ":material/download:"
        place.download_button(
            label, content, name, "image/png", key=key, on_click="ignore", icon=icon, help=in_plain_words(name)
        )
