"""JSON of files, read as strictly as RFC 8259 and safetensors have it: no key twice, no NaN, no broken text, no endless number."""

import json
from typing import Union

LARGEST = 16 * 2**20  # bytes of a header or an index; SDXL's are below 1 MB, captions of 10,000 photos in metadata below 5 MB
_DIGITS = 19  # of a whole number below 2^63


def parse_json(content: Union[bytes, str]) -> object:
    """What the text says; ValueError with the reason where it is no such JSON."""
    text = content.decode("utf-8") if isinstance(content, bytes) else content
    try:
        found = json.loads(text, object_pairs_hook=_unique, parse_int=_whole, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if "\\ud" in text or "\\uD" in text:  # halves of characters, which no other program takes
        json.dumps(found, ensure_ascii=False).encode("utf-8")
    return found


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("it has a key twice")
    return found


def _whole(digits: str) -> int:
    if len(digits) > _DIGITS or digits == "-0":
        raise ValueError("it has a number of no use")
    return int(digits)


def _no_constant(word: str) -> None:
    raise ValueError(f"{word} is no JSON")
