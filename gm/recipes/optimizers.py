"""Optimizers and schedules of other trainers, by the names that they use -> this suite's.

The defaults are those of the libraries that the trainers call: torch.optim.AdamW, bitsandbytes, prodigyopt, transformers' Adafactor,
lion-pytorch. Where a setting is left out there, it means the library's default, so that is written out here.
"""

from dataclasses import dataclass, field
from typing import Any, Mapping, Optional

from gm.config import table as t
from gm.recipes.draft import DIFFERS, TAKEN, UNSUPPORTED, Draft

_BETAS = {"betas", "beta1", "beta2"}
_KNOWN = {  # optimizer here -> the arguments of its class elsewhere
    "AdamW": {*_BETAS, "eps", "weight_decay"},
    "Prodigy": {
        *{*_BETAS, "beta3", "eps", "weight_decay", "decouple", "use_bias_correction", "safeguard_warmup"},
        *{"d0", "d_coef", "growth_rate"},
    },
    "Adafactor": {"eps", "eps2", "clip_threshold", "decay_rate", "beta1", "weight_decay", "scale_parameter"}
    | {"relative_step", "warmup_init"},
    "Lion": {*_BETAS, "weight_decay"},
}
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "AdamW": {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.01},
    "Prodigy": {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0},
    "Adafactor": {"scale_parameter": True, "relative_step": True, "warmup_init": False, "weight_decay": 0.0},
    "Lion": {"beta1": 0.9, "beta2": 0.99, "weight_decay": 0.0},
}
_TARGETS = {"AdamW": t.ADAMW, "Prodigy": t.PRODIGY, "Adafactor": t.ADAFACTOR, "Lion": t.LION}
_BOOLEANS = {"decouple", "use_bias_correction", "safeguard_warmup", "scale_parameter", "relative_step", "warmup_init"}
_SAME = {  # what elsewhere is another class, and how it differs
    "adamw": ("AdamW", ""),
    "adamw8bit": (
        "AdamW",
        "its moments are in float32 here, not in 8 bits: the same rule, more memory for two numbers a LoRA number",
    ),
    "pagedadamw8bit": ("AdamW", "its moments are in float32 here, not in 8 bits, and are not paged"),
    "pagedadamw32bit": ("AdamW", "nothing is paged"),
    "pagedadamw": ("AdamW", "nothing is paged"),
    "adamw8": ("AdamW", "its moments are in float32 here, not in 8 bits"),
    "adam": ("AdamW", "weight decay acts beside the gradient, as in AdamW"),
    "adam8bit": ("AdamW", "weight decay acts beside the gradient, as in AdamW, and moments are in float32"),
    "prodigy": ("Prodigy", ""),
    "prodigy8bit": ("Prodigy", "its moments are in float32 here, not in 8 bits"),
    "adafactor": ("Adafactor", ""),
    "lion": ("Lion", ""),
    "lion8bit": ("Lion", "its moment is in float32 here, not in 8 bits"),
    "pagedlion8bit": ("Lion", "its moment is in float32 here, not in 8 bits, and is not paged"),
}
_LIKE = {  # beginnings of names that do not exist here, and what is nearest
    "prodigy": ("Prodigy", "Prodigy, which finds its step size in the same way"),
    "dadapt": ("Prodigy", "Prodigy, which finds its step size as well (its d begins at 1e-6 and never falls)"),
    "adafactor": ("Adafactor", "Adafactor"),
    "lion": ("Lion", "Lion"),
}


@dataclass
class Optimizer:
    """What became of an optimizer: of its name, and of each of its arguments."""

    name: str  # here
    outcome: str
    words: str
    taken: dict[str, str] = field(default_factory=dict)  # argument -> where it went
    refused: dict[str, str] = field(default_factory=dict)  # argument -> what is done instead

    def of_arguments(self) -> tuple[str, str]:
        """Outcome and words for all arguments together."""
        words = [*self.taken.values(), *(f"{name}: {words}" for name, words in self.refused.items())]
        outcome = UNSUPPORTED if self.refused and not self.taken else DIFFERS if self.refused else TAKEN
        return outcome, "; ".join(words) or "nothing"


def put_optimizer(draft: Draft, given: str, arguments: Mapping[str, Any], defaults: Mapping[str, Any] = {}) -> Optimizer:
    """The optimizer called `given`, with arguments by the names of its class elsewhere (betas as "0.9,0.99" or a list).

    `defaults`: arguments that the trainer gives where nobody says them, over the library's.
    """
    found = _of(given)
    params: dict[str, Any] = dict(_DEFAULTS[found.name])
    for argument, value in {**defaults, **arguments}.items():
        if argument not in _KNOWN[found.name]:
            if argument in arguments:
                found.refused[argument] = f"{found.name} of this suite has no such argument: left out"
            continue
        try:
            said = _converted(found.name, argument, value)
        except (KeyError, OverflowError, TypeError, ValueError):
            found.refused[argument] = f"{value!r} is not a value it can have: its default is taken"
            continue
        params |= said
        if argument in arguments:
            found.taken[argument] = ", ".join(f"{key}: {value}" for key, value in said.items())
    if found.name == "Adafactor" and params["warmup_init"] and not params["relative_step"]:
        params["relative_step"] = True  # as sd-scripts does
    draft.target("optim.optimizer_config", _TARGETS[found.name], params)
    return found


def _of(given: str) -> Optimizer:
    short = given.strip().rpartition(".")[2].lower().replace("_", "").replace("-", "")
    if short in _SAME:
        name, words = _SAME[short]
        return Optimizer(name, DIFFERS if words else TAKEN, f"optimizer_config: {name}" + (f"; {words}" if words else ""))
    for beginning, (name, words) in _LIKE.items():
        if short.startswith(beginning):
            return Optimizer(name, UNSUPPORTED, f"{words} instead")
    return Optimizer("AdamW", UNSUPPORTED, "AdamW instead: choose a rate for it, 1e-4 is usual")


def _converted(optimizer: str, argument: str, value: Any) -> dict[str, Any]:
    if argument == "betas":
        first, second, *_ = [float(part) for part in (value.strip("()[] ").split(",") if isinstance(value, str) else value)]
        return {"beta1": first, "beta2": second}
    if argument in _BOOLEANS:
        return {argument: {"true": True, "false": False}[str(value).lower()]}
    if optimizer == "Adafactor" and argument == "eps" and (isinstance(value, (list, tuple)) or "," in str(value)):
        first, second = [float(part) for part in (value.strip("()[] ").split(",") if isinstance(value, str) else value)]
        return {"eps1": first, "eps2": second}
    if str(value).lower() in ("none", "inf"):
        return {argument: None}
    return {"eps1" if optimizer == "Adafactor" and argument == "eps" else argument: float(value)}


_SCHEDULES = {
    "constant": t.CONSTANT,
    "constant_with_warmup": t.CONSTANT,
    "linear": t.LINEAR,
    "cosine": t.COSINE,
    "cosine_with_restarts": t.COSINE_RESTARTS,
    "cosine_with_hard_restarts": t.COSINE_RESTARTS,
    "cosine_annealing": t.COSINE,
    "cosineannealinglr": t.COSINE,
    "cosine_with_min_lr": t.COSINE,
    "polynomial": t.POLYNOMIAL,
}
_NEAREST = {
    "adafactor": (t.CONSTANT, "Adafactor's relative step has no schedule"),
    "piecewise_constant": (t.CONSTANT, "a constant rate instead"),
    "inverse_sqrt": (t.LINEAR, "a linear fall instead"),
    "warmup_stable_decay": (t.CONSTANT, "a constant rate instead"),
    "rex": (t.COSINE, "a cosine instead, which falls at about the same time"),
}


def put_schedule(
    draft: Draft,
    given: str,
    warmup_steps: int = 0,
    warmup_share: float = 0.0,
    cycles: Optional[float] = None,
    power: Optional[float] = None,
    final_factor: Optional[float] = None,
) -> tuple[str, str]:
    """The schedule called `given`; outcome and words. A warm-up is updates, or a share of them."""
    name = given.strip().lower()
    target, words = _NEAREST.get(name, (None, "")) if name not in _SCHEDULES else (_SCHEDULES[name], "")
    outcome = UNSUPPORTED if words or target is None else TAKEN
    if target is None:
        target, words = t.CONSTANT, "a constant rate instead"
    params: dict[str, Any] = {}
    if warmup_share:
        params["warmup_share"] = warmup_share
    elif warmup_steps:
        params["warmup_steps"] = int(warmup_steps)
    if target == t.COSINE_RESTARTS:
        params["num_cycles"] = int(cycles or 1)
    if target == t.POLYNOMIAL:
        params["power"] = 1.0 if power is None else power
    if target in (t.LINEAR, t.COSINE, t.POLYNOMIAL) and final_factor:
        params["final_factor"] = final_factor
    draft.target("optim.scheduler_config", target, params)
    said = ", ".join(f"{key}: {value}" for key, value in params.items())
    return outcome, f"{words + ': ' if words else ''}scheduler_config: {target.rpartition('.')[2]}" + (
        f" ({said})" if said else ""
    )
