"""What is drawn for a sample: coarser noise against PyTorch, time steps, and that all of it belongs to the sample alone."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import tiny
from gm.checkpoint.lora_files import open_lora
from gm.config.types import LossConfig, MaskConfig, NoiseConfig, WeightingConfig
from gm.data.crops import PhotoCrop, Sample
from gm.data.dreambooth import CLASS, INSTANCE, Draw, DreamBoothSchedule, SampleOrder
from gm.data.transforms import place_crop
from gm.diffusion.levels import Levels
from gm.diffusion.schedule import train_sigmas
from gm.diffusion.weighting import level_weights
from gm.randomness import TRAINING_NOISE, generator
from gm.training.batches import BatchMaker, MicroBatch
from gm.training.noise import draw_noise
from small import model as small_model
from small import records

ALL = NoiseConfig(0.1, 6, 0.3, 0.2, 100, 200)


def rows(count: int) -> list[Draw]:
    return [Draw(INSTANCE, 0, 0, position, 1.0) for position in range(count)]


def test_without_options_nothing_else_is_drawn():
    drawn = draw_noise(rows(3), 42, (4, 6, 5), 1000)
    for position in range(3):
        source = generator(42, TRAINING_NOISE, INSTANCE, position)
        assert drawn.timestep[position] == source.integers(1000)
        assert np.array_equal(drawn.noise[position], source.standard_normal((4, 6, 5), np.float32))
        assert np.array_equal(drawn.posterior_noise[position], source.standard_normal((4, 6, 5), np.float32))
    assert drawn.input_noise is drawn.noise


def pyramid(noise: np.ndarray, source: np.random.Generator, iterations: int, discount: float) -> np.ndarray:
    """sd-scripts' pyramid_noise_like for a batch of one, with numbers of `source`."""
    whole = torch.from_numpy(noise)[None]
    height, width = whole.shape[2:]
    for i in range(iterations):
        r = source.random() * 2 + 2
        size = max(1, int(height / r**i)), max(1, int(width / r**i))
        small = torch.from_numpy(source.standard_normal((4, *size), np.float32))[None]
        whole = whole + torch.nn.functional.interpolate(small, (height, width), mode="bilinear") * discount**i
        if 1 in size:
            break
    return (whole / whole.std())[0].numpy()


@pytest.mark.parametrize("iterations, size", [(1, (8, 8)), (6, (32, 24)), (10, (13, 40))])
def test_multires_noise_is_that_of_sd_scripts(iterations, size):
    config = NoiseConfig(offset_noise_level=0.05, multires_noise_iterations=iterations, multires_noise_discount=0.4)
    drawn = draw_noise(rows(2), 42, (4, *size), 1000, config)
    for position in range(2):
        source = generator(42, TRAINING_NOISE, INSTANCE, position)
        source.integers(1000)
        noise, _ = (source.standard_normal((4, *size), np.float32) for _ in range(2))
        noise = noise + np.float32(0.05) * source.standard_normal((4, 1, 1), np.float32)
        expected = pyramid(noise, source, iterations, 0.4)
        assert np.abs(drawn.noise[position] - expected).max() < 2e-6
        assert drawn.noise[position].std(ddof=1) == pytest.approx(1, abs=1e-5)


def test_perturbed_input():
    plain, given = (draw_noise(rows(50), 42, (4, 8, 8), 1000, NoiseConfig(input_perturbation=g)) for g in (0.0, 0.1))
    assert np.array_equal(plain.noise, given.noise) and np.array_equal(plain.timestep, given.timestep)
    more = (given.input_noise - given.noise) / 0.1
    assert abs(more.mean()) < 0.02 and abs(more.std() - 1) < 0.02
    for other in (given.noise, given.posterior_noise):
        assert abs(np.corrcoef(more.ravel(), other.ravel())[0, 1]) < 0.03


def test_time_steps_between_bounds():
    index = draw_noise(rows(300), 42, (1, 1, 1), 1000, NoiseConfig(min_timestep=100, max_timestep=104)).timestep
    assert set(index) == {100, 101, 102, 103}
    assert np.bincount(index - 100).min() > 50


def test_everything_belongs_to_the_sample_not_to_the_batch():
    together = draw_noise(rows(3), 42, (4, 9, 16), 1000, ALL)
    for position in range(3):
        alone = draw_noise(rows(3)[position : position + 1], 42, (4, 9, 16), 1000, ALL)
        for a, b in zip(together, alone):
            assert np.array_equal(a[position], b[0])


def test_a_micro_batch_has_what_the_options_ask_for():
    photo = PhotoCrop("hash", place_crop((32, 32), (32, 32), (0, 0)), 3, Path("a.png"))
    masks = {INSTANCE: np.full((1, 4, 4), 0.25, np.float32), CLASS: None}
    samples = {(kind, 0, 0): Sample(photo, 1.0, mask) for kind, mask in masks.items()}
    orders = ((SampleOrder.of(1, 1, True, 42, kind),) for kind in (INSTANCE, CLASS))
    config = replace(tiny.config(masks=MaskConfig()), noise=ALL, loss=LossConfig("huber"))
    config = replace(config, model=replace(config.model, prediction="v", zero_terminal_snr=True))
    levels = Levels.of(config.model, WeightingConfig("MinSNRWeighting"), config.loss)
    text = np.zeros((2, 77, 8), np.float32), np.zeros((2, 3), np.float32)
    make = BatchMaker(
        DreamBoothSchedule(*orders, per_batch_size=1, accumulation=1, ranks=1),
        samples,
        {kind: lambda image, position: "a dog" for kind in (INSTANCE, CLASS)},
        lambda crop: np.zeros((2, 4, 4, 4), np.float32),
        lambda prompts: text,
        42,
        levels,
        config.noise,
        True,
    )
    batch = make(0, 0, 0)
    assert (batch.mask[0] == 0.25).all() and (batch.mask[1] == 1).all() and batch.mask.dtype == np.float32
    assert ((100 <= batch.timestep) & (batch.timestep < 200)).all()
    assert np.array_equal(batch.sigma, levels.sigma[batch.timestep])
    assert np.array_equal(batch.huber_c, levels.huber_c[batch.timestep])
    assert np.allclose(batch.weight, levels.weight[batch.timestep])
    blank = MicroBatch.blank(batch.latent_shape, text, config)
    for name in MicroBatch.__dataclass_fields__:
        if name != "text":
            assert np.shape(getattr(blank, name)) == np.shape(getattr(batch, name)), name


@pytest.mark.slow
@pytest.mark.xdist_group("small")
def test_a_run_with_all_of_it(train_here, tmp_path):
    """What a command logs and says of its LoRA; the numbers of the loss are test_losses.py."""
    params = "model.params."
    denoiser, modules = params + "denoiser_config.params.", "gm.modules.diffusionmodules."
    given = {
        f"{denoiser}scaling_config.target": modules + "denoiser_scaling.VScaling",
        f"{denoiser}discretization_config.params.zero_terminal_snr": True,
        f"{denoiser}weighting_config.target": modules + "denoiser_weighting.DebiasedWeighting",
        **{f"{params}loss_fn_config.params.{key}": getattr(ALL, key) for key in list(vars(ALL))[:4]},
        **{f"{params}sigma_sampler_config.params.{key}": getattr(ALL, key) for key in list(vars(ALL))[4:]},
        f"{params}loss_fn_config.params.loss_type": "smooth_l1",
    }
    words = [word for key, value in given.items() for word in ("--set", f"{key}={value}")]
    train_here(tmp_path, *words, "--save_format", "kohya", steps=2)
    for step, record in enumerate(records(tmp_path)):
        index = draw_noise([Draw(kind, 0, 0, step, 1.0) for kind in (INSTANCE, CLASS)], 42, (4, 2, 2), 1000, ALL).timestep
        weights = level_weights(WeightingConfig("DebiasedWeighting"), train_sigmas()[index], "v")
        assert record["loss"] == pytest.approx(weights @ [record["instance_loss"], record["class_loss"]], rel=1e-5)
    about = open_lora(tmp_path / "runs" / "SDXL_base_1.0_2_lora.safetensors", small_model()).metadata
    assert about["modelspec.prediction_type"] == "v" and about["ss_zero_terminal_snr"] == "True"
    native = open_lora(tmp_path / "runs" / "SDXL_base_1.0_2_lora.ckpt", small_model()).metadata
    assert native["prediction_type"] == "v" and native["zero_terminal_snr"] == "True"
