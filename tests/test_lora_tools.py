"""The commands on LoRA files: merging into the base, extracting from two checkpoints, resizing, inspecting."""

import re

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

import tiny
from gm import console, low_rank
from gm.checkpoint.blocks import by_block, network_of
from gm.checkpoint.io import Raw, convert, open_tensors, to_array, write_tensors
from gm.checkpoint.lora_files import lora_in_base, open_lora, save_lora
from gm.checkpoint.lora_rules import LAYOUTS, lora_names
from gm.checkpoint.rules import native_to_official, split_names
from gm.checkpoint.weights import open_base, stream_whole
from gm.console import table
from gm.errors import UserError
from test_diffusers_folders import folder  # noqa: F401 (fixtures are found by their names)
from test_diffusers_folders import shapes  # noqa: F401
from tools import convert_weight, export_lora, extract_lora, inspect_weights, merge_lora, resize_lora

ATTENTION = (".to_q", ".to_k", ".to_v", ".to_out.0", ".q_proj", ".k_proj", ".v_proj", ".out_proj")
QUERY = "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q"
FF = "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.ff.net.2"
THIRD = "conditioner.embedders.1.model.transformer.resblocks.1.attn.k_proj"


@pytest.fixture(scope="module")
def base(tiny_weights):
    return open_base(tiny_weights)


def make_lora(path, base, ranks, metadata=None, seed=0):
    """A native LoRA of random matrices; `ranks`: module -> rank, 0 for none."""
    rng, matrices = np.random.default_rng(seed), {}
    for module in lora_names(tiny.model()).modules:
        rank, (rows, columns) = ranks(module), base.shapes[f"{module}.weight"]
        if rank:
            matrices[f"{module}.lora_A.weight"] = rng.standard_normal((rank, columns), np.float32) / np.float32(columns**0.5)
            matrices[f"{module}.lora_B.weight"] = rng.standard_normal((rows, rank), np.float32) * np.float32(0.1)
    save_lora(path, matrices, metadata or {})
    return path


@pytest.fixture(scope="module")
def trained(base, tmp_path_factory):
    """Rank 4 and alpha 2 in all attention of the three networks, as training writes it."""
    about = {"lora_rank": "4", "lora_alpha": "2.0", "step": "20", "instance_prompt": "a sks dog"}
    return make_lora(tmp_path_factory.mktemp("lora") / "trained.ckpt", base, lambda m: 4 * m.endswith(ATTENTION), about)


@pytest.fixture(scope="module")
def larger(base, tmp_path_factory):
    """kohya's file of kohya's larger targets, in the UNet alone, with two ranks and alpha 1."""
    path = tmp_path_factory.mktemp("lora") / "larger.ckpt"
    unet = lambda m: (3 if ".ff." in m else 2) * m.startswith("model.")  # noqa: E731
    make_lora(path, base, unet, {"lora_alpha": "1.0"}, seed=1)
    export_lora.main(["--lora", str(path), "--output", str(path.with_suffix(".safetensors"))])
    return path.with_suffix(".safetensors")


def product(file, module):
    """alpha / rank * B A."""
    b, a = (file.read(f"{module}.lora_{letter}.weight").astype(np.float64) for letter in "BA")
    return file.scale(module) * b @ a


def run(tool, *words) -> None:
    tool.main([str(word) for word in words])


def refused(tool, words, *arguments) -> None:
    with pytest.raises(UserError, match=words):
        run(tool, *arguments)


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


def test_what_can_be_merged(base, tiny_weights, trained, folder, tmp_path, capfd):  # noqa: F811
    """A LoRA in the base's own file, a base in a folder, a .ckpt as base: the same weights."""
    both, native = tmp_path / "both.ckpt", tmp_path / "native.ckpt"
    lora = open_lora(trained)
    write_tensors(both, stream_whole(base, {name: lora.read(name) for name in lora.names()}), lora.metadata)
    run(convert_weight, "--input", tiny_weights, "--output", native)
    targets = [tmp_path / f"{i}.safetensors" for i in range(4)]
    for given, target in zip((f"{tiny_weights},{trained}", both, f"{folder},{trained}", f"{native},{trained}"), targets):
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
        found = open_base(path).read(f"{QUERY}.weight") - base.read(f"{QUERY}.weight").astype(np.float32)
        assert np.allclose(found, factor * product(lora, QUERY), atol=1e-6)


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
    refused(merge_lora, "empty part", "--weight", f"{tiny_weights},", "--output", target)
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


def close(found, expected, tolerance=1e-5):
    return np.linalg.norm(found - expected) <= tolerance * np.linalg.norm(expected)


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
    assert open_tensors(tmp_path / "a.ckpt").dtype(f"{QUERY}.lora_A.weight") == "float16"


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
    refused(extract_lora, "--rank 0 must be at least 1", *common, "--rank", 0, "--output", target)
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
    name = f"{FF}.weight"
    tensors[name] = np.full_like(tensors[name], np.inf)
    save_file(tensors, tmp_path / "inf.safetensors")
    refused(
        extract_lora,
        "net.2.weight is not finite",
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


# -- resizing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["trained", "larger"])
def test_resizing_keeps_the_update_where_the_rank_suffices(request, given, tmp_path, capfd):
    """To the same rank, and to a larger one whose added rows can be trained."""
    path = request.getfixturevalue(given)
    before, own = open_lora(path), 4 if given == "trained" else 3
    for rank in (own, own + 3):
        target = tmp_path / f"{rank}.ckpt"
        run(resize_lora, "--lora", path, "--rank", rank, "--output", target)
        after = open_lora(target)
        assert set(after.modules) == set(before.modules) and {pair.rank for pair in after.modules.values()} == {rank}
        assert all(close(product(after, module), product(before, module)) for module in before.modules)
        assert re.search(rf"^all +{len(before.modules)} +{rank} +100\.00%$", capfd.readouterr().out, re.M)
    added = after.read(f"{QUERY}.lora_A.weight")[own:], after.read(f"{QUERY}.lora_B.weight")[:, own:]
    assert np.abs(added[0]).min() > 0 and not added[1].any()


@pytest.mark.parametrize("layout", ["native", "kohya-diffusers"])
def test_resizing_down_is_the_best_there_is(trained, tmp_path, capfd, layout):
    target = tmp_path / ("a.ckpt" if layout == "native" else "a.safetensors")
    form = () if layout == "native" else ("--format", layout, "--dtype", "bfloat16")
    run(resize_lora, "--lora", trained, "--rank", 1, "--output", target, *form)
    before, after, kept, whole = open_lora(trained), open_lora(target), 0.0, 0.0
    assert after.layout == layout
    for module in before.modules:
        full = product(before, module)
        values = np.linalg.svd(full, compute_uv=False)
        kept, whole = kept + values[0] ** 2, whole + np.sum(values**2)
        tolerance = 1e-5 if layout == "native" else 1e-2
        assert np.linalg.norm(product(after, module) - full) == pytest.approx(
            np.sqrt(np.sum(values[1:] ** 2)), rel=tolerance
        )
    assert re.search(rf"^all +168 +1 +{kept / whole:.2%}$", capfd.readouterr().out, re.M)
    about = open_tensors(target).metadata
    assert about.get("lora_rank", about.get("ss_network_dim")) == "1"
    assert about.get("instance_prompt", about.get("modelspec.trigger_phrase")) == "a sks dog"


def test_keeping_a_share_of_the_energy(trained, tmp_path, capfd):
    """Every module gets the smallest rank that holds the share, at most --rank."""
    before = open_lora(trained)
    run(resize_lora, "--lora", trained, "--keep", 0.9, "--output", tmp_path / "a.ckpt")
    run(resize_lora, "--lora", trained, "--keep", 0.9, "--rank", 2, "--output", tmp_path / "b.safetensors")
    free, capped = open_lora(tmp_path / "a.ckpt"), open_lora(tmp_path / "b.safetensors")
    assert len({pair.rank for pair in free.modules.values()}) > 1
    for module in before.modules:
        values = np.linalg.svd(product(before, module), compute_uv=False) ** 2
        rank = free.modules[module].rank
        assert np.sum(values[:rank]) >= 0.9 * np.sum(values) > np.sum(values[: rank - 1])
        assert capped.modules[module].rank == min(rank, 2)
        full, cut = product(free, module), product(capped, module)
        assert close(cut, full) if rank <= 2 else not close(cut, full)
        assert np.linalg.norm(full) == pytest.approx(np.sqrt(np.sum(values[:rank])), rel=1e-5)
    assert re.search(r"^all +168 +\d-\d +9\d\.\d\d%$", capfd.readouterr().out, re.M)


def test_resizing_refuses_what_cannot_be(trained, tiny_weights, tmp_path):
    target = tmp_path / "out" / "a.ckpt"
    common = ("--lora", trained, "--output", target)
    refused(resize_lora, "neither --rank nor --keep was given", *common)
    refused(resize_lora, "--rank 0 must be at least 1", *common, "--rank", 0)
    refused(resize_lora, "--keep 1.5 must be above 0 and at most 1", *common, "--keep", 1.5)
    refused(resize_lora, "--alpha 3 was given, but .* says its alpha", *common, "--rank", 2, "--alpha", 3)
    refused(resize_lora, "--format peft is for .safetensors", *common, "--rank", 2, "--format", "peft")
    refused(resize_lora, "is not a LoRA file", "--lora", tiny_weights, "--output", target, "--rank", 2)
    assert not target.parent.exists()


def test_resizing_with_an_alpha_that_the_file_does_not_say(trained, tmp_path):
    lora = open_lora(trained)
    save_lora(tmp_path / "silent.ckpt", {name: lora.read(name) for name in lora.names()}, {})
    run(resize_lora, "--lora", tmp_path / "silent.ckpt", "--alpha", 2, "--rank", 4, "--output", tmp_path / "a.ckpt")
    assert close(product(open_lora(tmp_path / "a.ckpt"), QUERY), product(lora, QUERY))


def test_a_lora_of_zeros_can_be_resized_and_inspected(trained, tmp_path, capfd):
    lora = open_lora(trained)
    save_lora(
        tmp_path / "zero.ckpt", {name: lora.read(name) * ("lora_A" in name) for name in lora.names()}, {"lora_alpha": "4"}
    )
    run(resize_lora, "--lora", tmp_path / "zero.ckpt", "--keep", 0.5, "--output", tmp_path / "a.ckpt")
    after = open_lora(tmp_path / "a.ckpt")
    assert {pair.rank for pair in after.modules.values()} == {1} and not product(after, QUERY).any()
    assert re.search(r"^all +168 +1 +-$", capfd.readouterr().out, re.M)
    run(inspect_weights, tmp_path / "zero.ckpt")
    assert re.search(r"^all +168 +4 +0 +0$", capfd.readouterr().out, re.M)


# -- the numbers behind them ---------------------------------------------------------------------------------------


def test_norms_and_singular_values_without_the_product():
    rng = np.random.default_rng(0)
    for rank in (1, 5, 40):  # 40: more than the matrix has rows
        b, a = rng.standard_normal((30, rank)), rng.standard_normal((rank, 50))
        assert low_rank.product_norm(b, a) == pytest.approx(np.linalg.norm(b @ a))
        u, s, vt = low_rank.product_svd(b, a)
        assert np.allclose(u * s @ vt, b @ a) and np.allclose(s, np.linalg.svd(b @ a, compute_uv=False)[: len(s)])


def test_large_matrices_are_cut_nearly_as_well_as_by_a_whole_decomposition():
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.standard_normal((size, 200)))[0] for size in (300, 240))
    slow = (left / np.arange(1, 201) ** 0.5) @ right.T
    exact = (left[:, :8] * np.arange(8, 0, -1)) @ right.T[:8]
    for matrix, rank in ((slow, 8), (slow.T, 20), (exact, 8)):
        u, s, vt = low_rank.truncated_svd(matrix.astype(np.float32), rank)
        assert 4 * (rank + 16) < min(matrix.shape) and u.shape[1] == len(s) == len(vt) == rank
        best = np.sqrt(np.sum(np.linalg.svd(matrix, compute_uv=False)[rank:] ** 2))
        assert np.linalg.norm(matrix - u * s @ vt) <= 1.01 * best + 1e-5 * np.linalg.norm(matrix)


def test_a_table_is_aligned():
    assert (
        table(("name", "", "n"), [("a", "long", 5), ("bcdef", "", 123)])
        == "name           n\na      long    5\nbcdef        123"
    )


# -- inspecting ----------------------------------------------------------------------------------------------------


def inspected(capfd, *words) -> str:
    capfd.readouterr()
    run(inspect_weights, *words)
    return capfd.readouterr().out


def rows(text) -> dict[tuple, list[str]]:
    """Block table: (network, block) -> cells."""
    cells = [re.split(r" {2,}", line) for line in text.splitlines()]
    return {tuple(row[:2]) if row[0] != "all" else ("all", ""): row[-4:] for row in cells if len(row) >= 5}


def test_a_lora_is_told_with_its_norms(trained, larger, tmp_path, capfd):
    plot = tmp_path / "sub" / "a.png"
    out = inspected(capfd, trained, "--plot", plot)
    assert "trained.ckpt: LoRA (native, of this suite), MindSpore .ckpt" in out
    assert re.search(r"^rank +4$", out, re.M) and re.search(r"^alpha +2$", out, re.M)
    assert re.search(r"^targets +.*to_out.0", out, re.M) and re.search(r"^instance_prompt +a sks dog$", out, re.M)
    lora, found = open_lora(trained), rows(out)
    for key, part in (
        (("UNet", "input_blocks.4"), "model.diffusion_model.input_blocks.4."),
        (("text encoder 2", "layer 1"), "embedders.1.model.transformer.resblocks.1."),
        (("all", ""), ""),
    ):
        norms = [np.linalg.norm(product(lora, module)) for module in lora.modules if part in module]
        modules, rank, size, largest = found[key]
        assert (int(modules), rank) == (len(norms), "4")
        assert float(size) == pytest.approx(np.linalg.norm(norms), rel=1e-3) and float(largest) == pytest.approx(
            max(norms), rel=1e-3
        )
    with Image.open(plot) as picture:
        assert picture.size[0] > 500 and len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 10
    out = inspected(capfd, larger)
    assert "LoRA (kohya, sgm's blocks), .safetensors" in out and re.search(
        r"^rank +2 \(158 modules\), 3 \(34 modules\)$", out, re.M
    )
    assert re.search(r"^ss_network_module +networks.lora$", out, re.M) and rows(out)["all", ""][1] == "2-3"


@pytest.mark.parametrize(
    "layout, words", [("kohya-diffusers", "kohya, diffusers' blocks"), ("peft", "PEFT"), ("diffusers", "diffusers' scripts")]
)
def test_every_layout_is_told(trained, tmp_path, capfd, layout, words):
    run(export_lora, "--lora", trained, "--output", tmp_path / "a.safetensors", "--format", layout)
    out = inspected(capfd, tmp_path / "a.safetensors", "--config", tiny.INFERENCE)
    assert f"LoRA ({words})" in out and rows(out)["all", ""] == rows(inspected(capfd, trained))["all", ""]


def test_a_lora_that_does_not_say_its_alpha_or_is_damaged(trained, tmp_path, capfd, project_log):
    lora = open_lora(trained)
    matrices = {name: lora.read(name) for name in lora.names()}
    matrices[f"{QUERY}.lora_B.weight"] = matrices[f"{QUERY}.lora_B.weight"] * np.nan
    save_lora(tmp_path / "a.ckpt", matrices, {})
    assert "not said, taken to be the rank" in inspected(capfd, tmp_path / "a.ckpt")
    assert f"1 modules hold numbers that are not finite ({QUERY})" in project_log.text


def test_base_weights_are_told(base, tiny_weights, trained, folder, tmp_path, capfd):  # noqa: F811
    out = inspected(capfd, tiny_weights)
    assert "tiny_sdxl.safetensors: whole base weights, .safetensors" in out
    total = sum(int(np.prod(array.shape)) for array in load_file(tiny_weights).values())
    assert re.search(rf"^all +float16 \(\d+\), int64 \(1\) +{len(load_file(tiny_weights))} +{total:,}$", out, re.M)
    unet = [name for name in base.shapes if name.startswith("model.")]
    assert re.search(rf"^UNet +float16 +{len(unet)} +", out, re.M) and re.search("^text encoder 2 ", out, re.M)
    assert "whole base weights, diffusers' folder" in inspected(capfd, folder)
    lora = open_lora(trained)
    write_tensors(
        tmp_path / "both.ckpt", stream_whole(base, {name: lora.read(name) for name in lora.names()}), lora.metadata
    )
    out = inspected(capfd, tmp_path / "both.ckpt", "--plot", tmp_path / "a.png")
    assert "whole base weights with LoRA, MindSpore .ckpt" in out and rows(out)["all", ""][:2] == ["168", "4"]
    assert lora_in_base(open_base(tmp_path / "both.ckpt")).modules and (tmp_path / "a.png").exists()
    state = {f"{QUERY}.lora_{letter}.weight": np.ones((2, 2), np.float32) for letter in "AB"} | {"state.m": np.zeros(3)}
    write_tensors(tmp_path / "state.ckpt", state.items(), {"lora_alpha": "2"})
    out = inspected(capfd, tmp_path / "state.ckpt")
    assert "state.ckpt: training state for --resume, MindSpore .ckpt" in out and rows(out)["all", ""] == ["1", "2", "4", "4"]


@pytest.mark.parametrize("prefix", ["first_stage_model.", ""])
def test_a_vae_is_told(tiny_weights, tmp_path, capfd, prefix):
    vae = {name: array for name, array in load_file(tiny_weights).items() if name.startswith("first_stage_model.")}
    save_file(
        {name.replace("first_stage_model.", prefix): a for name, a in vae.items()},
        tmp_path / "a.safetensors",
        {"about": "x " * 200},
    )
    out = inspected(capfd, tmp_path / "a.safetensors")
    assert "a.safetensors: VAE alone, .safetensors" in out and re.search(rf"^VAE +float16 +{len(vae)} +", out, re.M)
    assert re.search(r"^about +(x )+.*\.\.\.$", out, re.M)


def test_inspecting_refuses_what_cannot_be(tiny_weights, trained, tmp_path):
    save_file({"a": np.zeros(1)}, tmp_path / "a.safetensors")
    refused(inspect_weights, r"holds 1 tensors of a kind unknown here \(a\)", tmp_path / "a.safetensors")
    down = "lora_unet_input_blocks_4_1_proj_in"
    save_file({f"{down}.alpha": np.ones(()), f"{down}.hada_w1_a": np.ones((2, 2))}, tmp_path / "loha.safetensors")
    refused(inspect_weights, "holds LoHa matrices, which are not supported", tmp_path / "loha.safetensors")
    refused(inspect_weights, "does not exist", tmp_path / "nowhere.ckpt")
    refused(inspect_weights, "--plot .* must end in .png", trained, "--plot", tmp_path / "a.jpg")
    refused(
        inspect_weights, "--plot draws the update of a LoRA, but .* holds none", tiny_weights, "--plot", tmp_path / "a.png"
    )
    (tmp_path / "b.png").write_bytes(b"precious")
    refused(inspect_weights, "--plot .* exists already", trained, "--plot", tmp_path / "b.png")
    assert (tmp_path / "b.png").read_bytes() == b"precious" and not (tmp_path / "a.png").exists()


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


def test_blocks_are_told_in_order(full_keys):
    """Of the whole official file: numbers count as numbers, and nothing is of no network."""
    blocks = list(by_block(full_keys))
    assert {network for network, _ in blocks} == {"text encoder 1", "text encoder 2", "UNet", "VAE"}
    named = [block for network, block in blocks if network == "UNet"]
    assert named[:9] == [f"input_blocks.{i}" for i in range(9)] and named[9] == "middle_block"
    assert named[10:] == [*(f"output_blocks.{i}" for i in range(9)), "ends"]
    assert [block for network, block in blocks if network == "text encoder 2"] == [
        *(f"layer {i}" for i in range(32)),
        "ends",
    ]
    assert ("VAE", "decoder.up.3") in blocks and network_of("state.m") == "other"
