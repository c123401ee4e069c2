"""The tiny refiner: its configuration, weights and the same in diffusers' modules."""

from pathlib import Path

import numpy as np
import pytest
import torch

import diffusers_models
import tiny
from gm.config.load import load_config
from gm.encoding.text import TextEmbedding
from gm.models import sdxl
from gm.models.conditioner import tokenize
from tools import make_random_checkpoint

FULL = tiny.ROOT / "configs/inference/sd_xl_refiner.yaml"
TINY = tiny.ROOT / "configs/inference/tiny_sdxl_refiner.yaml"
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "timestep_spacing": "trailing"}
PIXELS, STEPS, SCALE, SEED = 64, 4, 5.0, 7
DENOISER = "model.params.denoiser_config.params"
V_SCALING = f"{DENOISER}.scaling_config.target=gm.modules.diffusionmodules.denoiser_scaling.VScaling"
PROMPT, NEGATIVE = "a red dog with stripes", "blue"


@pytest.fixture(scope="session")
def refiner():
    return load_config(str(TINY), training=False).model


@pytest.fixture(scope="session")
def refiner_weights(tmp_path_factory) -> Path:
    """A tiny refiner full of random numbers, in one official file."""
    path = tmp_path_factory.mktemp("refiner") / "sd_xl_refiner.safetensors"
    make_random_checkpoint.main(["--config", str(TINY), "--output", str(path), "--dtype", "float32"])
    return path


@pytest.fixture(scope="session")
def refiner_modules(refiner, refiner_weights):
    """The same in diffusers' and transformers' own modules: folder name -> module."""
    arrays = diffusers_models.tensors(refiner_weights, sdxl.expected_shapes(refiner)[0])
    return {name: diffusers_models.fill(one, arrays[name]).eval() for name, one in diffusers_models.models(refiner).items()}


@torch.no_grad()
def embedded(modules, model, prompt: str) -> TextEmbedding:
    """Of transformers' encoders, as the refiner has one or the base two."""
    ids = [torch.from_numpy(one.astype(np.int64)) for one in tokenize([prompt])]
    second = modules["text_encoder_2"](ids[1], output_hidden_states=True)
    states = [second.hidden_states[-2]]
    if "text_encoder" in modules:
        first = modules["text_encoder"](ids[0], output_hidden_states=True)
        states.insert(0, first.hidden_states[model.text_encoders[0].layer_idx])
    return TextEmbedding(torch.cat(states, -1)[0].numpy(), second.text_embeds[0].numpy())
