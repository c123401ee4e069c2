"""<lora:name:0.8> in a prompt, as A1111 1.10 reads it (`modules/extra_networks.py`, `extensions-builtin/Lora/extra_networks_lora.py`)
and sd-webui-lora-block-weight. No MindSpore import.

    <lora:name>              strength 1
    <lora:name:0.8>          0.8 in the UNet and in the text encoders
    <lora:name:0.5:0.8>      0.5 in the text encoders, 0.8 in the UNet
    <lora:name:te=0.5:unet=0.8:lbw=1,0,0,0,0,0,1,1,1,1,1,1>
"""

import difflib
import re
from pathlib import Path
from typing import NamedTuple, Optional, Sequence

from gm.checkpoint.lora_strength import Strength
from gm.checkpoint.weights import split_weight_argument
from gm.config.bounds import STRONGEST
from gm.console import log
from gm.errors import UserError, shown
from gm.options.lora import blocks_of
from gm.options.sample import SampleOptions
from gm.texts import number

OwnLora = tuple[tuple[str, Strength], ...]  # path and strength of each LoRA that a prompt asks for

_TAG = re.compile(r"<(\w+):([^>]+)>")
_KINDS = ("lora", "lyco")  # the second as the first
_ENDINGS = (".ckpt", ".safetensors")  # of one written in two formats the native
RUNS = "runs"  # where LoRA are looked for


class LoraTag(NamedTuple):
    """A LoRA that a prompt asks for."""

    name: str
    strength: Strength


def without_tags(prompt: str) -> tuple[str, list[LoraTag]]:
    """The prompt without its tags, and what they say, in their order. ValueError for a tag that cannot be followed."""
    tags = []
    for match in _TAG.finditer(prompt):
        if match[1] not in _KINDS:
            raise ValueError(f"{shown(match[0])} is no LoRA, which is all that such brackets can hold here: take it out")
        tags.append(_tag(match[0], match[2].split(":")))
    return _TAG.sub("", prompt), tags


def _tag(text: str, items: Sequence[str]) -> LoraTag:
    positional = [item for item in items if "=" not in item]
    named = dict(item.split("=", 1) for item in items if "=" in item)
    unknown = [key for key in named if key not in ("te", "unet", "lbw")]
    if unknown or not positional or len(positional) > 3:
        what = f"{unknown[0]}=" if unknown else "more than a name and two strengths" if positional else "no name"
        raise ValueError(f"{shown(text)} has {what}, which is not supported: give <lora:name:text:unet>, te=, unet= or lbw=")
    try:
        text_scale = _scale(named.get("te", positional[1] if len(positional) > 1 else "1"))
        unet = (
            _scale(named["unet"] if "unet" in named else positional[2])
            if "unet" in named or len(positional) > 2
            else text_scale
        )
        return LoraTag(positional[0].strip(), Strength(unet, text_scale, blocks_of(named.get("lbw", ""))))
    except ValueError as error:
        raise ValueError(f"in {shown(text)} {error}") from None


def _scale(text: str) -> float:
    return number(text.strip(), float, least=-STRONGEST, most=STRONGEST)


def tag_of(name: str, strength: Strength) -> str:
    """How A1111 writes a LoRA that has no strengths by block."""
    scales = f"{strength.unet:g}" if strength.unet == strength.text else f"{strength.text:g}:{strength.unet:g}"
    return f"<lora:{name}:{scales}>"


def find_lora(name: str, folders: Sequence[str]) -> str:
    """The file that is called `name`, without its ending, in one of the folders or below; with a part of its path where several
    are. UserError where there is none, or more than one."""
    found: dict[Path, Path] = {}  # without its ending -> with it
    known = set()
    for folder in folders:
        for path in sorted(Path(folder).rglob("*")):
            if path.suffix in _ENDINGS and path.is_file():
                bare = path.with_suffix("").resolve()
                known.add(path.stem)
                if bare.parts[-len(Path(name).parts) :] == Path(name).parts:
                    found.setdefault(bare, path)  # .ckpt comes first
    where = ", ".join(folders)
    if not found:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}?" if near else "give its folder with --lora_dir"
        raise UserError(f"<lora:{name}> names no file of {where}: {hint}")
    if len(found) > 1:
        paths = sorted(map(str, found.values()))
        raise UserError(
            f"<lora:{name}> may be {paths[0]} or {paths[1]}: write more of the path into the name, or give its folder with "
            "--lora_dir"
        )
    return str(next(iter(found.values())))


def lora_folders(lora_dir: Optional[str], given: Sequence[str]) -> list[str]:
    """Where names are looked for: in --lora_dir, or else in runs and in the folders of the LoRA of --weight."""
    return [lora_dir] if lora_dir else list(dict.fromkeys([RUNS, *(str(Path(path).parent) for path in given)]))


def own_lora(options: SampleOptions) -> tuple[str, OwnLora]:
    """The prompt as the text encoders see it, and the LoRA that it asks for. UserError for those that cannot be put on."""
    found = next((match for match in _TAG.finditer(options.prompt) if match[1] in _KINDS), None)
    if options.prompt_style != "a1111":
        if options.lora_dir:
            raise UserError(
                f"--lora_dir {options.lora_dir} is for the LoRA that prompts of --prompt_style a1111 name: give that, or leave it away"
            )
        if found:
            log.warning("%s in the prompt is read as words: --prompt_style a1111 reads it as a LoRA", shown(found[0]))
        return options.prompt, ()
    try:
        prompt, tags = without_tags(options.prompt)
    except ValueError as error:
        raise UserError(f"the prompt {shown(options.prompt)} cannot be read: {error}") from None
    _, given = split_weight_argument(options.weight)
    folders = lora_folders(options.lora_dir, given)
    return prompt, tuple((find_lora(tag.name, folders), tag.strength) for tag in tags)
