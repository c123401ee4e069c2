"""Weightings of the loss against sgm's formulas, which weigh the error of the denoised latent."""

from dataclasses import replace

import numpy as np
import pytest

import tiny
from gm.config.load import load_config
from gm.config.types import LossConfig, WeightingConfig
from gm.diffusion.levels import Levels
from gm.diffusion.schedule import train_sigmas
from gm.diffusion.weighting import WEIGHTINGS, level_weights
from gm.errors import UserError

TARGET = "model.params.denoiser_config.params.weighting_config.target=gm.modules.diffusionmodules.denoiser_weighting."
PARAMS = "model.params.denoiser_config.params.weighting_config.params."
SGM = {
    "EpsWeighting": lambda sigma: sigma**-2.0,
    "UnitWeighting": lambda sigma: np.ones_like(sigma),
    "VWeighting": lambda sigma: (sigma**2 + 1.0) / sigma**2,
    "EDMWeighting": lambda sigma: (sigma**2 + 0.25) / (sigma * 0.5) ** 2,
}


@pytest.mark.parametrize("name", SGM)
def test_the_weighted_loss_is_sgms(name):
    sigma, random = train_sigmas(), np.random.default_rng(0)
    error = random.standard_normal(len(sigma))  # of the predicted noise; that of the denoised latent is sigma times as large
    expected = SGM[name](sigma) * (sigma * error) ** 2
    assert np.allclose(level_weights(WeightingConfig(name), sigma) * error**2, expected, rtol=1e-12)


def test_min_snr_is_that_of_other_trainers():
    """diffusers and sd-scripts: min(SNR, gamma) / SNR of the mean squared error of the noise, SNR from cumulated alphas."""
    alphas = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    snr = alphas / (1 - alphas)
    for gamma in (1.0, 5.0, 8.0):
        expected = np.minimum(snr, gamma) / snr
        assert np.allclose(level_weights(WeightingConfig("MinSNRWeighting", {"gamma": gamma}), train_sigmas()), expected)


def test_weightings_beside_the_error_of_v():
    """sgm's of the denoised latent, whose error is sigma / sqrt(sigma^2 + 1) times that of v."""
    sigma, random = train_sigmas(), np.random.default_rng(0)
    error = random.standard_normal(len(sigma))
    for name, of_latent in SGM.items():
        expected = of_latent(sigma) * (sigma / np.sqrt(sigma**2 + 1) * error) ** 2
        assert np.allclose(level_weights(WeightingConfig(name), sigma, "v") * error**2, expected, rtol=1e-12)
    assert np.allclose(level_weights(WeightingConfig("VWeighting"), sigma, "v"), 1)


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_weightings_of_sd_scripts(prediction):
    """apply_snr_weight, apply_debiased_estimation, and scale_v_prediction_loss_like_noise_prediction, which is EpsWeighting."""
    alphas = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    snr, is_v = alphas / (1 - alphas), prediction == "v"
    bounded = np.minimum(snr, 1000)
    expected = {
        "MinSNRWeighting": np.minimum(snr, 5) / (snr + is_v),
        "DebiasedWeighting": 1 / (bounded + 1) if is_v else 1 / np.sqrt(bounded),
        "EpsWeighting": snr / (snr + is_v),
    }
    for name, weights in expected.items():
        assert np.allclose(level_weights(WeightingConfig(name), train_sigmas(), prediction), weights, rtol=1e-9)


def test_weights_are_those_of_the_schedule_that_does_not_end_in_noise():
    model = replace(tiny.model(), prediction="v", zero_terminal_snr=True)
    for name in WEIGHTINGS:
        config = WeightingConfig(name)
        levels = Levels.of(model, config, LossConfig())
        assert np.array_equal(levels.weight, level_weights(config, train_sigmas(), "v")) and np.isinf(levels.sigma[-1])
        assert np.isfinite(levels.weight).all() and levels.huber_c is None


def test_a_yaml_names_the_weighting():
    assert load_config(str(tiny.TRAINING)).weighting == WeightingConfig()
    for name in WEIGHTINGS:
        assert load_config(str(tiny.TRAINING), [TARGET + name]).weighting.name == name
    given = load_config(str(tiny.TRAINING), [TARGET + "EDMWeighting", PARAMS + "sigma_data=0.25"]).weighting
    assert given.params == {"sigma_data": 0.25}
    assert level_weights(given, np.array([0.25]))[0] == 2.0


@pytest.mark.parametrize(
    "change, words",
    [
        ([TARGET + "EpsWeightin"], "did you mean 'gm.modules.diffusionmodules.denoiser_weighting.EpsWeighting'"),
        ([TARGET + "EDMWeighting", PARAMS + "sigma_data=0"], "sigma_data is 0.0, but must be at least"),
        ([TARGET + "EDMWeighting", PARAMS + "sigma=1"], "did you mean 'sigma_data'"),
        ([TARGET + "VWeighting", PARAMS + "gamma=5"], "unknown key"),
    ],
)
def test_a_wrong_weighting_is_one_sentence(change, words):
    with pytest.raises(UserError, match=words):
        load_config(str(tiny.TRAINING), change)
