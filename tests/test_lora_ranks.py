"""LoRA whose ranks differ from block to block: blocks that are alike but for them must not share a compiled body."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

import small as small_model
import tiny
from gm.checkpoint.weights import open_base
from gm.config.types import Adapter
from gm.models import sdxl
from gm.models.adapters import adapters_of, initial_value
from gm.models.text_products import widen

pytestmark = pytest.mark.xdist_group("small")


@pytest.fixture(scope="module", autouse=True)
def graph_mode():
    ms.set_device("CPU")
    ms.set_context(mode=ms.GRAPH_MODE)


def output(unet, read, text_products: bool) -> np.ndarray:
    """Of a UNet filled with these weights, for random input."""
    sdxl.fill([unet], read)
    config, rng = small_model.model().unet, np.random.default_rng(0)
    shapes = (2, config.in_channels, 8, 8), (2, 77, config.context_dim), (2, config.adm_in_channels)
    x, context, vector = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    if text_products:
        context = widen(unet.text_products, context, read)
    timesteps = np.array([10, 600], np.float32)
    return unet(*(Tensor(array) for array in (x, timesteps, context, vector))).asnumpy()


def test_ranks_that_differ_from_block_to_block(small):
    """Apart is what merging gives, with the text's products and without."""
    model, base = small_model.model(), open_base(small.weights)
    adapters, blocks = {}, {}
    for name in adapters_of(model, tiny.lora()):
        rank = 1 + blocks.setdefault(name.partition(".attn")[0], len(blocks)) % 3
        adapters[name] = Adapter(rank, 2.0 * rank)
    assert len(blocks) > 3
    matrices = {}

    def apart(name):
        return matrices[name] if name in matrices else base.read(name)

    def merged(name):
        module = name.removesuffix(".weight")
        if module not in adapters:
            return base.read(name)
        return base.read(name) + 2.0 * matrices[f"{module}.lora_B.weight"] @ matrices[f"{module}.lora_A.weight"]

    found = []
    for text_products in (False, True):
        unet = sdxl.build_unet(model, adapters=adapters, text_products=text_products)
        shapes = {p.name: p.shape for p in unet.get_parameters() if sdxl.is_lora(p.name)}
        assert {shape[0] for name, shape in shapes.items() if "lora_A" in name} == {1, 2, 3}
        matrices |= {name: initial_value(name.replace("lora_B", "lora_A"), shape, 1) for name, shape in shapes.items()}
        found.append(output(unet, apart, text_products))
    plain = sdxl.build_unet(model)
    expected, without = output(plain, merged, False), output(plain, base.read, False)
    assert tiny.relative_error(without, expected) > 1e-2, "the LoRA does something"
    for one in found:
        assert tiny.relative_error(one, expected) < 1e-5
