"""Prompts on the command line, in words or as files: one a line with options of its own, or a YAML list. No MindSpore import.

    # what the subject should look like
    a sks dog on a beach --w 1024 --h 768 --d 1 --s 30 --l 7 --n blurry

The options of a line are sd-scripts': width, height, seed (--d), steps, guidance scale (--l), negative prompt, sampler (--ss);
where a command has these flags, also the strength (--t), and the sizes that SDXL is told: of the original (--ow --oh), beside the
negative prompt (--nw --nh), and the crop (--ct --cl). In a YAML (.yaml, .yml) they have their names in full, as all other flags
of one picture:

    - {prompt: a sks dog on a beach, width: 1024, height: 768, seed: 1, steps: 30, guidance_scale: 7, schedule: Karras}
"""

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Callable, Mapping, Optional, Sequence

from gm.config.bounds import LARGEST_SEED, LARGEST_SIDE, MOST_PROMPTS, MOST_STEPS, STRONGEST
from gm.config.types import SampleSettings
from gm.config.yaml_text import read_yaml_list
from gm.diffusion.names import resolved
from gm.errors import UserError, require_multiple, shortened, shown
from gm.options.sampler import sampler_text
from gm.texts import any_prompt, number, prompt_text, read_text

OPTIONS = {  # of a line -> field of PromptLine
    "w": "width",
    "h": "height",
    "d": "seed",
    "s": "steps",
    "l": "guidance_scale",
    "n": "negative_prompt",
    "ss": "sampler",
}
FURTHER = {  # of a line -> flag of the command, where it has it
    "t": "strength",
    "ow": "orig_width",
    "oh": "orig_height",
    "nw": "negative_orig_width",
    "nh": "negative_orig_height",
    "ct": "crop_coords_top",
    "cl": "crop_coords_left",
}
Reader = Callable[[object], object]  # what a file says -> value; ValueError with the end of a sentence
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
    sampler: Optional[str] = None  # as gm/diffusion/names.py knows it
    further: tuple[tuple[str, object], ...] = ()  # flags of the command and their values
    where: str = field(default="", compare=False)  # it stands, for messages

    @property
    def prompts(self) -> list[str]:
        """What has to be embedded for it."""
        return [self.prompt] + ([self.negative_prompt] if self.negative_prompt else [])

    def settings(self, usual: SampleSettings) -> SampleSettings:
        """`usual` with what the line says instead. A picture of another size is nobody's crop either."""
        height, width = self.height or usual.height, self.width or usual.width
        named = resolved(self.sampler, None, usual.discretization) if self.sampler else (usual.sampler, usual.discretization)
        sampler, discretization = named
        same = (height, width) == (usual.height, usual.width)
        return replace(
            usual,
            height=height,
            width=width,
            sizes=usual.sizes if same else (height, width, 0, 0, height, width),
            sampler=sampler,
            discretization=discretization,
            steps=self.steps or usual.steps,
            guidance_scale=usual.guidance_scale if self.guidance_scale is None else self.guidance_scale,
        )


def is_prompt_file(prompt: str) -> bool:
    """Whether a --prompt is a file of prompts."""
    return prompt.endswith((".txt", *YAML_FILE))


def read_prompts(path: str, flag: str) -> list[str]:
    """The non-empty lines of a text file; UserError naming the flag when it cannot be read or has none."""
    prompts = []
    for place, line in enumerate(_read(path, flag).splitlines(), 1):
        try:
            prompts += [prompt_text(line.strip())] if line.strip() else []
        except ValueError as error:
            raise UserError(f"{flag} {path}, line {place}: {error}") from None
    _require_some(prompts, path, flag)
    return prompts


def read_prompt_lines(path: str, flag: str, multiple: int, further: Mapping[str, Reader] = {}) -> list[PromptLine]:
    """The prompts of a file; UserError naming the flag, the file and the line for what is wrong. `multiple`: what a side has to
    be a multiple of, in pixels. `further`: flags of the command that a picture may have a value of its own for."""
    text, form = _read(path, flag), _of_yaml if path.endswith(YAML_FILE) else _of_text
    lines = form(text, path, flag, multiple, {**READERS, **further})
    _require_some(lines, path, flag)
    return lines


def _read(path: str, flag: str) -> str:
    return read_text(Path(path), f"{flag} {path}")


def _require_some(prompts: Sequence, path: str, flag: str) -> None:
    """UserError where there is no prompt, or are so many that keeping their embeddings takes the memory."""
    if not prompts:
        raise UserError(f"{flag} {path} holds no prompt: write one prompt a line")
    if len(prompts) > MOST_PROMPTS:
        raise UserError(f"{flag} {path} holds {len(prompts)} prompts: give at most {MOST_PROMPTS}")


Readers = Mapping[str, Reader]


def _of_text(text: str, path: str, flag: str, multiple: int, readers: Readers) -> list[PromptLine]:
    lines, known = [], {**OPTIONS, **{name: full for name, full in FURTHER.items() if full in readers}}
    for place, line in enumerate(text.splitlines(), 1):
        where, line = f"{flag} {path}, line {place}", line.strip()
        if not line or line.startswith("#"):
            continue
        prompt, *options = re.split(r"(?<!\S)--(?=\w)", line)
        given: dict[str, tuple[str, object]] = {"prompt": ("", prompt)}
        for option in options:
            name, _, value = option.partition(" ")
            full = known.get(name.lower())
            if full is None:
                all_of_them = ", known are " + " ".join(f"--{one}" for one in known)
                near = next((f", did you mean --{one}?" for one, meant in known.items() if meant == name), all_of_them)
                raise UserError(f"{where}: unknown option --{shortened(name, 80)}{near}")
            if full in given:
                raise UserError(f"{where}: --{name.lower()} is given twice, take one of them away")
            given[full] = f"--{name.lower()} ", value.strip()
        lines.append(_line(given, where, multiple, readers))
    return lines


def _of_yaml(text: str, path: str, flag: str, multiple: int, readers: Readers) -> list[PromptLine]:
    items, places = read_yaml_list(text, f"{flag} {path}")
    if items is None:
        return []
    if not isinstance(items, list):
        raise UserError(f"{flag} {path} must be a list of prompts: begin each with '- prompt: '")
    lines = []
    for place, item in zip(places, items):
        where = f"{flag} {path}, line {place}"
        if not isinstance(item, Mapping):
            raise UserError(f"{where}: {shown(item)} is not a mapping, write '- prompt: {shortened(str(item), 80)}'")
        unknown = [key for key in item if key not in readers]
        if unknown:
            raise UserError(f"{where}: unknown key {shown(unknown[0])}, known are {', '.join(readers)}")
        given = {key: (f"{key} ", value) for key, value in item.items() if value is not None}
        lines.append(_line({"prompt": ("", ""), **given}, where, multiple, readers))
    return lines


def _line(given: Mapping[str, tuple[str, object]], where: str, multiple: int, readers: Readers) -> PromptLine:
    """From field or flag -> (what it is called there, its value)."""
    values = {}
    for full, (name, value) in given.items():
        try:
            values[full] = readers[full](value)
        except ValueError as error:
            raise UserError(f"{where}: {name}{error}") from None
        if full in ("width", "height"):
            require_multiple(f"{where}: {full}", values[full], multiple)
    further = tuple((full, values.pop(full)) for full in given if full not in READERS)
    return PromptLine(**values, further=further, where=where)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{shown(value)} is not text: put it in quotes")
    return value.strip()


def _number(kind: type, **bounds: float) -> Callable[[object], float]:
    return lambda value: number(value if isinstance(value, str) else repr(value), kind, **bounds)


READERS: Readers = {  # field of PromptLine -> its value from a file
    "prompt": lambda value: prompt_text(_text(value)),
    "negative_prompt": lambda value: any_prompt(_text(value)),
    "width": _number(int, least=1, most=LARGEST_SIDE),
    "height": _number(int, least=1, most=LARGEST_SIDE),
    "seed": _number(int, least=0, most=LARGEST_SEED),
    "steps": _number(int, least=1, most=MOST_STEPS),
    "guidance_scale": _number(float, least=-STRONGEST, most=STRONGEST),
    "sampler": lambda value: sampler_text(_text(value)),
}
