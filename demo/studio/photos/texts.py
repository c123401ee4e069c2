"""Captions as a visitor writes them: one line, read as training reads it."""

from pathlib import Path
from typing import Optional, Sequence

from gm.config.types import CaptionConfig
from gm.data.captions import caption_file, read_caption
from gm.data.concepts import caption_of
from gm.data.images import BESIDE
from gm.errors import UserError
from gm.texts import any_prompt


def one_caption(text: str) -> str:
    """What was typed, on one line. UserError for what is no text, or longer than any prompt."""
    try:
        return any_prompt(text).strip()
    except ValueError as error:
        raise UserError(str(error)) from None


def own_caption(photo: Path, extensions: Sequence[str] = BESIDE) -> Optional[str]:
    """What its file says, or None when there is none. UserError for one that cannot be read."""
    file = caption_file(photo, extensions)
    return read_caption(file) if file else None


def said(photo: Path, prompt: str, config: CaptionConfig) -> Optional[str]:
    """What training says of the photo; None where there is neither caption nor prompt. UserError for a bad caption."""
    if caption_file(photo, config.extensions) is None and not prompt.strip():
        return None
    return caption_of(photo, prompt.strip() or None, config).text


def has_caption(photo: Path) -> bool:
    """Whether a file of its own stands beside it."""
    return caption_file(photo, BESIDE) is not None
