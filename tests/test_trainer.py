"""What the trainer does around an update: the average, the weight norms, the rates, skipping, resuming; and whose matrices train.

On toy matrices, half of which are those of text encoders.
"""

import json
from dataclasses import replace
from typing import Iterator, Mapping

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

import small as small_model
import tiny
from gm.config.types import AdafactorConfig, OptimConfig, ProdigyConfig
from gm.models import sdxl
from gm.models.adapters import adapters_of
from gm.optimizers.weight_norms import WeightNorms, lora_scales, update_norm
from gm.training.loop import LoopSettings, fit
from gm.training.step import LossScale, Trainer
from gm.training.timings import Timings
from modes import in_mode
from toy_trainer import ToyTrainer, gradients, start

UNET, TEXT = "model.diffusion_model.a", "conditioner.embedders.1.model.a"
SHAPES: Mapping[str, tuple] = {
    f"{UNET}.lora_A.weight": (2, 6),
    f"{UNET}.lora_B.weight": (5, 2),
    f"{UNET}.magnitude": (5,),
    f"{UNET}2.lora_A.weight": (2, 3, 3, 3),  # of a convolution
    f"{UNET}2.lora_B.weight": (5, 2, 1, 1),
    f"{TEXT}.lora_A.weight": (2, 6),
    f"{TEXT}.lora_B.weight": (5, 2),
}
SCALES = {UNET: 1.0, f"{UNET}2": 0.5, TEXT: 2.0}
ADAMW = OptimConfig(base_learning_rate=0.05, weight_decay=0.3)
EVERY = {
    "AdamW": ADAMW,
    "Prodigy": replace(
        ADAMW, base_learning_rate=1.0, optimizer="Prodigy", prodigy=ProdigyConfig(safeguard_warmup=True, d0=1e-3)
    ),
    "Adafactor": replace(ADAMW, optimizer="Adafactor", adafactor=AdafactorConfig(scale_parameter=False, beta1=0.9)),
    "Lion": replace(ADAMW, optimizer="Lion", beta2=0.99),
}


@pytest.fixture(autouse=True)
def pynative() -> Iterator[None]:
    ms.set_device("CPU")
    with in_mode(ms.PYNATIVE_MODE):
        yield


def make(optim: OptimConfig, **more) -> ToyTrainer:
    return ToyTrainer(optim, LossScale(16.0, dynamic=True), shapes=SHAPES, scales=SCALES, **more)


def update(trainer: ToyTrainer, *steps: int) -> list:
    return [trainer.update([gradients(step, SHAPES)]) for step in steps]


def copies(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: value.copy() for name, value in arrays.items()}


def equal(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> bool:
    return set(one) == set(other) and all(np.array_equal(one[name], other[name]) for name in one)


# -- the average -------------------------------------------------------------------------------------------------------


def test_the_average_is_what_is_saved():
    trainer, plain = make(replace(ADAMW, ema_decay=0.3)), make(ADAMW)
    average = {p.name: p.asnumpy().astype(np.float64) for p in start(SHAPES)}
    for step in range(5):
        update(trainer, step)
        for name, value in trainer.matrices().items():
            decay = min((1 + step) / (10 + step), 0.3)
            average[name] = decay * average[name] + (1 - decay) * value
    saved = trainer.lora()
    assert all(np.abs(saved[name] - average[name]).max() < 1e-6 for name in SHAPES)
    assert min(np.abs(saved[name] - trainer.matrices()[name]).max() for name in SHAPES) > 1e-3
    update(plain, *range(5))
    assert equal(trainer.matrices(), plain.matrices()) and equal(plain.lora(), plain.matrices())
    assert "ema" not in plain.state() and trainer.state()["ema"].shape == (trainer.gradient.size,)


def test_pictures_are_sampled_from_the_average():
    trainer, undisturbed = make(replace(ADAMW, ema_decay=0.9)), make(replace(ADAMW, ema_decay=0.9))
    for step in range(4):
        update(trainer, step)
        update(undisturbed, step)
        with trainer.as_saved():
            assert all(np.array_equal(p.asnumpy(), trainer.lora()[p.name]) for p in trainer.parameters)
        assert all(np.array_equal(p.asnumpy(), trainer.matrices()[p.name]) for p in trainer.parameters)
    assert equal(trainer.matrices(), undisturbed.matrices()) and equal(trainer.lora(), undisturbed.lora())


class Batch(tuple):
    """Gradients, as a micro-batch."""

    latent_shape = (1, 4, 1, 1)


def test_the_loop_samples_from_it_and_goes_on_as_before(tmp_path):
    trainer, undisturbed = make(replace(ADAMW, ema_decay=0.9)), make(replace(ADAMW, ema_decay=0.9))
    shown = []

    def make_batch(step: int, micro: int, rank: int):
        return Batch(gradients(step, SHAPES))

    def infer(step: int) -> None:
        shown.append(all(np.array_equal(p.asnumpy(), trainer.lora()[p.name]) for p in trainer.parameters))

    settings = LoopSettings(tmp_path, save_every=5, keep=None, log_every=10, infer_every=2)
    trainer.compiled = {Batch.latent_shape}
    fit(trainer, make_batch, 1, settings, lambda path, step: None, Timings(), infer)
    update(undisturbed, *range(10))
    assert shown == [True] * 5 and equal(trainer.lora(), undisturbed.lora())
    assert equal(trainer.matrices(), undisturbed.matrices())


def test_a_loss_that_is_no_number_is_null_in_the_records(tmp_path):
    trainer = make(ADAMW)
    trainer.compiled = {Batch.latent_shape}
    update_of = trainer.update

    def now_and_then_nan(batches):
        update = update_of(batches)
        return replace(update, loss=np.nan, instance_loss=np.inf, grad_norm=np.nan) if trainer.step % 3 == 0 else update

    trainer.update = now_and_then_nan
    settings = LoopSettings(tmp_path, save_every=5, keep=None, log_every=10, infer_every=None)
    fit(trainer, lambda step, micro, rank: Batch(gradients(step, SHAPES)), 1, settings, lambda path, step: None, Timings())

    def refuse(word: str):
        raise AssertionError(f"{word} is no JSON")

    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line, parse_constant=refuse) for line in lines]
    null = [one["step"] for one in records if one["loss"] is one["instance_loss"] is one["grad_norm"] is None]
    assert len(records) == 10 and null == [3, 6, 9]
    assert (tmp_path / "loss.png").exists()


# -- weight norms ------------------------------------------------------------------------------------------------------


def product(weights: Mapping[str, np.ndarray], module: str) -> np.ndarray:
    a, b = weights[f"{module}.lora_A.weight"].astype(np.float64), weights[f"{module}.lora_B.weight"].astype(np.float64)
    return SCALES[module] * np.einsum("or,ri->oi", b.reshape(len(b), -1), a.reshape(len(a), -1))


def test_norms_are_scaled_down():
    """As sd-scripts does: desired = clip(|dW|, largest / 2, largest), both matrices times sqrt(desired / |dW|)."""
    given = {p.name: p.asnumpy() for p in start(SHAPES)}
    before = {module: np.linalg.norm(product(given, module)) for module in SCALES}
    largest = float(np.mean(sorted(before.values())[:2]))  # one is below
    flat = np.concatenate([value.reshape(-1) for value in given.values()])
    scaled, count = WeightNorms(start(SHAPES), SCALES, largest)(flat)
    assert count == 2 and np.array_equal(flat, np.concatenate([value.reshape(-1) for value in given.values()]))
    ends = np.cumsum([value.size for value in given.values()])[:-1]
    found = {name: part.reshape(SHAPES[name]) for name, part in zip(SHAPES, np.split(scaled, ends))}
    for module, norm in before.items():
        root = np.sqrt(np.clip(norm, largest / 2, largest) / norm) if norm > largest / 2 else 1.0
        for matrix in (f"{module}.lora_A.weight", f"{module}.lora_B.weight"):
            assert np.allclose(found[matrix], given[matrix] * root, rtol=1e-6)
        a, b = given[f"{module}.lora_A.weight"], given[f"{module}.lora_B.weight"]
        assert update_norm(a, b, SCALES[module]) == pytest.approx(norm, rel=1e-6)
    assert np.array_equal(found[f"{UNET}.magnitude"], given[f"{UNET}.magnitude"])


def test_every_update_keeps_the_norms_small():
    trainer, free = make(replace(ADAMW, scale_weight_norms=0.7)), make(ADAMW)
    updates, _ = update(trainer, 0, 1, 2), update(free, 0, 1, 2)
    assert updates[0].more["norms_scaled"] == 3 and "norms_scaled" not in update(free, 3)[0].more
    for module in SCALES:
        assert np.linalg.norm(product(trainer.matrices(), module)) < 0.7 * (1 + 1e-5)
        assert np.linalg.norm(product(free.matrices(), module)) > 0.8
    assert all(np.array_equal(p.asnumpy(), trainer.matrices()[p.name]) for p in trainer.parameters)  # dealt out
    magnitude = f"{UNET}.magnitude"
    assert np.array_equal(trainer.matrices()[magnitude], make_and_update(ADAMW, 3).matrices()[magnitude])


def make_and_update(optim: OptimConfig, updates: int) -> ToyTrainer:
    trainer = make(optim)
    update(trainer, *range(updates))
    return trainer


# -- rates -------------------------------------------------------------------------------------------------------------


def test_text_encoders_stay_as_they_are():
    """From half of the 10 updates on, also where the norms would be scaled; their gradient is not a part of the norm."""
    trainer = make(replace(ADAMW, text_encoder_stop_share=0.5, scale_weight_norms=0.7))
    before_stop = update(trainer, *range(5))
    before = copies(trainer.matrices())
    after_stop = update(trainer, *range(5, 8))
    assert {n for n in SHAPES if np.array_equal(trainer.matrices()[n], before[n])} == {n for n in SHAPES if n.startswith(TEXT)}
    assert [u.more.get("rates") for u in before_stop] == [None] * 5
    assert [u.more["rates"] for u in after_stop] == [{"unet": 0.05, "text_encoder_2": 0.0}] * 3
    of = dict(zip(SHAPES, gradients(6, SHAPES)))
    norm = np.sqrt(sum(float(np.square(g, dtype=np.float64).sum()) for name, g in of.items() if name.startswith(UNET)))
    assert after_stop[1].grad_norm == pytest.approx(norm, rel=1e-5)


def test_what_an_update_records():
    assert update(make(ADAMW), 0)[0].more == {}
    prodigy = make(EVERY["Prodigy"])
    assert [u.more["d"] for u in update(prodigy, 0, 1)][-1] == prodigy.optimizer.state()["d"][0]
    step = replace(EVERY["Adafactor"], adafactor=AdafactorConfig(relative_step=True, warmup_init=True))
    assert [u.lr for u in update(make(step), 0, 1, 2)] == pytest.approx([1e-6, 2e-6, 3e-6])
    fifth = make(replace(ADAMW, rates={"text_encoder_2": 0.01}))
    assert update(fifth, 0)[0].more["rates"] == pytest.approx({"unet": 0.05, "text_encoder_2": 0.01})


# -- every optimizer ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY)
def test_a_skipped_update_touches_no_state(name):
    trainer = make(replace(EVERY[name], ema_decay=0.9, scale_weight_norms=0.7))
    update(trainer, 0, 1)
    state, matrices = copies(trainer.state()), copies(trainer.matrices())
    spoilt = gradients(2, SHAPES)
    spoilt[0][0, 0] = np.nan
    assert trainer.update([spoilt]).skipped
    untouched = {key: value for key, value in trainer.state().items() if key not in ("counters", "loss_scale")}
    assert equal(untouched, {key: state[key] for key in untouched}) and equal(trainer.matrices(), matrices)


@pytest.mark.parametrize("name", EVERY)
def test_resumed_is_unbroken(name):
    """To the last bit, with the average, the norms and the text encoders' stop before and after the break."""
    optim = replace(EVERY[name], ema_decay=0.9, scale_weight_norms=0.7, text_encoder_stop_share=0.4)
    whole = make_and_update(optim, 7)
    for broken_after in (3, 5):
        first, second = make_and_update(optim, broken_after), make(optim)
        for parameter in second.parameters:  # as --resume does
            parameter.set_data(Tensor(first.matrices()[parameter.name]))
        second.set_state(copies(first.state()))
        update(second, *range(broken_after, 7))
        assert equal(second.state(), whole.state()) and equal(second.lora(), whole.lora())
        assert equal(second.matrices(), whole.matrices())


def test_a_state_of_other_networks_is_refused():
    from gm.errors import UserError

    with pytest.raises(UserError, match="has 12 numbers of 'm', but this run needs"):
        make(ADAMW).optimizer.set_state({"m": np.zeros(12, np.float32), "v": np.zeros(12, np.float32)})


# -- whose matrices train ----------------------------------------------------------------------------------------------


def test_only_networks_with_a_rate_train():
    """Of the UNet, the text encoders, or both; and their modules' scales are found."""
    model, config = small_model.model(), tiny.config(text_lora=True, total_step=5)
    adapters = adapters_of(model, config.lora)

    def trained(rates: dict) -> Trainer:
        cells = sdxl.build_unet(model, adapters=adapters), sdxl.build_text_encoders(model, adapters=adapters)
        for cell in cells:
            for parameter in cell.trainable_params():
                parameter.set_data(Tensor(np.zeros(parameter.shape, np.float32)))
        optim = replace(config.optim, rates=rates)
        return Trainer(replace(config, model=model, optim=optim), *cells, LossScale(1.0, False))

    def prefixes(trainer: Trainer) -> set[str]:
        return {parameter.name.split(".")[0] for parameter in trainer.parameters}

    text = trained({"unet": 0.0})
    assert prefixes(text) == {"conditioner"} and prefixes(trained({})) == {"model", "conditioner"}
    assert any(name.startswith("model.") for name in text.lora())  # it is written all the same
    assert set(lora_scales(text.cells)) == set(adapters) and set(lora_scales(text.cells).values()) == {1.0}
