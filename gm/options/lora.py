"""The flags that say how strong the LoRA of --weight are, and what their texts mean. No MindSpore import."""

from dataclasses import dataclass
from typing import Optional

from gm.checkpoint.blocks import Block, listed_blocks, named_block
from gm.checkpoint.lora_strength import Points, Strengths
from gm.config.bounds import STRONGEST
from gm.errors import shown
from gm.options.parser import option
from gm.texts import number


def _factor(text: str) -> float:
    return number(text.strip(), float, least=-STRONGEST, most=STRONGEST)


def blocks_of(text: str) -> tuple[Block, ...]:
    """mid=0,out.0=0.5, or one of the lists of blocks.LISTS; () for an empty text. ValueError for another."""
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    if any("=" in part for part in parts):
        blocks = []
        for part in parts:
            word, equals, factor = part.partition("=")
            if not equals:
                raise ValueError(
                    f"{shown(part)} is no NAME=FACTOR such as mid=0: give all blocks by name, or a list of numbers"
                )
            blocks.append(named_block(word, _factor(factor)))
        twice = [block.word for i, block in enumerate(blocks) if block.beginning in {one.beginning for one in blocks[:i]}]
        if twice:
            raise ValueError(f"{twice[0]} is given twice: give each block once")
        return tuple(blocks)
    return listed_blocks([_factor(part) for part in parts]) if parts else ()


def schedule_of(text: str) -> Points:
    """0:0,0.3:1,0.8:0.5 as points; () for an empty text. ValueError for another."""
    points = []
    for part in text.split(",") if text.strip() else []:
        share, colon, factor = part.partition(":")
        if not colon:
            raise ValueError(f"{shown(part.strip())} is no SHARE:FACTOR such as 0.3:1")
        points.append((number(share.strip(), float, least=0.0, most=1.0), _factor(factor)))
    shares = [share for share, _ in points]
    if shares and (shares[0] != 0.0 or shares[-1] >= 1.0 or any(b <= a for a, b in zip(shares, shares[1:]))):
        raise ValueError(f"{shown(text)} has the shares {', '.join(f'{s:g}' for s in shares)}: begin at 0 and rise, below 1")
    return tuple(points)


def _each(read):
    """A reader that checks the parts between semicolons, and leaves the text as it is."""

    def checked(text: str) -> str:
        if not any([read(part) for part in text.split(";")]):
            raise ValueError("it is empty: leave the flag away")
        return text

    return checked


@dataclass(frozen=True)
class LoraStrengthOptions:
    """Strengths that do not change."""

    lora_scale: Optional[tuple[float, ...]] = option(
        None,
        "strength of each LoRA of --weight, separated by commas",
        metavar="NUMBER[,NUMBER]",
        least=-STRONGEST,
        most=STRONGEST,
        shown="1 each",
        group="LoRA",
    )
    lora_text_scale: Optional[tuple[float, ...]] = option(
        None,
        "strength of each in the text encoders; --lora_scale is then that in the UNet",
        metavar="NUMBER[,NUMBER]",
        least=-STRONGEST,
        most=STRONGEST,
        shown="as --lora_scale",
        group="LoRA",
    )
    lora_block_scale: Optional[str] = option(
        None,
        "a further factor for blocks: mid=0,out.0=0.5 (also base for the text encoders, in.0 to out.8, in, out), or 12 or 20 numbers "
        "as in sd-webui-lora-block-weight, or 23 as in sd-scripts; with semicolons one for each LoRA",
        metavar="NAME=FACTOR,...|LIST",
        read=_each(blocks_of),
        group="LoRA",
    )

    @property
    def strengths(self) -> Strengths:
        """What the flags say together."""
        blocks = tuple(map(blocks_of, self.lora_block_scale.split(";"))) if self.lora_block_scale else ()
        return Strengths(self.lora_scale or (), self.lora_text_scale or (), blocks)


@dataclass(frozen=True)
class LoraOptions(LoraStrengthOptions):
    """Part of SampleOptions."""

    lora_schedule: Optional[str] = option(
        None,
        "a further factor in the UNet from a share of the steps on: 0:0,0.3:1,0.8:0.5 is 0 at first, 1 after 30 % of them, 0.5 after "
        "80 %; with semicolons one for each LoRA",
        metavar="SHARE:FACTOR,...",
        read=_each(schedule_of),
        group="LoRA",
    )
    lora_dir: Optional[str] = option(
        None,
        "where the LoRA are that prompts of --prompt_style a1111 name, as in <lora:name:0.8>",
        metavar="FOLDER",
        shown="runs, and the folders of the LoRA of --weight",
        group="LoRA",
    )

    @property
    def strengths(self) -> Strengths:
        fixed = super().strengths
        schedules = tuple(map(schedule_of, self.lora_schedule.split(";"))) if self.lora_schedule else ()
        return Strengths(fixed.unet, fixed.text, fixed.blocks, schedules)
