"""diffusers' own StableDiffusionXLPipeline of the tiny model, what its networks make of the golden inputs, and the LoRA files
that its training scripts write."""

from pathlib import Path

import numpy as np
import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline
from diffusers.training_utils import _collate_lora_metadata
from diffusers.utils import convert_state_dict_to_diffusers, convert_state_dict_to_kohya
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

import diffusers_models
import tiny

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
def outputs(pipe, golden) -> dict[str, np.ndarray]:
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


@torch.no_grad()
def latents(pipe, golden) -> np.ndarray:
    """The latent (1, 4, h, w) of the first golden prompt after 10 Euler steps, guidance 5, from `sample.x_T`.

    diffusers multiplies what it is given by its own first noise level."""
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


def saved_by_diffusers(pipe, folder, spelling):
    """Adapters of PEFT with random matrices on the pipeline, saved as diffusers' training scripts do.

    Where the file does not say alpha it is the rank.
    """
    alpha = {"PEFT with settings": 6, "kohya": 5}.get(spelling, 3)
    attention = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out"]
    pattern = {"rank_pattern": {"proj_in": 2}, "alpha_pattern": {"proj_in": 1}} if spelling == "PEFT with settings" else {}
    pipe.unet.add_adapter(LoraConfig(r=3, lora_alpha=alpha, target_modules=attention, **pattern))
    networks = {"unet": pipe.unet, "text_encoder": pipe.text_encoder, "text_encoder_2": pipe.text_encoder_2}
    for encoder in (pipe.text_encoder, pipe.text_encoder_2):
        encoder.add_adapter(
            LoraConfig(r=3, lora_alpha=alpha, target_modules=["q_proj", "k_proj", "v_proj", "out_proj", "fc1"])
        )
    generator = torch.Generator().manual_seed(5)
    for network in networks.values():
        for name, parameter in network.named_parameters():
            if ".lora_" in name:
                size = parameter.shape[1] ** -0.5 if ".lora_A." in name else 0.3
                parameter.data = size * torch.randn(parameter.shape, generator=generator)
    states = {name: get_peft_model_state_dict(network) for name, network in networks.items()}
    if spelling == "kohya":
        tensors = convert_state_dict_to_kohya(
            {f"{part}.{name}": t for part, state in states.items() for name, t in state.items()}
        )
        tensors = {name: torch.tensor(float(alpha)) if name.endswith(".alpha") else t for name, t in tensors.items()}
        save_file(tensors, folder / "kohya.safetensors")
        return folder / "kohya.safetensors"
    if spelling == "script":
        states = {name: convert_state_dict_to_diffusers(state) for name, state in states.items()}
    about = _collate_lora_metadata(networks) if spelling == "PEFT with settings" else {}
    StableDiffusionXLPipeline.save_lora_weights(
        folder,
        unet_lora_layers=states["unet"],
        text_encoder_lora_layers=states["text_encoder"],
        text_encoder_2_lora_layers=states["text_encoder_2"],
        **about,
    )
    return folder / "pytorch_lora_weights.safetensors"


def lora_layers(pipe):
    networks = (pipe.unet, pipe.text_encoder, pipe.text_encoder_2)
    return [layer for network in networks for layer in network.modules() if isinstance(layer, LoraLayer)]


def adapted_layer(dora: bool, is_convolution: bool):
    """One layer of PEFT with LoRA of rank 3 and alpha 6 after some training: its output, our names of its parameters -> values,
    those of LoRA -> gradients of sum(weights * output), the input and the weights."""
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(10, 7, 3, stride=2, padding=1) if is_convolution else torch.nn.Linear(10, 7)
    whole = get_peft_model(torch.nn.Sequential(layer), LoraConfig(r=3, lora_alpha=6, target_modules=["0"], use_dora=dora))
    lora = whole.base_model.model[0]
    matrices = {"lora_A.weight": lora.lora_A["default"].weight, "lora_B.weight": lora.lora_B["default"].weight}
    matrices["lora_B.weight"].data.normal_(0, 0.3)
    if dora:
        matrices["lora_magnitude_vector.weight"] = lora.lora_magnitude_vector["default"].weight
        matrices["lora_magnitude_vector.weight"].data *= torch.rand(matrices["lora_magnitude_vector.weight"].shape) + 0.5
    x = torch.randn((2, 10, 6, 6) if is_convolution else (2, 5, 10))
    output = whole(x)
    weights = torch.randn(output.shape)
    (output * weights).sum().backward()
    shape = {"lora_magnitude_vector.weight": (-1,)}
    values = {name: m.detach().numpy().reshape(shape.get(name, m.shape)) for name, m in matrices.items()}
    values |= {"weight": layer.weight.detach().numpy(), "bias": layer.bias.detach().numpy()}
    gradients = {name: m.grad.numpy().reshape(shape.get(name, m.shape)) for name, m in matrices.items()}
    return output.detach().numpy(), values, gradients, x.numpy(), weights.numpy()
