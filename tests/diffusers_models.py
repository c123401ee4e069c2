"""diffusers' and transformers' own models in the sizes of a ModelConfig, and their folder made from our weights."""

from pathlib import Path
from typing import Mapping

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from gm.checkpoint.diffusers_rules import official_to_diffusers
from gm.checkpoint.rules import native_to_official
from gm.checkpoint.weights import open_base
from gm.config.types import ModelConfig


def models(model: ModelConfig, device: str = "cpu") -> dict[str, torch.nn.Module]:
    """folder name -> the model, with random weights (none at all on the device "meta")."""
    with torch.device(device):
        return {"unet": unet(model), "vae": vae(model), **text_encoders(model)}


def unet(model: ModelConfig) -> UNet2DConditionModel:
    config = model.unet
    levels = range(len(config.channel_mult))
    widths = tuple(mult * config.model_channels for mult in config.channel_mult)
    has_attention = [2**level in config.attention_resolutions for level in levels]
    return UNet2DConditionModel(
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        down_block_types=tuple("CrossAttnDownBlock2D" if has else "DownBlock2D" for has in has_attention),
        up_block_types=tuple("CrossAttnUpBlock2D" if has else "UpBlock2D" for has in reversed(has_attention)),
        block_out_channels=widths,
        layers_per_block=config.num_res_blocks,
        cross_attention_dim=config.context_dim,
        transformer_layers_per_block=config.transformer_depth,
        attention_head_dim=tuple(width // config.num_head_channels for width in widths),  # a number of heads
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=model.size_embed_dim,
        projection_class_embeddings_input_dim=config.adm_in_channels,
    )


def vae(model: ModelConfig) -> AutoencoderKL:
    config = model.vae
    levels = len(config.ch_mult)
    return AutoencoderKL(
        block_out_channels=tuple(mult * config.ch for mult in config.ch_mult),
        layers_per_block=config.num_res_blocks,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        latent_channels=config.z_channels,
    )


def text_encoders(model: ModelConfig) -> dict[str, torch.nn.Module]:
    made = {}
    kinds = {"clip": ("text_encoder", CLIPTextModel), "open_clip": ("text_encoder_2", CLIPTextModelWithProjection)}
    for config, (name, kind) in ((config, kinds[config.kind]) for config in model.text_encoders):
        sizes = CLIPTextConfig(
            hidden_size=config.width,
            intermediate_size=4 * config.width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            vocab_size=49408,
            projection_dim=config.embed_dim or config.width,
            hidden_act="quick_gelu" if config.kind == "clip" else "gelu",
        )
        made[name] = kind(sizes)
    return made


def tensors(weights: Path, shapes: Mapping[str, tuple]) -> dict[str, dict[str, np.ndarray]]:
    """folder name -> name in diffusers' file -> array, of the base weights in `weights` with these native names."""
    base = open_base(weights)
    native = {native_to_official(name): name for name in shapes}
    result: dict[str, dict[str, np.ndarray]] = {}
    for official, (part, name) in official_to_diffusers(native).items():
        array = base.read(native[official])
        if name == "text_projection.weight":
            array = array.T
        elif ".mid_block.attentions." in name and array.ndim == 4:
            array = array[:, :, 0, 0]
        result.setdefault(part, {})[name] = np.ascontiguousarray(array)
    return result


def fill(module: torch.nn.Module, arrays: Mapping[str, np.ndarray]) -> torch.nn.Module:
    """Load arrays under the names of transformers before 5.6 or of this version, every one of them."""
    names = module.state_dict()
    own = {name if name in names else name.removeprefix("text_model."): array for name, array in arrays.items()}
    module.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in own.items()}, strict=True)
    return module
