"""Prompts -> embeddings, here or in a process of its own whose memory is free afterwards.

context (77, c) and pooled (e,) of one prompt, float32; of long prompts (chunks * 75 + 2, c)
"""

from typing import Iterable, NamedTuple, Sequence

import numpy as np

from gm.console import bar
from gm.encoding.compiling import Compiling
from gm.encoding.source import Source, Weights
from gm.models import sdxl
from gm.models.conditioner import TextEncoders, tokenize
from gm.models.tokenizer import CHUNK


class TextEmbedding(NamedTuple):
    """What the text encoders make of one prompt."""

    context: np.ndarray  # (77, c), or wider, as the UNet takes it
    pooled: np.ndarray  # (e,)


def unconditional(text: TextEmbedding) -> TextEmbedding:
    """What stands for an empty negative prompt: zeros, as SDXL was trained (sgm `force_uc_zero_embeddings`). Products of
    the text are zeros then too."""
    return TextEmbedding(np.zeros_like(text.context), np.zeros_like(text.pooled))


class TextEmbedder:
    """Prompts -> TextEmbedding, one call of both encoders a prompt."""

    def __init__(self, text_encoders: TextEncoders, max_tokens: int = CHUNK):
        self.max_tokens = max_tokens
        self.call = Compiling(text_encoders, "compiling the text encoders")

    def __call__(self, prompts: Iterable[str]) -> dict[str, TextEmbedding]:
        texts = {}
        self.call.cell.set_train(False)
        for prompt in bar(dict.fromkeys(prompts), "encoding prompts", unit="prompt", leave=False):
            context, pooled = self.call(*tokenize([prompt], self.max_tokens))
            texts[prompt] = TextEmbedding(context[0], pooled[0])
        return texts


def load_embedder(source: Source, weights: Weights) -> TextEmbedder:
    """The text encoders of a source, loaded from its opened weights."""
    encoders = sdxl.build_text_encoders(source.model, source.machine.dtype, weights.adapters)
    return TextEmbedder(sdxl.load(encoders, weights.read, "text encoders"), source.max_tokens)


def embed_prompts(prompts: Sequence[str], source: Source) -> dict[str, TextEmbedding]:
    """Load the text encoders and embed the prompts, in the process that calls it (`run_in_subprocess`)."""
    source.machine.enter()
    return load_embedder(source, source.open())(prompts)
