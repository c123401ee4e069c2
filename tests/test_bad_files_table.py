"""Bad weight and LoRA files, and bad places to write to, over all commands on files: one sentence, status 2, nothing written."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import tiny
from damaged import MODULE, NATIVE, PEFT, ckpt, entry, field, folder, loop, lora, pipe, safetensors, sparse, value
from gm.checkpoint.io import write_tensors
from gm.checkpoint.weights import open_base
from gm.errors import UserError
from tools import convert_weight, export_lora, extract_lora, import_lora, inspect_weights, merge_lora, resize_lora

HUGE = 2**63
TWO = {"a": entry(), "b": entry(offsets=(8, 16))}
SETTINGS = "lora_adapter_metadata"


def twice(first: str) -> bytes:
    return b'{"a":' + json.dumps(entry()).encode() + b',"' + first.encode() + b'":' + json.dumps(entry()).encode() + b"}"


# name -> (make(path), words); the suffix of the path is that of the name
READERS = {
    # safetensors
    "nested.safetensors": (lambda p: safetensors(p, b'{"a":' + b"[" * 50_000 + b"]" * 50_000 + b"}"), "nested too deeply"),
    "metadata list.safetensors": (lambda p: safetensors(p, {"__metadata__": ["x"], "a": entry()}, bytes(8)), "are no texts"),
    "metadata number.safetensors": (lambda p: safetensors(p, {"__metadata__": {"x": 1}, "a": entry()}, bytes(8)), "no texts"),
    "negative shape.safetensors": (lambda p: safetensors(p, {"a": entry((-2,))}, bytes(8)), "no sound shape"),
    "float shape.safetensors": (lambda p: safetensors(p, {"a": entry((2.0,))}, bytes(8)), "no sound shape"),
    "bool shape.safetensors": (lambda p: safetensors(p, {"a": entry((True, 2))}, bytes(8)), "no sound shape"),
    "text shape.safetensors": (lambda p: safetensors(p, {"a": entry() | {"shape": "22"}}, bytes(8)), "no sound shape"),
    "product.safetensors": (lambda p: safetensors(p, {"a": entry((2**32, 2**32, 2**32))}, bytes(8)), "no sound shape"),
    "sides.safetensors": (lambda p: safetensors(p, {"a": entry([1] * 40 + [2])}, bytes(8)), "no sound shape"),
    "float offset.safetensors": (lambda p: safetensors(p, {"a": entry(offsets=(0.0, 8))}, bytes(8)), "no sound data_offsets"),
    "negative offset.safetensors": (lambda p: safetensors(p, {"a": entry(offsets=(-8, 0))}, bytes(8)), "no sound data_offsets"),
    "three offsets.safetensors": (lambda p: safetensors(p, {"a": entry(offsets=(0, 4, 8))}, bytes(8)), "no sound data_offsets"),
    "endless number.safetensors": (lambda p: safetensors(p, b'{"a":' + b"9" * 10_000 + b"}"), "a number of no use"),
    "gap.safetensors": (lambda p: safetensors(p, TWO | {"b": entry(offsets=(12, 20))}, bytes(20)), "b does not begin where a ends"),
    "overlap.safetensors": (lambda p: safetensors(p, TWO | {"b": entry(offsets=(4, 12))}, bytes(12)), "b does not begin where a"),
    "trailing.safetensors": (lambda p: safetensors(p, TWO, bytes(17)), "1 bytes follow its last tensor"),
    "key twice.safetensors": (lambda p: safetensors(p, twice("a"), bytes(8)), "a key twice"),
    "no entry.safetensors": (lambda p: safetensors(p, {"a": 3}), "a has not dtype, shape and data_offsets alone"),
    "dtype.safetensors": (lambda p: safetensors(p, {"a": entry(dtype="F8_E4M3")}, bytes(8)), "unknown type 'F8_E4M3'"),
    "dtype list.safetensors": (lambda p: safetensors(p, {"a": entry(dtype=["F32"])}, bytes(8)), "unknown type"),
    "not UTF-8.safetensors": (lambda p: safetensors(p, b'{"\xff":' + json.dumps(entry()).encode() + b"}", bytes(8)), "not readable"),
    "half a character.safetensors": (lambda p: safetensors(p, twice("\\ud800"), bytes(16)), "not readable"),
    "NaN in JSON.safetensors": (lambda p: safetensors(p, b'{"a":NaN}'), "not readable"),
    "name with NUL.safetensors": (lambda p: safetensors(p, {"a\0b": entry()}, bytes(8)), "characters that cannot be shown"),
    "name of 4096.safetensors": (lambda p: safetensors(p, {"a" * 4096: entry()}, bytes(8)), "too long"),
    "header size.safetensors": (lambda p: safetensors(p, b"{" + b" " * (17 * 2**20) + b"}"), "more than 16,777,216"),
    "header beyond.safetensors": (lambda p: safetensors(p, TWO, bytes(16), length=HUGE), "cut off inside its header"),
    "no tensor.safetensors": (lambda p: safetensors(p, {}), "holds no tensor"),
    # MindSpore's .ckpt
    "sparse.ckpt": (sparse, "are on the disk"),
    "huge side.ckpt": (lambda p: ckpt(p, value(dims=(2**62,))), "no sound shape"),
    "negative side.ckpt": (lambda p: ckpt(p, value(dims=(2**64 - 2,))), "no sound shape"),
    "sides.ckpt": (lambda p: ckpt(p, value(dims=[1] * 5000)), "no sound shape"),
    "apart.ckpt": (lambda p: ckpt(p, value("a"), value("b"), value("a")), "holds a twice"),
    "parts differ.ckpt": (lambda p: ckpt(p, value("a", (4,)), value("a", (2, 2))), "the parts of a differ"),
    "two contents.ckpt": (lambda p: ckpt(p, value(more=field(3, bytes(8)))), "not a MindSpore checkpoint"),
    "type.ckpt": (lambda p: ckpt(p, value(kind="Complex64")), "has the type 'Complex64'"),
    "CRC.ckpt": (lambda p: ckpt(p, value(), trailer=b"crc_num" + bytes(10)), "its CRC differs"),
    "name with a line.ckpt": (lambda p: ckpt(p, value("a\nb")), "characters that cannot be shown"),
    "no name.ckpt": (lambda p: ckpt(p, value("")), "not a MindSpore checkpoint"),
    "cut.ckpt": (lambda p: ckpt(p, value()[:-1]), "cut off"),
    # what is no file
    "pipe.safetensors": (pipe, "no file but a device or pipe"),
    "loop.safetensors": (loop, "cannot be read"),
    "device.ckpt": (lambda p: Path("/dev/zero"), "no file but a device or pipe"),
    "folder.ckpt": (lambda p: p.mkdir() or p, ""),
    "below a file.ckpt": (lambda p: safetensors(p, TWO, bytes(16)) / "a.ckpt", "does not exist"),
    "n" * 300 + ".ckpt": (lambda p: p, "is too long: a name may have 255 bytes"),
}  # fmt: skip

COMMANDS = (
    (inspect_weights, lambda bad, out: (bad,)),
    (convert_weight, lambda bad, out: ("--input", bad, "--output", out / "new" / "a.ckpt")),
    (export_lora, lambda bad, out: ("--lora", bad, "--output", out / "new" / "a.safetensors")),
    (import_lora, lambda bad, out: ("--lora", bad, "--output", out / "a.ckpt")),
    (resize_lora, lambda bad, out: ("--lora", bad, "--rank", 2, "--output", out / "a.ckpt")),
    (merge_lora, lambda bad, out: ("--weight", f"{bad},{bad}", "--output", out / "a.ckpt")),
    (extract_lora, lambda bad, out: ("--base", bad, "--tuned", bad, "--output", out / "a.ckpt")),
)


def refused(run, out, tool, arguments, words) -> None:
    before = sorted(out.rglob("*"))
    status, errors = run(tool, *arguments)
    sentences = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert status == 2 and len(sentences) == 1 and words.lower() in sentences[0].lower(), errors
    assert "Traceback" not in errors and len(sentences[0]) < 1500
    assert sorted(out.rglob("*")) == before


@pytest.mark.parametrize("number, name", list(enumerate(READERS)), ids=lambda part: str(part)[:30])
def test_a_file_that_cannot_be_read(run, tmp_path, number, name):
    """Each with one of the commands in turn."""
    make, words = READERS[name]
    out = tmp_path / "out"
    out.mkdir()
    tool, arguments = COMMANDS[number % len(COMMANDS)]
    refused(run, out, tool, arguments(make(tmp_path / name), out), words)


def settings(**given) -> dict:
    return {SETTINGS: json.dumps({f"unet.{key}": value for key, value in given.items()})}


def alpha(number, shape=()) -> list:
    return [(f"{MODULE}.alpha", np.full(shape, number, np.float32))]


def extra(name: str, shape=(4, 4)) -> list:
    return [(name, np.ones(shape, np.float32))]


# name -> (make(path), words), of a LoRA
LORA = {
    "alpha four": (lambda p: lora(p, NATIVE, {"lora_alpha": "four"}), "lora_alpha in its metadata is 'four'"),
    "alpha nan": (lambda p: lora(p, NATIVE, {"lora_alpha": "nan"}), "an alpha is a number from 0 on"),
    "alpha inf": (lambda p: lora(p, NATIVE, {"lora_alpha": "inf"}), "an alpha is a number from 0 on"),
    "alpha 1e300": (lambda p: lora(p, NATIVE, {"lora_alpha": "1e300"}), "an alpha is a number from 0 on"),
    "alpha below 0": (lambda p: lora(p, NATIVE, {"lora_alpha": "-4"}), "an alpha is a number from 0 on"),
    "alpha tensor nan": (lambda p: lora(p, more=alpha(np.nan)), "holds 1 numbers that are NaN"),
    "alpha tensor below 0": (lambda p: lora(p, more=alpha(-1.0)), "an alpha is a number from 0 on"),
    "alpha of two": (lambda p: lora(p, more=alpha(1.0, (2,))), "an alpha is one number"),
    "alpha of none": (lambda p: lora(p, more=alpha(1.0, (0,))), "an alpha is one number"),
    "rank 0": (lambda p: lora(p, a=(0, 64), b=(64, 0)), "in which there is no number"),
    "ranks differ": (lambda p: lora(p, a=(4, 64), b=(64, 2)), "have different ranks"),
    "single number": (lambda p: lora(p, a=(), b=()), "which is no matrix"),
    "0-d magnitudes": (lambda p: lora(p, b=(1, 4), more=[(f"{MODULE}.dora_scale", np.float32(1).reshape(()))]), "has the shape ()"),
    "NaN": (lambda p: lora(p, fill=np.nan), f"holds 256 numbers that are NaN or infinite among the 256 of {MODULE}.lora_up"),
    "infinite": (lambda p: lora(p, fill=np.inf), "that are NaN or infinite"),
    "settings nested": (lambda p: lora(p, PEFT, {SETTINGS: "[" * 50_000}), "is not JSON"),
    "settings list": (lambda p: lora(p, PEFT, {SETTINGS: "[]"}), "is not JSON of PEFT's settings"),
    "settings alpha": (lambda p: lora(p, PEFT, settings(lora_alpha="four")), "unet.lora_alpha is 'four'"),
    "settings patterns": (lambda p: lora(p, PEFT, settings(alpha_pattern=["to_q"])), "no table of alphas by module"),
    "settings pattern": (lambda p: lora(p, PEFT, settings(alpha_pattern={"([a-z0-9_.]+)+!": 2})), "more than a name with . and .*"),
    "settings of it": (lambda p: lora(p, PEFT, settings(alpha_pattern={"to_q": None})), "an alpha is a number from 0 on"),
    "LoHa": (lambda p: lora(p, more=extra(f"{MODULE}.hada_w1_a")), "holds LoHa matrices"),
    "LoKr": (lambda p: lora(p, more=extra(f"{MODULE}.lokr_w1")), "holds LoKr matrices"),
    "GLoRA": (lambda p: lora(p, more=extra(f"{MODULE}.a1.weight")), "holds GLoRA matrices"),
    "IA3": (lambda p: lora(p, more=extra(f"{MODULE}.on_input", (1,))), "holds IA3 vectors"),
    "OFT": (lambda p: lora(p, more=extra(f"{MODULE}.oft_blocks")), "holds OFT matrices"),
    "lora_bias": (lambda p: lora(p, PEFT, more=extra(f"{PEFT}.lora_B.bias", (64,))), "(lora_bias)"),
    "train_norm": (lambda p: lora(p, more=extra("lora_unet_out_0.w_norm", (64,))), "trained norms (LyCORIS' train_norm)"),
    "full": (lambda p: lora(p, more=extra("lora_unet_out_2.diff")), "whole differences of weights"),
    "embedding": (lambda p: write_tensors(p, [*extra("clip_l", (3, 768)), *extra("clip_g", (3, 1280))]) or p, "holds a textual inversion embedding"),
    "Flux": (lambda p: lora(p, "transformer.single_transformer_blocks.0.attn.to_q"), "seems to be of Flux or SD 3"),
    "other blocks": (lambda p: lora(p, "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"), "the YAML of its model with --config"),
    "other convolution": (lambda p: lora(p, more=[(f"lora_unet_{n}.lora_down.weight", np.ones((4, 4, *w), np.float32))
                                                  for n, w in (("x", ()), ("y", ()), ("z", ()), ("conv_in", (3, 3)))]), "(lora_unet_conv_in.lora_down.weight, "),
}  # fmt: skip


@pytest.mark.parametrize("number, name", list(enumerate(LORA)), ids=lambda part: str(part)[:30])
def test_a_lora_that_cannot_be_used(run, tmp_path, number, name):
    make, words = LORA[name]
    out = tmp_path / "out"
    out.mkdir()
    tool, arguments = COMMANDS[2 + number % 3]
    refused(run, out, tool, arguments(make(tmp_path / "a.safetensors"), out), words)
    if name not in ("NaN", "infinite"):  # which it tells of
        refused(run, out, inspect_weights, (tmp_path / "a.safetensors",), words)


INDICES = {
    "up": ({"weight_map": {"conv_in.bias": "../secret.safetensors"}}, "names the file '../secret.safetensors'"),
    "absolute": ({"weight_map": {"conv_in.bias": "/etc/passwd"}}, "names the file '/etc/passwd'"),
    "dots": ({"weight_map": {"conv_in.bias": ".."}}, "names the file '..'"),
    "other folder": ({"weight_map": {"conv_in.bias": "x/a.safetensors"}}, "which is none beside it"),
    "no text": ({"weight_map": {"conv_in.bias": 3}}, "is not an index"),
    "list": ({"weight_map": ["a.safetensors"]}, "is not an index"),
    "nested": (b"[" * 50_000, "is not an index"),
    "twice": (b'{"weight_map":{"a":"a.safetensors","a":"b.safetensors"}}', "is not an index"),
    "many": ({"weight_map": {f"t{i}": f"s{i}.safetensors" for i in range(200)}}, "200 files"),
    "large": (b" " * (17 * 2**20), "more than 16,777,216 bytes"),
    "other": ({"weight_map": {"conv_out.bias": "a.safetensors"}}, "differ in"),
}


@pytest.mark.parametrize("name", INDICES)
def test_an_index_that_cannot_be_followed(run, tmp_path, name):
    index, words = INDICES[name]
    out = tmp_path / "out"
    out.mkdir()
    refused(run, out, convert_weight, ("--input", folder(tmp_path / "d", index), "--output", out / "a.ckpt"), words)


def changed(weights: Path, path: Path, change) -> Path:
    """The tiny base weights with changed tensors; `change` gets them by name."""
    tensors = load_file(weights)
    change(tensors)
    save_file(tensors, path)
    return path


FUSED = "conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_bias"
OUT = "model.diffusion_model.out.2.weight"


def nan(tensors) -> None:
    tensors[OUT] = tensors[OUT].copy()
    tensors[OUT].reshape(-1)[5] = np.nan


BASES = {
    "0-d in_proj": (lambda t: t.update({FUSED: np.array(1, np.float32)}), "has the shape (), not three equal thirds"),
    "in_proj": (lambda t: t.update({FUSED: t[FUSED][:-1].copy()}), "not three equal thirds"),
    "twice": (lambda t: t.update({"model.diffusion_model.out.0.gamma": t["model.diffusion_model.out.0.weight"]}), "a second time"),
    "NaN": (nan, f"holds 1 numbers that are NaN or infinite among the 1,152 of {OUT}"),
}  # fmt: skip


@pytest.mark.parametrize("name", BASES)
def test_base_weights_that_cannot_be_used(run, tmp_path, tiny_weights, name):
    change, words = BASES[name]
    bad, out = changed(tiny_weights, tmp_path / "bad.safetensors", change), tmp_path / "out"
    out.mkdir()
    refused(run, out, convert_weight, ("--input", bad, "--output", out / "a.ckpt"), words)
    given = lora(tmp_path / "l.safetensors")
    refused(run, out, merge_lora, ("--weight", f"{bad},{given}", "--output", out / "a.ckpt"), words)


@pytest.mark.parametrize("name", ["LoHa", "embedding", "train_norm"])
def test_what_is_given_for_base_weights_is_named(tmp_path, base_shapes, name):
    make, words = LORA[name]
    with pytest.raises(UserError) as error:
        open_base(make(tmp_path / "a.safetensors")).check(base_shapes)
    assert words in str(error.value) and "base weights come first" in str(error.value)


def test_numbers_that_become_too_large(run, tmp_path, tiny_weights):
    """Only what is written counts: alpha times the matrices, rounded to the type."""
    out = tmp_path / "out"
    out.mkdir()
    large, scaled = (
        lora(tmp_path / "large.safetensors", fill=1e30),
        lora(tmp_path / "scaled.ckpt", NATIVE, {"lora_alpha": "3e38"}, fill=50.0),
    )
    to = ("--output", out / "a.safetensors")
    refused(run, out, export_lora, ("--lora", large, *to, "--dtype", "float16"), "does not fit into float16")
    refused(run, out, export_lora, ("--lora", scaled, *to, "--format", "peft"), "numbers that are NaN or infinite")
    refused(run, out, resize_lora, ("--lora", scaled, *to, "--rank", 2), "numbers that are NaN or infinite")
    refused(run, out, merge_lora, ("--weight", f"{tiny_weights},{large}", *to), "does not fit into float16")
    refused(run, out, merge_lora, ("--weight", f"{tiny_weights},{scaled}", *to, "--dtype", "float32"), "NaN or infinite")
    other = changed(
        tiny_weights, tmp_path / "o.safetensors", lambda t: t.update({OUT: np.full(t[OUT].shape, 1e35, np.float32)})
    )
    refused(run, out, extract_lora, ("--base", tiny_weights, "--tuned", other, *to), "one of the two files is damaged")


def test_places_that_cannot_be_written_to(run, tmp_path, tiny_weights):
    given, out = lora(tmp_path / "a.ckpt", NATIVE), tmp_path / "out"
    out.mkdir()
    (out / "link.ckpt").symlink_to(given)
    before = given.read_bytes()
    for tool, suffix, arguments in (
        (convert_weight, ".ckpt", ("--input", tiny_weights)),
        (export_lora, ".safetensors", ("--lora", given)),
        (import_lora, ".ckpt", ("--lora", given)),
        (resize_lora, ".ckpt", ("--lora", given, "--rank", 2)),
        (merge_lora, ".ckpt", ("--weight", f"{tiny_weights},{given}")),
        (extract_lora, ".ckpt", ("--base", tiny_weights, "--tuned", tiny_weights)),
    ):
        for path, words in (
            (given / f"b{suffix}", "cannot be written"),
            (Path(f"/proc/none/a{suffix}"), "cannot be written"),
            (out / ("n" * 240 + suffix), "too long a name"),
            (out / ("n" * 300 + suffix), "is too long: a name may have 255 bytes"),
        ):
            refused(run, out, tool, (*arguments, "--output", path), words)
    for path in (given, out / "link.ckpt"):
        refused(run, out, import_lora, ("--lora", given, "--output", path), "exists already")
    assert given.read_bytes() == before


def test_a_small_models_lora_needs_its_yaml(run, tmp_path):
    """And with it, it is read."""
    name = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q"
    given = lora(tmp_path / "a.safetensors", "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q")
    words = ("--set", "model.params.network_config.params.attention_resolutions=[1,2,4]")
    from gm.checkpoint.lora_files import open_lora
    from gm.config.load import load_config

    model = load_config(str(tiny.INFERENCE), [words[1], words[1].replace("attention_resolutions=[1,2,4]", "transformer_depth=[1,1,1]")], training=False).model  # fmt: skip
    assert list(open_lora(given, model).modules) == [name]
