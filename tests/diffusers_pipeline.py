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
from gm.checkpoint.lora_stack import LoraStack, merged
from gm.config.types import SampleSettings
from gm.encoding.text import TextEmbedding, unconditional
from gm.models import sdxl
from gm.sampling.pictures import LatentSampler

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
        self.sampler = LatentSampler(self.unet, tiny.model())

    def fill(self, files, scales) -> None:
        sdxl.fill([self.unet, self.text], merged(self.base.read, LoraStack(files, scales)))

    def outputs(self, golden, files=(), scales=()) -> dict[str, np.ndarray]:
        self.fill(files, scales)
        context, pooled = self.text(*tokens(golden))
        return {"unet": unet_output(self.unet, golden), "context": context.asnumpy(), "pooled": pooled.asnumpy()}


def tokens(golden) -> list[Tensor]:
    return [Tensor(golden[f"cond.tokens_{letter}"].astype(np.int32)) for letter in "lg"]


def unet_output(unet, golden) -> np.ndarray:
    names = ("unet.x", "unet.timesteps", "cond.context", "cond.vector")
    return unet(*(Tensor(golden[name].astype(np.float32)) for name in names)).asnumpy()


def largest_error(given: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> float:
    assert set(given) == set(expected)
    return max(tiny.relative_error(given[name], expected[name]) for name in expected)


def our_latents(ours: OurNetworks, golden) -> np.ndarray:
    """The latent (1, 4, h, w) of the first golden prompt after 10 Euler steps, guidance 5, from `sample.x_T`."""
    context, pooled = (array.asnumpy()[0] for array in ours.text(*tokens(golden)))
    settings = SampleSettings(128, 128, tuple(int(n) for n in tiny.sizes(golden)[0]), steps=10)
    text = TextEmbedding(context, pooled)
    return ours.sampler(text, unconditional(text), settings, golden["sample.x_T"], None, "ours")


@torch.no_grad()
def their_latents(pipe, golden) -> np.ndarray:
    """The same by diffusers, which multiplies what it is given by its own first noise level."""
    ids = [torch.from_numpy(golden[f"cond.tokens_{letter}"][:1].astype(np.int64)) for letter in "lg"]
    second = pipe.text_encoder_2(ids[1], output_hidden_states=True)
    first = pipe.text_encoder(ids[0], output_hidden_states=True).hidden_states[CLIP_LAYER]
    context = torch.cat((first, second.hidden_states[-2]), -1)
    pipe.scheduler.set_timesteps(10)
    sigma = float(pipe.scheduler.sigmas[0])
    start = torch.from_numpy(golden["sample.x_T"]) * (sigma**2 + 1) ** 0.5 / float(pipe.scheduler.init_noise_sigma)
    result = pipe(
        **{"height": 128, "width": 128, "num_inference_steps": 10, "guidance_scale": 5.0, "output_type": "latent"},
        prompt_embeds=context,
        pooled_prompt_embeds=second.text_embeds,
        negative_prompt_embeds=torch.zeros_like(context),
        negative_pooled_prompt_embeds=torch.zeros_like(second.text_embeds),
        latents=start,
    )
    return result.images.numpy()
