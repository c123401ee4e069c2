"""Whole commands with LoRA of another kind than the usual: DoRA in linear layers and convolutions, ranks by part."""

import numpy as np
import pytest

import small as small_model
from gm.checkpoint.io import open_tensors
from gm.checkpoint.lora_files import open_lora
from gm.checkpoint.lora_stack import LoraStack
from gm.checkpoint.rules import is_lora
from gm.checkpoint.weights import open_base
from small import UNET, trained

pytestmark = pytest.mark.xdist_group("small")

KINDS = (
    *("--set", f"{UNET}.lora_targets=[input_blocks.1.*, output_blocks.0.0.skip_connection]"),
    *("--set", f"{UNET}.lora_conv_dim=2", "--set", f"{UNET}.lora_kind=dora"),
    *("--set", f"{UNET}.lora_parts=[{{pattern: '*attn1*', dim: 3, alpha: 1}}]", "--set", f"{UNET}.lora_rslora=True"),
    *("--save_format", "kohya"),
)


def lora_state_of(path):
    with open_tensors(path) as file:
        return {name: file.read(name) for name in file.names if is_lora(name)}


def test_dora_with_ranks_by_part(small, train_here, tmp_path):
    """Trained in a compiled graph, without the products of the text; what is written for other tools makes the same weights."""
    train_here(tmp_path, *KINDS, steps=2)
    whole, state = trained(tmp_path, 2), lora_state_of(tmp_path / "runs" / "training_state.ckpt")
    assert whole.keys() == state.keys() and all(np.array_equal(whole[name], state[name]) for name in whole)
    base, runs = open_base(small.weights), tmp_path / "runs"
    native = open_lora(runs / "SDXL_base_1.0_2_lora.ckpt", small_model.model())
    kohya = open_lora(runs / "SDXL_base_1.0_2_lora.safetensors", small_model.model())
    assert {(pair.rank, bool(pair.window)) for pair in native.modules.values()} == {
        (3, False),
        (4, False),
        (2, True),
        (4, True),
    }
    assert {round(native.scale(m) * pair.rank**0.5, 5) for m, pair in native.modules.items()} == {1.0, 4.0}
    for module in native.modules:
        weight = base.read(f"{module}.weight")
        made = [LoraStack([file], [1.0]).merge(module, weight) for file in (native, kohya)]
        assert np.allclose(*made, rtol=0, atol=1e-5 * np.abs(made[0]).max())
        lengths = np.linalg.norm(made[0].reshape(len(weight), -1), axis=1)
        assert np.allclose(lengths, whole[f"{module}.lora_magnitude_vector.weight"], rtol=1e-5)
        start = np.linalg.norm(weight.astype(np.float32).reshape(len(weight), -1), axis=1)
        assert 0 < np.abs(lengths - start).max() < 0.05, "the lengths start at the weight's and are trained"
