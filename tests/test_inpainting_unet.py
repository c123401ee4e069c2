"""The UNet of nine channels, which sees the mask and what is left of the picture: its pictures are those of diffusers' own pipeline,
to two grey levels. It is that of tests/small.py with random numbers for the five channels more."""

from types import SimpleNamespace

import numpy as np
import pytest
from diffusers import StableDiffusionXLInpaintPipeline
from PIL import Image
from safetensors.numpy import load_file, save_file

import tiny
from gm.config.load import load_config
from gm.options.sample import parse_sample
from gm.sampling.jobs import requests_of
from gm.sampling.making import Maker
from small import SMALL, UNET
from test_same_seed import NEGATIVE, PROMPT, SCALE, SEED, STEPS, WAYS, Both, grey_levels

pytestmark = pytest.mark.xdist_group("same_seed")
FIRST = "model.diffusion_model.input_blocks.0.0.weight"
PIXELS = 64


@pytest.fixture(scope="module")
def model(small, tmp_path_factory) -> Both:
    folder = tmp_path_factory.mktemp("nine")
    arrays = load_file(small.weights)
    more = np.random.default_rng(0).standard_normal((arrays[FIRST].shape[0], 5, 3, 3)).astype(np.float32)
    arrays[FIRST] = np.concatenate((arrays[FIRST], 0.2 * more), 1)
    save_file(arrays, folder / "nine.safetensors")
    nine = load_config(str(tiny.INFERENCE), [*SMALL[1::2], f"{UNET}.in_channels=9"], training=False, inpainting=True)
    (folder / "nine.yaml").write_text(nine.raw)
    return Both(folder / "nine.yaml", folder / "nine.safetensors", PIXELS)


@pytest.mark.parametrize("way, strength", [("Euler a", 1.0), ("Euler a", 0.7)])
def test_pictures_are_those_of_diffusers(model, tmp_path, way, strength):
    """As the command makes them, but for the blurred edge, which diffusers' pipeline does not have."""
    sampler, schedule, scheduler = WAYS[way]
    y, x = np.mgrid[:PIXELS, :PIXELS]
    picture = np.stack([4 * y, 4 * x, 128 + 100 * np.sin(x / 5)], -1).astype(np.uint8)
    mask = np.zeros((PIXELS, PIXELS), np.uint8)
    mask[16:48, 20:] = 255
    Image.fromarray(picture).save(tmp_path / "a.png")
    Image.fromarray(mask).save(tmp_path / "m.png")
    words = ("--task", "inpaint", "--img", tmp_path / "a.png", "--mask", tmp_path / "m.png", "--strength", strength)
    words += ("--height", PIXELS, "--width", PIXELS, "--sampler", sampler, "--discretization", schedule, "--noise", "torch")
    words += ("--sample_step", STEPS, "--guidance_scale", SCALE, "--seed", SEED)
    options = parse_sample([str(word) for word in words])
    (asked,) = requests_of(options, 8)
    text, negative = model.texts[PROMPT], model.texts[NEGATIVE]
    embedded = SimpleNamespace(pictures=model.pictures, embedder=None, texts_of=lambda *_: ([text], [negative]))
    maker = Maker(embedded, 8)
    latents = model.pictures.latents(text, negative, asked.settings, [SEED], "nine", maker.start([asked]))
    (ours,) = model.pictures.decoded(latents)
    more = {"image": Image.fromarray(picture), "mask_image": Image.fromarray(mask), "strength": strength}
    theirs = model.theirs(scheduler, kind=StableDiffusionXLInpaintPipeline, **more, height=PIXELS, width=PIXELS)
    assert grey_levels(ours, theirs) <= 2
    (whole,) = maker([asked], "nine")
    assert np.array_equal(whole[:, :9], picture[:, :9])
    assert grey_levels(whole[28:36, 32:], ours[28:36, 32:]) <= 1, "far within the mask it is what was painted"
