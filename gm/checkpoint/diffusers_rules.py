"""Names in diffusers' folder layout (`unet/`, `vae/`, `text_encoder/`, `text_encoder_2/`) <-> official names.

Both are trees, and a name is renamed by its longest beginning that stands in a table of pairs; what follows is the same
on both sides. The tables are made for the number of blocks that the given names show. "Official" has the second
encoder's q, k and v apart here, as diffusers has them; joining them, and what differs in shape, is folder.py.
"""

import re
from typing import Iterable, Mapping

Pairs = list[tuple[str, str]]  # (official, diffusers)

# folder -> (what its names begin with in the official file, what its weight files are called)
PARTS = {
    "unet": ("model.diffusion_model.", "diffusion_pytorch_model"),
    "vae": ("first_stage_model.", "diffusion_pytorch_model"),
    "text_encoder": ("conditioner.embedders.0.transformer.", "model"),
    "text_encoder_2": ("conditioner.embedders.1.model.", "model"),
}

# The refiner's one text encoder, in the folder text_encoder_2; there is no folder text_encoder
REFINER_TEXT = "conditioner.embedders.0.model."

# In some folders, but no weights: the positions 0..76.
IGNORED_IN_FOLDERS = ("text_model.embeddings.position_ids", "embeddings.position_ids")


def unet_blocks(levels: int, res_blocks: int, attention: Iterable[int]) -> Pairs:
    """The UNet's blocks; `attention` are the levels (0 is the widest) that have transformers.

    The official file counts on over all levels. A level is `res_blocks` blocks (one more on the way up) and, but for the
    last, a change of size: a block of its own on the way down, a part of the level's last block on the way up.
    """
    pairs: Pairs = [("middle_block.0", "mid_block.resnets.0"), ("middle_block.1", "mid_block.attentions.0")]
    pairs.append(("middle_block.2", "mid_block.resnets.1"))
    attention = set(attention)
    for i in range(levels):
        for j in range(res_blocks):
            block = f"input_blocks.{i * (res_blocks + 1) + j + 1}"
            pairs.append((f"{block}.0", f"down_blocks.{i}.resnets.{j}"))
            if i in attention:
                pairs.append((f"{block}.1", f"down_blocks.{i}.attentions.{j}"))
        if i < levels - 1:
            pairs.append((f"input_blocks.{(i + 1) * (res_blocks + 1)}.0.op", f"down_blocks.{i}.downsamplers.0.conv"))
    for i in range(levels):
        has_attention = levels - 1 - i in attention
        for j in range(res_blocks + 1):
            block = f"output_blocks.{i * (res_blocks + 1) + j}"
            pairs.append((f"{block}.0", f"up_blocks.{i}.resnets.{j}"))
            if has_attention:
                pairs.append((f"{block}.1", f"up_blocks.{i}.attentions.{j}"))
        if i < levels - 1:
            pairs.append((f"{block}.{2 if has_attention else 1}.conv", f"up_blocks.{i}.upsamplers.0.conv"))
    return pairs


_UNET_ENDS: Pairs = [
    ("time_embed.0", "time_embedding.linear_1"),
    ("time_embed.2", "time_embedding.linear_2"),
    ("label_emb.0.0", "add_embedding.linear_1"),
    ("label_emb.0.2", "add_embedding.linear_2"),
    ("input_blocks.0.0", "conv_in"),
    ("out.0", "conv_norm_out"),
    ("out.2", "conv_out"),
]
IN_UNET_RESNET: Pairs = [
    ("in_layers.0", "norm1"),
    ("in_layers.2", "conv1"),
    ("emb_layers.1", "time_emb_proj"),
    ("out_layers.0", "norm2"),
    ("out_layers.3", "conv2"),
    ("skip_connection", "conv_shortcut"),
]


def _inside(block: tuple[str, str], pairs: Pairs) -> Pairs:
    return [(f"{block[0]}.{official}", f"{block[1]}.{diffusers}") for official, diffusers in pairs]


def _unet(names: list[str]) -> Pairs:
    if any(name.startswith("down_blocks.") for name in names):
        levels, res_blocks = _count(r"down_blocks\.(\d+)\.", names), _count(r"down_blocks\.0\.resnets\.(\d+)\.", names)
        attention = _numbers(r"down_blocks\.(\d+)\.attentions\.", names)
    else:
        changes = _numbers(r"input_blocks\.(\d+)\.0\.op\.", names)
        levels, res_blocks = len(changes) + 1, min(changes, default=_count(r"input_blocks\.(\d+)\.", names)) - 1
        attention = {(number - 1) // (res_blocks + 1) for number in _numbers(r"input_blocks\.(\d+)\.1\.", names)}
    pairs = list(_UNET_ENDS)
    for block in unet_blocks(levels, res_blocks, attention):
        pairs += _inside(block, IN_UNET_RESNET) if ".resnets." in block[1] else [block]
    return pairs


_IN_VAE_RESNET: Pairs = [(name, name) for name in ("norm1", "conv1", "norm2", "conv2")] + [("nin_shortcut", "conv_shortcut")]
_IN_VAE_ATTENTION: Pairs = [("norm", "group_norm"), ("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("proj_out", "to_out.0")]
# diffusers before 0.18 called them so; such files are still about
_IN_OLD_VAE_ATTENTION: Pairs = [("q", "query"), ("k", "key"), ("v", "value"), ("proj_out", "proj_attn")]
_OLD_VAE_NAME = r"encoder\.mid_block\.attentions\.0\.(query|proj_attn)\."


def _vae(names: list[str]) -> Pairs:
    is_diffusers = any(name.startswith("encoder.down_blocks.") for name in names)
    level, block = ("down_blocks", "resnets") if is_diffusers else ("down", "block")
    levels = _count(rf"encoder\.{level}\.(\d+)\.", names)
    res_blocks = _count(rf"encoder\.{level}\.0\.{block}\.(\d+)\.", names)
    is_old = any(re.match(_OLD_VAE_NAME, name) for name in names)
    attention = [_IN_VAE_ATTENTION[0], *_IN_OLD_VAE_ATTENTION] if is_old else _IN_VAE_ATTENTION
    pairs: Pairs = [(name, name) for name in ("quant_conv", "post_quant_conv")]
    for half, number in (("encoder", res_blocks), ("decoder", res_blocks + 1)):
        pairs += [(f"{half}.{end}", f"{half}.{end}") for end in ("conv_in", "conv_out")]
        pairs.append((f"{half}.norm_out", f"{half}.conv_norm_out"))
        pairs += _inside((f"{half}.mid.attn_1", f"{half}.mid_block.attentions.0"), attention)
        for i in (0, 1):
            pairs += _inside((f"{half}.mid.block_{i + 1}", f"{half}.mid_block.resnets.{i}"), _IN_VAE_RESNET)
        for i in range(levels):
            # the official decoder counts resolutions from the picture's, diffusers in the order of computing
            ours, theirs = (
                (f"down.{i}", f"down_blocks.{i}") if half == "encoder" else (f"up.{i}", f"up_blocks.{levels - 1 - i}")
            )
            for j in range(number):
                pairs += _inside((f"{half}.{ours}.block.{j}", f"{half}.{theirs}.resnets.{j}"), _IN_VAE_RESNET)
            change = "downsample" if half == "encoder" else "upsample"
            pairs.append((f"{half}.{ours}.{change}.conv", f"{half}.{theirs}.{change}rs.0.conv"))
    return pairs


_TEXT_2_ENDS: Pairs = [
    ("token_embedding", "text_model.embeddings.token_embedding"),
    ("positional_embedding", "text_model.embeddings.position_embedding.weight"),
    ("ln_final", "text_model.final_layer_norm"),
    ("text_projection", "text_projection.weight"),
]
_IN_TEXT_2_LAYER: Pairs = [
    ("attn", "self_attn"),
    ("ln_1", "layer_norm1"),
    ("ln_2", "layer_norm2"),
    ("mlp.c_fc", "mlp.fc1"),
    ("mlp.c_proj", "mlp.fc2"),
]


def _text(names: list[str]) -> Pairs:
    if any(name.startswith("encoder.layers.") for name in names):  # transformers from 5.6 on
        return [(f"text_model.{name}", name) for name in ("embeddings", "encoder", "final_layer_norm")]
    return [("text_model", "text_model")]


def _text_2(names: list[str]) -> Pairs:
    pairs = list(_TEXT_2_ENDS)
    for i in range(_count(r"(?:text_model\.encoder\.layers|transformer\.resblocks)\.(\d+)\.", names)):
        pairs += _inside((f"transformer.resblocks.{i}", f"text_model.encoder.layers.{i}"), _IN_TEXT_2_LAYER)
    return pairs


_TABLES = {"unet": _unet, "vae": _vae, "text_encoder": _text, "text_encoder_2": _text_2}


def _numbers(pattern: str, names: Iterable[str]) -> set[int]:
    """Numbers of blocks, of two digits at most: the tables grow with them, and SDXL counts to 31."""
    return {int(match[1]) for match in (re.match(pattern, name) for name in names) if match and len(match[1]) <= 2}


def _count(pattern: str, names: Iterable[str]) -> int:
    return max(_numbers(pattern, names), default=-1) + 1


def _rename(name: str, table: Mapping[str, str]) -> str:
    """`name` with its longest beginning that is in the table replaced; "" when there is none."""
    beginning = name
    while beginning:
        if beginning in table:
            return table[beginning] + name[len(beginning) :]
        beginning = beginning.rpartition(".")[0]
    return ""


def diffusers_to_official(part: str, names: Iterable[str], prefix: str = "") -> dict[str, str]:
    """Every name in the weight file of the folder `part` -> its official name, "" for a name that SDXL does not have. `prefix`:
    what official names begin with, where it is not that of the base."""
    names = list(names)
    table = {diffusers: official for official, diffusers in _TABLES[part](names)}
    prefix = prefix or PARTS[part][0]
    renamed = {name: _rename(name, table) for name in names}
    return {name: official and prefix + official for name, official in renamed.items()}


def official_to_diffusers(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Every official name, the second encoder's q, k and v apart -> (folder, name in its file); KeyError for others."""
    result, names = {}, list(names)
    for part, prefix in (*((part, prefix) for part, (prefix, _) in PARTS.items()), ("text_encoder_2", REFINER_TEXT)):
        inner = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
        table = dict(_TABLES[part](inner))
        result |= {prefix + name: (part, _rename(name, table)) for name in inner}
    unknown = [name for name in names if not result[name][1]]
    if unknown:
        raise KeyError(unknown[0])
    return result
