"""Weight, LoRA and cache files damaged at random: they are read, or refused in one sentence; nothing else, and never for long.

A few seconds as it stands. FUZZ_SECONDS=300 goes on for so long in all and tells how many files were read and refused:
FUZZ_SECONDS=300 pytest -q tests/test_file_fuzz.py
"""

import binascii
import json
import os
import re
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import safetensors
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import damaged
from damaged import NATIVE
from file_damage import CHANGES, EDITS, FEW_EDITS, INDEX, LORA_CHANGES, METADATA, PATTERNS, SOME_IN_VAE, edited, with_header
from gm.checkpoint.folder import open_source, open_vae
from gm.checkpoint.io import open_tensors, write_tensors
from gm.checkpoint.lora_files import open_lora
from gm.checkpoint.lora_rules import LAYOUTS
from gm.checkpoint.peft_settings import ADAPTER_METADATA, _ends_with, _pieces
from gm.checkpoint.weights import BaseWeights
from gm.data.disk_cache import DiskCache
from gm.errors import UserError
from lora_samples import file_of

SECONDS = float(os.environ.get("FUZZ_SECONDS", 0))
SHARES = 6  # tests here that share them
COUNTS: Counter = Counter()
SLOWEST = 5.0  # seconds that a small file may take


@pytest.fixture(scope="module", autouse=True)
def told(request):
    """The figures of a long run, past pytest's capture."""
    yield
    if SECONDS:
        with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
            for what in sorted({what for what, _ in COUNTS}):
                read, refused = COUNTS[what, "read"], COUNTS[what, "refused"]
                print(f"\n{what}: {read + refused:,} calls, {read:,} read, {refused:,} refused", end="")
            print(f"\nin all: {sum(COUNTS.values()):,} calls, no other outcome")


def fuzz(strategies: dict, examples: int, found=()):
    """`check(folder, **drawn)` as a test: so many examples, or new ones for this test's share of FUZZ_SECONDS; `found`: what was
    found with it."""

    def decorate(check):
        def test(tmp_path_factory):
            folder = tmp_path_factory.mktemp("fuzz")
            drawn = given(**strategies)(lambda **values: check(folder, **values))
            for values in found:
                drawn = example(**values)(drawn)
            usual = settings(
                deadline=None,
                derandomize=False,
                database=None,
                max_examples=examples,
                suppress_health_check=list(HealthCheck),
            )(drawn)
            end = time.monotonic() + SECONDS / SHARES
            usual()
            while time.monotonic() < end:
                usual()

        test.__doc__ = check.__doc__
        return test

    return decorate


def outcome(what: str, call) -> bool:
    """Whether the call succeeds; it may raise a UserError of one line, and takes little time."""
    start = time.monotonic()
    try:
        call()
        COUNTS[what, "read"] += 1
        return True
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 3000
        COUNTS[what, "refused"] += 1
        return False
    finally:
        assert time.monotonic() - start < SLOWEST


# -- bytes ---------------------------------------------------------------------------------------------------------


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


@fuzz(
    {"name": st.sampled_from([n for n in NAMES if n.endswith("s")]), "changes": CHANGES},
    examples=400,
    found=[{"name": "native.safetensors", "changes": [(0, "metadata", 0, 1)]}],
)
def test_changed_headers(folder, name, changes):
    check_bytes(folder, name, with_header(whole(folder, name), changes))


# -- LoRA that are sound files ---------------------------------------------------------------------------------------


@fuzz(
    {
        "layout": st.sampled_from(["native", *LAYOUTS]),
        "suffix": st.sampled_from([".ckpt", ".safetensors"]),
        "alpha": st.sampled_from([None, 2.0, 0.0, -1.0, np.inf]),
        "changes": LORA_CHANGES,
        "metadata": METADATA,
    },
    examples=200,
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


@fuzz({"index": INDEX, "edits": FEW_EDITS, "names": SOME_IN_VAE}, examples=200)
def test_indices_of_diffusers_folders(folder, index, edits, names):
    path = folder / "diffusers"
    if not path.exists():
        damaged.folder(path, {})
    header = {name: damaged.entry(offsets=(8 * i, 8 * i + 8)) for i, name in enumerate(names)}
    damaged.safetensors(path / "unet" / "a.safetensors", header, bytes(8 * len(names)))
    (path / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_bytes(edited(index, edits))
    opened: list[Path] = []
    outcome("diffusers' folder", lambda: opened.extend(open_source(path).paths))
    outcome("diffusers' VAE by an index", lambda: opened.extend(open_vae(path / "unet").paths))
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
