"""The values of the LoRA sections of a YAML -> LoraConfig of each network."""

from dataclasses import replace
from typing import Any, Mapping

from gm.config.types import LoraConfig
from gm.errors import UserError


def read_lora(params: Mapping[str, Any], path: str) -> dict[str, LoraConfig]:
    """The LoRA of every network that has one."""
    clip, open_clip = params["conditioner_config"]["params"]["emb_models"][:2]
    given = {
        "unet": params["network_config"]["params"],
        "text_encoder_1": clip["params"],
        "text_encoder_2": open_clip["params"],
    }
    found = {network: _one_lora(p, path) for network, p in given.items() if "lora_dim" in p}
    if len({replace(lora, dropout=0.0) for lora in found.values()}) > 1:
        raise UserError(
            f"--config {path}: the LoRA of the UNet and of the text encoders go into one file: give all the same lora_dim, "
            "lora_alpha, lora_merge_weights and only_save_lora"
        )
    return found


def _one_lora(params: Mapping[str, Any], path: str) -> LoraConfig:
    alpha = params["lora_alpha"] if params["lora_alpha"] is not None else float(params["lora_dim"])
    if alpha <= 0:
        raise UserError(f"--config {path}: lora_alpha is {alpha:g}, but must be above 0, else the LoRA does nothing")
    if params["lora_dropout"] >= 1:
        raise UserError(f"--config {path}: lora_dropout is {params['lora_dropout']:g}, but must be below 1")
    return LoraConfig(
        rank=params["lora_dim"],
        alpha=alpha,
        dropout=params["lora_dropout"],
        merge_weights=params["lora_merge_weights"],
        only_save_lora=params["only_save_lora"],
    )
