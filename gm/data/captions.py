"""What is said about a photo: its caption file, or the prompt of its folder, varied from draw to draw. No MindSpore import.

Order and meaning are those of sd-scripts (library/train_util.py `process_caption`): prefix and suffix, dropout of the whole
caption, its first line, tags that stay in front, shuffle, dropout of single tags, all joined by ", ". The trigger word is
ai-toolkit's. What is drawn is keyed by the sample, so that a resumed run and any number of ranks say the same.
"""

import os
from pathlib import Path
from typing import Optional, Sequence

import numpy as np

from gm.config.types import CaptionConfig
from gm.errors import UserError
from gm.randomness import CAPTION_CHOICE, CAPTION_VARIANT, generator
from gm.texts import read_text, require_prompt

TRIGGER = "[trigger]"  # stands for the trigger word in a caption


def caption_file(photo: Path, extensions: Sequence[str]) -> Optional[Path]:
    """The file with the photo's name and the first of these endings that there is."""
    return next((file for file in (photo.with_suffix(ending) for ending in extensions) if os.path.isfile(file)), None)


def read_caption(file: Path) -> str:
    """The first line of a caption file; UserError when it is empty, too long or no UTF-8 text."""
    line = read_text(file, f"the caption {file}").strip().split("\n")[0].strip()
    if not line:
        raise UserError(f"the caption {file} is empty: say in it what the photo shows, or delete it")
    try:
        require_prompt(line)
    except ValueError as error:
        raise UserError(f"the caption {file}: {error}") from None
    return line


class Caption:
    """A photo's caption and its variants."""

    def __init__(self, text: str, config: CaptionConfig):
        self.config = config
        self.text = _with_trigger(text, config.trigger)
        if config.prefix:
            self.text = f"{config.prefix} {self.text}"
        if config.suffix:
            self.text = f"{self.text} {config.suffix}"

    @property
    def varies(self) -> bool:
        """Whether it differs from draw to draw."""
        return self.config.dropout > 0 or self.varies_in_tags

    @property
    def varies_in_tags(self) -> bool:
        return self.config.shuffle or self.config.tag_dropout > 0

    def variant(self, source: np.random.Generator) -> str:
        """The caption, its tags shuffled and dropped as `source` draws."""
        config = self.config
        if not self.varies_in_tags and not self._is_parted:
            return self.text
        front, free, back = self._tags()
        if config.shuffle:
            free = [free[i] for i in source.permutation(len(free))]
        if config.tag_dropout:
            free = [tag for tag, drawn in zip(free, source.random(len(free))) if drawn >= config.tag_dropout]
        return ", ".join(front + free + back)

    @property
    def _is_parted(self) -> bool:
        return bool(self.config.keep_tokens_separator) and self.config.keep_tokens_separator in self.text

    def _tags(self) -> tuple[list[str], list[str], list[str]]:
        """Those that stay in front, those that are varied, those that stay behind."""
        config = self.config

        def tags(text: str) -> list[str]:
            return [tag.strip() for tag in text.split(config.separator) if tag.strip()]

        if self._is_parted:
            front, free, *back = self.text.split(config.keep_tokens_separator, 2)
            return tags(front), tags(free), tags(back[0]) if back else []
        found = tags(self.text)
        return found[: config.keep_tokens], found[config.keep_tokens :], []


class CaptionChooser:
    """Which text a sample has when it is drawn: of a kind of samples, by the photo's number and the draw's position."""

    def __init__(self, captions: Sequence[Caption], kind: int, seed: int, endless: bool):
        """`endless`: every draw has a variant of its own; else each photo has `variants` of them, whose embeddings can be kept."""
        self.captions, self.kind, self.seed, self.endless = captions, kind, seed, endless

    def __call__(self, image: int, position: int) -> str:
        caption = self.captions[image]
        if not caption.varies:
            return self._variant(image, 0)
        source = generator(self.seed, CAPTION_CHOICE, self.kind, position)
        if source.random() < caption.config.dropout:
            return ""
        number = position if self.endless else int(source.integers(caption.config.variants))
        return self._variant(image, number)

    def all(self) -> list[str]:
        """Every text that there can be, each once; for a chooser that is not endless."""
        assert not self.endless
        texts = []
        for image, caption in enumerate(self.captions):
            numbers = range(caption.config.variants if caption.varies_in_tags else 1)
            texts += [self._variant(image, number) for number in numbers] + [""] * (caption.config.dropout > 0)
        return list(dict.fromkeys(texts))

    def _variant(self, image: int, number: int) -> str:
        return self.captions[image].variant(generator(self.seed, CAPTION_VARIANT, self.kind, image, number))


def _with_trigger(text: str, trigger: Optional[str]) -> str:
    """The text with the trigger word where `[trigger]` stands, or in front when it is not in it."""
    if trigger is None:
        return text
    text = text.replace(TRIGGER, trigger)
    return text if trigger in text else f"{trigger}, {text}"
