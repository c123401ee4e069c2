"""Base weights in diffusers' folder layout, and VAE files of every naming: names, files, and what is refused."""

import json
import re
import shutil
from dataclasses import replace

import mindspore as ms
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

import tiny
from commands import sample, train_arguments
from gm.checkpoint.diffusers_rules import PARTS, diffusers_to_official, official_to_diffusers
from gm.checkpoint.folder import open_source, open_vae
from gm.checkpoint.io import convert, open_tensors, write_tensors
from gm.checkpoint.rules import IGNORED_ON_LOAD, native_to_official, official_to_native, split_names
from gm.checkpoint.weights import open_base, stream_whole
from gm.config.load import load_config
from gm.config.types import UNetConfig, VAEConfig
from gm.data.crops import plan_samples
from gm.data.disk_cache import DiskCache
from gm.data.dreambooth import INSTANCE
from gm.encoding.photos import encode_crops
from gm.errors import UserError
from gm.models.sdxl import expected_shapes
from gm.parallel.ranks import Ranks
from gm.runtime import Runtime
from gm.training.inputs import check_inputs
from gm.training.run import photo_sets, prepare
from modes import in_mode
from tools import convert_weight

VAE = "first_stage_model."
pytestmark = pytest.mark.xdist_group("diffusers")


@pytest.fixture
def copy(diffusers_folder, tmp_path):
    """A copy to be damaged."""
    return shutil.copytree(diffusers_folder, tmp_path / "copy")


def official_names(full_keys) -> list[str]:
    """With the second encoder's projections apart, without what is no weight."""
    return [part for name in full_keys if name not in IGNORED_ON_LOAD for part in split_names(name) or [name]]


def test_names_are_one_to_one_over_the_official_file(full_keys):
    names = official_names(full_keys)
    there = official_to_diffusers(names)
    assert len(full_keys) == 2515 and len(set(there.values())) == len(names) == 2513 + 2 * 2 * 32
    for part, count in {"unet": 1680, "vae": 248, "text_encoder": 196, "text_encoder_2": 517}.items():
        mine = [(name, inner) for name, (folder, inner) in there.items() if folder == part]
        assert len(mine) == count
        assert diffusers_to_official(part, [inner for _, inner in mine]) == {inner: name for name, inner in mine}
    assert there["model.diffusion_model.output_blocks.5.2.conv.bias"] == ("unet", "up_blocks.1.upsamplers.0.conv.bias")
    decoder = "decoder.up_blocks.0.resnets.2.conv1.weight"
    assert there["first_stage_model.decoder.up.3.block.2.conv1.weight"] == ("vae", decoder)
    with pytest.raises(KeyError):
        official_to_diffusers(["model.diffusion_model.another.weight"])


SIZES = {
    "sdxl": {},
    "two levels": {
        "unet": UNetConfig(4, 4, 32, 1, (2,), (1, 2), 16, (1, 1), 48, 1568),
        "vae": VAEConfig(ch=32, ch_mult=(1, 2)),
    },
    "four levels": {
        "unet": UNetConfig(4, 4, 32, 3, (2, 4), (1, 2, 2, 2), 16, (1, 1, 2, 1), 48, 1568),  # none at the lowest
        "vae": VAEConfig(ch=32, ch_mult=(1, 2, 2), num_res_blocks=3),
    },
    "one level": {"unet": UNetConfig(4, 4, 32, 2, (1,), (1,), 16, (1,), 48, 1568)},
}


@pytest.mark.parametrize("size", SIZES)
def test_names_and_shapes_are_those_of_diffusers_own_models(size):
    """For any number of levels and blocks, in both directions."""
    import diffusers_models

    full = load_config(str(tiny.ROOT / "configs/inference/sd_xl_base.yaml"), training=False).model
    model = full if size == "sdxl" else replace(tiny.model(), **SIZES[size])
    native = {native_to_official(name): shape for name, shape in expected_shapes(model)[0].items()}
    there = official_to_diffusers(native)
    for part, module in diffusers_models.models(model, "meta").items():
        found = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
        back = diffusers_to_official(part, found)
        assert set(back.values()) == {name for name, (folder, _) in there.items() if folder == part}
        for name, official in back.items():
            shape = native[official]
            if name == "text_projection.weight":
                shape = shape[::-1]
            elif part == "vae" and "mid_block.attentions.0.to_" in name:
                shape = shape[:2]
            assert found[name] == shape, name
            assert there[official][1].removeprefix("text_model.") == name.removeprefix("text_model.")


def test_a_folder_saved_by_diffusers_is_the_same_model(diffusers_folder, tiny_weights, base_shapes):
    assert len(list((diffusers_folder / "unet").glob("*-of-*.safetensors"))) > 2
    assert [path.name for path in (diffusers_folder / "vae").glob("*.safetensors")] == [
        "diffusion_pytorch_model.fp16.safetensors"
    ]
    given, found = open_base(tiny_weights), open_base(diffusers_folder)
    found.check(base_shapes)
    for name in base_shapes:
        assert np.array_equal(given.read(name), found.read(name)), name


def test_the_same_weights_have_one_digest_in_any_layout(diffusers_folder, tiny_weights, tmp_path):
    assert convert_weight.main(["--input", str(tiny_weights), "--output", str(tmp_path / "native.ckpt")]) in (None, 0)
    prefixes = ("conditioner.", VAE + "encoder.")
    digests = {open_base(path).digest(prefixes) for path in (tiny_weights, tmp_path / "native.ckpt", diffusers_folder)}
    assert len(digests) == 1
    assert open_base(diffusers_folder).digest(("conditioner.",)) not in digests


def test_the_names_of_earlier_versions_are_read(diffusers_folder, copy, tiny_weights, base_shapes):
    """transformers before 5.6 had `text_model.` in front and position_ids; diffusers before 0.18 other VAE names."""
    path = copy / "text_encoder" / "model.safetensors"
    arrays = {f"text_model.{name.removeprefix('text_model.')}": array for name, array in load_file(path).items()}
    save_file(arrays | {"text_model.embeddings.position_ids": np.arange(77)[None]}, path)
    path = copy / "vae" / "diffusion_pytorch_model.fp16.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    save_file(
        {re.sub("|".join(old), lambda match: old[match[0]], name): array for name, array in load_file(path).items()}, path
    )
    given, found = open_base(tiny_weights), open_base(copy)
    found.check(base_shapes)
    assert all(np.array_equal(given.read(name), found.read(name)) for name in base_shapes)


@pytest.mark.parametrize("part", PARTS)
def test_the_plain_file_comes_before_a_variant_and_shards_of_a_variant_are_found(copy, part, base_shapes):
    stem = PARTS[part][1]
    plain, index = copy / part / f"{stem}.safetensors", copy / part / f"{stem}.safetensors.index.json"
    if index.exists():
        index.rename(index.with_name(f"{stem}.safetensors.index.fp16.json"))
    elif plain.exists():
        plain.rename(plain.with_name(f"{stem}.fp16.safetensors"))
    open_base(copy).check(base_shapes)
    save_file({"another": np.zeros(1)}, plain)
    with pytest.raises(UserError, match=f"1 tensors that SDXL's {part} does not have .another."):
        open_base(copy)


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
@pytest.mark.parametrize("dtype", ["keep", "bfloat16"])
def test_a_folder_is_converted_to_one_file(diffusers_folder, tiny_weights, tmp_path, suffix, dtype):
    target = tmp_path / f"a{suffix}"
    convert_weight.main(["--input", str(diffusers_folder), "--output", str(target), "--dtype", dtype])
    given, found = open_tensors(tiny_weights), open_tensors(target)
    renamed = official_to_native if suffix == ".ckpt" else lambda name: name
    names = {name for name in given.names if name not in IGNORED_ON_LOAD}
    assert set(found.names) == {renamed(name) for name in names}
    for name in names:
        other, array = renamed(name), given.read(name)
        if dtype == "bfloat16":
            assert found.dtype(other) == dtype and np.allclose(array, found.read(other), rtol=2**-8)
        else:
            assert np.array_equal(array, found.read(other)), name


def damage(path, how):
    """Spoil one thing in a copy of the folder."""
    index = path / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    text = path / "text_encoder_2" / "model.safetensors"
    if how == "part":
        shutil.rmtree(path / "text_encoder_2")
    elif how == "empty part":
        text.unlink()
    elif how == "pickle":
        text.rename(text.with_name("pytorch_model.bin"))
    elif how == "variants":
        text.rename(text.with_name("model.fp16.safetensors"))
        shutil.copy(text.with_name("model.fp16.safetensors"), text.with_name("model.non_ema.safetensors"))
    elif how == "index":
        index.write_text("[]")
    elif how in ("index name", "shard"):
        content = json.loads(index.read_text())
        if how == "shard":
            (path / "unet" / content["weight_map"]["conv_in.weight"]).unlink()
        else:
            del content["weight_map"]["conv_in.weight"]
            index.write_text(json.dumps(content))
    else:
        arrays, layer = load_file(text), "text_model.encoder.layers.1.self_attn."
        if how == "third":
            del arrays[layer + "k_proj.weight"]
        elif how == "types":
            arrays[layer + "k_proj.weight"] = arrays[layer + "k_proj.weight"].astype(np.float32)
        elif how == "name":
            arrays["text_model.another.weight"] = np.zeros(1)
        elif how == "missing":
            del arrays["text_projection.weight"]
        elif how == "shape":
            arrays["text_projection.weight"] = arrays["text_projection.weight"][:5].copy()
        save_file(arrays, text)


DAMAGES = {
    "part": r"copy is a folder without text_encoder_2/: give a .safetensors file, a MindSpore .ckpt, or a folder with unet/",
    "empty part": r"text_encoder_2 holds no model.safetensors: download it completely",
    "pickle": r"text_encoder_2 holds no model.safetensors: save it as safetensors",
    "variants": r"several variants \(model.fp16.safetensors, model.non_ema.safetensors\): keep one",
    "index": r"index.json is not an index of safetensors files",
    "index name": r"index.json differ in conv_in.weight",
    "shard": r"safetensors does not exist",
    "third": r"lacks the k_proj of .*resblocks.1.attn.in_proj_weight",
    "types": r"q_proj.weight, .*k_proj.weight, .*differ in type or shape",
    "name": r"1 tensors that SDXL's text_encoder_2 does not have \(text_model.another.weight\)",
    "missing": r"1 missing \(conditioner.embedders.1.model.text_projection\)",
    "shape": r"1 of another shape \(conditioner.embedders.1.model.text_projection is \(32, 5\)",
}


@pytest.mark.parametrize("how", DAMAGES)
def test_a_folder_that_is_not_whole_is_refused(copy, base_shapes, how):
    damage(copy, how)
    with pytest.raises(UserError, match=DAMAGES[how]):
        open_base(copy).check(base_shapes)


def test_the_converter_writes_nothing_for_a_bad_folder(copy, tmp_path):
    damage(copy, "third")
    with pytest.raises(UserError, match="lacks the k_proj"):
        convert_weight.main(["--input", str(copy), "--output", str(tmp_path / "sub" / "a.ckpt")])
    assert not (tmp_path / "sub").exists()


@pytest.fixture(scope="module")
def other_vae(tiny_weights, tmp_path_factory):
    """One VAE that is not the base's, in every form: name -> path."""
    root = tmp_path_factory.mktemp("vae")
    rng = np.random.default_rng(0)
    given = {name: array for name, array in load_file(tiny_weights).items() if name.startswith(VAE)}
    arrays = {name: (array + rng.standard_normal(array.shape)).astype(np.float16) for name, array in given.items()}
    bare = {name.removeprefix(VAE): array for name, array in arrays.items()}
    theirs = {inner: (arrays[name][:, :, 0, 0].copy() if ".to_" in inner and inner.endswith(".weight") else arrays[name])
              for name, (_, inner) in official_to_diffusers(arrays).items()}  # fmt: skip
    save_file(bare, root / "bare.safetensors")
    save_file(arrays, root / "prefix.safetensors")
    save_file(load_file(tiny_weights) | arrays, root / "whole.safetensors")
    save_file(theirs, root / "diffusers.safetensors")
    for name, part in (("native", arrays), ("native_bare", bare)):
        items = [(official_to_native(VAE + key.removeprefix(VAE)), array) for key, array in part.items()]
        write_tensors(root / f"{name}.ckpt", [(k if name == "native" else k.removeprefix(VAE), v) for k, v in items])
    for folder in (root / "folder", root / "pipeline" / "vae"):
        folder.mkdir(parents=True)
        save_file(theirs, folder / "diffusion_pytorch_model.safetensors")
    names = ("bare.safetensors", "prefix.safetensors", "whole.safetensors", "diffusers.safetensors", "native.ckpt",
             "native_bare.ckpt", "folder", "pipeline")  # fmt: skip
    return {name: root / name for name in names}


def test_a_vae_of_every_form_replaces_the_bases(other_vae, tiny_weights, diffusers_folder, base_shapes):
    wanted = load_file(other_vae["prefix.safetensors"])
    for weights in (tiny_weights, diffusers_folder):
        given = open_base(weights)
        for path in other_vae.values():
            found = open_base(weights, path)
            found.check(base_shapes)
            assert found.paths == (str(weights), str(path))
            for name in base_shapes:
                expected = wanted[native_to_official(name)] if name.startswith(VAE) else given.read(name)
                assert np.array_equal(found.read(name), expected), (path, name)


def test_a_whole_checkpoint_has_the_vae_that_was_given(diffusers_folder, other_vae, tmp_path, base_shapes):
    """What training writes where LoRA is saved together with the base."""
    given = open_base(diffusers_folder, other_vae["bare.safetensors"])
    write_tensors(tmp_path / "whole.ckpt", stream_whole(given, {}))
    found = open_base(tmp_path / "whole.ckpt")
    found.check(base_shapes)
    assert all(np.array_equal(found.read(name), given.read(name)) for name in base_shapes)


def test_a_base_without_a_vae_is_completed(other_vae, tiny_weights, base_shapes, tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({name: array for name, array in load_file(tiny_weights).items() if not name.startswith(VAE)}, path)
    open_base(path, other_vae["bare.safetensors"]).check(base_shapes)
    with pytest.raises(UserError, match="missing"):
        open_base(path).check(base_shapes)


@pytest.mark.parametrize("how", ["missing", "extra", "shape", "base", "none", "folder"])
def test_a_vae_that_does_not_fit_is_refused(other_vae, tiny_weights, base_shapes, tmp_path, how):
    path, base = tmp_path / "vae.safetensors", tiny_weights
    arrays = load_file(other_vae["bare.safetensors"])
    words = {
        "missing": r"--vae .*vae.safetensors does not fit the model of --config: tensors 1 missing \(.*quant_conv.bias\)",
        "extra": r"--vae .* 1 left over \(first_stage_model.loss.logvar\)",
        "shape": r"--vae .* 1 of another shape \(first_stage_model.quant_conv.bias",
        "base": r"--weight .*base.safetensors does not fit the model of --config: tensors 1 missing \(model.diffusion_model",
        "none": r"--vae .*vae.safetensors holds no VAE \(its first tensor is something\)",
        "folder": r"vae.safetensors holds no diffusion_pytorch_model.safetensors",
    }[how]
    if how == "missing":
        del arrays["quant_conv.bias"]
    elif how == "extra":
        arrays["loss.logvar"] = np.zeros(())
    elif how == "shape":
        arrays["quant_conv.bias"] = arrays["quant_conv.bias"][:3]
    elif how == "none":
        arrays = {"something": np.zeros(1)}
    elif how == "base":
        base = tmp_path / "base.safetensors"
        whole = load_file(tiny_weights)
        del whole["model.diffusion_model.out.2.bias"]
        save_file(whole, base)
    if how == "folder":
        path.mkdir()
    else:
        save_file(arrays, path)
    with pytest.raises(UserError, match=words):
        open_base(base, path).check(base_shapes)


def test_sampling_from_a_folder_with_another_vae(diffusers_folder, other_vae, tmp_path, run, kept_networks):
    """The same picture as from one file with all of it."""
    prompt = ("--prompt", "a sks dog", "--sample_step", 2, "--ms_mode", 1)
    with in_mode(ms.PYNATIVE_MODE):  # nothing to compile
        (first,) = sample(run, tmp_path / "first", other_vae["whole.safetensors"], *prompt)
        (second,) = sample(run, tmp_path / "second", diffusers_folder, *prompt, "--vae", other_vae["folder"])
    assert np.array_equal(first, second)
    about = [Image.open(tmp_path / name / "00000.png").text for name in ("first", "second")]
    assert "vae" not in about[0] and about[1]["vae"] == str(other_vae["folder"])


def test_training_from_a_folder_with_another_vae(diffusers_folder, other_vae, shared, tmp_path):
    """The run's networks are read from the folder and the file, and the photos are encoded by that VAE."""
    given = ("--weight", diffusers_folder, "--vae", other_vae["bare.safetensors"], "--prior_loss_weight", 0)
    inputs = check_inputs([str(word) for word in train_arguments(shared, tmp_path, *given)], Ranks())
    machine = Runtime("CPU", 0, "O0")
    setting = prepare(inputs, machine, Ranks())
    whole = open_base(other_vae["whole.safetensors"])
    for name in ("first_stage_model.quant_conv.weight", "model.diffusion_model.out.2.weight"):
        assert np.array_equal(setting.weights.read(name), whole.read(name))
    samples = plan_samples(photo_sets(inputs, []), [(INSTANCE, 0, 0)])
    crops = [({}, sample.crop) for sample in samples.values()]
    found, expected, plain = (
        encode_crops(inputs.config.model, paths, machine, DiskCache(None), crops)
        for paths in (setting.weights.base.paths, whole.paths, open_base(diffusers_folder).paths)
    )
    assert np.array_equal(found, expected) and not np.array_equal(found, plain)


def test_closing_closes_every_file(diffusers_folder, other_vae):
    for file in (open_source(diffusers_folder), open_vae(other_vae["folder"])):
        name = file.names[0]
        file.read(name)
        file.close()
        with pytest.raises(ValueError):
            file.read(name)


def test_a_folder_of_bfloat16(copy, base_shapes, tiny_weights):
    """Joined, turned and reshaped as bytes: no number is touched."""
    for path in copy.rglob("*.safetensors"):
        with open_tensors(path) as file:
            items = [(name, convert(file.read(name), "bfloat16")) for name in file.names]
        write_tensors(path, items)
    given, found = open_base(tiny_weights), open_base(copy)
    found.check(base_shapes)
    for name in base_shapes:
        assert np.allclose(given.read(name), found.read(name), rtol=2**-8, atol=0), name
