"""Pictures from pictures: masks and posteriors on the way through the sampler, and commands that keep, repeat and enlarge what they
should."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import tiny
from commands import sampling
from gm.checkpoint.io import write_tensors
from gm.config.types import SampleSettings
from gm.diffusion.samplers import SAMPLERS
from gm.diffusion.schedule import sampling_sigmas
from gm.encoding.text import TextEmbedding
from gm.sampling.jobs import requests_of
from gm.sampling.latents import LatentSampler
from gm.sampling.making import Maker
from gm.sampling.noise import NOISES
from gm.sampling.start import Start, drawn
from small import SMALL
from test_given_files import options_of, photo, white

# -- the sampler, without a network ----------------------------------------------------------------------------------------


class Seen(LatentSampler):
    """Predicts a tenth of what it is given, and notes that."""

    def __init__(self):
        self.table, self.before_step, self.seen = sampling_sigmas(), lambda share: None, []
        self.denoiser = type("Call", (), {"cell": type("Cell", (), {"set_train": lambda *_: None})()})()

    def denoise(self, x, level, *conditions):
        self.seen.append((x.copy(), level[0], conditions))
        return x / np.float32(10)


TEXT = TextEmbedding(np.ones((77, 4), np.float32), np.ones(4, np.float32))
SHAPE = (4, 8, 8)


def begun(strength: float, **more) -> Start:
    latent = np.random.default_rng(1).standard_normal((1, *SHAPE)).astype(np.float32)
    mask = np.zeros((1, 1, 8, 8), np.float32)
    mask[..., 3:] = 1
    return Start(latent=latent, mask=mask, strength=strength, **more)


@pytest.mark.parametrize("strength", [0.5, 1.0])
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_mask_keeps_the_latent_and_its_noise(name, strength):
    """At every call, at its level; at full strength the first one sees noise alone, as in diffusers."""
    rng, sampler, start = np.random.default_rng(2), Seen(), begun(strength)
    noise = rng.standard_normal((2, *SHAPE)).astype(np.float32)
    settings = replace(SampleSettings.square(64, 6), sampler=name)
    draw = lambda *_: rng.standard_normal((2, *SHAPE)).astype(np.float32)  # noqa: E731
    found = sampler(TEXT, TEXT, settings, noise, draw, "test", start)
    kept = (start.mask == 0)[0, 0]
    assert np.array_equal(found[..., kept], np.broadcast_to(start.latent, found.shape)[..., kept])
    for number, (x, level, _) in enumerate(sampler.seen):
        if strength == 1.0 and number == 0:
            assert np.allclose(x[2:], noise * np.sqrt(1 + level**2), rtol=1e-5)
        elif name not in ("DPMPP2SAncestralSampler", "DPMPPSDESampler"):  # half way the level asked for is a nearby one
            assert np.allclose(x[2:][..., kept], (start.latent + noise * np.float32(level))[..., kept], atol=1e-3)
    assert len(sampler.seen) >= 6 * strength


def test_an_inpainting_unet_is_given_mask_and_rest_for_each_row():
    rng, sampler = np.random.default_rng(2), Seen()
    noise, masked = rng.standard_normal((2, 2, *SHAPE)).astype(np.float32)
    start = begun(0.5, masked=masked)
    sampler(TEXT, TEXT, SampleSettings.square(64, 6), noise, None, "test", start)
    x, level, conditions = sampler.seen[0]
    shown = conditions[-1].asnumpy()
    assert shown.shape == (4, 5, 8, 8) and (shown[:, :1] == start.mask).all()
    assert np.array_equal(shown[:, 1:], np.concatenate((masked, masked)))
    assert np.allclose(x[2:], start.latent + noise * np.float32(level), atol=1e-3), "nothing is put back"


def test_what_a_seed_draws_in_diffusers_order():
    """For the picture, the first noise, the picture without what is masked; in a batch as alone."""
    rng = np.random.default_rng(0)
    mean, spread, masked, other = np.abs(rng.standard_normal((4, 1, *SHAPE))).astype(np.float32)
    start = begun(0.5, spread=spread, masked=masked, masked_spread=other)
    found, first = drawn(replace(start, latent=mean), [NOISES["torch"](seed, SHAPE) for seed in (3, 2**40)])
    for row, seed in enumerate((3, 2**40)):
        source = torch.Generator("cpu").manual_seed(seed)
        numbers = [torch.randn(SHAPE, generator=source).numpy() for _ in range(3)]
        expected = mean[0] + spread[0] * numbers[0], numbers[1], masked[0] + other[0] * numbers[2]
        for given_row, one in zip((found.latent[row], first[row], found.masked[row]), expected):
            assert np.allclose(given_row, one, atol=1e-5)
    native, _ = drawn(start, [NOISES["native"](3, SHAPE)])
    assert native.latent is start.latent and native.masked is masked and native.spread is None


# -- what a command makes of it, without networks ------------------------------------------------------------------------------


class Pictures:
    """A PictureSampler that notes what it is asked for; its latents are numbers, its pictures and posteriors their means."""

    channels, is_inpainting = 4, False

    def __init__(self):
        self.starts, self.encoded_images = [], []

    def latents(self, text, negative, settings, seeds, what, start):
        self.starts.append((settings, start, what))
        shape = len(seeds), 4, settings.height // 8, settings.width // 8
        return np.random.default_rng(seeds[0]).standard_normal(shape).astype(np.float32)

    def decoded(self, latents):
        return [np.full((8 * one.shape[1], 8 * one.shape[2], 3), 50 + 10 * one.mean(), np.uint8) for one in latents]

    def encoded(self, image):
        self.encoded_images.append(image)
        mean = image[:1].reshape(1, 1, image.shape[1] // 8, 8, image.shape[2] // 8, 8).mean((3, 5))
        return np.repeat(mean, 4, 1), np.ones((1, 1, 1, 1), np.float32)


def made_by(pictures: Pictures, *words, batches: int = 1):
    requests = requests_of(options_of("--height", 64, "--width", 64, *words), 8)
    texts = [TEXT] * len(requests)
    maker = Maker(SimpleNamespace(pictures=pictures, embedder=None, texts_of=lambda *_: (texts, texts)), 8)
    return [maker(requests, "test") for _ in range(batches)][-1]


def test_a_latent_is_enlarged_between_the_passes():
    pictures = Pictures()
    (made,) = made_by(pictures, "--hires_scale", 1.5, "--hires_steps", 9, "--hires_strength", 0.4, "--seed", 3)
    (first, begin, _), (second, start, what) = pictures.starts
    assert begin == Start() and (first.height, second.height, second.steps) == (64, 96, 9) and "enlarged" in what
    latent = torch.from_numpy(np.random.default_rng(3).standard_normal((1, 4, 8, 8)).astype(np.float32))
    expected = torch.nn.functional.interpolate(latent, size=(12, 12), mode="bilinear").numpy()
    assert np.abs(start.latent - expected).max() < 1e-5 and start.strength == 0.4 and start.spread is None
    assert made.shape == (96, 96, 3) and not pictures.encoded_images


def test_a_picture_is_enlarged_between_the_passes():
    pictures = Pictures()
    made_by(pictures, "--hires_scale", 1.5, "--hires_upscaler", "nearest", "--num_cols", 2)
    (_, start, _) = pictures.starts[1]
    assert [image.shape for image in pictures.encoded_images] == [(3, 96, 96)] * 2
    assert start.latent.shape == (2, 4, 12, 12) and start.spread.shape == (2, 1, 1, 1) and start.strength == 0.5


def test_a_picture_is_encoded_once_for_each_size(tmp_path):
    photo(tmp_path / "a.png", 64, 64)
    white(tmp_path / "m.png", 0, 0, 64, 32, size=(64, 64))
    pictures = Pictures()
    made_by(pictures, "--task", "img2img", "--img", tmp_path / "a.png", batches=3)
    assert len(pictures.encoded_images) == 1 and len(pictures.starts) == 3
    assert pictures.starts[0][1].strength == 0.75 and pictures.starts[0][1].mask is None
    inpaint = ("--task", "inpaint", "--img", tmp_path / "a.png", "--mask", tmp_path / "m.png")
    for is_inpainting, strength, encoded in ((False, 1.0, 1), (True, 1.0, 1), (True, 0.5, 2)):
        pictures = Pictures()
        pictures.is_inpainting = is_inpainting
        made_by(pictures, *inpaint, *(("--strength", strength) if strength < 1 else ()))
        (_, start, _) = pictures.starts[0]
        assert len(pictures.encoded_images) == encoded and start.strength == strength
        assert (start.masked is not None) == is_inpainting and (start.latent is None) == (is_inpainting and strength == 1.0)


def test_each_picture_of_a_batch_has_its_noise_of_the_file(tmp_path):
    noise = np.random.default_rng(0).standard_normal((3, 4, 8, 8))
    np.save(tmp_path / "three.npy", noise)
    np.save(tmp_path / "one.npy", noise[0])
    for name, rows in (("three", noise), ("one", noise[[0, 0, 0]])):
        pictures = Pictures()
        made_by(pictures, "--init_latent_path", tmp_path / f"{name}.npy", "--num_cols", 3)
        assert np.allclose(pictures.starts[0][1].noise, rows)


# -- commands ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def make(run, small, kept_networks, tmp_path):
    """Pictures of the small model, and what was said."""

    def make(name: str, *words, status: int = 0):
        usual = ("--config", tiny.INFERENCE, "--weight", small.weights, "--device_target", "CPU", "--sample_step", 4, *SMALL)
        found, errors = run(sampling, *usual, "--save_path", tmp_path / name, *words)
        assert found == status, errors
        return [np.asarray(Image.open(path)) for path in sorted((tmp_path / name).glob("0*.png"))]

    return make


AT_64 = ("--height", 64, "--width", 64)


@pytest.mark.xdist_group("small")
def test_noise_from_a_file_repeats_a_seed(make, tmp_path):
    """By a sampler that draws later as well; a file of several pictures has one each."""
    words = (*AT_64, "--sampler", "EulerAncestralSampler", "--noise", "torch")
    first, second = make("seed", *words, "--num_cols", 2, "--save_init_latent", "True")
    noise = [np.load(tmp_path / "seed" / f"0000{number}.npy") for number in range(2)]
    assert noise[0].shape == (4, 8, 8) and abs(noise[0].std() - 1) < 0.2
    (again,) = make("file", *words, "--init_latent_path", tmp_path / "seed" / "00000.npy")
    assert np.array_equal(again, first)
    write_tensors(tmp_path / "both.safetensors", [("noise", np.stack(noise))])
    both = make("both", *words, "--num_cols", 2, "--init_latent_path", tmp_path / "both.safetensors")
    assert np.array_equal(both[0], first) and np.array_equal(both[1], second)
    (other,) = make("other", *words, "--init_latent_path", tmp_path / "seed" / "00001.npy")
    assert not np.array_equal(other, first)


@pytest.mark.xdist_group("small")
def test_a_hires_fix_is_two_commands_in_one(make, tmp_path):
    words = (*AT_64, "--seed", 5, "--guidance_scale", 3)
    first, second = make("base", *words, "--num_cols", 2)
    larger = ("--height", 96, "--width", 96, "--seed", 5, "--guidance_scale", 3, "--strength", 0.6, "--sample_step", 6)
    (by_hand,) = make("by hand", "--task", "img2img", "--img", tmp_path / "base" / "00000.png", *larger)
    fix = ("--hires_scale", 1.5, "--hires_strength", 0.6, "--hires_steps", 6, "--num_cols", 2)
    both = make("fix", *words, *fix, "--hires_upscaler", "lanczos")
    assert np.array_equal(both[0], by_hand) and both[1].shape == (96, 96, 3) and not np.array_equal(*both)
    enlarged = np.asarray(Image.fromarray(first).resize((96, 96), Image.Resampling.LANCZOS))
    assert np.abs(by_hand.astype(int) - enlarged).mean() > 3, "it has been gone over"


@pytest.mark.xdist_group("small")
def test_painting_into_a_picture_keeps_the_rest(make, tmp_path):
    picture = photo(tmp_path / "a.png", 64, 64)
    white(tmp_path / "m.png", 0, 0, 64, 32, size=(64, 64))
    words = ("--task", "inpaint", "--img", tmp_path / "a.png", "--mask", tmp_path / "m.png")
    sharp, other = make("sharp", *words, "--mask_blur", 0, "--num_cols", 2)
    for made in (sharp, other):
        assert np.array_equal(made[:, 32:], picture[:, 32:]) and (made[:, :32] != picture[:, :32]).mean() > 0.8
    assert not np.array_equal(sharp, other)
    (soft,) = make("soft", *words)
    assert np.array_equal(soft[:, 43:], picture[:, 43:]) and not np.array_equal(soft[:, 32:40], picture[:, 32:40])
    assert np.array_equal(soft[:, :20], sharp[:, :20])
    (weak,) = make("weak", *words, "--strength", 0.25)
    far, near = (np.abs(one[:, :32].astype(int) - picture[:, :32]).mean() for one in (sharp, weak))
    assert near < far
    (again,) = make("like", "--like", tmp_path / "weak" / "00000.png")
    assert np.array_equal(again, weak)
