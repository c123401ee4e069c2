"""Prompts with weights, as A1111 and ComfyUI read them: text -> parts of one weight each. No MindSpore import.

ValueError with the end of a sentence for what cannot be meant.
"""

import re
from typing import NamedTuple, Optional

from gm.errors import shown

ROUND, SQUARE = 1.1, 1 / 1.1  # what a pair of brackets without a number means
HEAVIEST = 1000.0
DEEPEST = 100  # brackets within brackets

# A1111: an escaped bracket or a backslash, a bracket, a weight that closes one, text, a colon
_A1111 = re.compile(
    r"(?P<escaped>\\[()\[\]\\]?)|(?P<open>[(\[])|:\s*(?P<weight>[+-]?[.\d]+)\s*\)|(?P<close>[)\]])"
    r"|(?P<text>[^\\()\[\]:]+|:)"
)
EMBEDDING = "embedding:"  # ComfyUI's mark of a learned word
_EMBEDDING = re.compile(rf"(?:(?<=\s)|^){EMBEDDING}")
_BREAK = re.compile(r"\s*\bBREAK\b\s*")
# A1111's grammar of prompts that change: an escaped sign, a bracket, "|", a step before a closing bracket
_EDITING = re.compile(r"\\.|[()\[|]|(?P<step>:\s*[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?\s*)?(?P<close>[)\]])", re.DOTALL)


class Part(NamedTuple):
    """A piece of a prompt; without text it is the end of a chunk (BREAK)."""

    text: Optional[str]
    weight: float = 1.0


def a1111_parts(prompt: str) -> list[Part]:
    """`(a)` 1.1, `[a]` 1 / 1.1, `(a:1.3)`, brackets multiply, those that nobody closes as well; a backslash before a bracket
    takes its meaning away; BREAK ends a chunk (A1111 `parse_prompt_attention`, but that BREAK within brackets is one, too)."""
    if re.search(r"\bAND\b", prompt):
        raise ValueError(f"{shown(prompt)} combines prompts by AND, which this suite cannot: give one prompt")
    if _changes(prompt):
        raise ValueError(f"{shown(prompt)} changes the prompt between steps by [a:b:0.5] or [a|b], which this suite cannot")
    parts: list[list] = []  # text, weight
    opened: dict[str, list[int]] = {"(": [], "[": []}  # where brackets begin

    def close(bracket: str, factor: float) -> None:
        for part in parts[opened[bracket].pop() :]:
            part[1] *= factor

    for found in _A1111.finditer(prompt):
        kind, text = found.lastgroup, found[0]
        if kind == "escaped":
            parts.append([text[1:], 1.0])
        elif kind == "open":
            opened[text].append(len(parts))
        elif kind == "weight" and opened["("]:
            close("(", _number(found["weight"]))
        elif kind == "close" and opened["(" if text == ")" else "["]:
            close("(" if text == ")" else "[", ROUND if text == ")" else SQUARE)
        else:
            first, *others = _BREAK.split(text)
            parts.append([first, 1.0])
            for other in others:
                parts += [[None, 1.0], [other, 1.0]]
    for bracket, factor in (("(", ROUND), ("[", SQUARE)):
        while opened[bracket]:
            close(bracket, factor)
    return _joined(parts)


def _changes(prompt: str) -> bool:
    """Whether A1111 reads the prompt as one that changes between steps: [a|b], [a:b:0.5], [a:0.5]."""
    opened: list[list] = []  # bracket, whether a "|" stands in it
    for found in _EDITING.finditer(prompt):
        sign = found["close"] or found[0]
        if sign in ("(", "["):
            opened.append([sign, False])
        elif sign == "|" and opened:
            opened[-1][1] = True
        elif sign in (")", "]") and opened and opened[-1][0] == {")": "(", "]": "["}[sign]:
            _, has_choice = opened.pop()
            if sign == "]" and (has_choice or found["step"]):
                return True
    return False


def in_a1111(prompt: str, style: str) -> str:
    """A prompt of a style as A1111 is told it: with brackets that it reads as they are meant here."""
    if style == "a1111":
        return prompt
    if style == "plain":
        return _escaped(prompt)
    words = []
    for text, weight in comfyui_parts(prompt):
        plain = _escaped(_EMBEDDING.sub("", text or ""))
        words.append(plain if weight == 1 else f"({plain}:{weight:.6g})")
    return "".join(words)


def _escaped(text: str) -> str:
    return re.sub(r"([()\[\]\\])", r"\\\1", text)


def _joined(parts: list[list]) -> list[Part]:
    """Neighbours of one weight are one part."""
    joined: list[Part] = []
    for text, weight in parts:
        if abs(weight) > HEAVIEST:
            raise ValueError(f"a weight of {weight:g} is too strong: give one of at most {HEAVIEST:g}")
        if text is None:
            joined.append(Part(None))
        elif joined and joined[-1].text is not None and joined[-1].weight == weight:
            joined[-1] = Part(joined[-1].text + text, weight)
        else:
            joined.append(Part(text, weight))
    return joined or [Part("")]


def comfyui_parts(prompt: str) -> list[Part]:
    """`(a)` 1.1, `(a:1.3)`; within brackets a number stands for all weight there, a pair without one multiplies; a backslash
    before a bracket takes its meaning away (ComfyUI `token_weights`)."""
    escaped = prompt.replace("\\)", "\0\1").replace("\\(", "\0\2")
    found = [Part(part.text.replace("\0\1", ")").replace("\0\2", "("), part.weight) for part in _comfyui(escaped, 1.0, 0)]
    return found or [Part("")]


def _comfyui(text: str, weight: float, depth: int) -> list[Part]:
    if depth > DEEPEST:
        raise ValueError(f"it has more than {DEEPEST} brackets within brackets: take some away")
    parts = []
    for piece in _pieces(text):
        if len(piece) < 2 or piece[0] != "(" or piece[-1] != ")":
            parts.append(Part(piece, weight))
            continue
        inner, within = piece[1:-1], weight * ROUND
        colon = inner.rfind(":")
        if colon > 0:
            try:
                within = _number(inner[colon + 1 :].strip())
                inner = inner[:colon]
            except _NoNumber:
                pass
        if abs(within) > HEAVIEST:
            raise ValueError(f"a weight of {within:g} is too strong: give one of at most {HEAVIEST:g}")
        parts += _comfyui(inner, within, depth + 1)
    return parts


def _pieces(text: str) -> list[str]:
    """Outermost brackets, with them, and what is between; a bracket that nobody closes goes on to the end."""
    pieces, piece, depth = [], "", 0
    for letter in text:
        if letter == "(" and depth == 0 and piece:
            pieces.append(piece)
            piece = ""
        piece += letter
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if letter == ")" and depth == 0:
            pieces.append(piece)
            piece = ""
    return pieces + [piece] if piece else pieces


class _NoNumber(ValueError):
    pass


def _number(text: str) -> float:
    if not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text):
        raise _NoNumber(f"{shown(text)} is no weight: give a number such as 1.2")
    value = float(text)
    if abs(value) > HEAVIEST:
        raise ValueError(f"a weight of {shown(text)} is too strong: give one of at most {HEAVIEST:g}")
    return value
