"""Weight files: names, both directions of conversion, strictness, and what happens when the disk is full."""

import errno
import os

import mindspore as ms
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import tiny
from bad_files import bad_file, change
from gm.checkpoint import io
from gm.checkpoint.io import Raw, convert, open_tensors, to_array, to_bfloat16, write_tensors
from gm.checkpoint.lora_files import lora_in_base
from gm.checkpoint.rules import native_to_official, official_shapes, official_to_native
from gm.checkpoint.weights import open_base, split_weight_argument, stream_whole
from gm.config.load import load_config
from gm.errors import UserError
from gm.models.adapters import adapters_of
from gm.models.sdxl import expected_shapes
from tools import convert_weight


@pytest.fixture(scope="module")
def shapes():
    """Base and LoRA shapes of the tiny model with LoRA in its UNet."""
    return expected_shapes(tiny.model(), tiny.adapters())


def test_full_size_names_and_shapes_are_the_official_2515(full_keys):
    model = load_config(str(tiny.ROOT / "configs/inference/sd_xl_base.yaml"), training=False).model
    found = official_shapes(expected_shapes(model)[0])
    assert len(full_keys) == 2515
    assert found == {name: tuple(shape) for name, shape in full_keys.items()}


def test_full_size_lora_is_that_of_the_design():
    path = "configs/training/sd_xl_base_finetune_dreambooth_textencoder_lora_910b.yaml"
    config = load_config(str(tiny.ROOT / path))
    _, matrices = expected_shapes(config.model, adapters_of(config.model, config.lora))
    unet = {name: shape for name, shape in matrices.items() if name.startswith("model.diffusion_model.")}
    assert len(unet) == 1120 and sum(a * b for a, b in unet.values()) == 5_806_080
    assert unet["model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q.lora_A.weight"] == (4, 640)
    assert unet["model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.lora_A.weight"] == (4, 2048)
    assert unet["model.diffusion_model.middle_block.1.transformer_blocks.9.attn1.to_out.0.lora_B.weight"] == (1280, 4)
    text = set(matrices) - set(unet)
    assert len(text) == 2 * 4 * (12 + 32)
    assert {name.split(".")[-3] for name in text} == {"q_proj", "k_proj", "v_proj", "out_proj"}


def test_renaming_is_one_to_one(full_keys):
    native = {official_to_native(name) for name in full_keys}
    assert len(native) == len(full_keys)
    assert {native_to_official(name) for name in native} == set(full_keys)
    assert all(official_to_native(native_to_official(name)) == name for name in native)


def cast_file(source, target, dtype):
    """The tiny weights in another type, with the two tensors that the loader ignores."""
    with open_tensors(source) as file:
        items = [(name, convert(file.read(name), dtype)) for name in file.names]
    write_tensors(target, items, {"modelspec.title": "tiny"})
    return target


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_round_trip_is_bit_equal(tiny_weights, tmp_path, dtype):
    start, middle, end = (tmp_path / name for name in ("a.safetensors", "sub/b.ckpt", "c.safetensors"))
    cast_file(tiny_weights, start, dtype)
    convert_weight.main(["--input", str(start), "--output", str(middle)])
    convert_weight.main(["--input", str(middle), "--output", str(end)])
    assert start.read_bytes() == end.read_bytes()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_conversion_to_another_type(tiny_weights, tmp_path, dtype):
    target = tmp_path / "a.ckpt"
    convert_weight.main(["--input", str(tiny_weights), "--output", str(target), "--dtype", dtype])
    given, found = open_tensors(tiny_weights), open_tensors(target)
    bits = {"float16": 11, "bfloat16": 8, "float32": 24}[dtype]
    for name in given.names:
        native = official_to_native(name)
        if given.dtype(name) == "float32":
            assert found.dtype(native) == dtype
            a, b = given.read(name), found.read(native)
            assert (np.abs(a - b) <= np.maximum(np.abs(a) * 2.0**-bits, 1e-7)).all(), name


def test_bfloat16_rounds_to_nearest_even():
    values = np.array([1.0, 1.0 + 2**-8, 1.0 + 3 * 2**-8, -2.5, np.inf, np.nan, 3.4e38], np.float32)
    found = to_array(to_bfloat16(values))
    assert np.array_equal(found, np.array([1.0, 1.0, 1.015625, -2.5, np.inf, np.nan, np.inf], np.float32), equal_nan=True)


def test_a_number_too_large_for_float16_is_refused(tmp_path):
    save_file({"w": np.array([1e6], np.float32)}, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="does not fit into float16"):
        convert_weight.main(
            ["--input", str(tmp_path / "a.safetensors"), "--output", str(tmp_path / "b.ckpt"), "--dtype", "float16"]
        )
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_the_converter_never_overwrites_and_wants_the_other_kind(tiny_weights, tmp_path):
    (tmp_path / "a.ckpt").write_bytes(b"precious")
    for output, words in (("a.ckpt", "exists already"), ("b.safetensors", "own kind"), ("b.bin", "must end in")):
        with pytest.raises(UserError, match=words):
            convert_weight.main(["--input", str(tiny_weights), "--output", str(tmp_path / output)])
    assert (tmp_path / "a.ckpt").read_bytes() == b"precious"


def test_mindspore_reads_what_is_written_and_the_reverse(tiny_weights, tmp_path):
    converted, saved = tmp_path / "a.ckpt", tmp_path / "b.ckpt"
    convert_weight.main(["--input", str(tiny_weights), "--output", str(converted)])
    loaded = {n: p for n, p in ms.load_checkpoint(str(converted)).items() if isinstance(p, ms.Parameter)}
    original = load_file(tiny_weights)
    assert {native_to_official(name) for name in loaded} == set(original)
    for name, parameter in loaded.items():
        assert np.array_equal(parameter.asnumpy(), original[native_to_official(name)]), name
    ms.save_checkpoint([{"name": name, "data": p} for name, p in loaded.items()], str(saved))
    ours = open_tensors(saved)
    assert set(ours.names) == set(loaded)
    assert all(np.array_equal(ours.read(name), p.asnumpy()) for name, p in loaded.items())


def test_all_four_kinds_of_file_give_the_same_weights(tiny_weights, shapes, tmp_path):
    """Official, converted, and base + LoRA in one file; the fused projection comes out in thirds."""
    convert_weight.main(["--input", str(tiny_weights), "--output", str(tmp_path / "a.ckpt")])
    matrices = {name: np.ones(shape, np.float32) for name, shape in shapes[1].items()}
    write_tensors(tmp_path / "both.ckpt", stream_whole(open_base(tiny_weights), matrices), {"lora_alpha": "2.0"})
    files = [open_base(path) for path in (tiny_weights, tmp_path / "a.ckpt", tmp_path / "both.ckpt")]
    for file in files:
        file.check(shapes[0])
    for name in shapes[0]:
        first, *others = (file.read(name) for file in files)
        assert all(np.array_equal(first, other) for other in others), name
    both = lora_in_base(files[-1])
    both.check(shapes[1], 2.0)
    assert all(both.scale(module) == 0.5 for module in both.modules) and all((both.read(name) == 1).all() for name in matrices)
    name = "conditioner.embedders.1.model.transformer.resblocks.0.attn."
    fused = load_file(tiny_weights)[name + "in_proj_weight"]
    assert np.array_equal(np.concatenate([files[0].read(f"{name}{part}_proj.weight") for part in "qkv"]), fused)


@pytest.mark.parametrize("how, words", [("missing", "1 missing"), ("extra", "1 left over"), ("shape", "1 of another shape")])
def test_loading_is_strict(tiny_weights, shapes, tmp_path, how, words):
    change(tiny_weights, tmp_path / "a.safetensors", how)
    with pytest.raises(UserError, match=words):
        open_base(tmp_path / "a.safetensors").check(shapes[0])


BAD_FILES = {
    "missing": "does not exist",
    "empty": "is empty",
    "text": "neither kind",
    "pytorch": "PyTorch",
    "folder": "is a folder",
    "cut safetensors": "cut off",
    "cut header": "cut off",
    "broken header": "header",
    "cut ckpt": "cut off",
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_bad_file_is_named(tiny_weights, tmp_path, kind):
    path = bad_file(kind, tiny_weights, tmp_path)
    with pytest.raises(UserError) as error:
        open_base(path)
    assert path.name in str(error.value) and BAD_FILES[kind] in str(error.value)


def test_any_cut_of_a_checkpoint_is_noticed(tmp_path):
    write_tensors(tmp_path / "a.ckpt", [(f"t{i}", np.arange(50, dtype=np.float32)) for i in range(3)], {"note": "text"})
    whole = (tmp_path / "a.ckpt").read_bytes()
    complete = 0
    for length in range(1, len(whole)):
        (tmp_path / "b.ckpt").write_bytes(whole[:length])
        try:
            with open_tensors(tmp_path / "b.ckpt") as file:
                complete += 1
                assert all(np.array_equal(file.read(name), np.arange(50)) for name in file.names)
        except UserError:
            pass
    assert complete <= 3  # only a cut exactly between two tensors looks whole; the strict check finds what is missing


def test_the_weight_argument_is_split_at_commas():
    assert split_weight_argument("a.ckpt,b.safetensors,c.ckpt") == ("a.ckpt", ["b.safetensors", "c.ckpt"])
    with pytest.raises(UserError, match="empty part"):
        split_weight_argument("a.ckpt,")


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_a_full_disk_loses_nothing(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"a{suffix}"
    write_tensors(path, [("w", np.ones(10, np.float32))])
    before = path.read_bytes()

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(io.os, "fsync", full)
    with pytest.raises(UserError, match="no space left"):
        write_tensors(path, [("w", np.zeros(10, np.float32))])
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == [path.name]


def test_raw_keeps_its_bytes(tmp_path):
    raw = Raw("bfloat16", (2, 2), bytes(range(8)))
    for path in (tmp_path / "a.ckpt", tmp_path / "a.safetensors"):
        write_tensors(path, [("w", raw), ("scalar", np.float32(3.5).reshape(()))])
        with open_tensors(path) as file:
            assert file.read_raw("w").content == raw.content and file.shape("w") == (2, 2)
            assert file.read("scalar") == 3.5 and file.shape("scalar") == ()
