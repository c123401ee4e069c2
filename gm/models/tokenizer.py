"""CLIP's tokenizer: the published merges run by the `tokenizers` library. No MindSpore import.

prompts -> ids (B, 77) int32: start, text, end, padding. Encoder 1 pads with the end token, encoder 2 with 0. Where longer
prompts are allowed, the text is cut into chunks of 75 tokens, each with a start and an end of its own: (B, chunks * 77).
"""

import gzip
import html
import logging
import re
import unicodedata
from functools import lru_cache
from pathlib import Path
from typing import Callable, Mapping, Sequence

import ftfy
import numpy as np
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

LENGTH = 77
CHUNK = LENGTH - 2  # tokens of text between a start and an end
CLIP_PAD, OPEN_CLIP_PAD = 49407, 0
MERGES = Path(__file__).with_name("clip_bpe") / "bpe_simple_vocab_16e6.txt.gz"
FIRST_MERGE, LAST_MERGE = 1, 49152 - 256 - 2 + 1  # lines of the file that CLIP's vocabulary of 49,408 uses
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"  # what a piece of text may be

Words = Mapping[str, Sequence[int]]  # learned words -> their ids beyond the vocabulary

log = logging.getLogger("gm")


def _byte_symbols() -> list[str]:
    """The character that stands for each byte, in vocabulary order: printable ones for themselves, others from 256."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]


@lru_cache(maxsize=1)
def _encoder() -> Tokenizer:
    lines = gzip.decompress(MERGES.read_bytes()).decode("utf-8").split("\n")[FIRST_MERGE:LAST_MERGE]
    merges = [tuple(line.split()) for line in lines]
    symbols = _byte_symbols()
    words = symbols + [symbol + "</w>" for symbol in symbols] + ["".join(pair) for pair in merges]
    vocabulary = {word: number for number, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    encoder = Tokenizer(models.BPE(vocabulary, merges, end_of_word_suffix="</w>"))
    encoder.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return encoder


def clean(text: str) -> str:
    """Repair encoding, undo HTML entities twice, collapse white space, lower case: as OpenAI's CLIP does."""
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split()).lower()


def normalized(text: str) -> str:
    """What `CLIPTokenizer` of transformers makes of a text where ftfy is not installed, as with ComfyUI: one form of accents, lower
    case, one blank for white space; quotes and HTML entities stay."""
    return " ".join(unicodedata.normalize("NFC", text).split()).lower()


def split_at(text: str, words: Words) -> list[str]:
    """Plain text and names of learned words in turn, the first and the last plain, capitals as in `words`."""
    if not words:
        return [text]
    names = {name.lower(): name for name in words}
    longest_first = "|".join(re.escape(name) for name in sorted(words, key=len, reverse=True))
    pieces = re.split(rf"(?<![^\W_])({longest_first})(?![^\W_])", text, flags=re.IGNORECASE)
    return [names[piece.lower()] if number % 2 else piece for number, piece in enumerate(pieces)]


def token_ids(text: str, cleaned: Callable[[str], str] = clean) -> list[int]:
    """The ids of a text by themselves."""
    return _encoder().encode(cleaned(text), add_special_tokens=False).ids


class ClipTokenizer:
    """Callable: prompts -> ids (B, chunks * 77) int32. A prompt that is too long is cut, with a warning that shows the rest.

    `max_tokens` of text, a multiple of 75. The chunks are those of sd-scripts (`library/strategy_base.py`), but for a text
    whose 75th, 76th, 150th ... token has the number 0, which is taken for padding there.
    """

    START, END = 49406, 49407
    _warned: set[str] = set()

    def __init__(self, pad_id: int, max_tokens: int = CHUNK, words: Words = {}):
        self.pad_id, self.max_tokens, self.words = pad_id, max_tokens, words

    def __call__(self, prompts: Sequence[str]) -> np.ndarray:
        chunks = self.max_tokens // CHUNK
        rows = np.full((len(prompts), chunks, LENGTH), self.pad_id, np.int32)
        for row, prompt in zip(rows, prompts):
            ids, rest = self.fitting(prompt)
            if rest:
                self._warn(prompt, rest)
            for number, chunk in enumerate(row):
                part = ids[number * CHUNK : (number + 1) * CHUNK]
                chunk[: len(part) + 2] = [self.START, *part, self.END]
        return rows.reshape(len(prompts), chunks * LENGTH)

    def fitting(self, prompt: str) -> tuple[list[int], str]:
        """The ids of a prompt as far as they fit, and the text that is cut off."""
        ids: list[int] = []
        pieces = split_at(prompt, self.words)
        for number, piece in enumerate(pieces):
            behind = " ".join(" ".join(pieces[number + 1 :]).split())
            if number % 2:
                if len(ids) + len(self.words[piece]) > self.max_tokens:
                    return ids, f"{piece} {behind}".strip()
                ids += self.words[piece]
                continue
            text = clean(piece)
            encoding = _encoder().encode(text, add_special_tokens=False)
            room = self.max_tokens - len(ids)
            if len(encoding.ids) > room:
                return ids + encoding.ids[:room], f"{text[encoding.offsets[room][0] :]} {behind}".strip()
            ids += encoding.ids
        return ids, ""

    def _warn(self, prompt: str, rest: str) -> None:
        if prompt not in self._warned:
            self._warned.add(prompt)
            log.warning("the prompt is longer than %d tokens, this part is not used: %r", self.max_tokens, rest)
