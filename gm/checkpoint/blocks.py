"""Which part of the model a native name belongs to, in the words of reports: network and block, and the kind of layer; and the
blocks that people name, one by one or in the lists of other tools."""

import re
from dataclasses import dataclass
from typing import Iterable, Sequence

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


# -- blocks that people name -------------------------------------------------------------------------------------------------

_UNET, _TEXT = PARTS["unet"][0], "conditioner.embedders."
_BEGINNINGS = {"in": "input_blocks.", "mid": "middle_block.", "out": "output_blocks."}
_WORDS = {
    "in": "in",
    "input_blocks": "in",
    "mid": "mid",
    "m": "mid",
    "middle_block": "mid",
    "out": "out",
    "output_blocks": "out",
}
_WORD = re.compile(r"([a-z]+(?:_blocks?)?)\.?(\d{1,2})?")
MOST = {"in": 8, "mid": 2, "out": 8}  # the last number of each in SDXL

# Of SDXL. sd-webui-lora-block-weight's BLOCKID12 and BLOCKID20, where "base" is both text encoders and what is not in the list is 0;
# sd-scripts' get_block_index of networks/lora.py, which leaves the text alone; "": embeddings of time and sizes, and the last layer,
# which no LoRA goes into.
LISTS: dict[int, Sequence[str]] = {
    12: ("base", "in.4", "in.5", "in.7", "in.8", "mid", *(f"out.{i}" for i in range(6))),
    20: ("base", *(f"in.{i}" for i in range(9)), "mid", *(f"out.{i}" for i in range(9))),
    23: ("", *(f"in.{i}" for i in range(9)), *(f"mid.{i}" for i in range(3)), *(f"out.{i}" for i in range(9)), ""),
}


@dataclass(frozen=True)
class Block:
    """A factor for what lies in a part of the model."""

    beginning: str  # of the native names there
    factor: float
    word: str = ""  # as somebody has named it; "" for one of a list


def named_block(word: str, factor: float) -> Block:
    """The block that is called `word`: base (both text encoders), in, in.4, IN04, mid, M00, mid.1, out, out.0, OUT00, or as in
    reports input_blocks.4. ValueError for another."""
    found = _WORD.fullmatch(word.strip().lower())
    kind = found and _WORDS.get(found[1])
    if found and found[0] == "base":
        return Block(_TEXT, factor, word.strip())
    if not found or not kind or found[1] == "m" and found[2] != "00" or found[2] and int(found[2]) > MOST[kind]:
        raise ValueError(
            f"{word.strip()!r} is no block: give base, in.0 to in.8, mid, mid.0 to mid.2, out.0 to out.8, in or out"
        )
    number = "" if found[1] == "m" or found[2] is None else f"{int(found[2])}."
    return Block(_UNET + _BEGINNINGS[kind] + number, factor, word.strip())


def listed_blocks(factors: Sequence[float]) -> tuple[Block, ...]:
    """The blocks of one of the LISTS. ValueError for another number of factors."""
    if len(factors) not in LISTS:
        raise ValueError(
            f"a list of {len(factors)} numbers is none of SDXL's blocks: give 12 or 20 as sd-webui-lora-block-weight, 23 as "
            "sd-scripts, or names such as mid=0,out.0=0.5"
        )
    words = LISTS[len(factors)]
    blocks = [Block(named_block(word, 1.0).beginning, factor) for word, factor in zip(words, factors) if word]
    rest = [Block(_UNET + _BEGINNINGS[kind], 0.0) for kind in ("in", "out")] if len(factors) == 12 else []
    return (*rest, *blocks)
