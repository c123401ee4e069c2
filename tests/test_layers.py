"""What a CPU composes itself, and what it cannot run, against the plain formulas; the dropouts of a LoRA, and DoRA in float16."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops
from mindspore.amp import all_finite

from gm import runtime
from gm.config.types import Adapter
from gm.models import attention, kernels, layers
from gm.optimizers.gradient import flatten


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


# -- LoRA ----------------------------------------------------------------------------------------------------------

DROPOUTS = ("neuron_dropout", "rank_dropout", "module_dropout")


def seen_by_b(dropout: str, kind: str, is_convolution: bool, draws: int = 60) -> np.ndarray:
    """What reaches B of a LoRA of rank 4, of 3 samples of 6 tokens or 2 x 3 pixels, where A gives 1 everywhere: (draws, 3, 6, 4)."""
    adapter = Adapter(4, 4.0, kind=kind, **{dropout: 0.25})
    if is_convolution:
        layer = layers.Conv2d(2, 4, 1, ms.float32, adapter=adapter)
    else:
        layer = layers.Linear(2, 4, True, ms.float32, adapter)
    eye, columns = np.eye(4, dtype=np.float32), np.full((4, 2), 0.5, np.float32)
    for parameter, value in ((layer.weight, 0 * columns), (layer.lora_A.weight, columns), (layer.lora_B.weight, eye)):
        parameter.set_data(Tensor(value.reshape(parameter.shape)))
    if kind == "dora":  # the weight is B A, whose rows have this length: no gain
        layer.lora_magnitude_vector.weight.set_data(Tensor(np.full(4, 0.5**0.5, np.float32)))
    x = Tensor(np.ones((3, 2, 2, 3) if is_convolution else (3, 6, 2), np.float32))
    layer.set_train(False)
    assert np.allclose(layer(x).asnumpy(), 1.0), "nothing is dropped while sampling"
    layer.set_train(True)
    found = np.stack([layer(x).asnumpy() for _ in range(draws)])
    return found.reshape(draws, 3, 4, 6).swapaxes(2, 3) if is_convolution else found


@pytest.mark.parametrize("is_convolution", [False, True])
@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize("dropout", DROPOUTS)
def test_what_a_dropout_drops(dropout, kind, is_convolution):
    """Neurons: each number by itself. Ranks: the same for all tokens of a sample. Modules: all or nothing, without a scale."""
    found = seen_by_b(dropout, kind, is_convolution)
    kept = 1.0 if dropout == "module_dropout" else 1 / 0.75
    assert all(np.isclose(value, (0.0, kept), atol=1e-5).any() for value in np.unique(found))
    dropped = found < 0.5
    together = {"neuron_dropout": (), "rank_dropout": (2,), "module_dropout": (1, 2, 3)}[dropout]
    one = dropped[tuple(slice(0, 1) if axis in together else slice(None) for axis in range(4))]
    assert (dropped == one).all()
    spread = (0.25 * 0.75 / one.size) ** 0.5
    assert abs(one.mean() - 0.25) < 4 * spread
    for axis in set(range(4)) - set(together):  # draws, samples, tokens and ranks are independent of each other
        assert (one != one.take([0], axis)).any()


class Twice(nn.Cell):
    """Two layers alike, in a cell that may be recomputed: their outputs' sum, and the outputs."""

    def __init__(self, adapter, recomputes: bool):
        super().__init__()
        self.layers = nn.CellList([layers.Linear(2, 4, False, ms.float32, adapter) for _ in range(2)])
        for layer in self.layers:
            values = {"weight": np.zeros((4, 2)), "lora_A.weight": np.full((4, 2), 0.5), "lora_B.weight": np.eye(4)}
            for name, parameter in layer.parameters_and_names():
                parameter.set_data(Tensor(values[name], ms.float32))
            if recomputes:
                layer.recompute()
                layers.keep_dropout(layer)

    def construct(self, x):
        first, second = self.layers[0](x), self.layers[1](x)
        return first.sum() + second.sum(), first, second


@pytest.mark.parametrize("recomputes", [False, True])
@pytest.mark.parametrize("dropout", ["rank_dropout", "module_dropout"])
def test_a_compiled_graph_draws_anew_and_its_gradient_is_of_the_same_draw(dropout, recomputes):
    ms.set_context(mode=ms.GRAPH_MODE)
    net = Twice(Adapter(4, 4.0, **{dropout: 0.5}), recomputes).set_train(True)
    for name, parameter in net.parameters_and_names():
        parameter.name = name
    slope = ms.value_and_grad(net, None, ms.ParameterTuple([layer.lora_B.weight for layer in net.layers]), has_aux=True)
    seen, apart = set(), 0
    for _ in range(16):
        (_, *outputs), gradients = slope(Tensor(np.ones((1, 1, 2), np.float32)))
        for output, gradient in zip(outputs, gradients):  # d sum / d B is what B was given, which B = 1 gave on
            assert np.allclose(gradient.asnumpy(), output.asnumpy().reshape(1, 4))
        seen.add(tuple(outputs[0].asnumpy().ravel()))
        apart += not np.array_equal(outputs[0].asnumpy(), outputs[1].asnumpy())
    assert len(seen) > 1 and apart > 0


@pytest.mark.parametrize("is_convolution", [False, True])
def test_dora_in_float16(is_convolution):
    """At its start it is the layer without it, to float16's rounding of the output; and a length that changes by less than
    float16 could tell of it has its gradient and its effect."""
    found = {}
    for dtype in (ms.float16, ms.float32):
        adapter = Adapter(3, 3.0, kind="dora")
        if is_convolution:
            layer = layers.Conv2d(8, 6, 3, dtype, padding=1, adapter=adapter)
        else:
            layer = layers.Linear(8, 6, True, dtype, adapter)
        rng = np.random.default_rng(0)
        shape = layer.weight.shape
        weight = rng.standard_normal(shape).astype(np.float16)
        lengths = np.linalg.norm(weight.astype(np.float64).reshape(6, -1), axis=1)
        a = rng.standard_normal(layer.lora_A.weight.shape)
        x = Tensor(rng.standard_normal((2, 8, 16, 16) if is_convolution else (2, 256, 8)), dtype)
        values = {
            "weight": weight,
            "bias": np.zeros(6),
            "lora_A.weight": a,
            "lora_B.weight": np.zeros(layer.lora_B.weight.shape),
        }
        for name, parameter in layer.parameters_and_names():
            parameter.set_data(Tensor(values.get(name, lengths * 1.0001), parameter.dtype))
        magnitudes = layer.lora_magnitude_vector.weight
        assert magnitudes.dtype == ms.float32

        def loss(x):
            y = layer(x)  # noqa: B023
            return y.astype(ms.float32).sum(), y

        (_, y), slopes = ms.value_and_grad(loss, None, [layer.lora_B.weight, magnitudes], has_aux=True)(x)
        assert y.dtype == dtype
        found[dtype] = [y.asnumpy().astype(np.float64), *(slope.asnumpy() for slope in slopes)]
    for half, whole in zip(found[ms.float16], found[ms.float32]):
        assert np.abs(half - whole).max() < 3e-3 * np.abs(whole).max()
    half, whole = found[ms.float16][0], found[ms.float32][0]
    ratio = (half * whole).sum() / (whole * whole).sum()  # rounding of single numbers leaves; that of a gain would stay
    assert abs(ratio - 1.0) < 2e-4


def test_gradients_of_two_types_are_one_vector():
    """A DoRA's lengths are float32 beside float16 matrices; an infinite one is found among them."""
    half, whole = Tensor(np.array([[1.5, 2.0]]), ms.float16), Tensor(np.array([1.0 + 2.0**-20]), ms.float32)
    assert flatten((half, whole), False).asnumpy().tolist() == [1.5, 2.0, 1.0 + 2.0**-20]
    assert flatten((half, half)).dtype == ms.float32
    assert all_finite((half, whole)).asnumpy() and not all_finite((half, whole / 0.0)).asnumpy()
