"""Prompts on the command line, in words or as files: one a line with options of its own, or a YAML list. No MindSpore import.

    # what the subject should look like
    a sks dog on a beach --w 1024 --h 768 --d 1 --s 30 --l 7 --n blurry

The options of a line are sd-scripts': width, height, seed (--d), steps, guidance scale (--l), negative prompt, sampler (--ss).
In a YAML (.yaml, .yml) they have their names in full:

    - {prompt: a sks dog on a beach, width: 1024, height: 768, seed: 1, steps: 30, guidance_scale: 7}
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable, Mapping, Optional

import yaml

from gm.config.types import SampleSettings
from gm.diffusion.samplers import SAMPLERS
from gm.errors import UserError, require_multiple
from gm.options.parser import number

OPTIONS = {  # of a line -> field of PromptLine
    "w": "width",
    "h": "height",
    "d": "seed",
    "s": "steps",
    "l": "guidance_scale",
    "n": "negative_prompt",
    "ss": "sampler",
}
YAML_FILE = (".yaml", ".yml")


@dataclass(frozen=True)
class PromptLine:
    """A prompt with what is said about its picture; None where the command says it."""

    prompt: str
    negative_prompt: Optional[str] = None
    width: Optional[int] = None  # pixels
    height: Optional[int] = None  # pixels
    seed: Optional[int] = None
    steps: Optional[int] = None  # of the sampler
    guidance_scale: Optional[float] = None
    sampler: Optional[str] = None  # of gm.diffusion.samplers.SAMPLERS

    @property
    def prompts(self) -> list[str]:
        """What has to be embedded for it."""
        return [self.prompt] + ([self.negative_prompt] if self.negative_prompt else [])

    def settings(self, usual: SampleSettings) -> SampleSettings:
        """`usual` with what the line says instead. A picture of another size is nobody's crop either."""
        height, width = self.height or usual.height, self.width or usual.width
        same = (height, width) == (usual.height, usual.width)
        return replace(
            usual,
            height=height,
            width=width,
            sizes=usual.sizes if same else (height, width, 0, 0, height, width),
            sampler=self.sampler or usual.sampler,
            steps=self.steps or usual.steps,
            guidance_scale=usual.guidance_scale if self.guidance_scale is None else self.guidance_scale,
        )


def prompt_text(text: str) -> str:
    """The prompt; ValueError when it is empty."""
    if not text.strip():
        raise ValueError("the prompt is empty: say in words what the pictures show")
    return text


def is_prompt_file(prompt: str) -> bool:
    """Whether a --prompt is a file of prompts."""
    return prompt.endswith((".txt", *YAML_FILE))


def read_prompts(path: str, flag: str) -> list[str]:
    """The non-empty lines of a text file; UserError naming the flag when it cannot be read or has none."""
    prompts = [line.strip() for line in _read(path, flag).splitlines() if line.strip()]
    if not prompts:
        raise _no_prompt(path, flag)
    return prompts


def read_prompt_lines(path: str, flag: str, multiple: int) -> list[PromptLine]:
    """The prompts of a file; UserError naming the flag, the file and the line for what is wrong. `multiple`: what a side has to
    be a multiple of, in pixels."""
    text = _read(path, flag)
    lines = _of_yaml(text, path, flag, multiple) if path.endswith(YAML_FILE) else _of_text(text, path, flag, multiple)
    if not lines:
        raise _no_prompt(path, flag)
    return lines


def _read(path: str, flag: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{flag} {path} cannot be read as a text file of prompts ({error}): give one prompt a line") from None


def _no_prompt(path: str, flag: str) -> UserError:
    return UserError(f"{flag} {path} holds no prompt: write one prompt a line")


def _of_text(text: str, path: str, flag: str, multiple: int) -> list[PromptLine]:
    lines = []
    for place, line in enumerate(text.splitlines(), 1):
        where, line = f"{flag} {path}, line {place}", line.strip()
        if not line or line.startswith("#"):
            continue
        prompt, *options = re.split(r"(?:^|\s+)--(?=\w)", line)
        given: dict[str, tuple[str, object]] = {"prompt": ("", prompt)}
        for option in options:
            name, _, value = option.partition(" ")
            field = OPTIONS.get(name.lower())
            if field is None:
                known = " ".join(f"--{one}" for one in OPTIONS)
                near = next(
                    (f", did you mean --{one}?" for one, full in OPTIONS.items() if full == name), f", known are {known}"
                )
                raise UserError(f"{where}: unknown option --{name}{near}")
            if field in given:
                raise UserError(f"{where}: --{name.lower()} is given twice, take one of them away")
            given[field] = f"--{name.lower()} ", value.strip()
        lines.append(_line(given, where, multiple))
    return lines


def _of_yaml(text: str, path: str, flag: str, multiple: int) -> list[PromptLine]:
    try:
        root, items = yaml.compose(text, yaml.SafeLoader), yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that there is not
        raise UserError(f"{flag} {path} is not valid YAML: {' '.join(str(error).split())}") from None
    if items is None:
        return []
    if not isinstance(items, list):
        raise UserError(f"{flag} {path} must be a list of prompts: begin each with '- prompt: '")
    lines = []
    for node, item in zip(root.value, items):
        where = f"{flag} {path}, line {node.start_mark.line + 1}"
        if not isinstance(item, Mapping):
            raise UserError(f"{where}: {item!r} is not a mapping, write '- prompt: {item}'")
        unknown = [key for key in item if key not in READERS]
        if unknown:
            raise UserError(f"{where}: unknown key {unknown[0]!r}, known are {', '.join(READERS)}")
        given = {key: (f"{key} ", value) for key, value in item.items() if value is not None}
        lines.append(_line({"prompt": ("", ""), **given}, where, multiple))
    return lines


def _line(given: Mapping[str, tuple[str, object]], where: str, multiple: int) -> PromptLine:
    """From field -> (what it is called there, its value)."""
    values = {}
    for field, (name, value) in given.items():
        try:
            values[field] = READERS[field](value)
        except ValueError as error:
            raise UserError(f"{where}: {name}{error}") from None
        if field in ("width", "height"):
            require_multiple(f"{where}: {field}", values[field], multiple)
    return PromptLine(**values)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not text: put it in quotes")
    return value.strip()


def _sampler(value: object) -> str:
    name = _text(value)
    if name not in SAMPLERS:
        raise ValueError(f"{name!r} is no sampler, known are {', '.join(SAMPLERS)}")
    return name


def _number(kind: type, **bounds: float) -> Callable[[object], float]:
    return lambda value: number(str(value), kind, **bounds)


READERS: Mapping[str, Callable] = {  # field of PromptLine -> its value from a file; ValueError with the end of a sentence
    "prompt": lambda value: prompt_text(_text(value)),
    "negative_prompt": _text,
    "width": _number(int, least=1),
    "height": _number(int, least=1),
    "seed": _number(int, least=0),
    "steps": _number(int, least=1),
    "guidance_scale": _number(float),
    "sampler": _sampler,
}
