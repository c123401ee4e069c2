"""The values of the LoRA sections of a YAML -> LoraConfig of each network.

Whether a pattern matches a module of the network is seen where the adapters are made (gm/models/adapters.py).
"""

from typing import Any, Mapping

from gm.config import table as t
from gm.config.types import LoraConfig, LoraPart
from gm.errors import UserError

TARGETS = ("attention", "linear", "all")
_DROPOUTS = ("lora_dropout", "lora_neuron_dropout", "lora_rank_dropout", "lora_module_dropout")


def read_lora(params: Mapping[str, Any], path: str) -> dict[str, LoraConfig]:
    """The LoRA of every network that has one."""
    embedders = params["conditioner_config"]["params"]["emb_models"]
    names = {**dict.fromkeys(t.CLIPS, "text_encoder_1"), **dict.fromkeys(t.OPEN_CLIPS, "text_encoder_2")}
    given = {"unet": params["network_config"]["params"]}
    given |= {names[embedder["target"]]: embedder["params"] for embedder in embedders if embedder["target"] in names}
    found = {network: _one_lora(p, network, path) for network, p in given.items() if "lora_dim" in p}
    if len({(lora.merge_weights, lora.only_save_lora) for lora in found.values()}) > 1:
        raise UserError(
            f"--config {path}: the LoRA of the UNet and of the text encoders go into one file: give all the same "
            "lora_merge_weights and only_save_lora"
        )
    return found


def _one_lora(params: Mapping[str, Any], network: str, path: str) -> LoraConfig:
    def require(holds: bool, message: str) -> None:
        if not holds:
            raise UserError(f"--config {path}: {message}")

    alpha = params["lora_alpha"] if params["lora_alpha"] is not None else float(params["lora_dim"])
    require(alpha > 0, f"lora_alpha is {alpha:g}, but must be above 0, else the LoRA does nothing")
    for key in _DROPOUTS:
        require(params[key] < 1, f"{key} is {params[key]:g}, but must be below 1")
    targets = params["lora_targets"]
    require(
        isinstance(targets, list) or targets in TARGETS,
        f"lora_targets is {targets!r}, but must be {', '.join(TARGETS)}, or a list of patterns of module names",
    )
    for key in ("lora_conv_dim", "lora_conv_alpha"):
        value = params[key]
        require(
            value is None or network == "unet" and targets not in ("attention", "linear"),
            f"{key} is {value}, but this LoRA goes into no convolution: it is for a UNet with lora_targets: all",
        )
    require(
        params["lora_conv_alpha"] is None or params["lora_conv_alpha"] > 0,
        "lora_conv_alpha is 0, but must be above 0, else the LoRA does nothing",
    )
    parts = []
    for part in params["lora_parts"] or ():
        where = f"the item {part['pattern']!r} of lora_parts"
        require(part["dim"] is not None or part["alpha"] is not None, f"{where} changes nothing: give it dim, alpha or both")
        require(part["alpha"] is None or part["alpha"] > 0, f"{where} has alpha 0, but it must be above 0")
        parts.append(LoraPart(pattern=part["pattern"], rank=part["dim"], alpha=part["alpha"]))
    return LoraConfig(
        rank=params["lora_dim"],
        alpha=alpha,
        dropout=params["lora_dropout"],
        merge_weights=params["lora_merge_weights"],
        only_save_lora=params["only_save_lora"],
        targets=tuple(targets) if isinstance(targets, list) else targets,
        conv_rank=params["lora_conv_dim"],
        conv_alpha=params["lora_conv_alpha"],
        parts=tuple(parts),
        neuron_dropout=params["lora_neuron_dropout"],
        rank_dropout=params["lora_rank_dropout"],
        module_dropout=params["lora_module_dropout"],
        kind=params["lora_kind"],
        rslora=params["lora_rslora"],
    )
