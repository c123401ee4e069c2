"""Every sampler and schedule beside the originals, run with the same denoiser and the same noise."""

import numpy as np
import pytest

from gm.diffusion.samplers import SAMPLERS
from gm.diffusion.schedule import DISCRETIZATIONS, sampling_sigmas
from samplers_elsewhere import PAIRS, STEPS, TRAINING, denoise, difference, k_diffusion, noises


def test_every_sampler_has_a_reference():
    assert {name for name, _ in PAIRS} == set(SAMPLERS)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("name, reference", PAIRS)
def test_a_sampler_is_the_references(name, reference, steps):
    assert difference(name, reference, steps) < 1e-5


@pytest.mark.parametrize("steps", [1, 4, 20, 30, 999])
def test_schedules_are_those_of_diffusers(steps):
    import diffusers

    euler = {
        "Leading": {"timestep_spacing": "leading", "steps_offset": 1},
        "Trailing": {"timestep_spacing": "trailing"},
        "Karras": {"use_karras_sigmas": True},
        "Exponential": {"use_exponential_sigmas": True},
    }
    for name, settings in euler.items():
        if steps == 1 and name in ("Karras", "Exponential"):  # diffusers begins at the smallest level there
            continue
        scheduler = diffusers.EulerDiscreteScheduler(**TRAINING, **settings)
        scheduler.set_timesteps(steps)
        assert np.allclose(DISCRETIZATIONS[name](steps), scheduler.sigmas.numpy(), rtol=2e-4, atol=0), name  # it has float32
    if steps <= 50:
        scheduler = diffusers.LCMScheduler(**TRAINING)
        scheduler.set_timesteps(steps)
        assert np.array_equal(DISCRETIZATIONS["LCM"](steps)[:-1], sampling_sigmas()[scheduler.timesteps.numpy()])


@pytest.mark.parametrize("steps", [2, 20])
def test_schedules_are_those_of_k_diffusion(steps):
    import torch

    table = sampling_sigmas()
    bounds = float(table[0]), float(table[-1])
    for name, function in (("Karras", "get_sigmas_karras"), ("Exponential", "get_sigmas_exponential")):
        expected = getattr(k_diffusion(), function)(steps, *bounds).numpy()
        assert np.allclose(DISCRETIZATIONS[name](steps), expected, rtol=1e-5, atol=0)
    log_sigmas = torch.from_numpy(table).log()  # DiscreteSchedule.get_sigmas and t_to_sigma, of external.py
    for name, last in (("Normal", 0.0), ("SGMUniform", (len(table) - 1) / steps)):
        t = torch.linspace(len(table) - 1, last, steps, dtype=torch.float64)
        low, share = t.floor().long(), t.frac()
        high = (low + 1).clamp(max=len(table) - 1)
        expected = ((1 - share) * log_sigmas[low] + share * log_sigmas[high]).exp().numpy()
        assert np.allclose(DISCRETIZATIONS[name](steps)[:-1], expected, rtol=1e-9)


@pytest.mark.parametrize("zero_terminal_snr", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 3, 17, 50, 51, 500, 501, 1000])
@pytest.mark.parametrize("name", DISCRETIZATIONS)
def test_levels_fall_to_zero(name, steps, zero_terminal_snr):
    sigmas = DISCRETIZATIONS[name](steps, sampling_sigmas(zero_terminal_snr=zero_terminal_snr))
    assert sigmas.shape == (steps + 1,) and (np.diff(sigmas) < 0).all() and sigmas[-1] == 0 and np.isfinite(sigmas).all()


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_can_stop_before_the_end(name):
    """Where another network goes on: the latent then has the noise of that level."""
    sigmas, noise = DISCRETIZATIONS["Normal"](20)[:15], noises(41, (1, 4, 32, 32))
    queue = iter(noise[1:])
    first = noise[0] * np.float32(np.sqrt(1 + sigmas[0] ** 2))
    found = SAMPLERS[name](denoise, first, sigmas, lambda *_: next(queue), lambda steps: steps)
    assert found.std() == pytest.approx(np.sqrt(sigmas[-1] ** 2 + 0.35), rel=0.2)  # 0.35: of the mixture
