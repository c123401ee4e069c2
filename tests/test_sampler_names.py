"""Names of samplers and schedules as people type them, and what the guidance's flags do."""

from dataclasses import replace

import numpy as np
import pytest

from gm.config.types import SampleSettings
from gm.diffusion.guidance import guided, is_guided
from gm.diffusion.names import SAMPLER_NAMES, SCHEDULE_NAMES, named_sampler, named_schedule, resolved
from gm.diffusion.samplers import ETAS, SAMPLERS, sampler_of
from gm.diffusion.schedule import DISCRETIZATIONS, sampling_sigmas, usual_level
from gm.errors import UserError
from gm.options.sample import parse_sample, sample_settings

NAMES = [
    ("Euler", "EulerEDMSampler", None),
    ("euler a", "EulerAncestralSampler", None),
    ("Euler_Ancestral", "EulerAncestralSampler", None),
    ("EulerEDMSampler", "EulerEDMSampler", None),
    ("DPM++ 2M Karras", "DPMPP2MSampler", "Karras"),
    ("dpm++ 2m sde karras", "DPMPP2MSDESampler", "Karras"),
    ("DPM++ SDE", "DPMPPSDESampler", None),
    ("dpmpp_2m_sde", "DPMPP2MSDESampler", None),
    ("DPM++ 2S a Karras", "DPMPP2SAncestralSampler", "Karras"),
    ("DPM++ 2M Exponential", "DPMPP2MSampler", "Exponential"),
    ("Euler SGM Uniform", "EulerEDMSampler", "SGMUniform"),
    ("UniPC", "UniPCBH1Sampler", None),
    ("uni_pc_bh2", "UniPCBH2Sampler", None),
    ("UniPCMultistepScheduler", "UniPCSampler", None),
    ("k_euler_a", "EulerAncestralSampler", None),
    ("k_lms", "LinearMultistepSampler", None),
    ("dpmsolver++", "DPMPP2MSampler", None),
    ("dpmpp_2m_sde_gpu karras", "DPMPP2MSDESampler", "Karras"),
    ("DPM++ 2M Beta", "DPMPP2MSampler", "Beta"),
    ("Euler a Uniform", "EulerAncestralSampler", "Normal"),
    ("LMS Karras", "LinearMultistepSampler", "Karras"),
    ("DPMSolverMultistepScheduler", "DPMPP2MSampler", None),
    ("lcm", "LCMSampler", None),
]


@pytest.mark.parametrize("name, sampler, schedule", NAMES)
def test_a_name_is_understood(name, sampler, schedule):
    assert named_sampler(name) == (sampler, schedule)


def test_every_name_leads_back():
    assert set(SAMPLER_NAMES) == set(SAMPLERS) and set(SCHEDULE_NAMES) == set(DISCRETIZATIONS)
    for sampler, names in SAMPLER_NAMES.items():
        assert all(named_sampler(name) == (sampler, None) for name in (sampler, *names))
        for schedule, words in SCHEDULE_NAMES.items():
            assert all(named_schedule(word) == schedule for word in (schedule, *words))
            name, word = names[0], words[0]
            assert resolved(name, word) == (sampler, schedule)


@pytest.mark.parametrize("name", ["", "Oiler", "Karras", "DPM++ 2M Kerras", "DPM 2", "dpmsolver", "kk_lms", "x" * 1000, "é"])
def test_an_unknown_name(name):
    with pytest.raises(ValueError, match="is no sampler, (did you mean|known are)"):
        named_sampler(name)


def settings_of(*words: str) -> SampleSettings:
    return sample_settings(parse_sample([*words, "--height", "64", "--width", "64", "--device_target", "CPU"]), 8)


@pytest.mark.parametrize(
    "words, expected",
    [
        ((), ("EulerEDMSampler", "LegacyDDPMDiscretization")),
        (("--sampler", "DPM++ 2M Karras"), ("DPMPP2MSampler", "Karras")),
        (("--sampler", "Euler", "--schedule", "karras"), ("EulerEDMSampler", "Karras")),
        (("--sampler", "Euler", "--discretization", "EDMDiscretization"), ("EulerEDMSampler", "EDMDiscretization")),
        (("--sampler", "DDIM"), ("DDIMSampler", "Leading")),
        (("--sampler", "LCM"), ("LCMSampler", "LCM")),
        (("--sampler", "LCM", "--schedule", "SGM Uniform"), ("LCMSampler", "SGMUniform")),
        (("--schedule", "Legacy DDPM"), ("EulerEDMSampler", "LegacyDDPMDiscretization")),
        (("--schedule", "Uniform"), ("EulerEDMSampler", "Normal")),
        (("--schedule", "Automatic"), ("EulerEDMSampler", "Normal")),
        (("--sampler", "DPM++ 2M", "--schedule", "automatic"), ("DPMPP2MSampler", "Karras")),
        (("--sampler", "DPM++ 2M SDE", "--schedule", "automatic"), ("DPMPP2MSDESampler", "Exponential")),
        (("--sampler", "DPM++ 2M Karras", "--schedule", "automatic"), ("DPMPP2MSampler", "Karras")),
        (("--sampler", "TCD", "--schedule", "automatic"), ("TCDSampler", "LCM")),
    ],
)
def test_the_flags_say_sampler_and_schedule(words, expected):
    found = settings_of(*words)
    assert (found.sampler, found.discretization) == expected


@pytest.mark.parametrize(
    "words, sentence",
    [
        (("--sampler", "DPM++ 2M Karras", "--schedule", "Exponential"), "names a schedule, but the schedule 'Exponential'"),
        (("--schedule", "Karras", "--discretization", "EDMDiscretization"), "are two schedules: give one of them"),
        (("--schedule", "Karas"), "'Karas' is no schedule, did you mean 'karras'"),
        (("--guidance_start", "0.5", "--guidance_stop", "0.5"), "leave no step with guidance"),
        (("--guidance_rescale", "0.7", "--guider", "IdentityGuider"), "but there is none"),
        (("--guidance_stop", "0.7", "--guidance_scale", "1"), "but there is none"),
        (("--eta", "0.5"), "--eta 0.5 has no effect on the sampler EulerEDMSampler: leave it out, or take Euler a, "),
        (("--eta", "1", "--sampler", "LCM"), "--eta 1 has no effect on the sampler LCM"),
        (
            ("--negative_orig_width", "512", "--guider", "IdentityGuider"),
            "--negative_orig_width 512 has no effect, as there is no",
        ),
        (("--negative_crop_coords_top", "0", "--guidance_scale", "1"), "--negative_crop_coords_top 0 has no effect"),
    ],
)
def test_flags_that_contradict_each_other(words, sentence):
    with pytest.raises(UserError, match=sentence.replace("'karras'", "'Karras'")):
        settings_of(*words)


def test_sizes_beside_the_negative_prompt():
    assert settings_of().negative_sizes is None
    found = settings_of("--negative_orig_height", "512", "--negative_crop_coords_top", "0", "--crop_coords_top", "7")
    assert found.sizes == (64, 64, 7, 0, 64, 64) and found.negative_sizes == (512, 64, 0, 0, 64, 64)


@pytest.mark.parametrize("sampler", ETAS)
def test_eta_reaches_the_sampler(sampler):
    """Where it is 0 no noise is added, and what is said is not what is usual."""
    sigmas = DISCRETIZATIONS["LCM"](4)
    assert settings_of("--sampler", sampler).eta is None and settings_of("--sampler", sampler, "--eta", "0.25").eta == 0.25

    def run(eta, noise):
        x = np.full((1, 4, 2, 2), 14.6, np.float32)
        return sampler_of(sampler, sampling_sigmas(), eta)(lambda x, s: x / 2, x, sigmas, lambda *_: noise, lambda n: n)

    noise = np.ones((1, 4, 2, 2), np.float32)
    assert np.array_equal(run(0.0, noise), run(0.0, 2 * noise))
    assert np.array_equal(run(None, noise), run(ETAS[sampler], noise)) and not np.array_equal(
        run(0.25, noise), run(None, noise)
    )


def test_time_steps_between_two():
    """sgm rounds the levels of its own schedules, k-diffusion's are asked for as they are."""
    table = sampling_sigmas()
    between = float(np.sqrt(table[700] * table[701]))
    for name in DISCRETIZATIONS:
        level, time = usual_level(name, between * 1.0001, table)
        if name in ("LegacyDDPMDiscretization", "EDMDiscretization"):
            assert (level, time) == (table[701], 701.0)
        else:
            assert level == between * 1.0001 and time == pytest.approx(700.5, abs=0.05)
        assert usual_level(name, table[33], table) == pytest.approx((table[33], 33.0))


def test_steps_with_guidance():
    settings = replace(SampleSettings.square(64, 10), guided_steps=(0.2, 0.8))
    assert [is_guided(settings, step) for step in range(10)] == [False] * 2 + [True] * 6 + [False] * 2
    assert not is_guided(replace(settings, guidance_scale=1.0), 5)
    assert not is_guided(replace(settings, guider="IdentityGuider"), 5)
    assert is_guided(replace(settings, guidance_scale=0.0), 5)


def test_guidance_is_rescaled_as_in_diffusers():
    import torch
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import rescale_noise_cfg

    x, c, u = np.random.default_rng(0).standard_normal((3, 2, 4, 8, 8)).astype(np.float32)
    sigma = 3.0
    settings = replace(SampleSettings.square(64, 10), guidance_scale=7.0, guidance_rescale=0.7)
    noise_c, noise_u = (torch.from_numpy((x - one) / sigma) for one in (c, u))
    expected = rescale_noise_cfg(noise_u + 7.0 * (noise_c - noise_u), noise_c, guidance_rescale=0.7).numpy()
    assert np.allclose(guided(settings, x, sigma, c, u), x - sigma * expected, atol=1e-5)
    plain = guided(replace(settings, guidance_rescale=0.0), x, sigma, c, u)
    assert np.allclose(plain, u + 7.0 * (c - u), atol=1e-5)
