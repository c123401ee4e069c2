"""Weight, LoRA and cache files damaged at random: they are read, or refused in one sentence; nothing else, and never for long.

A few seconds as it stands. FUZZ_SECONDS=300 goes on for so long in all and tells how many files were read and refused:
FUZZ_SECONDS=300 pytest -q tests/test_file_fuzz.py
"""

import binascii
import json
import re
import struct
import time
from pathlib import Path

import numpy as np
import safetensors
from hypothesis import strategies as st

import damaged
from damaged import MODULE, NATIVE, PEFT
from fuzzing import EDITS, SMALL, edited, fuzz, outcome, told  # noqa: F401
from gm.checkpoint.folder import open_source, open_vae
from gm.checkpoint.io import open_tensors, write_tensors
from gm.checkpoint.lora_files import open_lora
from gm.checkpoint.lora_rules import LAYOUTS
from gm.checkpoint.peft_settings import ADAPTER_METADATA, _ends_with, _pieces
from gm.checkpoint.weights import BaseWeights
from gm.data.disk_cache import DiskCache
from lora_samples import file_of


def plain_tensors() -> list:
    rng = np.random.default_rng(0)
    kinds = (np.float32, np.float16, np.int64, np.uint8)
    arrays = [(f"t{i}.weight", (9 * rng.standard_normal((2, i, 3))).astype(kind)) for i, kind in enumerate(kinds)]
    return [*arrays, ("scalar", np.array(2.5, np.float32)), ("b", np.array([True, False]))]


def whole_files(folder: Path) -> dict[str, bytes]:
    """Of every kind that is read."""
    metadata = {"lora_alpha": "8.0", "note": "Grüße"}
    files = {}
    for suffix in ("safetensors", "ckpt"):
        for checksum in (False, True):
            path = folder / f"plain{checksum}.{suffix}"
            write_tensors(path, plain_tensors(), metadata, checksum=checksum)
            files[path.name] = path.read_bytes()
    parts = damaged.value("a", (4,)) + damaged.value("a", (4,)) + damaged.value("b")
    files["parts.ckpt"] = parts
    files["crc.ckpt"] = parts + b"crc_num" + binascii.crc32(parts).to_bytes(10, "big")
    pairs = {NATIVE: (np.ones((2, 6), np.float32), np.ones((4, 2), np.float32))}
    told = {ADAPTER_METADATA: json.dumps({"unet.lora_alpha": 8, "unet.alpha_pattern": {"attn1.to_q": 2}})}
    for layout in ("native", *LAYOUTS):
        for suffix in ("safetensors", "ckpt"):
            path = file_of(folder / f"{layout}.{suffix}", pairs, layout, {NATIVE: 2.0}, {"lora_alpha": "2"})
            files[path.name] = path.read_bytes()
    path = file_of(folder / "settings.safetensors", pairs, "peft", None, told)
    files[path.name] = path.read_bytes()
    return files


NAMES = sorted(
    [f"plain{checksum}.{suffix}" for checksum in (False, True) for suffix in ("safetensors", "ckpt")]
    + ["parts.ckpt", "crc.ckpt", "settings.safetensors"]
    + [f"{layout}.{suffix}" for layout in ("native", *LAYOUTS) for suffix in ("safetensors", "ckpt")]
)
_FILES: dict[Path, dict[str, bytes]] = {}


def whole(folder: Path, name: str) -> bytes:
    if folder not in _FILES:
        (folder / "whole").mkdir()
        _FILES[folder] = whole_files(folder / "whole")
        assert sorted(_FILES[folder]) == NAMES
    return _FILES[folder][name]


def read_all(path: Path) -> dict[str, np.ndarray]:
    with open_tensors(path) as file:
        BaseWeights(file)
        arrays = {name: file.read(name) for name in file.names}
        file.verify_checksum()
    return arrays


def read_lora(path: Path) -> None:
    with open_lora(path) as file:
        for module, pair in file.modules.items():
            file.factors(module)
            assert np.isfinite(file.scale(module)) and file.update(module).shape == pair.shape
        [file.read(name) for name in file.names()]


def check_bytes(folder: Path, name: str, content: bytes) -> None:
    """All readers on the file; what safetensors refuses is refused here, and what both take has the same numbers."""
    path = folder / f"a{Path(name).suffix}"
    path.write_bytes(content)
    found: dict = {}
    taken = outcome(Path(name).suffix[1:], lambda: found.update(read_all(path)))
    outcome("LoRA", lambda: read_lora(path))
    outcome("VAE", lambda: open_vae(path).close())
    if content[8:9] != b"{":
        return
    try:
        theirs = dict(safetensors.deserialize(content))
    except safetensors.SafetensorError:
        assert not taken, "safetensors refuses it"
        return
    if taken:
        assert set(theirs) == set(found)
        assert all(tuple(theirs[n]["shape"]) == array.shape for n, array in found.items())
        assert all(theirs[n]["dtype"] == "BF16" or bytes(theirs[n]["data"]) == array.tobytes() for n, array in found.items())


@fuzz({"name": st.sampled_from(NAMES), "edits": EDITS}, examples=500)
def test_edited_bytes(folder, name, edits):
    check_bytes(folder, name, edited(whole(folder, name), edits))


# -- the header of a safetensors file, which stays JSON ------------------------------------------------------------

ODD = st.sampled_from(
    [
        None,
        True,
        -1,
        0,
        1,
        2,
        8,
        2.0,
        2**31,
        2**62,
        2**63,
        2**64,
        10**30,
        "2",
        "F32",
        "F64",
        "BF16",
        "I4",
        "",
        [],
        [0],
        [0, 8],
        [8, 0],
    ]
    + [
        [2**32] * 3,
        [0, 2**64],
        [-2, -1],
        [True],
        [2.0],
        {},
        {"a": 1},
        [1] * 9,
        [[0, 8]],
        "four",
        "nan",
        "1e300",
        "-1",
        "\ud800",
        "\0",
    ]
)
CHANGES = st.lists(
    st.tuples(
        st.integers(0, 9),
        st.sampled_from(
            ["dtype", "shape", "data_offsets", "side", "offset", "drop", "rename", "add", "metadata", "whole", "twice"]
        ),
        ODD,
        st.integers(0, 3),
    ),
    min_size=1,
    max_size=3,
)


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


@fuzz(
    {"name": st.sampled_from([n for n in NAMES if n.endswith("s")]), "changes": CHANGES},
    examples=400,
    found=[{"name": "native.safetensors", "changes": [(0, "metadata", 0, 1)]}],
)
def test_changed_headers(folder, name, changes):
    check_bytes(folder, name, with_header(whole(folder, name), changes))


# -- LoRA that are sound files ---------------------------------------------------------------------------------------

SHAPES = st.lists(st.sampled_from([0, 1, 2, 3, 4, 6]), max_size=5).map(tuple)
ENDINGS = (
    *(
        ".lora_down.weight",
        ".lora_up.weight",
        ".alpha",
        ".dora_scale",
        ".lora_A.weight",
        ".lora_B.weight",
        ".lora_magnitude_vector",
    ),
    *(".lora.down.weight", ".lora.up.weight", ".lora_mid.weight", ".diff", ".lora_B.bias", ""),
)
ODD_NAMES = st.builds(
    lambda start, ending: start + ending,
    st.sampled_from(
        [
            MODULE,
            PEFT,
            NATIVE,
            "lora_unet_input_blocks_1_0_in_layers_2",
            "unet.conv_in",
            "lora_te1_x",
            "a" * 300,
            "clip_l",
            ".",
        ]
    ),
    st.sampled_from(ENDINGS),
)
TEXTS = st.sampled_from(
    ["four", "nan", "inf", "1e300", "-1", "0", "8", "", "[]", "{", "[" * 2000, "base", "v"]
) | st.recursive(
    st.none()
    | st.booleans()
    | st.floats()
    | st.integers(-1, 9)
    | st.sampled_from(["to_q", "([a-z]+)+!", ".*q", "attn1.to_q"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(
                ["unet.lora_alpha", "unet.alpha_pattern", "unet.use_rslora", "to_q", ".*", "(a|a)*b", "\\d", "x" * 600]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
).map(json.dumps)
LORA_CHANGES = st.lists(
    st.tuples(st.sampled_from(["name", "shape", "fill", "drop", "add"]), st.integers(0, 5), ODD_NAMES, SHAPES, st.sampled_from([0, 1e38, -3e38, np.inf, np.nan])),
    max_size=4,
)  # fmt: skip
KEYS = st.sampled_from(["lora_alpha", ADAPTER_METADATA, "dora_form", "note"])


@fuzz(
    {
        "layout": st.sampled_from(["native", *LAYOUTS]),
        "suffix": st.sampled_from([".ckpt", ".safetensors"]),
        "alpha": st.sampled_from([None, 2.0, 0.0, -1.0, np.inf]),
        "changes": LORA_CHANGES,
        "metadata": st.dictionaries(KEYS, TEXTS, max_size=2),
    },
    examples=500,
)
def test_lora_of_any_names_shapes_and_metadata(folder, layout, suffix, alpha, changes, metadata):
    path = folder / f"lora{suffix}"
    pairs = {NATIVE: (np.ones((2, 6), np.float32), np.ones((4, 2), np.float32))}
    file_of(path, pairs, layout, None if alpha is None else {NATIVE: alpha})
    with open_tensors(path) as file:
        tensors = [
            (name, np.frombuffer(file._read(name).content, file.dtype(name)).reshape(file.shape(name))) for name in file.names
        ]
    for how, number, name, shape, fill in changes:
        at = number % len(tensors) if tensors else 0
        if how == "add" or not tensors:
            tensors.append((name, np.ones(shape, np.float32)))
        elif how == "drop":
            del tensors[at]
        else:
            old, array = tensors[at]
            new = {"name": array, "shape": np.ones(shape, np.float32), "fill": np.full_like(array, fill)}[how]
            tensors[at] = (name if how == "name" else old), new
    write_tensors(path, dict(tensors).items(), metadata)
    with np.errstate(all="ignore"):  # products of 1e38: who merges looks at the result
        outcome("LoRA of odd parts", lambda: read_lora(path))


# -- diffusers' folders, cache entries, patterns -------------------------------------------------------------------

SHARDS = st.sampled_from(
    ["a.safetensors", "b.safetensors", "../secret.safetensors", "/etc/passwd", ".", "", "a", "\0", "unet"]
)
INDEX = st.one_of(
    st.dictionaries(
        st.sampled_from(["conv_in.bias", "conv_in.weight", "down_blocks.99999999999.resnets.99999999.x"]), SHARDS, max_size=3
    ),
    ODD,
).map(lambda given: json.dumps({"weight_map": given}).encode())
INDEX_EDITS = st.lists(st.tuples(st.sampled_from(["flip", "cut", "insert", "double", "remove"]), st.floats(0, 1), st.floats(0, 0.2), SMALL), max_size=3)  # fmt: skip


@fuzz({"index": INDEX, "edits": INDEX_EDITS, "names": st.lists(st.sampled_from(["conv_in.bias", "down_blocks.99999999999.resnets.0.conv1.bias"]), max_size=2, unique=True)}, examples=200)  # fmt: skip
def test_indices_of_diffusers_folders(folder, index, edits, names):
    path = folder / "diffusers"
    if not path.exists():
        damaged.folder(path, {})
    header = {name: damaged.entry(offsets=(8 * i, 8 * i + 8)) for i, name in enumerate(names)}
    damaged.safetensors(path / "unet" / "a.safetensors", header, bytes(8 * len(names)))
    (path / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_bytes(edited(index, edits))
    opened: list[Path] = []
    for what in (lambda: opened.extend(open_source(path).paths), lambda: opened.extend(open_vae(path).paths)):
        outcome("diffusers' index", what)
    assert all(found.parent == path / "unet" for found in opened)


@fuzz({"edits": EDITS, "shape": st.sampled_from([None, (2, 3), (3, 2)])}, examples=200)
def test_entries_of_a_cache(folder, edits, shape):
    """The array that was kept, or none."""
    cache, key, array = DiskCache(folder), {"what": "row", "n": 1}, np.arange(6, dtype=np.float32).reshape(2, 3)
    cache.put(key, array)
    path = cache._path(key)
    path.write_bytes(edited(path.read_bytes(), edits))
    found: list = []
    outcome("cache", lambda: found.append(cache.get(key, shape)))
    assert found[0] is None or np.array_equal(found[0], array)
    cache.put(key, array)
    assert np.array_equal(cache.get(key, (2, 3)), array) and cache.get(key, (3, 2)) is None


PATTERNS = st.lists(st.sampled_from([".*", ".", "a", "b", "1", "_", "\\.", "\\d", "ab", "a.b"]), min_size=1, max_size=7).map(
    "".join
)


@fuzz(
    {"pattern": PATTERNS, "name": st.text("ab1_.", max_size=12)},
    examples=600,
    found=[{"pattern": "a.*", "name": "a"}, {"pattern": ".*a.*b", "name": "a.ab"}],
)
def test_patterns_match_as_peft_matches_them(folder, pattern, name):
    pieces = _pieces(pattern)
    assert pieces is not None and _ends_with(name, pieces) == bool(re.match(rf"(.*\.)?({pattern})$", name))


def test_what_is_more_than_such_a_pattern_is_not_run():
    for pattern in (
        "([a-z0-9_.]+)+!",
        "a|b",
        "a+",
        "[ab]",
        "a{2}",
        "^a",
        "a$",
        "(?:a)",
        "a*",
        ".*?",
        "",
        "a" * 600,
        "\\w",
        "a.+b",
    ):
        assert _pieces(pattern) is None, pattern
    start = time.monotonic()
    assert not _ends_with("a." * 250, _pieces(".*a" * 100 + ".*b"))
    assert time.monotonic() - start < 1
