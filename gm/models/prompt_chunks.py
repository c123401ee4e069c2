"""Prompts -> chunks of 77 ids with a weight for each, by the rules of a style. No MindSpore import.

ids (chunks, 77) int32 for each encoder, weights (chunks, 77) float32, 1 for start, end and padding. Names of learned words
(`words`: name -> ids beyond the vocabulary) stand for several ids each.
"""

import re
from typing import NamedTuple, Sequence

import numpy as np

from gm.errors import shortened
from gm.models.prompt_weights import Part, a1111_parts, comfyui_parts
from gm.models.tokenizer import CHUNK, CLIP_PAD, LENGTH, OPEN_CLIP_PAD, ClipTokenizer, Words, split_at, token_ids

BACKTRACK = 20  # A1111: a chunk ends at a comma that is at most so many tokens before its end
LONG_WORD = 8  # ComfyUI: what has so many tokens is cut at the end of a chunk, what is shorter goes to the next
EMBEDDING = "embedding:"  # ComfyUI's mark of a learned word


class Chunks(NamedTuple):
    """One prompt."""

    ids_l: np.ndarray
    ids_g: np.ndarray
    weights: np.ndarray


def chunks_of(prompt: str, style: str, words: Words = {}) -> Chunks:
    """The chunks of a prompt in the style "a1111" or "comfyui"; ValueError with the end of a sentence for a prompt that has no
    meaning there."""
    rows = _a1111(a1111_parts(prompt), words) if style == "a1111" else _comfyui(comfyui_parts(prompt), words)
    shape = len(rows), LENGTH
    ids_l, ids_g, weights = (
        np.full(shape, CLIP_PAD, np.int32),
        np.full(shape, OPEN_CLIP_PAD, np.int32),
        np.ones(shape, np.float32),
    )
    for number, row in enumerate(rows):
        tokens = [ClipTokenizer.START, *(token for token, _ in row), ClipTokenizer.END]
        ids_l[number, : len(tokens)] = ids_g[number, : len(tokens)] = tokens
        weights[number, 1 : len(tokens) - 1] = [weight for _, weight in row]
    return Chunks(ids_l, ids_g, weights)


def _a1111(parts: Sequence[Part], words: Words) -> list[list[tuple[int, float]]]:
    """Rows of at most 75 (id, weight): A1111 `tokenize_line` with its usual backtracking to a comma."""
    comma = token_ids(",")[0]
    rows: list[list[tuple[int, float]]] = [[]]
    last_comma = -1  # in the row

    def begin(row: Sequence[tuple[int, float]] = ()) -> None:
        nonlocal last_comma
        rows.append(list(row))
        last_comma = -1

    for part in parts:
        if part.text is None:
            begin()
            continue
        for group in _groups(part.text, words):
            row = rows[-1]
            if len(group) == 1 and group[0] == comma:
                last_comma = len(row)
            elif len(row) == CHUNK and last_comma != -1 and len(row) - last_comma <= BACKTRACK:
                moved = row[last_comma + 1 :]
                del row[last_comma + 1 :]
                begin(moved)
            if len(rows[-1]) + len(group) > CHUNK:
                begin()
            rows[-1] += [(token, part.weight) for token in group]
    return rows if rows[-1] or len(rows) == 1 else rows[:-1]


def _comfyui(parts: Sequence[Part], words: Words) -> list[list[tuple[int, float]]]:
    """Rows of at most 75 (id, weight), filled part by part, and a part that is between learned words or weights is cut where a
    row ends unless it is short: ComfyUI `tokenize_with_weights`."""
    rows: list[list[tuple[int, float]]] = [[]]
    for part in parts:
        for group in _comfyui_groups(part.text or "", words):
            weighted = [(token, part.weight) for token in group]
            while weighted:
                room = CHUNK - len(rows[-1])
                if len(weighted) <= room:
                    rows[-1] += weighted
                    break
                if len(group) >= LONG_WORD:
                    rows[-1] += weighted[:room]
                    weighted = weighted[room:]
                rows.append([])
    return rows


def _comfyui_groups(text: str, words: Words) -> list[list[int]]:
    """The ids that stay together: a learned word's, and those of the text up to the next one."""
    groups = []
    for piece in re.split(rf"[ \n](?={EMBEDDING})", text):
        if piece.startswith(EMBEDDING):
            word, _, piece = piece[len(EMBEDDING) :].partition(" ")
            known = word if word in words else word.rstrip(",")
            if known not in words:
                names = ", ".join(words) or "none is given"
                raise ValueError(f"{EMBEDDING}{shortened(word, 80)} is no learned word of --embedding: {names}")
            groups.append(list(words[known]))
            piece = f"{word[len(known) :]} {piece}"
        groups.append(token_ids(piece))
    return [group for group in groups if group]


def _groups(text: str, words: Words) -> list[list[int]]:
    """The ids of a text, one by one, and those of a learned word together."""
    groups = []
    for number, piece in enumerate(split_at(text, words)):
        groups += [list(words[piece])] if number % 2 else [[token] for token in token_ids(piece)]
    return groups


def tokens_in(prompt: str, style: str, max_tokens: int = CHUNK, words: Words = {}) -> tuple[int, str]:
    """How many tokens of a prompt count, and the text that is cut off; ValueError as `chunks_of`. Weighted styles cut nothing."""
    if style == "plain":
        ids, rest = ClipTokenizer(CLIP_PAD, max_tokens, words).fitting(prompt)
        return len(ids), rest
    parts = a1111_parts(prompt) if style == "a1111" else comfyui_parts(prompt)
    rows = _a1111(parts, words) if style == "a1111" else _comfyui(parts, words)
    return sum(len(row) for row in rows), ""
