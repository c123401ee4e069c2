"""Weightings of the loss against sgm's formulas, which weigh the error of the denoised latent."""

import numpy as np
import pytest

import tiny
from gm.config.load import load_config
from gm.config.types import WeightingConfig
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
