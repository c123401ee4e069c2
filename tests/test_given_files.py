"""What is given to begin with: pictures and masks come to the right size, latents are enlarged as PyTorch does it, a strength leaves
as many steps as in diffusers; and what cannot be used or cannot act is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLImg2ImgPipeline
from PIL import Image
from safetensors.numpy import save_file
from scipy.ndimage import gaussian_filter1d

import tiny
from commands import sampling
from gm.checkpoint.weights import open_base
from gm.config.load import load_config
from gm.diffusion.schedule import sampling_sigmas
from gm.errors import UserError
from gm.options.sample import parse_sample, sample_settings
from gm.sampling.enlarging import OF_LATENTS, enlarged_latents
from gm.sampling.given import Given, blurred, given, larger, require_given, resized, sized, steps_of
from gm.sampling.start import Start, levels

TORCH = {
    "latent": "bilinear",
    "latent-bicubic": "bicubic",
    "latent-nearest": "nearest",
    "latent-nearest-exact": "nearest-exact",
}


def photo(path: Path, height: int = 48, width: int = 80) -> np.ndarray:
    """A picture with a colour of its own everywhere, as PNG."""
    y, x = np.mgrid[:height, :width]
    picture = np.stack([255 * y / height, 255 * x / width, 128 + 100 * np.sin(x / 5)], -1).astype(np.uint8)
    Image.fromarray(picture).save(path)
    return picture


def white(path: Path, *box: int, size=(48, 80)) -> Path:
    """A mask that is white in the box (top, left, bottom, right)."""
    mask = np.zeros(size, np.uint8)
    mask[box[0] : box[2], box[1] : box[3]] = 255
    Image.fromarray(mask).save(path)
    return path


def options_of(*words):
    return parse_sample([str(word) for word in words])


# -- what is given -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OF_LATENTS)
@pytest.mark.parametrize("sizes", [((8, 8), (12, 12)), ((5, 7), (9, 8)), ((16, 12), (40, 24)), ((7, 9), (13, 27))])
def test_latents_are_enlarged_as_pytorch_does_it(name, sizes):
    latents = np.random.default_rng(0).standard_normal((2, 4, *sizes[0])).astype(np.float32)
    expected = torch.nn.functional.interpolate(torch.from_numpy(latents), size=sizes[1], mode=TORCH[name]).numpy()
    assert np.abs(enlarged_latents(latents, sizes[1], name) - expected).max() < 1e-5


@pytest.mark.parametrize("mode", ["crop", "fill", "stretch"])
@pytest.mark.parametrize("size", [(64, 64), (24, 96), (48, 80)])
def test_a_picture_comes_to_the_size(tmp_path, mode, size):
    picture = photo(tmp_path / "a.png")
    found = resized(picture, size, mode)
    assert found.shape == (*size, 3) and np.array_equal(resized(picture[..., 0], size, mode), found[..., 0])
    if size == (48, 80):
        assert np.array_equal(found, picture)
    elif mode == "stretch":
        assert np.array_equal(found, Image.fromarray(picture).resize(size[::-1], Image.Resampling.LANCZOS))
    elif size == (64, 64):
        inner = found[13:51] if mode == "fill" else found
        whole = Image.fromarray(picture).resize((64, 38) if mode == "fill" else (107, 64), Image.Resampling.LANCZOS)
        assert np.array_equal(inner, np.asarray(whole)[:, slice(None) if mode == "fill" else slice(22, 86)])
        if mode == "fill":
            assert (found[:13] == found[13]).all() and (found[51:] == found[50]).all()


def test_a_mask_is_blurred_by_a_normal_curve_and_no_further():
    mask = np.zeros((40, 30), np.float32)
    mask[10:25, 5:] = 1
    expected = mask
    for axis in (0, 1):
        expected = gaussian_filter1d(expected, 4.0, axis, mode="mirror", radius=10)
    assert np.abs(blurred(mask, 4.0) - expected).max() < 1e-5
    assert np.array_equal(blurred(mask, 0.0), mask)


def test_what_a_mask_keeps_is_kept_to_the_pixel(tmp_path):
    picture = photo(tmp_path / "a.png")
    mask = np.zeros((48, 80), bool)
    mask[16:32, 40:] = True
    made = np.full_like(picture, 255)
    sharp, soft = (Given(picture, mask).kept(made, blur) for blur in (0.0, 4.0))
    assert np.array_equal(sharp[~mask], picture[~mask]) and (sharp[mask] == 255).all()
    far = np.ones((48, 80), bool)
    far[6:42, 30:] = False
    assert np.array_equal(soft[far], picture[far]) and (soft[23, 60] > 240).all()
    latent = Given(picture, mask).latent_mask
    expected = torch.nn.functional.interpolate(torch.from_numpy(mask[None, None].astype(np.float32)), size=(6, 10)).numpy()
    assert np.array_equal(latent, expected) and latent.sum() == 2 * 5
    hidden = Given(picture, mask).image_without_mask
    assert (hidden[:, mask] == 0).all() and np.array_equal(hidden[:, ~mask], Given(picture, mask).image[:, ~mask])


def test_a_mask_of_another_size_is_resized(tmp_path, project_log):
    photo(tmp_path / "a.png")
    words = (
        "--task",
        "inpaint",
        "--img",
        tmp_path / "a.png",
        "--mask",
        white(tmp_path / "m.png", 0, 0, 24, 160, size=(96, 160)),
    )
    options = sized(options_of(*words, "--height", 48, "--width", 80), 8)
    found = given(options, sample_settings(options, 8))
    assert found.mask[:12].all() and not found.mask[13:].any() and found.mask.shape == (48, 80)
    require_given(options, sample_settings(options, 8), tiny.model())
    assert "160 x 96 pixels, --img 80 x 48" in project_log.text


@pytest.mark.parametrize(
    "shape, words, size",
    [
        ((48, 80), (), (64, 96)),  # 1.5 and 2.5 of 32
        ((100, 200), (), (96, 192)),
        ((3000, 4000), (), (896, 1184)),  # no more than 1024 x 1024
        ((100, 200), ("--height", 64), (64, 128)),
        ((100, 200), ("--width", 64), (32, 64)),
        ((100, 200), ("--height", 64, "--width", 64), (64, 64)),
        ((100, 200), ("--sd_xl_base_ratios", "1.0_512"), (512, 512)),
        ((5, 5), (), (32, 32)),
    ],
)
def test_the_size_is_that_of_the_picture(tmp_path, shape, words, size):
    Image.new("RGB", shape[::-1]).save(tmp_path / "a.png")
    options = options_of("--task", "img2img", "--img", tmp_path / "a.png", *words)
    settings = sample_settings(sized(options, 32), 32)
    assert (settings.height, settings.width) == size and settings.sizes == (*size, 0, 0, *size)


def test_the_size_is_that_of_the_upright_picture(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (96, 64)).save(tmp_path / "a.jpg", exif=exif)
    options = sized(options_of("--task", "img2img", "--img", tmp_path / "a.jpg"), 32)
    assert options.size() == (96, 64) and given(options, sample_settings(options, 32)).picture.shape == (96, 64, 3)


@pytest.mark.parametrize("steps", [1, 7, 20, 50])
def test_a_strength_leaves_the_steps_of_diffusers(steps):
    class Scheduler:
        timesteps, order = list(range(steps)), 1

    pipe = object.__new__(StableDiffusionXLImg2ImgPipeline)
    object.__setattr__(pipe, "scheduler", Scheduler)
    for strength in (0.01, 0.1, 0.29, 0.3, 0.58, 0.6, 0.75, 0.9999, 1.0):
        expected = StableDiffusionXLImg2ImgPipeline.get_timesteps(pipe, steps, strength, "cpu")[1]
        options = options_of("--sample_step", steps)
        settings = sample_settings(options, 8)
        assert len(levels(settings, sampling_sigmas(), Start(strength=strength))) - 1 == expected
        second = options_of("--sample_step", steps, "--hires_scale", 2, "--hires_strength", strength)
        assert steps_of(second, settings, 8) == steps + expected


def test_the_second_pass_is_of_its_own_size_and_steps():
    options = options_of("--hires_scale", 1.5, "--height", 64, "--width", 96, "--hires_steps", 7, "--guidance_scale", 3)
    second = larger(options, 32)
    assert second and (second.height, second.width, second.steps, second.guidance_scale) == (96, 160, 7, 3.0)
    assert second.sizes == (96, 160, 0, 0, 96, 160) and larger(options_of(), 32) is None


# -- what is refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words, message",
    [
        (("--strength", 0.5), "--strength 0.5 does nothing without --task img2img or inpaint"),
        (("--img", "a.png"), "--img a.png does nothing without"),
        (("--mask", "a.png"), "--mask a.png does nothing without --task inpaint"),
        (("--task", "img2img"), "--task img2img needs a picture: give --img"),
        (("--task", "inpaint", "--img", "a.png"), "--task inpaint needs a picture: give --mask"),
        (("--task", "img2img", "--img", "a.png", "--mask", "a.png"), "--mask a.png does nothing"),
        (("--task", "img2img", "--img", "a.png", "--mask_blur", 2), "--mask_blur 2.0 does nothing"),
        (("--resize_mode", "fill"), "--resize_mode fill does nothing"),
        (("--hires_steps", 9), "--hires_steps 9 does nothing without --hires_scale"),
        (("--hires_upscaler", "lanczos"), "--hires_upscaler lanczos does nothing"),
        (("--task", "img2img", "--img", "a.png", "--hires_scale", 2), "--hires_scale 2.0 does nothing without --task txt2img"),
        (("--task", "img2img", "--img", "a.png", "--strength", 0), "0 is too small: more than 0"),
        (("--task", "img2img", "--img", "a.png", "--strength", 1.1), "1.1 is too large: at most 1"),
        (("--hires_scale", 1), "1 is too small: more than 1"),
        (("--task", "upscale"), "upscale"),
    ],
)
def test_flags_that_cannot_act(words, message):
    with pytest.raises(UserError) as caught:
        options_of(*words)
    assert message in str(caught.value)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("given")
    photo(folder / "a.png", 64, 64)
    (folder / "broken.png").write_bytes((folder / "a.png").read_bytes()[:200])
    (folder / "words.png").write_text("no picture")
    white(folder / "black.png", 0, 0, 0, 0)
    white(folder / "thin.png", 3, 3, 5, 60, size=(64, 64))
    rng = np.random.default_rng(0)
    arrays = {
        "good": rng.standard_normal((4, 8, 8)),
        "three": rng.standard_normal((3, 4, 8, 8)),
        "large": rng.standard_normal((4, 16, 16)),
        "nan": np.full((4, 8, 8), np.nan),
        "flat": np.zeros(9),
        "words": np.array(["a"]),
        "empty": np.zeros((0, 4, 8, 8)),
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    np.save(folder / "objects.npy", np.array([{}], object), allow_pickle=True)
    (folder / "cut.npy").write_bytes((folder / "good.npy").read_bytes()[:500])
    save_file({"a": np.zeros(3, np.float32), "b": np.zeros(3, np.float32)}, folder / "two.safetensors")
    return folder


IMG = ("--task", "img2img", "--img")
FROM = ("--task", "inpaint", "--img", "a.png", "--mask")
REFUSED = {
    "no file": ((*IMG, "nowhere.png"), "--img nowhere.png is no file"),
    "a folder": ((*IMG, "."), "--img . is no file"),
    "broken": ((*IMG, "broken.png"), "broken.png is broken"),
    "words": ((*IMG, "words.png"), "words.png is not a picture that can be read"),
    "no mask": ((*FROM, "nowhere.png"), "--mask nowhere.png is no file"),
    "broken mask": ((*FROM, "broken.png"), "the mask broken.png is broken"),
    "black mask": ((*FROM, "black.png"), "--mask black.png is black everywhere, so nothing"),
    "thin mask": ((*FROM, "thin.png"), "or thinner than 8 pixels everywhere"),
    "no step": ((*IMG, "a.png", "--strength", "0.05"), "--strength 0.05 of 10 steps is less than one: give at least 0.1"),
    "no second step": (("--hires_scale", "2", "--hires_strength", "0.04"), "--hires_strength 0.04 of 10 steps"),
    "too large": (("--hires_scale", "8", "--height", "1024"), "--hires_scale 8 makes pictures of 512 x 8192 pixels"),
    "no noise": (("--init_latent_path", "nowhere.npy"), "cannot be read (No such file or directory)"),
    "objects": (("--init_latent_path", "objects.npy"), "it is no .npy file with numbers"),
    "cut": (("--init_latent_path", "cut.npy"), "it is no .npy file with numbers"),
    "text": (("--init_latent_path", "words.npy"), "is no array of numbers"),
    "picture": (("--init_latent_path", "a.png"), "it is no .npy file with numbers"),
    "other shape": (
        ("--init_latent_path", "large.npy"),
        "has the shape (4, 16, 16), but pictures of 64 x 64 pixels begin with",
    ),
    "flat": (("--init_latent_path", "flat.npy"), "has the shape (9,)"),
    "none": (("--init_latent_path", "empty.npy"), "has the shape (0, 4, 8, 8)"),
    "nan": (("--init_latent_path", "nan.npy"), "NaN or infinite"),
    "number": (("--init_latent_path", "three.npy", "--num_cols", "2"), "is for 3 pictures, but 2 are asked for"),
    "two tensors": (("--init_latent_path", "two.safetensors"), "holds 2 tensors"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_files_that_cannot_be_used(files, monkeypatch, case):
    monkeypatch.chdir(files)
    words, message = REFUSED[case]
    size = () if "--height" in words else ("--height", 64)
    with pytest.raises(UserError) as caught:
        options = sized(options_of("--sample_step", 10, "--width", 64, *size, *words), 8)
        require_given(options, sample_settings(options, 8), tiny.model())
    assert message in str(caught.value)


def test_what_is_odd_is_said(files, monkeypatch, project_log, tmp_path):
    monkeypatch.chdir(files)
    white(tmp_path / "all.png", 0, 0, 64, 64, size=(64, 64))
    np.save(tmp_path / "weak.npy", np.full((4, 8, 8), 0.1))
    for words, message in (
        ((*FROM, tmp_path / "all.png"), "is white everywhere: all of --img is painted anew"),
        (("--init_latent_path", tmp_path / "weak.npy"), "noise has 1: is it a latent without noise?"),
    ):
        options = options_of("--height", 64, "--width", 64, *words)
        require_given(options, sample_settings(options, 8), tiny.model())
        assert message in project_log.text


IN_CHANNELS = "model.params.network_config.params.in_channels"


def test_an_inpainting_unet_is_for_inpainting(run, tmp_path):
    nine = [f"{IN_CHANNELS}=9"]
    assert load_config(str(tiny.INFERENCE), nine, training=False, inpainting=True).model.unet.in_channels == 9
    for training, path in ((False, tiny.INFERENCE), (True, tiny.TRAINING)):
        with pytest.raises(UserError, match="in_channels 9 is of an inpainting UNet, which only --task inpaint"):
            load_config(str(path), nine, training=training)
    with pytest.raises(UserError, match="in_channels 8, out_channels 4 and embed_dim 4 must be equal"):
        load_config(str(tiny.INFERENCE), [f"{IN_CHANNELS}=8"], training=False, inpainting=True)
    full = load_config(str(tiny.ROOT / "configs/inference/sd_xl_inpaint.yaml"), training=False, inpainting=True)
    assert full.model.unet.in_channels == 9 and full.model.unet.model_channels == 320
    status, errors = run(
        sampling, "--config", tiny.INFERENCE, "--set", nine[0], "--device_target", "CPU", "--save_path", tmp_path
    )
    assert status == 2 and "which only --task inpaint" in errors


def test_the_larger_size_must_fit_as_well(run, tiny_weights, tmp_path, monkeypatch):
    from gm import memory

    monkeypatch.setattr(memory, "available", lambda machine: 10**9)
    words = ("--config", tiny.INFERENCE, "--weight", tiny_weights, "--device_target", "CPU", "--save_path", tmp_path / "a")
    status, errors = run(sampling, *words, "--height", 512, "--width", 512, "--hires_scale", 4)
    assert status == 2 and "pictures of 2048 x 2048 pixels, take at least" in errors and not (tmp_path / "a").exists()


def test_names_of_the_weights_of_an_inpainting_unet(tiny_weights, tmp_path):
    """Official names with another first convolution; others are refused by name."""
    from gm.models.sdxl import expected_shapes

    model = load_config(str(tiny.INFERENCE), [f"{IN_CHANNELS}=9"], training=False, inpainting=True).model
    assert expected_shapes(model)[0]["model.diffusion_model.input_blocks.0.0.weight"] == (32, 9, 3, 3)
    with pytest.raises(UserError, match="input_blocks.0.0.weight"):
        open_base(tiny_weights).check(expected_shapes(model)[0])
