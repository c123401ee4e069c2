"""tools/export_lora.py and tools/import_lora.py: what is written in each layout, its metadata, and what is refused."""

import hashlib
import json
import struct
from dataclasses import replace

import mindspore as ms
import numpy as np
import pytest
from safetensors.numpy import load_file

import tiny
from gm.checkpoint.io import convert, to_array
from gm.checkpoint.lora_export import write_lora
from gm.checkpoint.lora_files import open_lora, save_lora
from gm.checkpoint.lora_rules import LAYOUTS
from gm.errors import UserError
from lora_samples import MODULES, OUT, TE1, TE2, Q, file_of, matrices, same
from tools import export_lora, import_lora

ABOUT = {"lora_rank": "4", "lora_alpha": "2.0", "step": "20", "instance_prompt": "A photo of a sks dog"}
ABOUT |= {"base_model": "SDXL-base-1.0"}


def run(tool, lora, output, *more):
    tool.main(["--lora", str(lora), "--output", str(output), *(str(word) for word in more)])
    return output


@pytest.fixture(scope="module")
def sdxl_shapes(full_keys):
    """Of SDXL's own layers, by their native names."""
    shapes = {f"{module}.weight": full_keys.get(f"{module}.weight") for module in MODULES}
    return shapes | {f"{TE2}.weight": (1280, 1280)}  # a third of a fused one


@pytest.fixture
def trained(sdxl_shapes, tmp_path):
    """Rank 4 and alpha 2 everywhere, with what training says of it."""
    return file_of(tmp_path / "trained.ckpt", matrices(sdxl_shapes, rank=lambda _: 4), "native", None, ABOUT)


def update(file, module, alpha=None):
    return file.scale(module, alpha) * file.read(f"{module}.lora_B.weight") @ file.read(f"{module}.lora_A.weight")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_there_and_back_is_the_same_lora(trained, tmp_path, layout):
    there = run(export_lora, trained, tmp_path / "a.safetensors", "--format", layout)
    back = open_lora(run(import_lora, there, tmp_path / "b.ckpt"))
    assert open_lora(there).layout == layout and back.layout == "native"
    given = open_lora(trained)
    assert list(back.modules) == list(given.modules)
    for module in given.modules:
        assert np.allclose(update(back, module), update(given, module), atol=1e-6)
    if layout.startswith("kohya"):  # which says alpha; the others' B has alpha / rank in it
        assert back.metadata == ABOUT
        same(back, {m: tuple(given.read(f"{m}.lora_{letter}.weight") for letter in "AB") for m in given.modules})
    else:
        assert back.metadata == {**ABOUT, "lora_alpha": "4.0"}


@pytest.mark.parametrize("layout", [None, *list(LAYOUTS)[1:]])
def test_metadata(trained, tmp_path, layout):
    path = run(export_lora, trained, tmp_path / "my dog.safetensors", *(("--format", layout) if layout else ()))
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    about = json.loads(content[8 : 8 + length])["__metadata__"]
    assert about["ss_network_module"] == "networks.lora" and about["ss_base_model_version"] == "sdxl_base_v1-0"
    assert about["ss_network_dim"] == "4" and about["ss_steps"] == "20"
    assert about["ss_network_alpha"] == ("2.0" if layout in (None, "kohya-diffusers") else "4.0")
    assert about["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora" and about["modelspec.title"] == "my dog"
    assert about["modelspec.trigger_phrase"] == "A photo of a sks dog" and about["base_model"] == "SDXL-base-1.0"
    assert json.loads(about["ss_tag_frequency"]) == {"instance": {"A photo of a sks dog": 1}}
    assert set(about["lora_targets"].split(",")) == {"to_q", "to_out.0", "net.0.proj", "v_proj", "q_proj", "c_proj"}
    digest = hashlib.sha256(content[8 + length :]).hexdigest()  # as A1111 computes it
    assert about["sshs_model_hash"] == digest and about["modelspec.hash_sha256"] == f"0x{digest}"
    assert "lora_alpha" not in about and "lora_rank" not in about
    alphas = [name for name in load_file(path) if name.endswith(".alpha")]
    assert len(alphas) == (len(MODULES) if layout in (None, "kohya-diffusers") else 0)


def test_a_model_of_other_sizes_is_not_called_sdxl(trained, base_shapes, tmp_path, project_log):
    """By the sizes of its LoRA, or by those of its YAML; nor is it after the way back."""
    small = file_of(tmp_path / "small.ckpt", matrices(base_shapes, rank=lambda _: 4), "native", None, ABOUT)
    yaml = ("--config", tiny.INFERENCE)
    for given, words in ((small, ()), (small, yaml), (trained, yaml)):
        about = open_lora(run(export_lora, given, tmp_path / f"{given.stem}{len(words)}.safetensors", *words)).metadata
        assert not {"base_model", "ss_base_model_version", "modelspec.architecture"} & set(about) and about["ss_steps"] == "20"
    assert "than SDXL has: give the YAML of its model with --config" in project_log.text
    back = open_lora(run(import_lora, tmp_path / "small0.safetensors", tmp_path / "back.ckpt"))
    assert back.metadata == {key: text for key, text in ABOUT.items() if key != "base_model"}


def test_what_a_lora_says_of_a_model_that_predicts_v(trained, sdxl_shapes, tmp_path):
    said = {"prediction_type": "v", "zero_terminal_snr": "True"}
    given = file_of(tmp_path / "v.ckpt", matrices(sdxl_shapes, rank=lambda _: 4), "native", None, ABOUT | said)
    exported = open_lora(run(export_lora, given, tmp_path / "a.safetensors"))
    about = {"modelspec.prediction_type": "v", "ss_v_parameterization": "True", "ss_zero_terminal_snr": "True"}
    assert about.items() <= exported.metadata.items()
    back = open_lora(run(import_lora, exported.path, tmp_path / "b.ckpt"))
    assert back.metadata == ABOUT | said
    model = replace(tiny.model(), prediction="v")
    with open_lora(trained) as file:
        write_lora(file, tmp_path / "c.safetensors", "peft", model=model)
    about |= {"ss_zero_terminal_snr": "False"}
    assert about.items() <= open_lora(tmp_path / "c.safetensors").metadata.items()
    plain = open_lora(run(export_lora, trained, tmp_path / "d.safetensors")).metadata
    assert plain["modelspec.prediction_type"] == "epsilon" and not {"prediction_type", *list(about)[1:]} & set(plain)


def test_ranks_and_alphas_that_differ(base_shapes, tmp_path):  # noqa: F811
    """kohya's file gets one alpha, since diffusers loses others; the native one keeps them all."""
    alphas = dict(zip(MODULES, (1.0, 3.0, 3.0, 2.0, 3.0, 6.0)))
    given = open_lora(file_of(tmp_path / "a.ckpt", matrices(base_shapes), "native", alphas))
    path = run(export_lora, given.path, tmp_path / "b.safetensors")
    exported = open_lora(path)
    assert {exported.alpha(module) for module in MODULES} == {3.0}
    assert exported.metadata["ss_network_dim"] == "Dynamic" and exported.metadata["ss_network_alpha"] == "3.0"
    assert all(np.allclose(update(exported, module), update(given, module), atol=1e-5) for module in MODULES)
    nothing = dict(zip(MODULES, (0.0, 0.0, 0.0, 2.0, 0.0, 6.0)))
    zeros = open_lora(file_of(tmp_path / "zeros.ckpt", matrices(base_shapes), "native", nothing))
    exported = open_lora(run(export_lora, zeros.path, tmp_path / "zeros.safetensors"))
    assert all(np.allclose(update(exported, module), update(zeros, module), atol=1e-5) for module in MODULES)
    mixed = file_of(tmp_path / "c.safetensors", matrices(base_shapes), "kohya-diffusers", alphas)
    back = open_lora(run(import_lora, mixed, tmp_path / "d.ckpt"))
    assert {module: back.alpha(module) for module in MODULES} == alphas and not back.metadata
    same(back, matrices(base_shapes))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_number_types(trained, tmp_path, dtype):
    path = run(export_lora, trained, tmp_path / "a.safetensors", "--dtype", dtype)
    with open_lora(trained) as given, open_lora(path) as exported:
        for name in given.names():
            rounded = convert(given.read(name), dtype)
            assert np.array_equal(exported.read(name), to_array(rounded) if dtype == "bfloat16" else rounded)
    size = sum(array.size for array in matrices_of(trained).values())
    assert path.stat().st_size - size * (4 if dtype == "float32" else 2) < 4000


def matrices_of(path):
    file = open_lora(path)
    return {name: file.read(name) for name in file.names()}


def test_a_lora_of_the_earlier_example(base_shapes, tmp_path, project_log):  # noqa: F811
    """Saved by MindSpore itself: native names, the second encoder's out_proj alone, and no word of alpha."""
    out = TE2.replace("q_proj", "out_proj")
    pairs = matrices(base_shapes, (Q, OUT, TE1, out), rank=lambda _: 4)
    tensors = [
        {"name": f"{module}.lora_{letter}.weight", "data": ms.Parameter(ms.Tensor(array))}
        for module, pair in pairs.items()
        for letter, array in zip("AB", pair)
    ]
    ms.save_checkpoint(tensors, str(tmp_path / "old.ckpt"))
    file = open_lora(tmp_path / "old.ckpt")
    same(file, pairs)
    file.check_against_base(base_shapes)
    silent = open_lora(run(export_lora, tmp_path / "old.ckpt", tmp_path / "a.safetensors"))
    assert "does not say its alpha" in project_log.text and silent.alpha(Q) == 4.0
    project_log.clear()
    told = open_lora(run(export_lora, tmp_path / "old.ckpt", tmp_path / "b.safetensors", "--alpha", 8))
    assert not [r for r in project_log.records if r.levelname == "WARNING"] and told.alpha(Q) == 8.0
    assert (
        open_lora(run(import_lora, tmp_path / "old.ckpt", tmp_path / "c.ckpt", "--alpha", 8)).metadata["lora_alpha"] == "8.0"
    )


def test_a_unet_with_other_blocks(base_shapes, tmp_path):  # noqa: F811
    """kohya's names are those of this model: with three residual blocks a level, level 1 starts at input block 5."""
    config = tmp_path / "three.yaml"
    more_blocks = "model: {params: {network_config: {params: {num_res_blocks: 3}}}}"
    config.write_text(f"base: {tiny.INFERENCE}\n{more_blocks}\n")
    module = Q.replace("input_blocks.4", "input_blocks.5")
    a, b = np.ones((4, 64), np.float32), np.ones((64, 4), np.float32)
    save_lora(tmp_path / "a.ckpt", {f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": b}, {"lora_alpha": "4"})
    path = run(export_lora, tmp_path / "a.ckpt", tmp_path / "a.safetensors", "--format", "peft", "--config", config)
    assert "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight" in load_file(path)
    assert list(open_lora(run(import_lora, path, tmp_path / "b.ckpt", "--config", config)).modules) == [module]


def test_what_is_refused(trained, base_shapes, tmp_path):  # noqa: F811
    silent = file_of(tmp_path / "silent.ckpt", matrices(base_shapes), "native")
    huge = {name: array * 1e6 for name, array in matrices_of(trained).items()}
    save_lora(tmp_path / "huge.ckpt", huge, ABOUT)
    embed = "model.diffusion_model.time_embed.0"
    wide = {f"{embed}.lora_A.weight": np.ones((4, 32), np.float32), f"{embed}.lora_B.weight": np.ones((128, 4), np.float32)}
    save_lora(tmp_path / "embed.ckpt", wide, ABOUT)
    (tmp_path / "there.safetensors").write_bytes(b"precious")
    before = sorted(path.name for path in tmp_path.iterdir())
    cases = [
        (export_lora, trained, "a.ckpt", (), "must end in .safetensors"),
        (import_lora, trained, "a.safetensors", (), "must end in .ckpt"),
        (export_lora, trained, "there.safetensors", (), "exists already"),
        (export_lora, trained, "a.safetensors", ("--alpha", 3), "--alpha 3 was given, but .* says its alpha"),
        (export_lora, silent, "a.safetensors", ("--alpha", 0), "--alpha 0 must be above 0"),
        (export_lora, tmp_path / "huge.ckpt", "a.safetensors", ("--dtype", "float16"), "does not fit into float16"),
        (
            export_lora,
            tmp_path / "embed.ckpt",
            "a.safetensors",
            (),
            "time_embed.0, which is no linear layer of .* kohya layout",
        ),
        (import_lora, tmp_path / "nowhere.ckpt", "a.ckpt", (), "does not exist"),
    ]
    for tool, lora, output, more, words in cases:
        with pytest.raises(UserError, match=words):
            run(tool, lora, tmp_path / output, *more)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert (tmp_path / "there.safetensors").read_bytes() == b"precious"
