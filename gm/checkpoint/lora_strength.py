"""How strong a LoRA is: in the UNet and in the text encoders, in each block, and over the steps of a sampler. No arrays here.

Blocks are called as in gm/checkpoint/blocks.py. What the strength is multiplied with is lora_stack.py.
"""

from dataclasses import dataclass, replace
from typing import Iterable, Sequence, Union

from gm.checkpoint.blocks import Block
from gm.checkpoint.lora_rules import UNET
from gm.errors import UserError

Points = tuple[tuple[float, float], ...]  # (share of the steps, factor from there on), rising from share 0
ROUNDING = 1e-6  # of a share: step 3 of 10 is at 0.3, however 3 / 10 is rounded


@dataclass(frozen=True)
class Strength:
    """What the update of each weight by a LoRA is multiplied by."""

    unet: float = 1.0
    text: float = 1.0  # in both text encoders
    blocks: tuple[Block, ...] = ()  # a further factor each
    schedule: Points = ()  # a further factor in the UNet, from each share of a sampler's steps on; (): 1 all the time

    def of(self, module: str) -> float:
        """In a module, by its native name, apart from the schedule. Of the blocks that it is in, the smallest counts."""
        network = self.unet if module.startswith(UNET) else self.text
        found = [block for block in self.blocks if module.startswith(block.beginning)]
        return network * max(found, key=lambda block: len(block.beginning)).factor if found else network

    def factor(self, share: float) -> float:
        """Of the schedule, for the step before which this share of all steps is done."""
        passed = [factor for begin, factor in self.schedule if begin <= share + ROUNDING]
        return passed[-1] if passed else 1.0

    def at(self, share: float) -> "Strength":
        """That of one step, which has no schedule."""
        return replace(self, unet=self.unet * self.factor(share), schedule=())

    def __str__(self) -> str:
        """0.8, or what differs from one number for all: 0.8 in the UNet, 0.5 in the text encoders, by block."""
        words = [
            f"{self.unet:g}" if self.unet == self.text else f"{self.unet:g} in the UNet, {self.text:g} in the text encoders"
        ]
        words += ["by block"] if self.blocks else []
        words += ["scheduled"] if self.schedule else []
        return ", ".join(words)


def as_strength(given: Union[Strength, float]) -> Strength:
    """A number is the strength everywhere."""
    return given if isinstance(given, Strength) else Strength(given, given)


@dataclass(frozen=True)
class Strengths:
    """What was asked for the LoRA of --weight, in their order; () where nothing was said."""

    unet: tuple[float, ...] = ()  # one each
    text: tuple[float, ...] = ()  # one each; (): as in the UNet
    blocks: tuple[tuple[Block, ...], ...] = ()  # one each, or one for all
    schedules: tuple[Points, ...] = ()  # one each, or one for all

    @classmethod
    def of(cls, strengths: Iterable[Strength]) -> "Strengths":
        given = list(strengths)
        return cls(*(tuple(getattr(one, name) for one in given) for name in ("unet", "text", "blocks", "schedule")))

    def each(self, count: int, weight: str) -> list[Strength]:
        """One for each of `count` LoRA; UserError where others were given. `weight`: what --weight says."""
        for flag, given in (("--lora_scale", self.unet), ("--lora_text_scale", self.text)):
            if given and len(given) != count:
                raise UserError(
                    f"{flag} gives {len(given)} numbers, but --weight {weight} has {count} LoRA: give one for each"
                )
        for flag, given in (("--lora_block_scale", self.blocks), ("--lora_schedule", self.schedules)):
            if given and len(given) != count and not (len(given) == 1 and count):
                raise UserError(
                    f"{flag} is for {len(given)} LoRA, but --weight {weight} has {count}: give one for all, or one for each "
                    "with semicolons between them"
                )
        unet = self.unet or (1.0,) * count
        columns = unet, self.text or unet, _for_all(self.blocks, count), _for_all(self.schedules, count)
        return [Strength(*values) for values in zip(*columns)]

    def check(self, modules: Sequence[Iterable[str]], weight: str) -> None:
        """UserError for a block by name, or a schedule, that meets no module of its LoRA. `modules`: of each LoRA."""
        strengths = self.each(len(modules), weight)
        named = {block.word: block for one in strengths for block in one.blocks if block.word}
        for word, block in named.items():
            of_it = [names for one, names in zip(strengths, modules) if block in one.blocks]
            if not any(name.startswith(block.beginning) for names in of_it for name in names):
                raise UserError(
                    f"--lora_block_scale names {word}, where no LoRA of --weight {weight} has a module: "
                    "tools/inspect_weights.py lists its blocks"
                )
        acts = [any(name.startswith(UNET) for name in names) for one, names in zip(strengths, modules) if one.schedule]
        if acts and not (any(acts) if len(self.schedules) == 1 else all(acts)):
            raise UserError(
                f"--lora_schedule acts on the UNet, where a LoRA of --weight {weight} that it is for has no module: leave it away"
            )


def _for_all(given: tuple, count: int) -> tuple:
    return (given or ((),)) * count if len(given) < 2 else given
