"""Prompts -> embeddings, here or in a process of its own whose memory is free afterwards.

context (77, c) and pooled (e,) of one prompt, float32; of long prompts (chunks * 75 + 2, c)
"""

from dataclasses import replace
from typing import Iterable, NamedTuple, Sequence

import numpy as np

from gm.console import bar, log
from gm.encoding.compiling import Compiling, keeping_graphs
from gm.encoding.source import Source, Weights
from gm.models import sdxl
from gm.models.conditioner import TextEncoders, tokenize
from gm.models.tokenizer import CHUNK
from gm.process import run_in_subprocess
from gm.runtime import full_precision
from gm.soundness import is_finite, require_finite


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
        """NotFinite, naming the prompt, where an embedding is not finite."""
        texts = self.as_computed(prompts)
        for prompt, text in texts.items():
            require_finite(f"the text of {_short(prompt)}", *text)
        return texts

    def as_computed(self, prompts: Iterable[str]) -> dict[str, TextEmbedding]:
        """The embeddings, finite or not."""
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
    """Load the text encoders and embed the prompts, in the process that calls it (`run_in_subprocess`). Where half precision
    was used, an embedding that is not finite is left out; else NotFinite names its prompt."""
    source.machine.enter()
    weights = source.open()
    embedder = load_embedder(source, weights)
    with keeping_graphs(source.graphs, weights.decides(source, "text encoders")):
        if full_precision(source.machine) == source.machine:
            return embedder(prompts)
        return {prompt: text for prompt, text in embedder.as_computed(prompts).items() if is_finite(*text)}


def embed_apart(prompts: Sequence[str], source: Source) -> dict[str, TextEmbedding]:
    """`embed_prompts` in a process of its own; what half precision was too small for, once more in float32."""
    texts = run_in_subprocess(embed_prompts, prompts, source)
    lost = [prompt for prompt in prompts if prompt not in texts]
    return texts | embed_in_full(lost, source) if lost else texts


def embed_in_full(prompts: Sequence[str], source: Source) -> dict[str, TextEmbedding]:
    """The prompts in float32, in a process of its own; says so."""
    log.warning(
        "the text of %s is not finite in half precision: once more in float32%s",
        _short(prompts[0]),
        f", as that of {len(prompts) - 1} more" if len(prompts) > 1 else "",
    )
    return run_in_subprocess(embed_prompts, prompts, replace(source, machine=full_precision(source.machine)))


def _short(prompt: str) -> str:
    """A prompt as it is named in a sentence."""
    return f"the prompt {prompt if len(prompt) <= 60 else prompt[:57] + '...'!r}"
