"""What a CPU composes itself, and what it cannot run, against the plain formulas."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, ops

from gm import runtime
from gm.models import attention, kernels, layers


@pytest.fixture(autouse=True)
def pynative():
    ms.set_device("CPU")
    ms.set_context(mode=ms.PYNATIVE_MODE)
    yield
    ms.set_context(mode=ms.GRAPH_MODE)


def rows(*shape, seed=0) -> Tensor:
    return Tensor(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def value_and_slope(layer, x):
    """layer(x) and the gradient of a weighted sum of it."""
    weights = rows(*layer(x).shape, seed=1)
    value, slope = ms.value_and_grad(lambda given: (layer(given) * weights).sum())(x)
    return layer(x).asnumpy(), value.asnumpy(), slope.asnumpy()


def test_layer_norm_is_the_stock_one_with_its_gradient(monkeypatch):
    x = rows(6, 48) * 3.0 + 5.0
    found = []
    for composes in (True, False):
        monkeypatch.setattr(runtime, "composes_kernels", lambda: composes)  # noqa: B023
        layer = layers.LayerNorm(48)
        assert isinstance(layer.norm, kernels.NormaliseRows) == composes
        layer.gamma.set_data(rows(48, seed=2))
        layer.beta.set_data(rows(48, seed=3))
        weights = rows(6, 48, seed=1)
        slopes = ms.value_and_grad(lambda x: (layer(x) * weights).sum(), None, [layer.gamma, layer.beta])(x)[1]  # noqa: B023
        found.append([*value_and_slope(layer, x), *(slope.asnumpy() for slope in slopes)])
    for own, stock in zip(*found):
        assert own.shape == stock.shape and np.abs(own - stock).max() < 2e-5 * np.abs(stock).max()


def test_gated_gelu_has_the_gradient_of_its_formula():
    gated, x = kernels.GatedGelu(), rows(5, 64) * 2.0

    def formula(given):
        value, gate = ops.chunk(given, 2, -1)
        return value * layers.gelu(gate)

    for own, plain in zip(value_and_slope(lambda given: gated(given)[0], x), value_and_slope(formula, x)):
        assert np.abs(own - plain).max() < 1e-5 * np.abs(plain).max()


@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("mode", [ms.GRAPH_MODE, ms.PYNATIVE_MODE], ids=["graph", "pynative"])
def test_attention_on_a_cpu_is_that_of_the_stock_operators_with_its_gradients(monkeypatch, mode, heads):
    ms.set_context(mode=mode)
    q, k, v, weights = rows(2, 6, 32), rows(2, 5, 32, seed=1) * 3.0, rows(2, 5, 32, seed=2), rows(2, 6, 32, seed=3)
    found = []
    for composes in (True, False):
        monkeypatch.setattr(runtime, "composes_kernels", lambda: composes)  # noqa: B023
        layer = attention.Attention(heads, 32 // heads)
        assert isinstance(layer.softmax, kernels.Softmax) == composes

        def loss(q, k, v):
            return (layer(q, k, v) * weights).sum()  # noqa: B023

        value, slopes = ms.value_and_grad(loss, (0, 1, 2))(q, k, v)
        found.append([value, *slopes])
    for own, stock in zip(*found):
        assert np.abs((own - stock).asnumpy()).max() < 1e-5 * np.abs(stock.asnumpy()).max()


def test_flash_attention_is_asked_for_what_the_plain_one_computes(monkeypatch):
    """Ascend's kernel as its documentation describes it stands in for it: layout BSH, one scale, no mask."""

    def documented(query, key, value, head_num, scalar_value=1.0, input_layout="BSH", **others):
        assert input_layout == "BSH" and not others and query.ndim == key.ndim == value.ndim == 3
        q, k, v = (t.reshape(t.shape[0], t.shape[1], head_num, -1).transpose(0, 2, 1, 3) for t in (query, key, value))
        mixed = ops.softmax(ops.matmul(q, k.transpose(0, 1, 3, 2)) * scalar_value, -1)
        return ops.matmul(mixed, v).transpose(0, 2, 1, 3).reshape(query.shape)

    monkeypatch.setattr(ops, "flash_attention_score", documented)
    q, k, v = (rows(2, 9, 32, seed=seed) for seed in range(3))
    plain, flash = (attention.Attention(4, 8, kind)(q, k, v) for kind in ("vanilla", "flash-attention"))
    assert flash.shape == q.shape and np.abs((plain - flash).asnumpy()).max() < 1e-5
