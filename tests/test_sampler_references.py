"""Every sampler and schedule beside the originals, run with the same denoiser and the same noise."""

import numpy as np
import pytest

from gm.diffusion.samplers import SAMPLERS, sampler_of
from gm.diffusion.schedule import DISCRETIZATIONS, sampling_sigmas
from samplers_elsewhere import PAIRS, STEPS, TRAINING, Pair, denoise, difference, k_diffusion, noises


def test_every_sampler_has_a_reference():
    assert {pair.name for pair in PAIRS} == set(SAMPLERS)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: ", ".join(pair.words))
def test_a_sampler_is_the_references(pair: Pair, steps: int):
    assert difference(pair, steps) < 1e-5


@pytest.mark.parametrize("steps", [1, 4, 20, 30, 999])
def test_schedules_are_those_of_diffusers(steps):
    import diffusers

    euler = {
        "Leading": {"timestep_spacing": "leading", "steps_offset": 1},
        "Trailing": {"timestep_spacing": "trailing"},
        "Karras": {"use_karras_sigmas": True},
        "Exponential": {"use_exponential_sigmas": True},
        "Beta": {"use_beta_sigmas": True},
        "Normal": {"timestep_spacing": "linspace"},
    }
    for name, settings in euler.items():
        if steps == 1 and name in ("Karras", "Exponential", "Beta", "Normal"):  # diffusers begins at the smallest level there
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


@pytest.mark.parametrize("zero_terminal_snr", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 12])
@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_takes_every_schedule(name, steps, zero_terminal_snr):
    """What comes out is of the mixture, roughly in so few steps, whichever levels are visited."""
    table, noise = sampling_sigmas(zero_terminal_snr=zero_terminal_snr), noises(25, (1, 4, 32, 32))
    for schedule, levels in DISCRETIZATIONS.items():
        sigmas, queue = levels(steps, table), iter(noise[1:])
        first = noise[0] * np.float32(np.sqrt(1 + sigmas[0] ** 2))
        found = sampler_of(name, table)(denoise, first, sigmas, lambda *_: next(queue), lambda steps: steps)
        assert found.dtype == np.float32 and np.isfinite(found).all(), schedule
        if steps == 12 and not zero_terminal_snr:
            assert 0.35 < found.std() < 1.5 and abs(found.mean()) < 0.1, (schedule, found.std())


def test_the_time_steps_of_a_consistent_trajectory_are_the_models():
    """TCD steps by the training schedule, which zero terminal SNR changes."""
    table = sampling_sigmas(zero_terminal_snr=True)
    sigmas, noise = DISCRETIZATIONS["LCM"](4, table), noises(4)
    asked: list[float] = []

    def denoiser(x: np.ndarray, sigma: float) -> np.ndarray:
        asked.append(float(x.std()))
        return np.zeros_like(x)

    queue = iter(noise[1:])
    found = sampler_of("TCDSampler", table)(denoiser, noise[0] * 0, sigmas, lambda *_: next(queue), lambda steps: steps)
    times = [int(np.abs(table - sigma).argmin()) for sigma in sigmas[:-1]]
    down = [table[int(0.7 * time)] for time in times[1:]]
    x, levels = 0.0, []
    for now, then, low, fresh in zip(sigmas, sigmas[1:], down, noise[1:]):
        x = x * low / now + np.sqrt(then**2 - low**2) * fresh
        levels.append(float(x.std()))
    assert np.allclose(asked[1:], levels, rtol=1e-4)
    assert np.allclose(found, x * table[0] / sigmas[-2] / np.sqrt(1 + table[0] ** 2), rtol=1e-3, atol=1e-6)


def test_a_step_alone_of_hyper_sd():
    """LCMScheduler with timesteps=[800], as its model card has it."""
    import diffusers
    import torch

    scheduler = diffusers.LCMScheduler(**TRAINING)
    scheduler.set_timesteps(timesteps=[800])
    sigmas, noise = DISCRETIZATIONS["HyperSD"](1), noises(1)[0]
    x, scale = torch.from_numpy(noise).double(), (1 + sigmas[0] ** 2) ** 0.5
    output = (x * scale - denoise(x * scale, sigmas[0])) / sigmas[0]
    expected = scheduler.step(output, scheduler.timesteps[0], x, return_dict=False)[0].numpy()
    found = SAMPLERS["LCMSampler"](denoise, noise * np.float32(scale), sigmas, lambda *_: pytest.fail(), lambda steps: steps)
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()
    assert np.array_equal(DISCRETIZATIONS["HyperSD"](4), DISCRETIZATIONS["Trailing"](4))
