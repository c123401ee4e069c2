"""What importers share: LoRA, weighting of the loss, noise, sizes, as entries of this suite's YAML."""

from dataclasses import dataclass
from typing import Any, Optional, Sequence

from gm.config import table as t
from gm.recipes.draft import DATASET, DENOISER, EMBEDDERS, LOSS, MODULES, UNET, Draft

TEXT_ENCODERS = ("text_encoder_1", "text_encoder_2")
_TARGETS = {"text_encoder_1": t.CLIP_LORA, "text_encoder_2": t.OPEN_CLIP_LORA}
_SHARED = ("lora_dim", "lora_alpha", "lora_kind", "lora_rslora", "lora_neuron_dropout", "lora_dropout")
_SHARED += ("lora_rank_dropout", "lora_module_dropout")


@dataclass(frozen=True)
class Lora:
    """What is trained, in this suite's words; None or 0: not said."""

    rank: int
    alpha: float
    targets: Any = "attention"  # or linear, all, or a list of patterns of modules
    conv_rank: Optional[int] = None
    conv_alpha: Optional[float] = None
    kind: str = "lora"  # or dora
    rslora: bool = False
    dropout: float = 0.0  # of the inputs of A, PEFT's
    neuron_dropout: float = 0.0  # of the outputs of A, sd-scripts'
    rank_dropout: float = 0.0
    module_dropout: float = 0.0
    text_targets: Any = None  # of the text encoders; None: `targets`, where "all" is "linear"


def put_lora(draft: Draft, lora: Lora, networks: Sequence[str] = ("unet",)) -> None:
    """LoRA in the UNet, and in those of `networks` that are text encoders."""
    params = {
        "lora_dim": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_targets": lora.targets,
        "lora_conv_dim": lora.conv_rank,
        "lora_conv_alpha": lora.conv_alpha,
        "lora_kind": None if lora.kind == "lora" else lora.kind,
        "lora_rslora": lora.rslora or None,
        "lora_dropout": lora.dropout or None,
        "lora_neuron_dropout": lora.neuron_dropout or None,
        "lora_rank_dropout": lora.rank_dropout or None,
        "lora_module_dropout": lora.module_dropout or None,
    }
    said = {key: value for key, value in params.items() if value is not None}
    for key, value in said.items():
        draft.put(UNET + key, value)
    of_text = {key: value for key, value in said.items() if key in _SHARED}
    of_text["lora_targets"] = lora.text_targets or ("linear" if lora.targets == "all" else lora.targets)
    for number, network in enumerate(TEXT_ENCODERS):
        if network in networks:
            draft.put(EMBEDDERS + str(number), {"is_trainable": True, "target": _TARGETS[network], "params": dict(of_text)})


def put_rates(draft: Draft, unet: float, text_encoders: Sequence[Optional[float]] = (None, None)) -> None:
    """The UNet's rate, and those of the text encoders that have one of their own."""
    draft.put("optim.base_learning_rate", unet)
    for network, rate in zip(TEXT_ENCODERS, text_encoders):
        if rate is not None and rate != unet:
            draft.put(f"optim.rates.{network}", rate)


def put_weighting(draft: Draft, name: str, gamma: Optional[float] = None) -> str:
    """How much each noise level counts: a name of gm/diffusion/weighting.py. Returns it in words."""
    draft.target(
        DENOISER + "weighting_config", f"{MODULES}denoiser_weighting.{name}", {} if gamma is None else {"gamma": gamma}
    )
    return f"weighting_config: {name}" + ("" if gamma is None else f", gamma: {gamma:g}")


def put_prediction(draft: Draft, v: bool, zero_terminal_snr: bool) -> str:
    """What the UNet predicts, in words."""
    scaling = t.V_SCALING if v else t.EPS_SCALING
    draft.put(DENOISER + "scaling_config", {"target": scaling})
    if zero_terminal_snr and v:
        draft.put(DENOISER + "discretization_config.params.zero_terminal_snr", True)
    return f"scaling_config: {scaling.rpartition('.')[2]}" + (", zero_terminal_snr: True" if zero_terminal_snr and v else "")


def put_loss(draft: Draft, key: str, value: Any) -> str:
    """An entry of loss_fn_config.params, in words."""
    draft.put(LOSS + key, value)
    return f"loss_fn_config: {key}: {value}"


def put_caption(draft: Draft, key: str, value: Any) -> str:
    """An entry of the captions, in words."""
    draft.put(f"{DATASET}captions.{key}", value)
    return f"captions: {key}: {value}"


def put_size(draft: Draft, size: int) -> None:
    """Pixels of a side."""
    draft.put(DATASET + "target_size", size)
