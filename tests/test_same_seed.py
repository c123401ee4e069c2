"""The picture of a seed is diffusers': its own pipelines beside ours on the same weights, to two grey levels.

The tiny golden model, whose pictures are of noise, and the small one that comes with the project, which has learned to draw.
Text is embedded once, by transformers' encoders, for both.
"""

from dataclasses import replace

import mindspore as ms
import numpy as np
import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    StableDiffusionXLPipeline,
)

import diffusers_models
import tiny
from gm.checkpoint.weights import open_base
from gm.config.load import load_config
from gm.config.types import SampleSettings
from gm.encoding.text import TextEmbedding, unconditional
from gm.models import sdxl
from gm.models.conditioner import tokenize
from gm.sampling.pictures import PictureSampler

pytestmark = pytest.mark.xdist_group("same_seed")
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
LEADING = {**BETAS, "timestep_spacing": "leading", "steps_offset": 1}  # the scheduler of SDXL's own repository
SEED = 2**32 + 5
PROMPT, NEGATIVE = "a red dog with stripes", "blue"
SMALL = tiny.ROOT / "configs/inference/small_sdxl.yaml", tiny.ROOT / "checkpoints/small_sdxl.safetensors", 64
STEPS, SCALE = 8, 5.0


class Both:
    """One model here and in diffusers."""

    def __init__(self, config, weights, pixels: int):
        ms.set_device("CPU")
        ms.set_context(mode=ms.GRAPH_MODE)
        self.model, self.pixels = load_config(str(config), training=False).model, pixels
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

    def ours(self, seed: int, negative: bool = True, **settings) -> np.ndarray:
        """The picture with --noise torch."""
        how = replace(SampleSettings.square(self.pixels, STEPS), guidance_scale=SCALE, **{"noise": "torch", **settings})
        text = self.texts[PROMPT]
        other = self.texts[NEGATIVE] if negative else unconditional(text)
        return self.pictures(text, other, how, [seed], "same seed")[0]

    def theirs(self, scheduler, seed: int, negative: bool = True, kind=StableDiffusionXLPipeline, **more) -> np.ndarray:
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
    return Both(tiny.INFERENCE, tiny_weights, 128)


def trailing(kind, **more):
    return kind(**BETAS, timestep_spacing="trailing", **more)


def karras(kind, **more):
    return kind(**LEADING, use_karras_sigmas=True, **more)


WAYS = {  # ours, diffusers' scheduler
    "Euler": ({"sampler": "EulerEDMSampler"}, trailing(EulerDiscreteScheduler)),
    "Euler a": ({"sampler": "EulerAncestralSampler"}, trailing(EulerAncestralDiscreteScheduler)),
    "Heun": ({"sampler": "HeunEDMSampler"}, trailing(HeunDiscreteScheduler)),
    "DPM++ 2M Karras": (
        {"sampler": "DPMPP2MSampler", "discretization": "EDMDiscretization"},
        karras(DPMSolverMultistepScheduler),
    ),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("negative", [True, False], ids=["negative prompt", "none"])
def test_pictures_are_those_of_diffusers(small, way, negative):
    settings, scheduler = WAYS[way]
    assert grey_levels(small.ours(SEED, negative, **settings), small.theirs(scheduler, SEED, negative)) <= 2


@pytest.mark.parametrize("way", WAYS)
def test_pictures_of_the_golden_model_are_those_of_diffusers(golden_model, way):
    settings, scheduler = WAYS[way]
    assert grey_levels(golden_model.ours(SEED, **settings), golden_model.theirs(scheduler, SEED)) <= 2


def test_a_seed_is_diffusers_only_where_that_is_asked_for(small):
    settings, scheduler = WAYS["Euler"]
    assert grey_levels(small.ours(SEED, noise="native"), small.theirs(scheduler, SEED)) > 50
    assert grey_levels(small.ours(SEED + 1), small.theirs(scheduler, SEED)) > 50


def test_a_picture_does_not_depend_on_its_batch(small):
    """Of an ancestral sampler, whose pictures each go on drawing from their own generator."""
    settings = replace(SampleSettings.square(64, 4), noise="torch", sampler="EulerAncestralSampler")
    text = small.texts[PROMPT]
    batch = small.pictures(text, unconditional(text), settings, [3, SEED], "batch")
    alone = small.pictures(text, unconditional(text), settings, [SEED], "alone")
    assert grey_levels(batch[1], alone[0]) <= 1
