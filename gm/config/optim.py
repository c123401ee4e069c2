"""The values of the `optim` section of a YAML -> OptimConfig."""

import re
from typing import Any, Mapping, Optional

from gm.config import table as t
from gm.config.types import AdafactorConfig, LoraConfig, OptimConfig, ProdigyConfig
from gm.errors import UserError

RATE = 1e-4  # where a YAML says none


def read_optim(values: Mapping[str, Any], lora: Mapping[str, LoraConfig], path: str) -> OptimConfig:
    """The optimizer and its schedule; `lora`: the networks that have one."""
    optimizer, schedule = values["optimizer_config"], values["scheduler_config"]
    optim = OptimConfig(
        base_learning_rate=RATE if values["base_learning_rate"] is None else values["base_learning_rate"],
        **_optimizer(optimizer["target"], optimizer["params"]),
        **({"schedule": _snake(schedule["target"]), **schedule["params"]} if schedule is not None else {}),
        rates={network: rate for network, rate in (values["rates"] or {}).items() if rate is not None},
        text_encoder_stop_share=values["text_encoder_stop_share"],
        lora_plus_ratio=values["lora_plus_ratio"],
        scale_weight_norms=values["scale_weight_norms"],
        ema_decay=values["ema_decay"],
    )
    scheduled = optim.schedule != "constant" or optim.warmup_steps > 0 or optim.warmup_share > 0
    given = values["base_learning_rate"] is not None or scheduled or any(rate > 0 for rate in optim.rates.values())
    for mistake in (_numbers(optim), _groups(optim, lora), _prodigy(optim, lora), _adafactor(optim, given)):
        if mistake:
            raise UserError(f"--config {path}: {mistake}")
    return optim


def trained_networks(lora: Mapping[str, LoraConfig], optim: Optional[OptimConfig]) -> dict[str, LoraConfig]:
    """`lora` without the text encoders whose rate is 0: their LoRA would change nothing. The UNet's is what a file is about."""
    rates = optim.rates if optim is not None else {}
    return {network: config for network, config in lora.items() if network == "unet" or rates.get(network) != 0}


def _snake(target: str) -> str:
    """`gm.training.optim.CosineRestarts` -> `cosine_restarts`."""
    return re.sub("(?<=[a-z])(?=[A-Z])", "_", target.rpartition(".")[2]).lower()


def _optimizer(target: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of OptimConfig that the optimizer's section says."""
    own = dict(params)
    if target == t.PRODIGY:
        more = {key: own.pop(key) for key in ProdigyConfig.__dataclass_fields__}
        return {
            "optimizer": "Prodigy",
            "bias_correction": own.pop("use_bias_correction"),
            "prodigy": ProdigyConfig(**more),
            **own,
        }
    if target == t.ADAFACTOR:
        return {"optimizer": "Adafactor", "weight_decay": own.pop("weight_decay"), "adafactor": AdafactorConfig(**own)}
    if target == t.LION:
        return {"optimizer": "Lion", **own}
    return {"bias_correction": target == t.ADAMW, **own}


def _numbers(optim: OptimConfig) -> Optional[str]:
    """What is wrong with a number by itself, or None."""
    if optim.base_learning_rate <= 0 or optim.eps <= 0 or optim.beta1 >= 1 or optim.beta2 >= 1:
        return (
            f"base_learning_rate {optim.base_learning_rate:g} and eps {optim.eps:g} must be above 0, "
            f"beta1 {optim.beta1:g} and beta2 {optim.beta2:g} below 1"
        )
    if optim.warmup_share and optim.warmup_steps:
        return (
            f"warmup_steps is {optim.warmup_steps} and warmup_share {optim.warmup_share:g}, but both say how long the warm-up is: "
            "give one of them"
        )
    if optim.warmup_share >= 1:
        return f"warmup_share is {optim.warmup_share:g}, but must be below 1: it is a share of total_step"
    if not 0 < optim.text_encoder_stop_share <= 1:
        return (
            f"text_encoder_stop_share is {optim.text_encoder_stop_share:g}, but must be above 0 and at most 1: give the text "
            "encoders the rate 0 in optim.rates to leave them as they are"
        )
    if optim.lora_plus_ratio <= 0:
        return f"lora_plus_ratio is {optim.lora_plus_ratio:g}, but must be above 0: 16 is common, 1 is plain LoRA"
    if optim.scale_weight_norms is not None and optim.scale_weight_norms <= 0:
        return f"scale_weight_norms is {optim.scale_weight_norms:g}, but must be above 0: 1 is common, null scales nothing"
    if optim.ema_decay is not None and not 0 < optim.ema_decay < 1:
        return f"ema_decay is {optim.ema_decay:g}, but must be between 0 and 1: 0.999 is common, null averages nothing"
    return None


def _groups(optim: OptimConfig, lora: Mapping[str, LoraConfig]) -> Optional[str]:
    """What is wrong with the rates of the networks, or None."""
    for network, rate in optim.rates.items():
        if rate > 0 and network not in lora:
            return f"optim.rates.{network} is {rate:g}, but that network has no LoRA: leave the rate out, or give it a LoRA"
    trained = [network for network in lora if optim.rates.get(network) != 0]
    text = [network for network in trained if network != "unet"]
    if lora and not trained:
        return "optim.rates is 0 for every network with a LoRA, so that nothing would train: give one of them a rate"
    if optim.text_encoder_stop_share < 1 and not text:
        return (
            f"text_encoder_stop_share is {optim.text_encoder_stop_share:g}, but no text encoder trains: leave it out, or use a "
            "YAML that trains them"
        )
    if optim.text_encoder_stop_share < 1 and text == trained:
        return (
            f"text_encoder_stop_share is {optim.text_encoder_stop_share:g} and the UNet's rate 0, so that nothing would train to "
            "the end: give the UNet a rate, or lower total_step"
        )
    return None


def _prodigy(optim: OptimConfig, lora: Mapping[str, LoraConfig]) -> Optional[str]:
    """What Prodigy cannot do with the other settings, or None."""
    if optim.optimizer != "Prodigy":
        return None
    rates = sorted({optim.rates.get(network, optim.base_learning_rate) for network in lora} - {0.0})
    if len(rates) > 1:
        return (
            f"Prodigy finds one step size for all matrices, but the networks have the rates {', '.join(f'{r:g}' for r in rates)}: "
            "give all that train the same"
        )
    if optim.lora_plus_ratio != 1:
        return (
            f"lora_plus_ratio is {optim.lora_plus_ratio:g}, but Prodigy finds one step size for all matrices: leave it out, or use "
            "another optimizer"
        )
    p = optim.prodigy
    if p.d0 <= 0 or p.d_coef <= 0 or (p.beta3 is not None and p.beta3 >= 1):
        beta3 = "" if p.beta3 is None else f", and beta3 {p.beta3:g} below 1"
        return f"Prodigy's d0 {p.d0:g} and d_coef {p.d_coef:g} must be above 0{beta3}"
    return None


def _adafactor(optim: OptimConfig, given: bool) -> Optional[str]:
    """What Adafactor cannot do, or None. `given`: the YAML says a rate, rates or a schedule."""
    if optim.optimizer != "Adafactor":
        return None
    a = optim.adafactor
    if a.eps1 <= 0 or a.clip_threshold <= 0 or a.decay_rate >= 0 or (a.beta1 is not None and a.beta1 >= 1):
        beta1 = "" if a.beta1 is None else f", beta1 {a.beta1:g} below 1"
        return (
            f"Adafactor's eps1 {a.eps1:g} and clip_threshold {a.clip_threshold:g} must be above 0{beta1}, decay_rate "
            f"{a.decay_rate:g} below 0"
        )
    if a.warmup_init and not a.relative_step:
        return "warmup_init is a way for Adafactor's relative step to start: set relative_step to True, or leave it out"
    if a.relative_step and (given or optim.lora_plus_ratio != 1):
        return (
            "Adafactor with relative_step: True makes its own rate, so base_learning_rate, scheduler_config and rates must be null "
            "and lora_plus_ratio 1: set relative_step to False to give a rate"
        )
    return None
