"""alpha in LoRA files: the numbers that metadata say, and PEFT's settings, which diffusers writes there as JSON.

PEFT runs the keys of `alpha_pattern` as regular expressions on the names of modules (get_pattern_key of peft 0.21.2). A file's
text is not run here: such a key is read as a name in which `.` stands for any character, `\\.` for a dot, `\\d` for a digit and
`.*` for anything, which is what diffusers writes and more; matching takes time in proportion to the name.
"""

import math
import re
from functools import lru_cache
from pathlib import Path
from typing import Mapping, Optional

from gm.checkpoint.json_text import parse_json
from gm.errors import UserError

ADAPTER_METADATA = "lora_adapter_metadata"
_MOST_PATTERNS = 4096  # SDXL has below 1,600 modules for a LoRA
_LARGEST = 3.4e38  # of float32
_LITERAL = re.compile(r"(?:[\w-]|\.(?![*+?])|\\[.d-])*", re.ASCII)  # a piece of a pattern between two `.*`


def sound_alpha(path: Path, value: object, what: str) -> float:
    """An alpha that a file says; UserError, with `what` names it there, unless it is a number from 0 to float32's largest."""
    try:
        alpha = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        alpha = math.nan
    if not 0 <= alpha <= _LARGEST:
        raise UserError(f"{path}: {what} is {ascii(value)[:60]}, but an alpha is a number from 0 on: the file is damaged")
    return alpha


class PeftSettings:
    """PEFT's settings of a file, `<network>.<setting>`, as far as they decide an alpha."""

    def __init__(self, path: Path, text: str):
        """`text`: the metadata; UserError when it is no JSON or of other types than PEFT's."""
        try:
            settings = parse_json(text)
        except ValueError:
            settings = None
        if not isinstance(settings, dict):
            raise UserError(f"{path}: its metadata {ADAPTER_METADATA} is not JSON of PEFT's settings: the file is damaged")
        self._path, self._settings = path, settings
        self._patterns = {key: self._alphas(key, value) for key, value in settings.items() if key.endswith(".alpha_pattern")}

    def _alphas(self, key: str, patterns: object) -> list[tuple[list[re.Pattern], float]]:
        if patterns is not None and not isinstance(patterns, dict) or len(patterns or ()) > _MOST_PATTERNS:
            raise UserError(f"{self._path}: {key} in its metadata is no table of alphas by module: the file is damaged")
        found = []
        for pattern, value in (patterns or {}).items():
            pieces = _pieces(pattern)
            if pieces is None:
                raise UserError(
                    f"{self._path}: {key} in its metadata has {ascii(pattern)[:80]}, which is more than a name with . and .* in it: "
                    "save the LoRA with names of modules there"
                )
            found.append((pieces, sound_alpha(self._path, value, f"{key} of {pattern[:80]}")))
        return found

    def alpha(self, name: str, rank: int) -> float:
        """As PEFT finds it for a module, given with its network: of the first pattern that the name ends with, or the network's."""
        network, _, module = name.partition(".")
        said = self._settings.get(f"{network}.lora_alpha")
        alpha = float(rank) if said is None else sound_alpha(self._path, said, f"{network}.lora_alpha")
        patterns = self._patterns.get(f"{network}.alpha_pattern", [])
        of_pattern = next((value for pieces, value in patterns if _ends_with(module, pieces)), None)
        if said is None and of_pattern is None:
            return alpha
        return (alpha if of_pattern is None else of_pattern) * (
            math.sqrt(rank) if self._settings.get(f"{network}.use_rslora") else 1
        )


@lru_cache(maxsize=2 * _MOST_PATTERNS)
def _pieces(pattern: str) -> Optional[list[re.Pattern]]:
    """What stands between the `.*` of a pattern, without anything that repeats; None for a pattern with more than that."""
    pieces = pattern.split(".*")
    if len(pattern) > 512 or not pattern or not all(_LITERAL.fullmatch(piece) for piece in pieces):
        return None
    return [re.compile(piece, re.ASCII) for piece in pieces]


def _ends_with(name: str, pieces: list[re.Pattern]) -> bool:
    """Whether PEFT's `(.*\\.)?(pattern)$` matches the name: the pieces one after another, the first at the start of a part, the
    last at the end. Each takes the first place there is, which leaves the others the most."""
    last = pieces[-1]
    length = _length(last)
    if len(pieces) == 1:
        start = len(name) - length
        return start >= 0 and (start == 0 or name[start - 1] == ".") and bool(last.fullmatch(name, start))
    begins = (0, *(i + 1 for i, character in enumerate(name) if character == "."))
    match = next((match for match in (pieces[0].match(name, begin) for begin in begins) if match), None)
    for piece in pieces[1:-1]:
        match = match and piece.search(name, match.end())
    return bool(match) and len(name) - length >= match.end() and bool(last.fullmatch(name, len(name) - length))


def _length(piece: re.Pattern) -> int:
    """Characters that it matches: one for each of its own, two of which stand for one where the first is a backslash."""
    return len(piece.pattern) - piece.pattern.count("\\")


def settings_of(path: Path, metadata: Mapping[str, str]) -> Optional[PeftSettings]:
    """PEFT's settings, where the metadata have them."""
    return PeftSettings(path, metadata[ADAPTER_METADATA]) if ADAPTER_METADATA in metadata else None
