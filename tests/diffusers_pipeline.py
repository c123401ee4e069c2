"""diffusers' own StableDiffusionXLPipeline of the tiny model, and what its networks and ours make of the golden inputs."""

from pathlib import Path

import mindspore as ms
import numpy as np
import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline
from mindspore import Tensor
from peft.tuners.lora import LoraLayer

import diffusers_models
import tiny
from gm import lora
from gm.models import sdxl

POOLED = 32  # of the vector's columns
CLIP_LAYER = 3  # hidden state that the first encoder gives


def pipeline(weights: Path, shapes) -> StableDiffusionXLPipeline:
    """Base weights of any file that ours reads, in diffusers' modules. Euler's steps are those of our discretization."""
    arrays = diffusers_models.tensors(weights, shapes)
    networks = {
        part: diffusers_models.fill(module, arrays[part]).eval()
        for part, module in diffusers_models.models(tiny.model()).items()
    }
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    scheduler = EulerDiscreteScheduler(**betas, timestep_spacing="trailing")
    pipe = StableDiffusionXLPipeline(**networks, tokenizer=None, tokenizer_2=None, scheduler=scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def attached(pipe) -> dict[str, int]:
    """Network -> number of its modules that have LoRA."""
    networks = {"unet": pipe.unet, "text_encoder": pipe.text_encoder, "text_encoder_2": pipe.text_encoder_2}
    return {name: sum(isinstance(m, LoraLayer) and bool(m.lora_A) for m in net.modules()) for name, net in networks.items()}


@torch.no_grad()
def their_outputs(pipe, golden) -> dict[str, np.ndarray]:
    """UNet output for the golden context and vector, and what the text encoders make of the golden tokens."""
    given = {name: torch.from_numpy(golden[name].astype(np.float32)) for name in ("unet.x", "unet.timesteps", "cond.context")}
    added = {
        "text_embeds": torch.from_numpy(golden["cond.vector"][:, :POOLED].copy()),
        "time_ids": torch.from_numpy(tiny.sizes(golden)),
    }
    noise = pipe.unet(
        given["unet.x"], given["unet.timesteps"], encoder_hidden_states=given["cond.context"], added_cond_kwargs=added
    ).sample
    tokens = [torch.from_numpy(golden[f"cond.tokens_{letter}"].astype(np.int64)) for letter in "lg"]
    first = pipe.text_encoder(tokens[0], output_hidden_states=True).hidden_states[CLIP_LAYER]
    second = pipe.text_encoder_2(tokens[1], output_hidden_states=True)
    context = torch.cat((first, second.hidden_states[-2]), -1)
    return {"unet": noise.numpy(), "context": context.numpy(), "pooled": second.text_embeds.numpy()}


class OurNetworks:
    """Our UNet and text encoders, compiled once and filled anew for each LoRA, which is merged."""

    def __init__(self, base):
        ms.set_device("CPU")
        ms.set_context(mode=ms.GRAPH_MODE)
        self.base, self.unet, self.text = base, sdxl.build_unet(tiny.model()), sdxl.build_text_encoders(tiny.model())

    def fill(self, files, scales) -> None:
        sdxl.fill([self.unet, self.text], lora.merged(self.base.read, lora.LoraStack(files, scales)))

    def outputs(self, golden, files=(), scales=()) -> dict[str, np.ndarray]:
        self.fill(files, scales)
        context, pooled = self.text(*(Tensor(golden[f"cond.tokens_{letter}"].astype(np.int32)) for letter in "lg"))
        return {"unet": unet_output(self.unet, golden), "context": context.asnumpy(), "pooled": pooled.asnumpy()}


def unet_output(unet, golden) -> np.ndarray:
    names = ("unet.x", "unet.timesteps", "cond.context", "cond.vector")
    return unet(*(Tensor(golden[name].astype(np.float32)) for name in names)).asnumpy()


def largest_error(given: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> float:
    assert set(given) == set(expected)
    return max(tiny.relative_error(given[name], expected[name]) for name in expected)
