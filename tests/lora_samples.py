"""LoRA files of the tiny model for the tests of the commands on them, and how those are run."""

import numpy as np
import pytest

import tiny
from gm.checkpoint.io import write_tensors
from gm.checkpoint.lora_files import save_lora
from gm.checkpoint.lora_rules import lora_names, matrix_names
from gm.checkpoint.weights import open_base
from gm.errors import UserError
from tools import export_lora

ATTENTION = (".to_q", ".to_k", ".to_v", ".to_out.0", ".q_proj", ".k_proj", ".v_proj", ".out_proj")
FEED_FORWARD = "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.ff.net.2"
THIRD = "conditioner.embedders.1.model.transformer.resblocks.1.attn.k_proj"


# one module of every kind
Q = "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q"
OUT = "model.diffusion_model.output_blocks.5.1.transformer_blocks.0.attn2.to_out.0"
FF = "model.diffusion_model.middle_block.1.transformer_blocks.1.ff.net.0.proj"
TE1 = "conditioner.embedders.0.transformer.text_model.encoder.layers.2.self_attn.v_proj"
TE2 = "conditioner.embedders.1.model.transformer.resblocks.3.attn.q_proj"
MLP = "conditioner.embedders.1.model.transformer.resblocks.0.mlp.c_proj"
MODULES = (Q, OUT, FF, TE1, TE2, MLP)


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
def trained(base, tmp_path_factory):
    """Rank 4 and alpha 2 in all attention of the three networks, as training writes it."""
    about = {"lora_rank": "4", "lora_alpha": "2.0", "step": "20", "instance_prompt": "a sks dog"}
    return make_lora(tmp_path_factory.mktemp("lora") / "trained.ckpt", base, lambda m: 4 * m.endswith(ATTENTION), about)


@pytest.fixture(scope="session")
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


def close(found, expected, tolerance=1e-5):
    return np.linalg.norm(found - expected) <= tolerance * np.linalg.norm(expected)


def matrices(base_shapes, modules=MODULES, rank=lambda i: 2 + i) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Native module name -> random A, B; the rank differs from module to module."""
    rng = np.random.default_rng(0)
    shapes = {module: base_shapes[f"{module}.weight"] for module in modules}
    return {
        module: (rng.standard_normal((rank(i), columns), np.float32), rng.standard_normal((rows, rank(i)), np.float32))
        for i, (module, (rows, columns)) in enumerate(shapes.items())
    }


def file_of(path, pairs, layout, alphas=None, metadata=None):
    """A file of the layout, written name by name; `alphas`: native module name -> alpha."""
    names, tensors = lora_names(), {}
    for module, pair in pairs.items():
        foreign = names.foreign(module, layout)
        tensors |= dict(zip(matrix_names(layout, module, foreign), pair))
        if alphas:
            tensors[f"{foreign}.alpha"] = np.array(alphas[module], np.float32)
    write_tensors(path, tensors.items(), metadata or {})
    return path


def same(file, pairs):
    assert list(file.modules) == list(pairs)
    for module, (a, b) in pairs.items():
        assert np.array_equal(file.read(f"{module}.lora_A.weight"), a)
        assert np.array_equal(file.read(f"{module}.lora_B.weight"), b)
        assert file.modules[module].rank == len(a)
