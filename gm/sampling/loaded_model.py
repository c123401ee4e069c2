"""A model that stays loaded while pictures are asked for one by one, each with LoRA, prompts and a start of its own."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Optional, Sequence

import numpy as np

from gm.encoding.text import require_readable
from gm.options.sample import SampleOptions
from gm.sampling.given import larger
from gm.sampling.jobs import Asked
from gm.sampling.making import Maker
from gm.sampling.pipeline import Pipeline
from gm.sampling.previews import Previews


class LoadedModel:
    """Around a pipeline that keeps its text encoders. `Asked.lora` is all LoRA of a picture, those of its --weight as well."""

    def __init__(self, pipeline: Pipeline):
        assert pipeline.embedder, "it keeps its text encoders"
        self.pipeline, self.multiple = pipeline, pipeline.model.unet.downsampling
        self.previews = Previews(pipeline.pictures.decode)
        pipeline.pictures.sampler.watcher = self.previews
        self._usual = pipeline.source.max_tokens
        self._maker: Optional[Maker] = None
        self._begun: object = None  # what the maker's pictures begin with

    def require(self, requests: Sequence[Asked]) -> None:
        """UserError, before the first picture, for prompts that have no meaning, and pictures that cannot fit into the memory."""
        for one in requests:
            self._read_as(one.options)
            prompts = [one.words, one.options.negative_prompt]
            require_readable(prompts, self.pipeline.source, self.pipeline.weights.vocabulary)
        self.pipeline.require_memory(larger(one.options, self.multiple) or one.settings for one in requests)

    def picture(self, asked: Asked, what: str, preview: Optional[Path] = None) -> np.ndarray:
        """(h, w, 3) uint8. `what`: how progress calls it; `preview`: where to show what it will be like, meanwhile."""
        self.previews.target = preview
        self._read_as(asked.options)
        begun = _begun_with(asked.options)
        if self._maker is None or begun != self._begun:
            self._maker, self._begun = Maker(self.pipeline, self.multiple), begun
        return self._maker([asked], what)[0]

    def _read_as(self, options: SampleOptions) -> None:
        """Prompts are read in this style from now on, and may be this long."""
        pipeline, embedder = self.pipeline, self.pipeline.embedder
        said = {"prompt_style": options.prompt_style, "max_tokens": options.max_tokens or self._usual}
        if embedder is None or all(getattr(pipeline.source, name) == value for name, value in said.items()):
            return
        pipeline.source, pipeline.now = replace(pipeline.source, **said), replace(pipeline.now, **said)
        embedder.style, embedder.max_tokens = said["prompt_style"], said["max_tokens"]
        pipeline.texts = {}


def _begun_with(options: SampleOptions) -> object:
    """What a Maker encodes once."""
    files = [(path, path and os.stat(path).st_mtime_ns) for path in (options.img, options.mask, options.init_latent_path)]
    return files, options.task, options.resize_mode, options.start_strength == 1.0
