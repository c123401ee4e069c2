"""The commands on LoRA files: merging into the base, and extracting from two checkpoints."""

import re

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from gm import console
from gm.checkpoint.io import Raw, convert, open_tensors, to_array, write_tensors
from gm.checkpoint.lora_files import open_lora, save_lora
from gm.checkpoint.lora_rules import LAYOUTS
from gm.checkpoint.rules import native_to_official, split_names
from gm.checkpoint.weights import open_base, stream_whole
from lora_samples import ATTENTION, FEED_FORWARD, Q, close, product, refused, run
from tools import convert_weight, extract_lora, inspect_weights, merge_lora, resize_lora

# -- merging -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_merged_is_the_base_plus_every_scaled_update(base, tiny_weights, trained, larger, tmp_path, suffix):
    target = tmp_path / "sub" / f"merged{suffix}"
    given = f"{tiny_weights},{trained},{larger}"
    run(merge_lora, "--weight", given, "--lora_scale", "0.8,-0.5", "--output", target, "--dtype", "float32")
    merged, loras = open_base(target), [open_lora(trained), open_lora(larger)]
    assert merged.shapes == base.shapes
    changed = 0
    for name in base.shapes:
        expected, module = base.read(name).astype(np.float64), name.removesuffix(".weight")
        for lora, scale in zip(loras, (0.8, -0.5)):
            if name.endswith(".weight") and module in lora.modules:
                expected, changed = expected + scale * product(lora, module), changed + 1
        assert np.allclose(merged.read(name), expected, rtol=0, atol=1e-6), name
    assert changed == 136 + 32 + 192
    with open_tensors(target) as file, open_tensors(tiny_weights) as before:
        assert file.kind == suffix[1:]
        assert file.metadata["merged_lora"] == "trained.ckpt x 0.8, larger.safetensors x -0.5"
        assert len(file.names) == len(before.names)
        assert all(file.dtype(name) == "float32" for name in file.names if "position_ids" not in name)


@pytest.mark.parametrize("dtype", ["keep", "bfloat16"])
def test_merging_rounds_once_and_copies_what_it_does_not_change(base, tiny_weights, trained, tmp_path, dtype):
    target = tmp_path / "merged.safetensors"
    run(merge_lora, "--weight", f"{tiny_weights},{trained}", "--output", target, "--dtype", dtype)
    lora = open_lora(trained)
    with open_tensors(target) as file, open_tensors(tiny_weights) as before:
        assert file.names == before.names  # official names, the second encoder's projections fused, nothing left out
        for name in file.names:
            wanted = "float16" if dtype == "keep" else dtype
            parts = split_names(name) or [name]
            if before.dtype(name) == "int64" or parts[0].removesuffix(".weight") not in lora.modules:
                raw, same = file.read_raw(name), before.read_raw(name)
                if dtype == "keep" or before.dtype(name) == "int64":
                    assert (raw.dtype, raw.content) == (same.dtype, same.content)
                continue
            sums = [
                base.read(p).astype(np.float32) + product(lora, p.removesuffix(".weight")).astype(np.float32) for p in parts
            ]
            expected = convert(np.concatenate(sums), wanted)
            expected = to_array(expected) if isinstance(expected, Raw) else expected
            assert file.dtype(name) == wanted
            assert np.abs(file.read(name).astype(np.float64) - expected).max() <= 2.0 ** (-10 if dtype == "keep" else -7)


def test_what_can_be_merged(base, tiny_weights, trained, diffusers_folder, tmp_path, capfd):
    """A LoRA in the base's own file, a base in a folder, a .ckpt as base: the same weights."""
    both, native = tmp_path / "both.ckpt", tmp_path / "native.ckpt"
    lora = open_lora(trained)
    write_tensors(both, stream_whole(base, {name: lora.read(name) for name in lora.names()}), lora.metadata)
    run(convert_weight, "--input", tiny_weights, "--output", native)
    targets = [tmp_path / f"{i}.safetensors" for i in range(4)]
    for given, target in zip(
        (f"{tiny_weights},{trained}", both, f"{diffusers_folder},{trained}", f"{native},{trained}"), targets
    ):
        run(merge_lora, "--weight", given, "--output", target, "--dtype", "float16")
    first, *others = (open_base(target) for target in targets)
    for other in others:
        assert all(np.array_equal(first.read(name), other.read(name)) for name in base.shapes)
    about = open_tensors(targets[1]).metadata
    assert about == {"merged_lora": "both.ckpt x 1"}  # nothing is left of what the file said of its LoRA


def test_alpha_of_files_that_do_not_say_it(base, tiny_weights, trained, tmp_path):
    lora = open_lora(trained)
    save_lora(tmp_path / "silent.ckpt", {name: lora.read(name) for name in lora.names()}, {})
    given = f"{tiny_weights},{tmp_path / 'silent.ckpt'}"
    run(merge_lora, "--weight", given, "--output", tmp_path / "a.ckpt", "--dtype", "float32", "--alpha", 2)
    run(merge_lora, "--weight", given, "--output", tmp_path / "b.ckpt", "--dtype", "float32")
    for path, factor in ((tmp_path / "a.ckpt", 1.0), (tmp_path / "b.ckpt", 2.0)):
        found = open_base(path).read(f"{Q}.weight") - base.read(f"{Q}.weight").astype(np.float32)
        assert np.allclose(found, factor * product(lora, Q), atol=1e-6)


def test_merging_refuses_what_cannot_be(tiny_weights, trained, base, tmp_path):
    target = tmp_path / "merged.safetensors"
    refused(merge_lora, "names no LoRA: give base,lora", "--weight", tiny_weights, "--output", target)
    both = f"{tiny_weights},{trained}"
    refused(
        merge_lora,
        "--lora_scale gives 2 numbers, but --weight .* has 1 LoRA",
        "--weight",
        both,
        "--lora_scale",
        "1,1",
        "--output",
        target,
    )
    refused(merge_lora, "must end in .safetensors or .ckpt", "--weight", both, "--output", tmp_path / "a.bin")
    refused(merge_lora, "made for another model", "--weight", f"{trained},{trained}", "--output", target)
    refused(merge_lora, "is not a LoRA file", "--weight", f"{tiny_weights},{tiny_weights}", "--output", target)
    refused(merge_lora, "the path is empty", "--weight", f"{tiny_weights},", "--output", target)
    refused(merge_lora, "does not exist", "--weight", both, "--config", "nowhere.yaml", "--output", target)
    refused(merge_lora, "does not fit into float16", "--weight", both, "--lora_scale", "1e7", "--output", target)
    assert not list(tmp_path.iterdir())
    target.write_bytes(b"precious")
    refused(merge_lora, "exists already", "--weight", both, "--output", target)
    assert target.read_bytes() == b"precious"


# -- extracting ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def merged(tiny_weights, trained, tmp_path_factory):
    """The base with the trained LoRA in it, float32."""
    path = tmp_path_factory.mktemp("merged") / "merged.ckpt"
    run(merge_lora, "--weight", f"{tiny_weights},{trained}", "--output", path, "--dtype", "float32")
    return path


@pytest.fixture(scope="module")
def merged_larger(tiny_weights, larger, tmp_path_factory):
    path = tmp_path_factory.mktemp("merged") / "larger.safetensors"
    run(merge_lora, "--weight", f"{tiny_weights},{larger}", "--output", path, "--dtype", "float32")
    return path


@pytest.mark.parametrize("layout", ["native", *LAYOUTS])
def test_extraction_recovers_what_was_merged(tiny_weights, merged, trained, tmp_path, capfd, layout):
    target = tmp_path / ("a.ckpt" if layout == "native" else "a.safetensors")
    form = () if layout in ("native", "kohya") else ("--format", layout)
    run(extract_lora, "--base", tiny_weights, "--tuned", merged, "--rank", 6, "--output", target, *form)
    found, expected = open_lora(target), open_lora(trained)
    assert found.layout == layout and set(found.modules) == set(expected.modules)
    assert {pair.rank for pair in found.modules.values()} == {6} and {found.alpha(m) for m in found.modules} == {6.0}
    for module in expected.modules:
        assert close(product(found, module), product(expected, module)), module
    out = capfd.readouterr().out
    assert re.search(r"^all +168 +[\d.]+ +0\.0000$", out, re.M) and "100.0% of the whole difference" in out


def test_a_lower_rank_is_the_best_there_is_and_its_error_is_told(base, tiny_weights, merged, trained, tmp_path, capfd):
    run(
        extract_lora,
        "--base",
        tiny_weights,
        "--tuned",
        merged,
        "--rank",
        2,
        "--output",
        tmp_path / "a.ckpt",
        "--dtype",
        "float16",
    )
    found, expected, lost, whole = open_lora(tmp_path / "a.ckpt"), open_lora(trained), 0.0, 0.0
    for module in expected.modules:
        full = product(expected, module)
        values = np.linalg.svd(full, compute_uv=False)
        lost, whole = lost + np.sum(values[2:] ** 2), whole + np.sum(values**2)
        assert np.linalg.norm(product(found, module) - full) == pytest.approx(np.sqrt(np.sum(values[2:] ** 2)), rel=1e-2)
        norms = [np.linalg.norm(found.read(f"{module}.lora_{letter}.weight")) for letter in "AB"]
        assert norms[0] == pytest.approx(norms[1], rel=1e-2)  # the singular values are shared evenly
    (line,) = re.findall(r"^all .*$", capfd.readouterr().out, re.M)
    assert line.split()[-1] == f"{np.sqrt(lost / whole):.4f}" and float(line.split()[-2]) == pytest.approx(
        np.sqrt(whole), rel=1e-3
    )
    assert open_tensors(tmp_path / "a.ckpt").dtype(f"{Q}.lora_A.weight") == "float16"


def test_targets_of_an_extraction(tiny_weights, merged_larger, larger, tmp_path, capfd):
    """Every linear layer, or attention alone: then the report says how much is elsewhere. Unchanged networks have none."""
    common = ("--base", tiny_weights, "--tuned", merged_larger, "--rank", 3)
    run(extract_lora, *common, "--targets", "linear", "--output", tmp_path / "all.ckpt")
    found, expected = open_lora(tmp_path / "all.ckpt"), open_lora(larger)
    assert set(found.modules) == set(expected.modules) and len(found.modules) == 192
    assert all(close(product(found, module), product(expected, module)) for module in expected.modules)
    assert "100.0% of the whole" in capfd.readouterr().out
    run(extract_lora, *common, "--output", tmp_path / "attention.ckpt")
    some = open_lora(tmp_path / "attention.ckpt")
    assert set(some.modules) == {module for module in expected.modules if module.endswith(ATTENTION)}
    energies = {module: np.sum(product(expected, module) ** 2) for module in expected.modules}
    share = sum(energies[module] for module in some.modules) / sum(energies.values())
    assert f"{share:.1%} of the whole difference" in capfd.readouterr().out


def test_a_rank_above_a_weights_own_is_filled_up(base, tiny_weights, merged, trained, tmp_path):
    """The tiny first encoder has 16 columns: of rank 20, four rows begin like a fresh LoRA's."""
    run(extract_lora, "--base", tiny_weights, "--tuned", merged, "--rank", 20, "--output", tmp_path / "a.ckpt")
    found, module = (
        open_lora(tmp_path / "a.ckpt"),
        "conditioner.embedders.0.transformer.text_model.encoder.layers.0.self_attn.q_proj",
    )
    a, b = (found.read(f"{module}.lora_{letter}.weight") for letter in "AB")
    assert a.shape == (20, 16) and np.abs(a[16:]).min() > 0 and not b[:, 16:].any()
    assert close(product(found, module), product(open_lora(trained), module))


def test_extraction_refuses_what_cannot_be(base, tiny_weights, merged, trained, tmp_path):
    target, common = tmp_path / "out" / "a.ckpt", ("--base", tiny_weights, "--tuned", merged)
    refused(extract_lora, "--rank: 0 is too small: at least 1", *common, "--rank", 0, "--output", target)
    refused(
        extract_lora,
        "the same in all 168 targets: nothing to extract",
        "--base",
        merged,
        "--tuned",
        merged,
        "--output",
        target,
    )
    refused(extract_lora, "trained.ckpt holds LoRA matrices", "--base", tiny_weights, "--tuned", trained, "--output", target)
    refused(extract_lora, "--format peft is for .safetensors", *common, "--format", "peft", "--output", target)
    refused(extract_lora, "must end in", *common, "--output", tmp_path / "out" / "a.bin")
    refused(extract_lora, "does not exist", *common, "--config", "nowhere.yaml", "--output", target)
    tensors = {
        native_to_official(name) if not split_names(name) else name: array for name, array in load_file(tiny_weights).items()
    }
    save_file({name: array for name, array in tensors.items() if "out.2" not in name}, tmp_path / "fewer.safetensors")
    refused(
        extract_lora,
        "is not of the model of --base: tensors 2 missing",
        "--base",
        tiny_weights,
        "--tuned",
        tmp_path / "fewer.safetensors",
        "--output",
        target,
    )
    name = f"{FEED_FORWARD}.weight"
    tensors[name] = np.full_like(tensors[name], np.inf)
    save_file(tensors, tmp_path / "inf.safetensors")
    refused(
        extract_lora,
        "holds 16,384 numbers that are NaN or infinite among the 16,384 of .*net.2.weight",
        "--base",
        tiny_weights,
        "--tuned",
        tmp_path / "inf.safetensors",
        "--output",
        target,
    )
    vae = {name: array for name, array in tensors.items() if name.startswith("first_stage_model.")}
    save_file(vae, tmp_path / "vae.safetensors")
    refused(
        extract_lora,
        "holds none of the layers",
        "--base",
        tmp_path / "vae.safetensors",
        "--tuned",
        tmp_path / "vae.safetensors",
        "--output",
        target,
    )
    assert not target.parent.exists()


@pytest.mark.parametrize("tool", [merge_lora, extract_lora, resize_lora, inspect_weights])
def test_bad_input_ends_with_a_sentence(tool, trained, tiny_weights, tmp_path, capfd):
    target, nowhere = tmp_path / "out" / "a.ckpt", tmp_path / "nowhere.ckpt"
    arguments = {
        merge_lora: ("--weight", f"{tiny_weights},{nowhere}", "--output", target),
        extract_lora: ("--base", tiny_weights, "--tuned", nowhere, "--output", target),
        resize_lora: ("--lora", nowhere, "--rank", 2, "--output", target),
        inspect_weights: (nowhere,),
    }[tool]
    assert console.run_command(tool.main, [str(word) for word in arguments]) == 2
    err = capfd.readouterr().err
    assert err.startswith("error: the weight file") and "nowhere.ckpt does not exist" in err and "Traceback" not in err
    assert not list(tmp_path.iterdir())
