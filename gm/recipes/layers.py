"""Layers of SDXL's UNet that another trainer chooses by parts of diffusers' names -> lora_targets."""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Callable, Mapping, Sequence, Union

from gm.checkpoint.lora_rules import UNET, LoraNames
from gm.config.types import UNetConfig

_LAYERS_OF_TEXT = (12, 32)  # of SDXL's text encoders
_ATTENTION = (".to_q", ".to_k", ".to_v", ".to_out.0")
# linear layers and convolutions of SDXL's UNet, by diffusers' names, that have no LoRA here
WITHOUT = ("conv_in", "conv_out", "time_embedding.linear_1", "time_embedding.linear_2") + (
    "add_embedding.linear_1",
    "add_embedding.linear_2",
)


@dataclass(frozen=True)
class Chosen:
    """What has a LoRA."""

    targets: Union[str, list[str]]  # lora_targets
    count: int  # layers; 0: none, `targets` is then "linear"
    without: tuple[str, ...]  # diffusers' names of layers that were chosen and have none here

    @property
    def words(self) -> str:
        """Where it went."""
        of_names = self.targets if isinstance(self.targets, str) else f"{len(self.targets)} patterns"
        return f"lora_targets: {of_names}, {self.count} layers of the UNet" + (
            f"; {', '.join(self.without)} can have no LoRA here" if self.without else ""
        )


@lru_cache(1)
def unet_layers() -> Mapping[str, str]:
    """Name within the UNet, here -> diffusers' name, of every layer of SDXL's UNet that a LoRA can go into."""
    names = LoraNames(UNetConfig(), _LAYERS_OF_TEXT)
    return {
        module.removeprefix(UNET): names.foreign(module, "peft").removeprefix("unet.")
        for module in names.all
        if module.startswith(UNET)
    }


def choose_layers(wanted: Callable[[str], bool]) -> Chosen:
    """The layers whose diffusers' name, e.g. down_blocks.1.attentions.0.proj_in, is `wanted`."""
    layers = unet_layers()
    chosen = [name for name, diffusers in layers.items() if wanted(diffusers)]
    without = tuple(name for name in WITHOUT if wanted(name))
    linear = [name for name, diffusers in layers.items() if ".attentions." in diffusers]
    attention = [name for name in linear if name.endswith(_ATTENTION)]
    for targets, group in (("attention", attention), ("linear", linear), ("all", list(layers))):
        if chosen == group:
            return Chosen(targets, len(chosen), without)
    return Chosen(patterns_of(chosen, list(layers)) or "linear", len(chosen), without)


def patterns_of(chosen: Sequence[str], every: Sequence[str]) -> list[str]:
    """Few patterns, as fnmatch reads them, that match `chosen` and no other of `every`: each is the name of the first layer that
    is not matched yet, with as many of its parts as possible, from the last on, replaced by a star."""
    left, others, patterns = list(chosen), [name for name in every if name not in set(chosen)], []
    while left:
        parts = left[0].split(".")
        for i in reversed(range(len(parts))):
            with_star = [*parts[:i], "*", *parts[i + 1 :]]
            if i == 0 and parts[1:2] != ["*"]:
                break  # the number of a block says nothing without its kind
            if not any(fnmatchcase(name, _joined(with_star)) for name in others):
                parts = with_star
        patterns.append(_joined(parts))
        left = [name for name in left if not fnmatchcase(name, patterns[-1])]
    return patterns


def _joined(parts: Sequence[str]) -> str:
    """A star stands for any number of parts, so that of several one is left."""
    kept = [part for i, part in enumerate(parts) if part != "*" or i == 0 or parts[i - 1] != "*"]
    return ".".join(kept)
