"""Prodigy, Adafactor and Lion against prodigyopt, transformers and a few lines of numpy; AdamW with a rate for each network.

Of matrices of several shapes, some equal, half of which are zero at the start, as those of LoRA.
"""

import math
from dataclasses import replace
from typing import Callable, Iterator

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor

from gm.config.types import AdafactorConfig, OptimConfig, ProdigyConfig
from gm.optimizers.flat import FlatOptimizer
from gm.optimizers.gradient import FlatGradient
from gm.optimizers.rates import Rates
from gm.optimizers.table import OPTIMIZERS, ordered
from modes import in_mode

UNET, TEXT = "model.diffusion_model.a", "conditioner.embedders.0.transformer.a"
SHAPES = {
    f"{UNET}.lora_A.weight": (2, 6),
    f"{UNET}.lora_B.weight": (5, 2),
    f"{UNET}.magnitude": (5,),
    f"{UNET}2.lora_A.weight": (2, 6),
    f"{UNET}2.lora_B.weight": (5, 2),
    f"{UNET}3.lora_A.weight": (2, 3, 3, 3),  # of a convolution
    f"{TEXT}.lora_A.weight": (2, 6),
    f"{TEXT}.lora_B.weight": (5, 2),
}
UPDATES = 6
pytestmark = pytest.mark.xdist_group("optimizers")


@pytest.fixture(autouse=True)
def pynative() -> Iterator[None]:
    ms.set_device("CPU")
    with in_mode(ms.PYNATIVE_MODE):
        yield


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def start() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    drawn = {name: (0.1 * rng.standard_normal(shape)).astype(np.float32) for name, shape in SHAPES.items()}
    return {name: value * (not name.endswith("lora_B.weight")) for name, value in drawn.items()}


def gradients(step: int) -> dict[str, np.ndarray]:
    """With a direction that stays, so that Prodigy's step size grows."""
    fixed, rng = np.random.default_rng(1), np.random.default_rng(100 + step)
    return {
        name: (fixed.standard_normal(shape) * (1 + 0.5 * rng.standard_normal(shape))).astype(np.float32)
        for name, shape in SHAPES.items()
    }


def rate(step: int) -> float:
    """A schedule in which no two updates are equal."""
    return 1.0 - 0.05 * step


class Flat:
    """One of our optimizers, given gradients by name."""

    def __init__(self, config: OptimConfig):
        self.parameters = ordered(config, [Parameter(Tensor(value), name=name) for name, value in start().items()])
        self.gradient = FlatGradient(self.parameters)
        self.rates = Rates(config, UPDATES, self.parameters)
        build: type[FlatOptimizer] = OPTIMIZERS[config.optimizer]
        self.optimizer = build(self.parameters, self.gradient, config, None, self.rates.factors)
        self.numbers: list[dict[str, float]] = []

    def update(self, step: int, zero: bool = False) -> None:
        self.rates.begin(step)
        of = gradients(step)
        flat = np.concatenate([of[p.name].reshape(-1) for p in self.parameters])
        if self.rates.stopping is not None:  # as ReduceGradient does
            flat = flat * (self.rates.stopping.asnumpy() > 0)
        self.gradient.total.set_data(Tensor(np.float32(4.0) * flat * (not zero)))
        self.optimizer.apply(self.rates.highest * rate(step), 0.25, step + 1)
        self.numbers.append(self.optimizer.numbers())

    def run(self, steps=range(UPDATES)) -> "Flat":
        for step in steps:
            self.update(step)
        return self

    def weights(self) -> dict[str, np.ndarray]:
        return {p.name: p.asnumpy().copy() for p in self.parameters}


def theirs(torch, make: Callable, factor: Callable[[str], float] = lambda name: 1.0, updates: int = UPDATES):
    """What a PyTorch optimizer makes of the same, and itself; `make(groups)`, a group for each tensor, whose rate is a factor
    of the highest; None leaves rates alone."""
    tensors = {name: torch.nn.Parameter(torch.tensor(value)) for name, value in start().items()}
    base = 1.0
    optimizer = make([{"params": [tensor]} for tensor in tensors.values()])
    bases = [group["lr"] for group in optimizer.param_groups]
    for step in range(updates):
        for (name, tensor), group, base in zip(tensors.items(), optimizer.param_groups, bases):
            tensor.grad = torch.tensor(gradients(step)[name])
            if base is not None:
                group["lr"] = base * rate(step) * factor(name)
        optimizer.step()
    return {name: tensor.detach().numpy() for name, tensor in tensors.items()}, optimizer


def error(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], names=SHAPES) -> float:
    """The largest over the tensors of the largest difference relative to the largest value."""
    return max(np.abs(found[n] - expected[n]).max() / np.abs(expected[n]).max() for n in names)


def moved(weights: dict[str, np.ndarray]) -> float:
    """The least over the tensors of how far one has gone."""
    return min(np.abs(value - start()[name]).max() for name, value in weights.items())


# -- Prodigy ---------------------------------------------------------------------------------------------------------

PRODIGY = OptimConfig(base_learning_rate=1.0, optimizer="Prodigy", bias_correction=False, weight_decay=0.0)
PRODIGIES = {
    "plain": PRODIGY,
    "as recipes": replace(
        PRODIGY, beta2=0.99, weight_decay=0.1, bias_correction=True, prodigy=ProdigyConfig(safeguard_warmup=True, d_coef=2.0)
    ),
    "decay in the gradient": replace(PRODIGY, weight_decay=0.3, prodigy=ProdigyConfig(decouple=False, d0=1e-4)),
    "slow growth": replace(PRODIGY, beta1=0.8, eps=1e-3, prodigy=ProdigyConfig(beta3=0.9, growth_rate=1.5, d0=1e-3)),
    "no first moment": replace(PRODIGY, beta1=0.0, bias_correction=True, prodigy=ProdigyConfig(d0=1e-3)),
}


def prodigyopt(config: OptimConfig, lr: float = 1.0) -> Callable:
    import prodigyopt

    own = config.prodigy
    return lambda groups: prodigyopt.Prodigy(
        groups,
        lr=lr,
        betas=(config.beta1, config.beta2),
        beta3=own.beta3,
        eps=config.eps,
        weight_decay=config.weight_decay,
        decouple=own.decouple,
        use_bias_correction=config.bias_correction,
        safeguard_warmup=own.safeguard_warmup,
        d0=own.d0,
        d_coef=own.d_coef,
        growth_rate=math.inf if own.growth_rate is None else own.growth_rate,
    )


@pytest.mark.parametrize("name", PRODIGIES)
def test_prodigy_is_prodigyopts(torch, name):
    config = PRODIGIES[name]
    ours = Flat(config).run()
    expected, optimizer = theirs(torch, prodigyopt(config))
    d = optimizer.param_groups[0]["d"]
    assert d > 2 * config.prodigy.d0  # it has grown
    assert ours.numbers[-1]["d"] == pytest.approx(d, rel=1e-5) and error(ours.weights(), expected) < 1e-5


def test_prodigy_without_a_gradient_waits():
    flat = Flat(PRODIGY)
    flat.update(0, zero=True)
    assert (
        error(
            flat.weights() | {n: np.ones(1) for n in SHAPES if "lora_B" in n},
            start() | {n: np.ones(1) for n in SHAPES if "lora_B" in n},
        )
        == 0
    )
    flat.run(range(UPDATES))
    assert error(flat.weights(), Flat(PRODIGY).run().weights()) < 1e-6


def test_prodigy_leaves_out_what_has_stopped(torch):
    """Its d, and what goes on, are prodigyopt's with a group whose rate becomes 0."""
    config = replace(PRODIGY, weight_decay=0.1, text_encoder_stop_share=0.5)
    flat = Flat(config).run(range(UPDATES // 2))
    before = flat.weights()
    flat.run(range(UPDATES // 2, UPDATES))
    calls = iter(range(UPDATES * len(SHAPES)))
    stops = lambda name: float("embedders" not in name or next(calls) < UPDATES // 2 * 2)  # noqa: E731
    expected, optimizer = theirs(torch, prodigyopt(config), stops)
    going = [name for name in SHAPES if name.startswith(UNET)]
    assert flat.numbers[-1]["d"] == pytest.approx(optimizer.param_groups[0]["d"], rel=1e-5)
    assert error(flat.weights(), expected, going) < 1e-5
    assert all(np.array_equal(flat.weights()[name], before[name]) for name in set(SHAPES) - set(going))


# -- Adafactor -------------------------------------------------------------------------------------------------------

ADAFACTOR = OptimConfig(
    base_learning_rate=0.1, optimizer="Adafactor", weight_decay=0.0, adafactor=AdafactorConfig(scale_parameter=False)
)
ADAFACTORS = {
    "as recipes": ADAFACTOR,
    "scaled": replace(ADAFACTOR, weight_decay=0.3, adafactor=AdafactorConfig(scale_parameter=True, eps2=0.05)),
    "momentum": replace(ADAFACTOR, weight_decay=0.1, adafactor=AdafactorConfig(scale_parameter=False, beta1=0.9)),
    "clipped": replace(ADAFACTOR, adafactor=AdafactorConfig(scale_parameter=False, clip_threshold=0.2, decay_rate=-0.5)),
    "floor": replace(ADAFACTOR, adafactor=AdafactorConfig(scale_parameter=False, eps1=0.5)),
}


def transformers_adafactor(config: OptimConfig) -> Callable:
    from transformers.optimization import Adafactor

    own = config.adafactor
    return lambda groups: Adafactor(
        groups,
        lr=None if own.relative_step else config.base_learning_rate,
        eps=(own.eps1, own.eps2),
        clip_threshold=own.clip_threshold,
        decay_rate=own.decay_rate,
        beta1=own.beta1,
        weight_decay=config.weight_decay,
        scale_parameter=own.scale_parameter,
        relative_step=own.relative_step,
        warmup_init=own.warmup_init,
    )


@pytest.mark.parametrize("name", ADAFACTORS)
def test_adafactor_is_transformers(torch, name):
    ours = Flat(ADAFACTORS[name]).run().weights()
    expected, _ = theirs(torch, transformers_adafactor(ADAFACTORS[name]))
    assert error(ours, expected) < 1e-5 and moved(ours) > 1e-3


@pytest.mark.parametrize("warmup_init", [False, True])
def test_adafactors_own_step(torch, warmup_init):
    own = AdafactorConfig(relative_step=True, warmup_init=warmup_init, scale_parameter=True)
    config, flat = replace(ADAFACTOR, adafactor=own), Flat(replace(ADAFACTOR, adafactor=own))
    for step in range(UPDATES):
        of = gradients(step)
        flat.gradient.total.set_data(Tensor(np.concatenate([of[p.name].reshape(-1) for p in flat.parameters])))
        flat.optimizer.apply(flat.rates.at(3, step + 1), 1.0, step + 1)  # whatever the step
    expected, _ = theirs(torch, transformers_adafactor(config))
    assert error(flat.weights(), expected) < 1e-5 and moved(flat.weights()) > 0


# -- Lion ------------------------------------------------------------------------------------------------------------

LION = OptimConfig(base_learning_rate=0.01, optimizer="Lion", beta2=0.99, weight_decay=0.3)


def lion_by_hand(config: OptimConfig, factor: Callable[[str], float] = lambda name: 1.0) -> dict[str, np.ndarray]:
    """Algorithm 2 of arXiv 2302.06675 in float64."""
    p = {name: value.astype(np.float64) for name, value in start().items()}
    m = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    for step in range(UPDATES):
        for name, g in gradients(step).items():
            lr = config.base_learning_rate * rate(step) * factor(name)
            c = config.beta1 * m[name] + (1 - config.beta1) * g
            p[name] = p[name] - lr * (np.sign(c) + config.weight_decay * p[name])
            m[name] = config.beta2 * m[name] + (1 - config.beta2) * g
    return p


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_lion(weight_decay):
    config = replace(LION, weight_decay=weight_decay)
    assert error(Flat(config).run().weights(), lion_by_hand(config)) < 1e-5


# -- a rate for each network, LoRA+ ------------------------------------------------------------------------------------

ADAMW = OptimConfig(base_learning_rate=0.01, weight_decay=0.3)
GROUPS = {"rates": {"text_encoder_1": 0.002}, "lora_plus_ratio": 4.0}


def factor(name: str) -> float:
    """Of GROUPS, where the base rate is 0.01."""
    return (0.2 if name.startswith(TEXT) else 1.0) * (4.0 if name.endswith("lora_B.weight") else 1.0)


@pytest.mark.parametrize("optimizer", ["AdamW", "Adafactor", "Lion"])
def test_each_matrix_has_its_rate(torch, optimizer):
    config = {"AdamW": ADAMW, "Lion": LION, "Adafactor": ADAFACTORS["momentum"]}[optimizer]
    config = replace(config, base_learning_rate=0.01, **GROUPS)
    ours = Flat(config).run()
    if optimizer == "Lion":
        expected = lion_by_hand(config, factor)
    elif optimizer == "Adafactor":
        expected, _ = theirs(torch, transformers_adafactor(config), factor)
    else:
        make = lambda groups: torch.optim.AdamW(groups, lr=0.01, eps=config.eps, weight_decay=0.3)  # noqa: E731
        expected, _ = theirs(torch, make, factor)
    assert error(ours.weights(), expected) < 1e-5
    assert error(ours.weights(), Flat(replace(config, lora_plus_ratio=1.0)).run().weights()) > 1e-3
    assert ours.rates.by_network(0.01) == pytest.approx({"unet": 0.01, "text_encoder_1": 0.002})


def test_one_rate_for_all_is_no_factor():
    both = {"unet": 0.3, "text_encoder_1": 0.3}
    flat = Flat(replace(ADAMW, rates=both))
    assert flat.rates.factors is None and flat.rates.highest == 0.3 and not flat.rates.by_network(0.3)
    assert error(flat.run().weights(), Flat(replace(ADAMW, base_learning_rate=0.3)).run().weights()) == 0


EVERY = {"AdamW": ADAMW, "Prodigy": PRODIGIES["as recipes"], "Adafactor": ADAFACTORS["momentum"], "Lion": LION}


@pytest.mark.parametrize("name", EVERY)
def test_text_encoders_stop(name):
    flat = Flat(replace(EVERY[name], text_encoder_stop_share=0.5)).run(range(UPDATES // 2))
    assert error(flat.weights(), Flat(EVERY[name]).run(range(UPDATES // 2)).weights()) < 1e-5
    before = flat.weights()
    flat.run(range(UPDATES // 2, UPDATES))
    for matrix, value in flat.weights().items():
        assert np.array_equal(value, before[matrix]) == matrix.startswith(TEXT), matrix
    assert flat.rates.by_network(1.0) == {"unet": 1.0, "text_encoder_1": 0.0}


# -- all of them -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY)
def test_graph_mode_is_pynative_mode(name):
    config = replace(EVERY[name], text_encoder_stop_share=0.5)
    expected = Flat(config).run(range(6)).weights()
    with in_mode(ms.GRAPH_MODE):
        found = Flat(config).run(range(6)).weights()
    ms.set_context(mode=ms.PYNATIVE_MODE)
    assert error(found, expected) < 1e-5


def test_float16_networks_lose_no_digits():
    """The weights that are updated are float32, whatever the networks hold."""
    config = ADAFACTORS["as recipes"]
    parameters = ordered(config, [Parameter(Tensor(v.astype(np.float16)), name=n) for n, v in start().items()])
    gradient = FlatGradient(parameters)
    optimizer = OPTIMIZERS["Adafactor"](parameters, gradient, config, start().__getitem__)
    whole = Flat(config)
    for step in range(2):
        whole.update(step)
        gradient.total.set_data(whole.gradient.total)
        optimizer.apply(0.1 * rate(step), 0.25, step + 1)
    found = optimizer.by_name()
    assert error(found, whole.weights()) == 0
    assert all(np.array_equal(p.asnumpy(), found[p.name].astype(np.float16)) for p in parameters)
