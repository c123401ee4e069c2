"""Prompts -> embeddings, here or in a process of its own whose memory is free afterwards.

context (77, c) and pooled (e,) of one prompt, float32; of long prompts (chunks * 75 + 2, c)
"""

import math
from dataclasses import replace
from typing import Iterable, NamedTuple, Optional, Sequence

import numpy as np

from gm.console import bar, log
from gm.encoding.compiling import Compiling, keeping_graphs
from gm.encoding.source import Source, Weights
from gm.errors import UserError
from gm.models import sdxl
from gm.models.conditioner import TextEncoders, tokenize
from gm.models.prompt_chunks import chunks_of, tokens_in
from gm.models.tokenizer import CHUNK, Words
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


def same_length(contexts: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Contexts (tokens, c) of one length: each as often as it takes. To attention, copies of all keys are as the keys alone."""
    longest = math.lcm(*(len(one) for one in contexts))
    return [np.tile(one, (longest // len(one), 1)) for one in contexts]


class TextEmbedder:
    """Prompts -> TextEmbedding, one call of both encoders a prompt, or in a style with weights one a chunk."""

    def __init__(
        self,
        text_encoders: TextEncoders,
        max_tokens: int = CHUNK,
        style: str = "plain",
        words: Words = {},
        widths: Sequence[int] = (),
    ):
        """`style`: of PROMPT_STYLES; `words`: learned ones and their ids; `widths`: of the encoders' contexts, for a style."""
        self.max_tokens, self.style, self.words, self.widths = max_tokens, style, words, widths
        self.call = Compiling(text_encoders, "compiling the text encoders")
        self.empty: Optional[np.ndarray] = None  # the context of an empty prompt

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
            texts[prompt] = self._plain(prompt) if self.style == "plain" else self._weighted(prompt)
        return texts

    def _plain(self, prompt: str) -> TextEmbedding:
        context, pooled = self.call(*tokenize([prompt], self.max_tokens, self.words))
        return TextEmbedding(context[0], pooled[0])

    def _weighted(self, prompt: str) -> TextEmbedding:
        """Chunk by chunk; pooled is that of the first."""
        chunks = chunks_of(prompt, self.style, self.words)
        contexts, pooled = zip(*(self.call(*(row[None] for row in rows)) for rows in zip(chunks.ids_l, chunks.ids_g)))
        if (chunks.weights != 1).any():
            weigh = _as_a1111 if self.style == "a1111" else self._as_comfyui
            contexts = [weigh(context, weights, self.widths) for context, weights in zip(contexts, chunks.weights)]
        return TextEmbedding(np.concatenate([context[0] for context in contexts]), pooled[0][0])

    def _as_comfyui(self, context: np.ndarray, weights: np.ndarray, widths: Sequence[int]) -> np.ndarray:
        """Each token that far on the way from the same place of an empty prompt (ComfyUI `encode_token_weights`)."""
        if self.empty is None:
            ids = chunks_of("", self.style)
            self.empty = self.call(ids.ids_l, ids.ids_g)[0]
        return self.empty + weights[None, :, None] * (context - self.empty)


def _as_a1111(context: np.ndarray, weights: np.ndarray, widths: Sequence[int]) -> np.ndarray:
    """Each token times its weight, and each encoder's part back to its mean (A1111 `EmphasisOriginal`)."""
    parts = []
    for part in np.split(context, np.cumsum(widths)[:-1], -1):
        weighted = part * weights[None, :, None]
        parts.append(weighted * (part.mean() / weighted.mean()))
    return np.concatenate(parts, -1)


def load_embedder(source: Source, weights: Weights) -> TextEmbedder:
    """The text encoders of a source, loaded from its opened weights."""
    words = weights.vocabulary
    model = source.text_model(sum(len(ids) for ids in words.values()))
    encoders = sdxl.build_text_encoders(model, source.machine.dtype, weights.adapters)
    encoders = sdxl.load(encoders, weights.read, "text encoders")
    widths = [encoder.width for encoder in model.text_encoders]
    return TextEmbedder(encoders, source.max_tokens, source.prompt_style, words, widths)


def require_readable(prompts: Iterable[str], source: Source, words: Words) -> None:
    """UserError for a prompt that has no meaning in the style of the source, and for layers that are not there to be left out."""
    source.text_model()
    for prompt in prompts:
        try:
            tokens_in(prompt, source.prompt_style, source.max_tokens, words)
        except ValueError as error:
            raise UserError(f"--prompt_style {source.prompt_style}: {_short(prompt)}: {error}") from None


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
