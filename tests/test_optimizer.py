"""The update: AdamW, AdamWeightDecay, schedules, clipping, loss scale, overflow. On two small matrices."""

from dataclasses import replace

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from gm.config.types import OptimConfig
from gm.optimizers.rates import learning_rate
from gm.training.step import LossScale
from modes import in_mode
from toy_trainer import SHAPES, ToyTrainer, gradients, start


@pytest.fixture(autouse=True)
def nothing_is_compiled():
    """PyNative mode; test_optimizers.py has both modes of every optimizer."""
    ms.set_device("CPU")
    with in_mode(ms.PYNATIVE_MODE):
        yield


OPTIM = OptimConfig(base_learning_rate=0.1, eps=1e-6, weight_decay=0.3)


def adamw_by_hand(updates: int, optim: OptimConfig, clip=lambda g: g) -> list[np.ndarray]:
    """Algorithm 2 of arXiv 1711.05101 in float64, parameter by parameter."""
    p = [x.asnumpy().astype(np.float64) for x in start()]
    m, v = [np.zeros(s) for s in SHAPES.values()], [np.zeros(s) for s in SHAPES.values()]
    for t in range(1, updates + 1):
        for i, g in enumerate(clip(gradients(t - 1))):
            m[i] = optim.beta1 * m[i] + (1 - optim.beta1) * g
            v[i] = optim.beta2 * v[i] + (1 - optim.beta2) * np.square(g, dtype=np.float64)
            hat = (m[i] / (1 - optim.beta1**t)) / (np.sqrt(v[i] / (1 - optim.beta2**t)) + optim.eps)
            p[i] = p[i] - optim.base_learning_rate * (hat + optim.weight_decay * p[i])
    return p


def same(found, expected, tolerance=1e-5):
    return all(np.allclose(a, b, rtol=tolerance, atol=tolerance) for a, b in zip(found, expected))


@pytest.mark.parametrize(
    "scale, mode", [(1.0, ms.PYNATIVE_MODE), (1024.0, ms.GRAPH_MODE), (65536.0, ms.PYNATIVE_MODE)], ids=str
)
def test_adamw_whatever_the_loss_scale(scale, mode):
    trainer = ToyTrainer(OPTIM, LossScale(scale, dynamic=False))
    with in_mode(mode):
        for step in range(3):
            trainer.update([gradients(step)])
    assert same(trainer.values(), adamw_by_hand(3, OPTIM))


def test_accumulation_adds_up():
    trainer = ToyTrainer(OPTIM, LossScale(8.0, dynamic=False))
    for step in range(3):
        trainer.update([tuple(g * np.float32(share) for g in gradients(step)) for share in (0.25, 0.5, 0.25)])
    assert same(trainer.values(), adamw_by_hand(3, OPTIM))


def test_adam_weight_decay_is_mindspores():
    trainer = ToyTrainer(replace(OPTIM, bias_correction=False), LossScale(1.0, dynamic=False))
    theirs = start()
    optimizer = nn.AdamWeightDecay(theirs, 0.1, 0.9, 0.999, 1e-6, 0.3)
    for step in range(3):
        trainer.update([gradients(step)])
        optimizer(tuple(Tensor(g) for g in gradients(step)))
    assert same(trainer.values(), [p.asnumpy() for p in theirs])


def test_clipping():
    def clip(gs):
        norm = np.sqrt(sum(float(np.square(g, dtype=np.float64).sum()) for g in gs))
        return [g * min(1.0, 0.5 / norm) for g in gs]

    optim = replace(OPTIM, eps=1.0)  # a large eps, so that the size of the gradient matters
    trainer = ToyTrainer(optim, LossScale(1024.0, dynamic=False), max_grad_norm=0.5)
    norms = [trainer.update([gradients(step)]).grad_norm for step in range(3)]
    assert min(norms) > 0.5
    assert same(trainer.values(), adamw_by_hand(3, optim, clip))
    assert not same(trainer.values(), adamw_by_hand(3, optim))


@pytest.mark.parametrize("bad, mode", [(np.inf, ms.GRAPH_MODE), (np.nan, ms.PYNATIVE_MODE)], ids=str)
def test_an_overflow_is_skipped_and_counted(bad, mode):
    trainer = ToyTrainer(OPTIM, LossScale(1024.0, dynamic=True))
    with in_mode(mode):
        trainer.update([gradients(0)])
        before, moments = trainer.values(), trainer.state()
        spoilt = gradients(1)
        spoilt[1][2] = bad
        update = trainer.update([spoilt])
        assert update.skipped and trainer.skipped == 1 and trainer.step == 2
        assert same(trainer.values(), before, 0) and np.array_equal(trainer.state()["m"], moments["m"])
        assert trainer.loss_scale.value == 512
        trainer.update([gradients(1)])
    assert same(trainer.values(), adamw_by_hand(2, OPTIM))  # as if it had not been


def test_an_overflow_that_a_device_only_remembers_is_skipped():
    """Where it becomes the largest number of float16, which is finite."""
    trainer = ToyTrainer(OPTIM, LossScale(1024.0, dynamic=True))
    before = trainer.values()
    trainer.overflows = 1
    assert trainer.update([gradients(0)]).skipped and trainer.loss_scale.value == 512
    assert same(trainer.values(), before, 0)
    trainer.overflows = 0
    assert not trainer.update([gradients(0)]).skipped
    assert same(trainer.values(), adamw_by_hand(1, OPTIM))


def test_overflow_still_update():
    trainer = ToyTrainer(OPTIM, LossScale(1.0, dynamic=False), overflow_still_update=True)
    spoilt = gradients(0)
    spoilt[0][0, 0] = np.inf
    assert not trainer.update([spoilt]).skipped
    assert not np.isfinite(trainer.values()[0]).all()


def test_dynamic_loss_scale():
    scale = LossScale(4.0, dynamic=True, window=2)
    history = []
    for finite in (True, True, False, False, False, True, True):
        scale.after(finite)
        history.append(scale.value)
    assert history == [4, 8, 4, 2, 1, 1, 2]
    static = LossScale(4.0, dynamic=False)
    static.after(False)
    assert static.value == 4


@pytest.mark.parametrize(
    "schedule, expected",
    [
        ("constant", [0.5, 1, 1, 1, 1, 1]),
        ("linear", [0.5, 1, 1, 0.8, 0.6, 0.4]),
        ("cosine", [0.5, 1, 1, 0.2 + 0.4 * (1 + np.cos(np.pi / 4)), 0.6, 0.2 + 0.4 * (1 + np.cos(3 * np.pi / 4))]),
    ],
)
def test_learning_rate(schedule, expected):
    final = 0.2
    optim = OptimConfig(base_learning_rate=2.0, schedule=schedule, warmup_steps=2, final_factor=final)
    assert np.allclose([learning_rate(optim, step, 6) for step in range(6)], 2.0 * np.array(expected))


def test_state_continues():
    whole, first, second = (ToyTrainer(OPTIM, LossScale(16.0, dynamic=True, window=2)) for _ in range(3))
    for step in range(4):
        whole.update([gradients(step)])
    for step in range(2):
        first.update([gradients(step)])
    for ours, theirs in zip(second.parameters, first.values()):
        ours.set_data(Tensor(theirs))
    second.set_state(first.state())
    for step in range(2, 4):
        second.update([gradients(step)])
    assert same(second.values(), whole.values(), 1e-7) and second.loss_scale.value == whole.loss_scale.value
