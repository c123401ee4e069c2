"""The branch that an accelerator runs, as far as a CPU can run it: its operators, float16, overflow, and what is copied."""

import json
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import mindspore as ms
import numpy as np
import pytest
from mindspore import ops
from mindspore.ops import auto_generate

import small as small_model
import tiny
from gm import runtime
from gm.data.dreambooth import CLASS, INSTANCE
from gm.device import Chip
from gm.models import sdxl
from gm.models.adapters import adapters_of, initial_value
from gm.optimizers import flat, gradient
from gm.training import micro_step, step
from gm.training.batches import MicroBatch
from gm.training.micro_step import SUMS
from gm.training.step import LossScale, Trainer
from modes import in_mode
from small import environment

pytestmark = pytest.mark.xdist_group("golden")

# What the training graph is made of. Another operator may be missing on a device, or slow there: look before it is added.
OF_MINDSPORE = "Depend Load MakeTuple TupleGetItem UpdateState"
OPERATORS = """
Add AddN BatchMatMul BiasAdd BroadcastTo Cast Concat Conv2D Conv2DBackpropInput Cos Erf Exp GroupNorm GroupNormGrad
LayerNorm LayerNormGrad MatMul Mul RealDiv ReduceMean Reshape Sigmoid SigmoidGrad Sin Slice Softmax SoftmaxBackward Split
Stack StridedSlice Sub SumExt Tile Transpose
""".split()
FLASH = {"FlashAttentionScore", "FlashAttentionScoreGrad"}
ATTENTIONS = 8  # of the small model


@pytest.fixture(scope="module")
def graphs() -> dict[str, Counter]:
    """Operators of the training graph with each kind of attention."""
    words = [sys.executable, str(tiny.ROOT / "tests" / "accelerator_graph.py")]
    done = subprocess.run(words, capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    return {kind: Counter(found) for kind, found in json.loads(done.stdout.splitlines()[-1]).items()}


def test_the_operators_are_those_that_were_looked_at(graphs):
    known = set(OPERATORS) | set(OF_MINDSPORE.split())
    assert set(graphs["vanilla"]) == known
    assert set(graphs["flash-attention"]) == known - {"BatchMatMul", "Softmax", "SoftmaxBackward"} | FLASH
    assert {graphs["flash-attention"][name] for name in FLASH} == {ATTENTIONS}


def test_lora_matrices_are_not_cast(graphs):
    """What is cast: norms, softmax and its inputs, and the numbers of a micro-batch."""
    matrices = 2 * 4 * ATTENTIONS
    assert graphs["vanilla"]["MatMul"] > 4 * matrices
    assert graphs["vanilla"]["Cast"] - graphs["flash-attention"]["Cast"] == 4 * ATTENTIONS
    norms = graphs["vanilla"]["LayerNorm"] + graphs["vanilla"]["GroupNorm"]
    assert graphs["flash-attention"]["Cast"] < 4 * norms + 12


def test_where_mindspore_documents_platforms_ascend_is_one(graphs):
    documented = 0
    for name in {*OPERATORS, *FLASH}:
        function = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower().removesuffix("_ext")
        places = (getattr(ops, name, None), getattr(auto_generate, name, None), getattr(ops, function, None))
        texts = [place.__doc__ or "" for place in places if place is not None]
        platforms = [text.partition("Supported Platforms:")[2] for text in texts if "Supported Platforms:" in text]
        documented += bool(platforms)
        assert all("Ascend" in text or "Deprecated" in text for text in platforms), name
    assert documented > 25


# -- numbers, in PyNative mode, where nothing is compiled ----------------------------------------------------------------


@pytest.fixture(autouse=True)
def stock_kernels(request, monkeypatch):
    if "graphs" in request.fixturenames:
        yield
        return
    ms.set_device("CPU")
    monkeypatch.setattr(runtime, "composes_kernels", lambda: False)
    with in_mode(ms.PYNATIVE_MODE):
        yield


SIDE, WEIGHT = 4, 0.5


def matrix(name: str, shape: tuple) -> np.ndarray:
    return initial_value(name.replace("lora_B", "lora_A"), shape, 1)


def make(dtype, scale: float = 1.0) -> Trainer:
    model, config = small_model.model(), replace(tiny.config(total_step=5), model=small_model.model())
    unet = sdxl.build_unet(model, dtype, adapters_of(model, config.lora))
    shapes = {p.name: tuple(p.shape) for p in unet.get_parameters()}
    rng = np.random.default_rng(0)
    values = {name: matrix(name, shape) if sdxl.is_lora(name) else None for name, shape in shapes.items()}
    for name, shape in shapes.items():
        if values[name] is None:
            one = name.endswith("gamma")
            spread = 0.02 if len(shape) < 2 else 0.5 / np.sqrt(np.prod(shape[1:]))
            values[name] = (one + spread * rng.standard_normal(shape)).astype(np.float32)
    sdxl.fill([unet], values.__getitem__)
    return Trainer(config, unet, None, LossScale(scale, False), read=values.__getitem__)


def batch(trainer: Trainer, number: int, weight: float = WEIGHT) -> MicroBatch:
    rng, model = np.random.default_rng(number), trainer.config.model
    image = lambda: rng.standard_normal((2, 4, SIDE, SIDE)).astype(np.float32)  # noqa: E731
    return replace(
        MicroBatch.blank((2, 4, SIDE, SIDE), TEXT.setdefault(model.unet.context_dim, text_of(model))),
        **{"mean": image(), "noise": image(), "posterior_noise": image(), "sigma": np.array([0.4, 2.0])},
        **{"timestep": np.array([200, 600]), "weight": np.full(2, weight), "kind": np.array([INSTANCE, CLASS])},
    )


TEXT: dict[int, tuple] = {}


def text_of(model) -> tuple:
    rng = np.random.default_rng(9)
    width, pooled = model.unet.context_dim, model.text_encoders[1].embed_dim
    return rng.standard_normal((2, 77, width)).astype(np.float32), rng.standard_normal((2, pooled)).astype(np.float32)


def gradient_of(trainer: Trainer, weight: float, spread: float) -> np.ndarray:
    trainer.accumulate(batch(trainer, 0, weight), True, spread)
    return trainer.gradient.total.asnumpy()[:-SUMS].astype(np.float64) / (trainer.loss_scale.value * spread * weight)


def test_float16_gradients_however_many_micro_batches_an_update_has():
    exact, half = gradient_of(make(ms.float32), WEIGHT, 1.0), make(ms.float16, 1024.0)

    def error(weight: float, spread: float) -> float:
        return float(np.linalg.norm(gradient_of(half, weight, spread) - exact) / np.linalg.norm(exact))

    plain = error(WEIGHT, 1.0)
    assert plain < 0.02
    share = WEIGHT / 2**16  # of a micro-batch where an update has 65,536
    assert error(share, step.spread_of(2**16)) == pytest.approx(plain, rel=1e-3)
    assert error(share, 1.0) > 2 * plain, "small gradients vanish where the loss is not spread"
    assert [step.spread_of(n) for n in (1, 2, 3, 4, 7, 12)] == [1, 2, 2, 4, 4, 8]


def test_the_optimizer_keeps_what_float16_loses():
    trainer = make(ms.float16, 1024.0)
    names = [p.name for p in trainer.parameters]
    start = {name: matrix(name, tuple(p.shape)) for name, p in zip(names, trainer.parameters)}
    assert all(np.array_equal(trainer.lora()[name], start[name]) for name in names)
    trainer.update([batch(trainer, 0)])
    after = trainer.lora()
    assert all(after[p.name].dtype == np.float32 and p.dtype == ms.float16 for p in trainer.parameters)
    assert all(np.array_equal(after[p.name].astype(np.float16), p.asnumpy()) for p in trainer.parameters)
    assert any(not np.array_equal(after[name], after[name].astype(np.float16)) for name in names)


def test_an_overflow_on_a_chip_that_saturates(monkeypatch):
    """Its gradient is +-65504 instead of infinite, so that only the device's flag tells."""
    monkeypatch.setattr(step, "chip", lambda: Chip("ascend910"))
    monkeypatch.setattr(micro_step, "flatten", lambda *given: ops.clip(gradient.flatten(*given), -65504.0, 65504.0))
    trainer = make(ms.float16, 2.0**30)  # all_finite, which reads the flag there, looks at the numbers on a CPU
    before = trainer.lora()
    update = trainer.update([batch(trainer, 0)])
    assert update.skipped and np.isfinite(update.grad_norm)
    assert all(np.array_equal(value, before[name]) for name, value in trainer.lora().items())
    trainer.loss_scale.value = 1024.0
    assert not trainer.update([batch(trainer, 0)]).skipped


def test_what_goes_to_the_device_and_comes_back(monkeypatch):
    """A micro-batch sends two arrays, whatever the text; an update sends five numbers and reads a few and the weights."""
    trainer = make(ms.float32)
    trainer.update([batch(trainer, 0), batch(trainer, 1)])
    sent, read = [], []

    def tensor(array, *more):
        sent.append(np.shape(array))
        return ms.Tensor(array, *more)

    for module in (step, gradient, flat):
        monkeypatch.setattr(module, "Tensor", tensor)
    asnumpy = ms.Tensor.asnumpy
    monkeypatch.setattr(ms.Tensor, "asnumpy", lambda self: (read.append(self.shape), asnumpy(self))[1])
    trainer.update([batch(trainer, 2), batch(trainer, 3)])
    matrices = [tuple(p.shape) for p in trainer.parameters]
    micro = [(4, 2, 4, SIDE, SIDE), (2, 11)]
    assert sent == [*micro, *micro, (), *4 * [()], *matrices]
    assert [shape for shape in read if shape not in matrices] == [(1 + SUMS,), (trainer.gradient.size,)]
