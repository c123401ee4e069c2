"""How files are damaged at random: hypothesis' strategies, and what they do to bytes and headers."""

import json
import struct

import numpy as np
from hypothesis import strategies as st

from damaged import MODULE, NATIVE, PEFT
from gm.checkpoint.peft_settings import ADAPTER_METADATA

# -- bytes: (how, where and how many as shares of the length, what comes in)
SMALL = st.binary(min_size=1, max_size=9) | st.sampled_from(
    [b"\xff" * 9, b"\0" * 8, b"[" * 1500, b"{", b"}", b"\\ud800", b"-0"]
)
EDIT = st.tuples(st.sampled_from(["flip", "cut", "insert", "double", "remove"]), st.floats(0, 1), st.floats(0, 0.2), SMALL)
EDITS = st.lists(EDIT, min_size=1, max_size=4)
FEW_EDITS = st.lists(EDIT, max_size=3)


def edited(content: bytes, edits) -> bytes:
    """Places are shares of the length; half of them are near the start, where all but numbers is."""
    for how, where, share, new in edits:
        at = int((where**3 if len(edits) % 2 else where) * len(content))
        end = at + int(share * len(content))
        if how == "flip" and at < len(content):
            content = content[:at] + bytes([content[at] ^ (1 << new[0] % 8)]) + content[at + 1 :]
        elif how == "cut":
            content = content[:at]
        elif how == "insert":
            content = content[:at] + new + content[at:]
        elif how == "double":
            content = content[:end] + content[at:end] + content[end:]
        elif how == "remove":
            content = content[:at] + content[end:]
    return content


# -- the header of a safetensors file, which stays JSON: (which tensor, how, with what, which of a list)
ODD = st.sampled_from([
    *(None, True, -1, 0, 1, 2, 8, 2.0, 2**31, 2**62, 2**63, 2**64, 10**30, "2", "F32", "F64", "BF16", "I4", "", [], [0], [0, 8]),
    *([8, 0], [2**32] * 3, [0, 2**64], [-2, -1], [True], [2.0], {}, {"a": 1}, [1] * 9, [[0, 8]], "four", "nan", "-1", "\ud800", "\0"),
])  # fmt: skip
HOWS = ("dtype", "shape", "data_offsets", "side", "offset", "drop", "rename", "add", "metadata", "whole", "twice")
CHANGES = st.lists(st.tuples(st.integers(0, 9), st.sampled_from(HOWS), ODD, st.integers(0, 3)), min_size=1, max_size=3)


def with_header(content: bytes, changes) -> bytes:
    """The file with fields of its header changed, its data as they were."""
    (length,) = struct.unpack("<Q", content[:8])
    pairs = list(json.loads(content[8 : 8 + length]).items())
    for number, how, odd, place in changes:
        at = number % len(pairs) if pairs else 0
        name, about = pairs[at] if pairs else ("a", {})
        about = dict(about) if isinstance(about, dict) else about
        if how == "drop" and pairs:
            del pairs[at]
        elif how == "rename" and pairs:
            pairs[at] = f"{odd}{name}"[: 2**place * 200], about
        elif how == "twice" and pairs:
            pairs.append(pairs[at])
        elif how == "add":
            pairs.append((f"x{odd}", odd))
        elif how == "metadata":
            pairs.insert(0, ("__metadata__", odd if place else {"lora_alpha": odd, "dora_form": "base"}))
        elif pairs and isinstance(about, dict):
            if how in ("side", "offset"):
                key = "shape" if how == "side" else "data_offsets"
                values = list(about[key]) if isinstance(about.get(key), list) else []
                about[key] = [odd if i == place % max(len(values), 1) else value for i, value in enumerate(values or [0])]
            elif how != "whole":
                about[how] = odd
            pairs[at] = name, odd if how == "whole" else about
    text = ("{" + ",".join(f"{json.dumps(name)}:{json.dumps(about)}" for name, about in pairs) + "}").encode()
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


# -- LoRA: (how, which tensor, another name, another shape, another number), and metadata
SHAPES = st.lists(st.sampled_from([0, 1, 2, 3, 4, 6]), max_size=5).map(tuple)
STARTS = (
    MODULE,
    PEFT,
    NATIVE,
    "lora_unet_input_blocks_1_0_in_layers_2",
    "unet.conv_in",
    "lora_te1_x",
    "a" * 300,
    "clip_l",
    ".",
)
ENDINGS = (
    *(".lora_down.weight", ".lora_up.weight", ".alpha", ".dora_scale", ".lora_A.weight", ".lora_B.weight", ".lora_B.bias", ".diff"),
    *(".lora_magnitude_vector", ".lora.down.weight", ".lora.up.weight", ".lora_mid.weight", ""),
)  # fmt: skip
ODD_NAMES = st.builds("{}{}".format, st.sampled_from(STARTS), st.sampled_from(ENDINGS))
NUMBERS = st.sampled_from([0, 1e38, -3e38, np.inf, np.nan])
LORA_HOWS = st.sampled_from(["name", "shape", "fill", "drop", "add"])
LORA_CHANGES = st.lists(st.tuples(LORA_HOWS, st.integers(0, 5), ODD_NAMES, SHAPES, NUMBERS), max_size=4)
SETTINGS = ("unet.lora_alpha", "unet.alpha_pattern", "unet.use_rslora", "to_q", ".*", "(a|a)*b", "\\d", "x" * 600)
LEAVES = st.none() | st.booleans() | st.floats() | st.integers(-1, 9) | st.sampled_from(["to_q", "([a-z]+)+!", ".*q"])
TREES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(SETTINGS), inner, max_size=3),
    max_leaves=6,
)
WORDS = st.sampled_from(["four", "nan", "inf", "1e300", "-1", "0", "8", "", "[]", "{", "[" * 2000, "base", "v"])
KEYS = st.sampled_from(["lora_alpha", ADAPTER_METADATA, "dora_form", "note"])
METADATA = st.dictionaries(KEYS, WORDS | TREES.map(json.dumps), max_size=2)

# -- diffusers' index
SHARDS = st.sampled_from(
    ["a.safetensors", "b.safetensors", "../secret.safetensors", "/etc/passwd", ".", "", "a", "\0", "unet"]
)
IN_VAE = ("encoder.conv_in.bias", "encoder.conv_in.weight", "encoder.down_blocks.99999999999.resnets.99999999.x")
MAPS = st.dictionaries(st.sampled_from(IN_VAE), SHARDS, max_size=3) | ODD
INDEX = MAPS.map(lambda given: json.dumps({"weight_map": given}).encode())
SOME_IN_VAE = st.lists(st.sampled_from(IN_VAE), max_size=2, unique=True)

# -- PEFT's patterns, of what is read here
PATTERNS = st.lists(st.sampled_from([".*", ".", "a", "b", "1", "_", "\\.", "\\d", "ab", "a.b"]), min_size=1, max_size=7).map(
    "".join
)
