"""Which part of the model a native name belongs to, in the words of reports: network and block, and the kind of layer."""

import re
from typing import Iterable

from gm.checkpoint.diffusers_rules import PARTS, REFINER_TEXT

NETWORKS = dict(zip((prefix for prefix, _ in PARTS.values()), ("UNet", "VAE", "text encoder 1", "text encoder 2")))
_PREFIXES = {**NETWORKS, REFINER_TEXT: "text encoder 2"}

_BLOCKS = (
    re.compile(r"^((?:input|output)_blocks\.\d+)\."),
    re.compile(r"^(middle_block)\."),
    re.compile(r"^((?:en|de)coder\.(?:down|up)\.\d+)\."),
    re.compile(r"^((?:en|de)coder\.mid)\."),
    re.compile(r"(?:layers|resblocks)(\.\d+)\."),
)


def network_of(name: str) -> str:
    """The network's name; "other" for a name of none."""
    return next((title for prefix, title in _PREFIXES.items() if name.startswith(prefix)), "other")


def block_of(name: str) -> str:
    """The block within its network: input_blocks.4, middle_block, layer 3, or "ends" for what is in none."""
    inner = next((name.removeprefix(prefix) for prefix in _PREFIXES if name.startswith(prefix)), name)
    found = next((match for match in (pattern.search(inner) for pattern in _BLOCKS) if match), None)
    return found[1].replace(".", "layer ", 1) if found and found[1].startswith(".") else found[1] if found else "ends"


def by_block(names: Iterable[str]) -> dict[tuple[str, str], list[str]]:
    """(network, block) -> its names, ordered: text encoders, UNet, VAE, and by number within."""
    blocks: dict[tuple[str, str], list[str]] = {}
    for name in names:
        blocks.setdefault((network_of(name), block_of(name)), []).append(name)
    return dict(sorted(blocks.items(), key=lambda item: _place(*item[0])))


def _place(network: str, block: str) -> tuple:
    order = ("text encoder 1", "text encoder 2", "UNet", "VAE", "other")
    beginnings = ("layer", "input", "middle", "output", "encoder", "decoder")
    beginning = next((i for i, word in enumerate(beginnings) if block.startswith(word)), len(beginnings))
    return order.index(network), beginning, [int(number) for number in re.findall(r"\d+", block)], block
