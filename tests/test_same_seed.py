"""The picture of a seed is diffusers': its own pipelines beside ours on the same weights, to two grey levels.

The tiny golden model, whose pictures are of noise, and the small one that comes with the project, which has learned to draw.
Text is embedded once, by transformers' encoders, for both.
"""

from dataclasses import replace

import diffusers
import mindspore as ms
import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLImg2ImgPipeline, StableDiffusionXLInpaintPipeline, StableDiffusionXLPipeline
from PIL import Image

import diffusers_models
import tiny
from gm.checkpoint.weights import open_base
from gm.config.load import load_config
from gm.config.types import SampleSettings
from gm.data.pixels import to_network
from gm.encoding.text import TextEmbedding, unconditional
from gm.models import sdxl
from gm.models.conditioner import tokenize
from gm.sampling.pictures import PictureSampler
from gm.sampling.start import Start

pytestmark = pytest.mark.xdist_group("same_seed")
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SEED = 2**32 + 5
PROMPT, NEGATIVE = "a red dog with stripes", "blue"
SMALL = tiny.ROOT / "configs/inference/small_sdxl.yaml", tiny.ROOT / "checkpoints/small_sdxl.safetensors", 64
STEPS, SCALE = 8, 5.0


class Both:
    """One model here and in diffusers."""

    def __init__(self, config, weights, pixels: int):
        ms.set_device("CPU")
        ms.set_context(mode=ms.GRAPH_MODE)
        self.model, self.pixels = load_config(str(config), training=False, inpainting=True).model, pixels
        read = open_base(weights).read
        unet, vae = sdxl.build_unet(self.model), sdxl.build_vae(self.model)
        sdxl.fill([unet, vae], read)
        self.pictures = PictureSampler(unet, vae, self.model)
        arrays = diffusers_models.tensors(weights, sdxl.expected_shapes(self.model)[0])
        modules = diffusers_models.models(self.model)
        self.modules = {name: diffusers_models.fill(one, arrays[name]).eval() for name, one in modules.items()}
        self.modules["vae"].register_to_config(scaling_factor=self.model.scale_factor)
        self.texts = {prompt: self._embedded(prompt) for prompt in (PROMPT, NEGATIVE)}

    @torch.no_grad()
    def _embedded(self, prompt: str) -> TextEmbedding:
        ids = [torch.from_numpy(one.astype(np.int64)) for one in tokenize([prompt], 75)]
        first = self.modules["text_encoder"](ids[0], output_hidden_states=True)
        second = self.modules["text_encoder_2"](ids[1], output_hidden_states=True)
        states = first.hidden_states[self.model.text_encoders[0].layer_idx], second.hidden_states[-2]
        return TextEmbedding(torch.cat(states, -1)[0].numpy(), second.text_embeds[0].numpy())

    def ours(
        self, sampler: str, schedule: str, seed: int = SEED, negative: bool = True, noise: str = "torch", start=Start()
    ) -> np.ndarray:
        """Our picture."""
        usual = SampleSettings.square(self.pixels, STEPS)
        how = replace(usual, sampler=sampler, discretization=schedule, guidance_scale=SCALE, noise=noise)
        text = self.texts[PROMPT]
        other = self.texts[NEGATIVE] if negative else unconditional(text)
        return self.pictures(text, other, how, [seed], "same seed", start)[0]

    def theirs(self, scheduler, seed: int = SEED, negative: bool = True, kind=StableDiffusionXLPipeline, **more) -> np.ndarray:
        """diffusers' picture with generator=torch.Generator("cpu").manual_seed(seed)."""
        pipe = kind(**self.modules, tokenizer=None, tokenizer_2=None, scheduler=scheduler)
        pipe.set_progress_bar_config(disable=True)
        texts = {"": self.texts[PROMPT], **({"negative_": self.texts[NEGATIVE]} if negative else {})}
        given = {f"{name}prompt_embeds": torch.from_numpy(text.context)[None] for name, text in texts.items()}
        given |= {f"{name}pooled_prompt_embeds": torch.from_numpy(text.pooled)[None] for name, text in texts.items()}
        size = {} if "image" in more else {"height": self.pixels, "width": self.pixels}
        made = pipe(
            **{**given, **size, **more, "num_inference_steps": STEPS, "guidance_scale": SCALE, "output_type": "np"},
            generator=torch.Generator("cpu").manual_seed(seed),
        )
        return np.round(255 * made.images[0]).astype(np.uint8)


def grey_levels(one: np.ndarray, other: np.ndarray) -> int:
    assert one.shape == other.shape and one.dtype == other.dtype == np.uint8
    assert one.std() > 20  # there is something to see
    return int(np.abs(one.astype(int) - other).max())


@pytest.fixture(scope="module")
def small():
    return Both(*SMALL)


@pytest.fixture(scope="module")
def golden_model(tiny_weights):
    return Both(tiny.INFERENCE, tiny_weights, 64)


def scheduler(kind: str, spacing: str = "leading", **more):
    """diffusers' own, as SDXL's repository sets it up where nothing else is said."""
    return getattr(diffusers, kind)(**BETAS, timestep_spacing=spacing, steps_offset=1, **more)


KARRAS = {"use_karras_sigmas": True}
WAYS = {  # our sampler and schedule, diffusers' scheduler
    "Euler": ("EulerEDMSampler", "Leading", scheduler("EulerDiscreteScheduler")),
    "Euler a": ("EulerAncestralSampler", "Leading", scheduler("EulerAncestralDiscreteScheduler")),
    "DPM++ 2M Karras": ("DPMPP2MSampler", "Karras", scheduler("DPMSolverMultistepScheduler", **KARRAS)),
    "DDIM": ("DDIMSampler", "Leading", scheduler("DDIMScheduler", clip_sample=False, set_alpha_to_one=False)),
}
MORE = {
    "Euler trailing": ("EulerEDMSampler", "Trailing", scheduler("EulerDiscreteScheduler", "trailing")),
    "Euler, our default": ("EulerEDMSampler", "LegacyDDPMDiscretization", scheduler("EulerDiscreteScheduler", "trailing")),
    "Heun": ("HeunEDMSampler", "Leading", scheduler("HeunDiscreteScheduler")),
    "LMS, normal": ("LinearMultistepSampler", "Normal", scheduler("LMSDiscreteScheduler", "linspace")),
    "LMS": ("LinearMultistepSampler", "Trailing", scheduler("LMSDiscreteScheduler", "trailing")),
    "UniPC Karras": ("UniPCSampler", "Karras", scheduler("UniPCMultistepScheduler", **KARRAS)),
    "DPM++ 2M SDE Karras": (
        "DPMPP2MSDESampler",
        "Karras",
        scheduler("DPMSolverMultistepScheduler", algorithm_type="sde-dpmsolver++", **KARRAS),
    ),
    "LCM": ("LCMSampler", "LCM", scheduler("LCMScheduler")),
    "TCD": ("TCDSampler", "LCM", scheduler("TCDScheduler")),
}
ETA = {"TCD": {"eta": 0.3}}  # what the pipeline is called with beside


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("negative", [True, False], ids=["negative prompt", "none"])
def test_pictures_are_those_of_diffusers(small, way, negative):
    sampler, schedule, other = WAYS[way]
    assert grey_levels(small.ours(sampler, schedule, SEED, negative), small.theirs(other, SEED, negative)) <= 2


@pytest.mark.parametrize("way", MORE)
def test_other_samplers_as_well(small, way):
    sampler, schedule, other = MORE[way]
    assert grey_levels(small.ours(sampler, schedule), small.theirs(other, **ETA.get(way, {}))) <= 2


@pytest.mark.parametrize("way", WAYS)
def test_pictures_of_the_golden_model_are_those_of_diffusers(golden_model, way):
    sampler, schedule, other = WAYS[way]
    assert grey_levels(golden_model.ours(sampler, schedule), golden_model.theirs(other)) <= 2


def test_a_seed_is_diffusers_only_where_that_is_asked_for(small):
    sampler, schedule, other = WAYS["Euler"]
    expected = small.theirs(other)
    assert grey_levels(small.ours(sampler, schedule, noise="native"), expected) > 50
    assert grey_levels(small.ours(sampler, schedule, SEED + 1), expected) > 50


def test_a_picture_does_not_depend_on_its_batch(small):
    """Of an ancestral sampler, whose pictures each go on drawing from their own generator."""
    settings = replace(SampleSettings.square(64, 4), noise="torch", sampler="EulerAncestralSampler")
    text = small.texts[PROMPT]
    batch = small.pictures(text, unconditional(text), settings, [3, SEED], "batch")
    alone = small.pictures(text, unconditional(text), settings, [SEED], "alone")
    assert grey_levels(batch[1], alone[0]) <= 1


def given(model: Both) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A picture to begin with, and the mean and spread of its latent."""
    picture = model.ours("EulerEDMSampler", "Trailing", 4)
    return picture, *model.pictures.encoded(to_network(picture))


@pytest.mark.parametrize("way, strength", [*((way, 0.7) for way in WAYS), ("Euler", 1.0)])
def test_a_picture_from_a_picture(small, way, strength):
    """diffusers draws for the encoder first, then the noise, then the steps."""
    sampler, schedule, other = WAYS[way]
    picture, mean, spread = given(small)
    ours = small.ours(sampler, schedule, start=Start(latent=mean, spread=spread, strength=strength))
    more = {"image": Image.fromarray(picture), "strength": strength}
    assert grey_levels(ours, small.theirs(other, kind=StableDiffusionXLImg2ImgPipeline, **more)) <= 2


@pytest.mark.parametrize("strength", [0.7, 1.0])
def test_a_part_painted_anew(golden_model, strength):
    """By an ancestral sampler: what diffusers draws for the masked picture as well comes before the steps."""
    sampler, schedule, other = WAYS["Euler a"]
    picture, mean, spread = given(golden_model)
    mask = np.zeros((64, 64), np.uint8)
    mask[16:48, 24:] = 255
    on_latent = (mask[::8, ::8] / np.float32(255))[None, None]
    ours = golden_model.ours(sampler, schedule, start=Start(latent=mean, spread=spread, strength=strength, mask=on_latent))
    more = {"image": Image.fromarray(picture), "mask_image": Image.fromarray(mask), "strength": strength}
    expected = golden_model.theirs(other, kind=StableDiffusionXLInpaintPipeline, **more, height=64, width=64)
    assert grey_levels(ours, expected) <= 2
