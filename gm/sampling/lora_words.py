"""What a person is told of the LoRA that act: rank, strength, and the words that call what they have learned."""

import re
from typing import Iterable, Mapping, Optional, Sequence

from gm.checkpoint.json_text import parse_json
from gm.checkpoint.lora_files import LoraFile
from gm.checkpoint.lora_stack import LoraStack
from gm.checkpoint.lora_strength import Strength
from gm.console import log
from gm.errors import shown
from gm.models.tokenizer import ClipTokenizer, clean


def tell_of_lora(stack: LoraStack, prompts: Iterable[str]) -> None:
    """A line for each LoRA; a warning where a prompt does not hold the word that a LoRA was trained with."""
    prompts = list(dict.fromkeys(prompts))
    for file, strength in zip(stack.files, stack.strengths):
        log.info("%s", in_words(file, strength))
        prompt = trained_prompt(file.metadata)
        word = rarest_word(prompt) if prompt else None
        lacking = [one for one in prompts if word and word not in words_of(one)]
        if lacking and (strength.unet or strength.text):
            log.warning(
                "the prompt %s %s %r, but the LoRA %s was trained on %s",
                shown(lacking[0]),
                f"and {len(lacking) - 1} more lack" if len(lacking) > 1 else "lacks",
                word,
                file.path,
                shown(prompt),
            )


def in_words(file: LoraFile, strength: Strength) -> str:
    """LoRA runs/x.ckpt: rank 4, strength 0.8, trained on 'a sks dog'."""
    ranks = sorted({pair.rank for pair in file.modules.values()})
    rank = f"{ranks[0]}" if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"
    prompt = trained_prompt(file.metadata)
    about = f", trained on {shown(prompt)}" if prompt else ""
    return f"{'DoRA' if file.is_dora else 'LoRA'} {file.path}: rank {rank}, strength {strength}{about}"


def trained_prompt(metadata: Mapping[str, str]) -> Optional[str]:
    """The prompt of the photos, where a file says one for all: by our name, that of modelspec, or sd-scripts' only caption."""
    for name in ("instance_prompt", "modelspec.trigger_phrase"):
        if metadata.get(name, "").strip():
            return metadata[name]
    try:
        folders = parse_json(metadata.get("ss_tag_frequency", "{}").encode())
        captions = {caption.strip() for folder in folders.values() for caption in folder}
    except (ValueError, AttributeError, TypeError, RecursionError):
        return None
    return captions.pop() or None if len(captions) == 1 else None


def words_of(text: str) -> list[str]:
    """Words in small letters, without signs."""
    return re.findall(r"[^\W_]+", clean(text))


def rarest_word(text: str) -> Optional[str]:
    """The word that DreamBooth's identifier most likely is (arXiv 2208.12242, section 3.2: a rare token): one of several tokens, or
    the one that comes last in CLIP's vocabulary, which is ordered by how often tokens are seen."""

    def rarity(word: str) -> tuple:
        ids = _ids(word)
        return len(ids) > 1, max(ids, default=0)

    return max(words_of(text), key=rarity, default=None)


def _ids(word: str) -> Sequence[int]:
    row = ClipTokenizer(0)([word])[0].tolist()
    return row[1 : row.index(ClipTokenizer.END)]
