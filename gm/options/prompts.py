"""Prompts on the command line, in words or as files with one a line."""

from pathlib import Path

from gm.errors import UserError


def prompt_text(text: str) -> str:
    """The prompt; ValueError when it is empty."""
    if not text.strip():
        raise ValueError("the prompt is empty: say in words what the pictures show")
    return text


def read_prompts(path: str, flag: str) -> list[str]:
    """The non-empty lines of a text file; UserError naming the flag when it cannot be read or has none."""
    try:
        lines = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{flag} {path} cannot be read as a text file of prompts ({error}): give one prompt a line") from None
    prompts = [line for line in lines if line]
    if not prompts:
        raise UserError(f"{flag} {path} holds no prompt: write one prompt a line")
    return prompts
