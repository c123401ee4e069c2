"""The noise of other tools against PyTorch's own generator and torchsde's own Brownian tree, bit by bit."""

import math
import warnings

import numpy as np
import pytest
import torch

from gm.diffusion.schedule import edm_sigmas, legacy_ddpm_sigmas, train_sigmas
from gm.errors import UserError
from gm.options.sample import parse_sample, sample_settings
from gm.randomness import PICTURE_NOISE, generator
from gm.sampling.brownian import BrownianNoise
from gm.sampling.noise import NOISES
from gm.sampling.torch_generator import TorchGenerator

SEEDS = (0, 42, 2**31, 2**32 - 1, 2**32 + 5, 2**63, 2**64 - 1)
# whole blocks of 16, a last one that is drawn anew, and numbers made one by one, which keep one back
SHAPES = ((4, 16, 16), (3,), (4, 5, 5), (17,), (31,), (4, 1, 1), (1,), (4, 9, 7), (2, 2), (4, 128, 96), (5,), (4, 8, 8))
SAME_BITS = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")


def torch_generator(seed: int) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


def agree(given: np.ndarray, expected: np.ndarray) -> bool:
    assert given.dtype == expected.dtype == np.float32
    if SAME_BITS:
        return np.array_equal(given, expected)
    return np.allclose(given, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_numbers_and_state_are_those_of_torch(seed):
    ours, theirs = TorchGenerator(seed), torch_generator(seed)
    for shape in SHAPES:
        assert agree(ours.normal(shape), torch.randn(shape, generator=theirs).numpy()), shape
        state = theirs.get_state().numpy()[: 8 * 627].view(np.uint64)  # seed, numbers left, next, 624 words
        words, place = state[3:].astype(np.uint32), int(state[2])
        assert np.array_equal(ours.words()[:624].astype(np.uint32), words), shape
        assert ours.words()[624] % 624 == place % 624, shape


def test_a_million_numbers_are_those_of_torch():
    assert agree(TorchGenerator(7).normal((2**20,)), torch.randn(2**20, generator=torch_generator(7)).numpy())


def test_the_transform_is_box_mullers():
    """In float64 from the same uniform numbers; the bound stands in torch_generator.py."""
    numbers = TorchGenerator(3).normal((2**16,))
    uniform = TorchGenerator(3)._uniform(2**16).reshape(-1, 2, 8).astype(np.float64)
    radius, angle = np.sqrt(-2 * np.log(1 - uniform[:, 0])), 2 * math.pi * uniform[:, 1]
    exact = np.stack((radius * np.cos(angle), radius * np.sin(angle)), 1).ravel()
    assert np.abs(numbers - exact).max() < 2e-6


@pytest.mark.parametrize("sigmas", [edm_sigmas(12), legacy_ddpm_sigmas(5)], ids=["karras", "uniform"])
@pytest.mark.parametrize("seed", [42, 2**32 + 5, 2**64 - 1])
def test_brownian_noise_is_that_of_torchsde(seed, sigmas):
    """As BrownianTreeNoiseSampler asks for it: float32 sigmas, the increment with its sign over the root of the distance."""
    import torchsde

    levels = torch.tensor(sigmas, dtype=torch.float32)
    tree = torchsde.BrownianTree(levels[-2], torch.zeros(4, 6, 8), levels[0], entropy=seed)
    ours = BrownianNoise(seed, (4, 6, 8), sigmas)
    middles = (levels[1:-2] * levels[2:-1]).sqrt()  # where a sampler of second order asks as well
    with warnings.catch_warnings():  # float32 ends of the interval are outside of the rounded ones
        warnings.simplefilter("ignore")
        for start, middle, end in zip(levels[1:-2], middles, levels[2:-1]):
            for first, last in ((start, middle), (start, end), (levels[0], end), (end, start)):
                low, high = sorted((first, last))
                expected = tree(low, high) * (last - first).sign() / (last - first).abs().sqrt()
                given = ours(float(first), float(last))
                assert np.abs(given - expected.numpy()).max() < 1e-6 and given.dtype == np.float32
    assert not ours(float(levels[2]), float(levels[2])).any()


def test_brownian_noise_does_not_depend_on_what_was_asked_before():
    sigmas = edm_sigmas(30)
    first = BrownianNoise(1, (4, 2, 2), sigmas)
    walked = [first(*pair) for pair in zip(sigmas[:-2], sigmas[1:-1])]
    for place in (28, 0, 17):
        assert np.array_equal(BrownianNoise(1, (4, 2, 2), sigmas)(sigmas[place], sigmas[place + 1]), walked[place])


SHAPE = (4, 8, 12)
TABLE, EDM = train_sigmas(), "EDMDiscretization"


def stream(seed: int, count: int) -> list[np.ndarray]:
    source = torch_generator(seed)
    return [torch.randn(SHAPE, generator=source).numpy() for _ in range(count)]


def test_native_noise_is_keyed_by_its_number():
    noise = NOISES["native"](5, SHAPE)
    assert noise.posterior() is None
    drawn = [noise.next(), noise.first(), noise.next()]
    for given, number in zip(drawn, (1, 0, 2)):
        assert np.array_equal(given, generator(5, PICTURE_NOISE, number).standard_normal(SHAPE, np.float32))


def test_torch_draws_all_of_one_stream_and_the_encoders_first():
    noise, expected = NOISES["torch"](2**32 + 5, SHAPE), stream(2**32 + 5, 4)
    steps = noise.of_steps("EulerAncestralSampler", edm_sigmas(3))
    drawn = [noise.posterior(), noise.first(), steps(9.0, 3.0), steps(3.0, 1.0)]
    assert all(agree(one, other) for one, other in zip(drawn, expected))


def test_a1111_draws_the_first_noise_first():
    noise, expected = NOISES["a1111-cpu"](3, SHAPE), stream(3, 2)
    assert noise.posterior() is None
    assert agree(noise.first(), expected[0]) and agree(noise.next(), expected[1])


def test_comfyui_draws_the_noise_of_steps_from_the_next_seed():
    noise = NOISES["comfyui"](3, SHAPE)
    assert noise.posterior() is None
    assert agree(noise.next(), stream(4, 1)[0]) and agree(noise.first(), stream(3, 1)[0])
    assert agree(noise.next(), stream(4, 2)[1])
    NOISES["comfyui"](2**64 - 1, SHAPE)  # the largest seed has a next one


@pytest.mark.parametrize("name, sampler, is_tree", [
    ("native", "DPMPPSDESampler", False),
    ("torch", "DPMPPSDESampler", True),
    ("torch", "DPMPP2MSDESampler", False),
    ("a1111-cpu", "DPMPPSDESampler", True),
    ("a1111-cpu", "DPMPP2MSDESampler", True),
    ("comfyui", "DPMPP2MSDESampler", True),
    ("comfyui", "EulerAncestralSampler", False),
])  # fmt: skip
def test_which_samplers_have_the_noise_of_a_tree(name, sampler, is_tree):
    sigmas = edm_sigmas(6)
    given = NOISES[name](8, SHAPE).of_steps(sampler, sigmas)(sigmas[2], sigmas[3])
    tree = BrownianNoise(8, SHAPE, sigmas)(sigmas[2], sigmas[3])
    assert np.array_equal(given, tree) == is_tree


def test_time_steps_between_those_of_the_schedule():
    """Against diffusers' own; a level of the schedule itself is asked for with its own step by all."""
    from diffusers import EulerDiscreteScheduler

    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    theirs = EulerDiscreteScheduler(**betas)
    between = edm_sigmas(17)[:-1]
    for name in ("torch", "a1111-cpu"):
        for sigma in between:
            level, step = NOISES[name].asked("EulerEDMSampler", EDM, sigma, TABLE)
            assert level == sigma and abs(step - theirs._sigma_to_t(sigma, np.log(TABLE))) < 1e-6
    for sigma in between:
        _, step = NOISES["torch"].asked("DPMPP2MSampler", EDM, sigma, TABLE)
        assert step == NOISES["comfyui"].asked("EulerEDMSampler", EDM, sigma, TABLE)[1] == round(step)
        level, step = NOISES["native"].asked("EulerEDMSampler", EDM, sigma, TABLE)
        assert level == TABLE[int(step)] and abs(level - sigma) == np.abs(TABLE - sigma).min()
    for noise in NOISES.values():
        assert noise.asked("EulerEDMSampler", EDM, TABLE[371], TABLE) == pytest.approx((TABLE[371], 371.0))


@pytest.mark.parametrize("name, sampler, discretization, is_alone", [
    ("native", "EulerEDMSampler", "LegacyDDPMDiscretization", False),
    ("torch", "EulerEDMSampler", "LegacyDDPMDiscretization", True),
    ("torch", "EulerEDMSampler", "EDMDiscretization", False),
    ("torch", "DPMPP2MSampler", "LegacyDDPMDiscretization", False),
    ("a1111-cpu", "EulerEDMSampler", "EDMDiscretization", True),
    ("a1111-cpu", "DDIMSampler", "LegacyDDPMDiscretization", False),
    ("comfyui", "EulerEDMSampler", "LegacyDDPMDiscretization", False),
    ("comfyui", "EulerEDMSampler", "Leading", True),
])  # fmt: skip
def test_how_strong_the_first_noise_is(name, sampler, discretization, is_alone):
    expected = 14.6 if is_alone else math.hypot(1, 14.6)
    assert NOISES[name].strength(sampler, discretization, 14.6) == pytest.approx(expected)


@pytest.mark.parametrize("name", NOISES)
def test_the_flag_says_whose_noise(name):
    assert sample_settings(parse_sample(["--noise", name]), 32).noise == name
    assert sample_settings(parse_sample([]), 32).noise == "native"


def test_another_noise_is_refused():
    with pytest.raises(UserError, match="noise.*a1111-gpu.*comfyui"):
        parse_sample(["--noise", "a1111-gpu"])
