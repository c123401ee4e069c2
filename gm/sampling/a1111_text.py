"""The text `parameters` of a picture, as A1111 (stable-diffusion-webui) writes and reads it; ComfyUI and most galleries read it too.

    a photo of a dog
    Negative prompt: blurry
    Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 512x512, Model: sd_xl_base_1.0

The last line holds names and values; a value with a comma, a colon or a line end is a JSON string (modules/processing.py and
modules/infotext_utils.py there; src/scripts/pnginfo.ts of ComfyUI_frontend). No MindSpore import.
"""

import json
import re
from typing import Mapping, NamedTuple

NEGATIVE = "Negative prompt:"
FEWEST = 3  # values of a last line that is not a part of the prompt
LONGEST = 100_000  # letters that are looked at
_NAME = re.compile(r"\s*(\w[\w /-]{0,60}):[ \t]*")
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)+"')


class Parameters(NamedTuple):
    """What the text says."""

    prompt: str
    negative_prompt: str
    values: Mapping[str, str]  # name, as A1111 writes it -> value without its quotes


def to_parameters(prompt: str, negative_prompt: str, values: Mapping[str, object]) -> str:
    """The text. Values that are None are left out. The negative prompt has its line also when it is empty: ComfyUI reads no text
    without one."""
    line = ", ".join(f"{name}: {_quoted(str(value))}" for name, value in values.items() if value is not None)
    return f"{prompt}\n{NEGATIVE} {negative_prompt}\n{line}"


def _quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=False) if re.search(r'[,:\n]|^"', value) else value


def from_parameters(text: str) -> Parameters:
    """What a text says; any text is accepted, that of a prompt alone as well."""
    *lines, last = text[:LONGEST].strip().split("\n")
    values = _values(last)
    if len(values) < FEWEST:
        lines, values = [*lines, last], {}
    parts: dict[bool, list[str]] = {False: [], True: []}
    is_negative = False
    for line in (line.strip() for line in lines):
        if line.startswith(NEGATIVE):
            is_negative, line = True, line[len(NEGATIVE) :].strip()
        parts[is_negative].append(line)
    return Parameters("\n".join(parts[False]).strip(), "\n".join(parts[True]).strip(), values)


def _values(line: str) -> dict[str, str]:
    """Of "name: value, name: value"; what has no name is passed over."""
    found, place = {}, 0
    while place < len(line):
        name = _NAME.match(line, place)
        start = name.end() if name else place
        quoted = _QUOTED.match(line, start) if name else None
        end = line.find(",", quoted.end() if quoted else start)
        end = len(line) if end < 0 else end
        if name:
            found[name.group(1)] = _unquoted(quoted.group()) if quoted else line[start:end].strip()
        place = end + 1
    return found


def _unquoted(text: str) -> str:
    try:
        return str(json.loads(text))
    except ValueError:
        return text
