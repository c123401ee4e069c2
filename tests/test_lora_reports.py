"""The commands on LoRA files: resizing and inspecting, and the numbers behind what they tell."""

import re

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

import tiny
from gm.checkpoint.blocks import by_block, network_of
from gm.checkpoint.io import open_tensors, write_tensors
from gm.checkpoint.lora_files import lora_in_base, open_lora, save_lora
from gm.checkpoint.svd import product_norm, product_svd, truncated_svd
from gm.checkpoint.weights import open_base, stream_whole
from gm.console import table
from lora_samples import Q, close, product, refused, run
from tools import export_lora, inspect_weights, resize_lora

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
    added = after.read(f"{Q}.lora_A.weight")[own:], after.read(f"{Q}.lora_B.weight")[:, own:]
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
        assert np.linalg.norm(product(after, module) - full) == pytest.approx(np.sqrt(np.sum(values[1:] ** 2)), rel=tolerance)
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
    refused(resize_lora, "--rank: 0 is too small: at least 1", *common, "--rank", 0)
    refused(resize_lora, "--keep: 1.5 is too large: at most 1", *common, "--keep", 1.5)
    refused(resize_lora, "--alpha 3 was given, but .* says its alpha", *common, "--rank", 2, "--alpha", 3)
    refused(resize_lora, "--format peft is for .safetensors", *common, "--rank", 2, "--format", "peft")
    refused(resize_lora, "is not a LoRA file", "--lora", tiny_weights, "--output", target, "--rank", 2)
    assert not target.parent.exists()


def test_resizing_with_an_alpha_that_the_file_does_not_say(trained, tmp_path):
    lora = open_lora(trained)
    save_lora(tmp_path / "silent.ckpt", {name: lora.read(name) for name in lora.names()}, {})
    run(resize_lora, "--lora", tmp_path / "silent.ckpt", "--alpha", 2, "--rank", 4, "--output", tmp_path / "a.ckpt")
    assert close(product(open_lora(tmp_path / "a.ckpt"), Q), product(lora, Q))


def test_a_lora_of_zeros_can_be_resized_and_inspected(trained, tmp_path, capfd):
    lora = open_lora(trained)
    save_lora(
        tmp_path / "zero.ckpt", {name: lora.read(name) * ("lora_A" in name) for name in lora.names()}, {"lora_alpha": "4"}
    )
    run(resize_lora, "--lora", tmp_path / "zero.ckpt", "--keep", 0.5, "--output", tmp_path / "a.ckpt")
    after = open_lora(tmp_path / "a.ckpt")
    assert {pair.rank for pair in after.modules.values()} == {1} and not product(after, Q).any()
    assert re.search(r"^all +168 +1 +-$", capfd.readouterr().out, re.M)
    run(inspect_weights, tmp_path / "zero.ckpt")
    assert re.search(r"^all +168 +4 +0 +0$", capfd.readouterr().out, re.M)


# -- the numbers behind them ---------------------------------------------------------------------------------------


def test_norms_and_singular_values_without_the_product():
    rng = np.random.default_rng(0)
    for rank in (1, 5, 40):  # 40: more than the matrix has rows
        b, a = rng.standard_normal((30, rank)), rng.standard_normal((rank, 50))
        assert product_norm(b, a) == pytest.approx(np.linalg.norm(b @ a))
        u, s, vt = product_svd(b, a)
        assert np.allclose(u * s @ vt, b @ a) and np.allclose(s, np.linalg.svd(b @ a, compute_uv=False)[: len(s)])


def test_large_matrices_are_cut_nearly_as_well_as_by_a_whole_decomposition():
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.standard_normal((size, 200)))[0] for size in (300, 240))
    slow = (left / np.arange(1, 201) ** 0.5) @ right.T
    exact = (left[:, :8] * np.arange(8, 0, -1)) @ right.T[:8]
    for matrix, rank in ((slow, 8), (slow.T, 20), (exact, 8)):
        u, s, vt = truncated_svd(matrix.astype(np.float32), rank)
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
    matrices[f"{Q}.lora_B.weight"] = matrices[f"{Q}.lora_B.weight"] * np.nan
    save_lora(tmp_path / "a.ckpt", matrices, {})
    assert "not said, taken to be the rank" in inspected(capfd, tmp_path / "a.ckpt")
    assert f"1 modules hold numbers that are not finite ({Q})" in project_log.text


def test_base_weights_are_told(base, tiny_weights, trained, diffusers_folder, tmp_path, capfd):
    out = inspected(capfd, tiny_weights)
    assert "tiny_sdxl.safetensors: whole base weights, .safetensors" in out
    total = sum(int(np.prod(array.shape)) for array in load_file(tiny_weights).values())
    assert re.search(rf"^all +float16 \(\d+\), int64 \(1\) +{len(load_file(tiny_weights))} +{total:,}$", out, re.M)
    unet = [name for name in base.shapes if name.startswith("model.")]
    assert re.search(rf"^UNet +float16 +{len(unet)} +", out, re.M) and re.search("^text encoder 2 ", out, re.M)
    assert "whole base weights, diffusers' folder" in inspected(capfd, diffusers_folder)
    lora = open_lora(trained)
    write_tensors(tmp_path / "both.ckpt", stream_whole(base, {name: lora.read(name) for name in lora.names()}), lora.metadata)
    out = inspected(capfd, tmp_path / "both.ckpt", "--plot", tmp_path / "a.png")
    assert "whole base weights with LoRA, MindSpore .ckpt" in out and rows(out)["all", ""][:2] == ["168", "4"]
    assert lora_in_base(open_base(tmp_path / "both.ckpt")).modules and (tmp_path / "a.png").exists()
    state = {f"{Q}.lora_{letter}.weight": np.ones((2, 2), np.float32) for letter in "AB"} | {"state.m": np.zeros(3)}
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
