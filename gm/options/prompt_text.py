"""The flags that say in words what the pictures show, and how the words are read. No MindSpore import."""

from dataclasses import dataclass
from typing import Optional

from gm.config.types import MAX_TOKENS, PROMPT_STYLES
from gm.errors import UserError
from gm.options.parser import option
from gm.texts import any_prompt, path_text, prompt_text


def _files(text: str) -> tuple[str, ...]:
    return tuple(path_text(one) for one in text.split(","))


@dataclass(frozen=True)
class PromptTextOptions:
    """Part of SampleOptions."""

    prompt: str = option(
        "a photo of a dog on a beach",
        "the prompt, or a file of prompts: .txt with one a line (--w --h --d --s --l --n --ss behind it), or .yaml",
        read=prompt_text,
        group="pictures",
    )
    negative_prompt: str = option("", "what the pictures should not show", read=any_prompt, group="pictures")
    max_tokens: Optional[int] = option(
        None,
        "tokens that a prompt may have; longer ones are encoded in chunks of 75, as while training",
        choices=MAX_TOKENS,
        shown="the YAML's, else 75",
        group="pictures",
    )
    prompt_style: str = option(
        "plain",
        "how prompts are read; plain: as they stand; a1111: (more) [less] (word:1.3) BREAK, of any length; comfyui: (more) "
        "(word:1.3), of any length, and an empty negative prompt is encoded",
        choices=PROMPT_STYLES,
        group="pictures",
    )
    clip_skip: int = option(
        0,
        "layers of the text encoders to leave out beside SDXL's own last one, as in diffusers; ComfyUI counts 2 more, with a minus",
        least=0,
        most=30,
        group="pictures",
    )
    embedding: tuple[str, ...] = option(
        (),
        "textual inversions for the prompts (clip_l and clip_g in a .safetensors); the word is the file's name, or NAME=FILE; in "
        "the style comfyui embedding:NAME",
        read=_files,
        metavar="FILE[,FILE]",
        group="model",
    )

    def require_prompt_options(self) -> None:
        """UserError for a flag that cannot act."""
        if self.max_tokens and self.prompt_style != "plain":
            raise UserError(
                f"--max_tokens {self.max_tokens} is for --prompt_style plain: leave it away, {self.prompt_style} takes prompts of "
                "any length"
            )
