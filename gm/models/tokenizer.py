"""CLIP's tokenizer: the published merges run by the `tokenizers` library. No MindSpore import.

prompts -> ids (B, 77) int32: start, text, end, padding. Encoder 1 pads with the end token, encoder 2 with 0.
"""

import gzip
import html
import logging
from functools import lru_cache
from pathlib import Path
from typing import Sequence

import ftfy
import numpy as np
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

LENGTH = 77
CLIP_PAD, OPEN_CLIP_PAD = 49407, 0
MERGES = Path(__file__).with_name("clip_bpe") / "bpe_simple_vocab_16e6.txt.gz"
FIRST_MERGE, LAST_MERGE = 1, 49152 - 256 - 2 + 1  # lines of the file that CLIP's vocabulary of 49,408 uses
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"  # what a piece of text may be

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


class ClipTokenizer:
    """Callable: prompts -> ids (B, 77) int32. A prompt that is too long is cut, with a warning that shows the rest."""

    START, END = 49406, 49407
    _warned: set[str] = set()

    def __init__(self, pad_id: int):
        self.pad_id = pad_id

    def __call__(self, prompts: Sequence[str]) -> np.ndarray:
        rows = np.full((len(prompts), LENGTH), self.pad_id, np.int32)
        for row, prompt in zip(rows, prompts):
            text = clean(prompt)
            encoding = _encoder().encode(text, add_special_tokens=False)
            ids = encoding.ids
            if len(ids) > LENGTH - 2:
                self._warn(prompt, text[encoding.offsets[LENGTH - 2][0] :])
                ids = ids[: LENGTH - 2]
            row[: len(ids) + 2] = [self.START, *ids, self.END]
        return rows

    @classmethod
    def _warn(cls, prompt: str, rest: str) -> None:
        if prompt not in cls._warned:
            cls._warned.add(prompt)
            log.warning("the prompt is longer than %d tokens, this part is not used: %r", LENGTH - 2, rest)
