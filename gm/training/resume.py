"""The state of an earlier run: which file, whether it is whole, and whether it fits; checked before anything is built."""

from pathlib import Path
from typing import Mapping, Optional

import numpy as np

from gm.checkpoint.io import TensorFile, open_tensors
from gm.checkpoint.rules import MAGNITUDE
from gm.config.types import Adapters, Config, OptimConfig
from gm.errors import UserError
from gm.models.adapters import NETWORKS, is_used, lora_facts
from gm.optimizers.rates import trains
from gm.optimizers.table import optimizer_of, state_names, state_sizes
from gm.training.state_file import STATE_FILE

STATE = "state."  # what the names of the optimizer's tensors begin with there
COUNTERS = {"counters": 4, "loss_scale": 1}  # numbers of what is there whatever the optimizer
ALPHA = ".alpha"  # the ending of a module's own alpha
IN_WORDS = {"unet": "the UNet", "text_encoder_1": "text encoder 1", "text_encoder_2": "text encoder 2"}


def read_state(
    path: str, config: Config, adapters: Adapters, shapes: Mapping[str, tuple]
) -> tuple[dict[str, np.ndarray], Mapping[str, str]]:
    """The tensors and the metadata of the training state in this file or folder. UserError naming what is damaged or does not
    fit."""
    file = Path(path) / STATE_FILE if Path(path).is_dir() else Path(path)
    with open_tensors(file) as tensors:
        states = {name.removeprefix(STATE) for name in tensors.names if name.startswith(STATE)}
        if not states:
            raise UserError(
                f"--resume {file} is no training state: give the {STATE_FILE} of a run or its folder, or start from a LoRA "
                "with --weight base,lora"
            )
        _check_optimizer(file, states, config.optim)
        _check_matrices(file, tensors, adapters, shapes)
        _check_names(
            file, tensors, config.optim, {name: shape for name, shape in shapes.items() if is_used(config.model, name)}
        )
        tensors.verify_checksum()
        saved = {name: tensors.read(name) for name in tensors.names}
        metadata = dict(tensors.metadata)
    _check_alphas(file, saved, metadata, adapters)
    _check_numbers(file, saved, config.optim, shapes)
    return saved, metadata


def _check_optimizer(file: Path, names: set[str], config: Optional[OptimConfig]) -> None:
    """UserError when the state, which has these names, is that of another optimizer, or with or without an average."""
    assert config is not None
    found, wanted = optimizer_of(names - set(COUNTERS)), config.optimizer
    if found is not None and found != wanted:
        raise UserError(
            f"--resume {file} is the state of {found}, but --config trains with {wanted}: resume with {found}, or start anew from "
            "the LoRA with --weight base,lora"
        )
    if found is not None and ("ema" in names) != (config.ema_decay is not None):
        has, given = ("a", "no") if "ema" in names else ("no", "an")
        raise UserError(
            f"--resume {file} has {has} moving average, but --config has {given} ema_decay: resume with the YAML of the first run"
        )


def _check_matrices(file: Path, tensors: TensorFile, adapters: Adapters, shapes: Mapping[str, tuple]) -> None:
    """UserError that says how the LoRA of the state differs from that of the YAML."""
    names = [name for name in tensors.names if not name.startswith(STATE) and not name.endswith(ALPHA)]
    found, wanted = {name: tuple(tensors.shape(name)) for name in names}, {name: tuple(s) for name, s in shapes.items()}
    if found == wanted:
        return
    differs = _of_modules(found, wanted)
    common = [name for name in wanted if name in found]
    kinds = [any(name.endswith(MAGNITUDE) for name in one) for one in (found, wanted)]
    if kinds[0] != kinds[1]:
        was, now = ("dora" if kind else "lora" for kind in kinds)
        differs.append(f"its lora_kind is {was}, not {now}")
    ranks = [(_module(n), found[n][0], wanted[n][0]) for n in common if n.endswith(".lora_A.weight") if found[n]]
    others = [(module, was, now) for module, was, now in ranks if was != now]
    if others:
        module, was, now = others[0]
        of = "" if len(others) == len(ranks) and len({other[1:] for other in others}) == 1 else f" in {module}"
        differs.append(f"its lora_dim{of} is {was}, not {now}")
    sizes = [n for n in common if not n.endswith(MAGNITUDE) and _without_rank(n, found[n]) != _without_rank(n, wanted[n])]
    if sizes:
        name = sizes[0]
        differs.append(f"it is of another model ({name} is {found[name]}, not {wanted[name]})")
    if not differs:
        missing, unknown = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
        differs.append(
            f"{len(missing)} tensors are missing and {len(unknown)} unknown, e.g. {(missing + unknown + common)[0]}"
        )
    yaml = file.parent / "config.yaml"
    first = f"the YAML of the first run, {yaml}" if yaml.exists() else "the YAML of the first run"
    raise UserError(f"--resume {file} does not fit --config, {'; '.join(differs)}: resume with {first}")


def _of_modules(found: Mapping[str, tuple], wanted: Mapping[str, tuple]) -> list[str]:
    """How the modules of each network that have a LoRA differ."""
    differs = []
    for network, prefix in NETWORKS.items():
        has, needs = ({_module(name) for name in names if name.startswith(prefix)} for names in (found, wanted))
        if has == needs:
            continue
        if not has or not needs:
            which = "it trains" if has else "it does not train"
            differs.append(f"{which} {IN_WORDS[network]}, which --config {'does not' if has else 'does'}")
            continue
        extra, lacking = sorted(has - needs), sorted(needs - has)
        parts = [f"{len(extra)} more, e.g. {extra[0]}"] if extra else []
        parts += [f"not {len(lacking)} of those of --config, e.g. {lacking[0]}"] if lacking else []
        differs.append(f"its lora_targets in {IN_WORDS[network]} are others ({', and '.join(parts)})")
    return differs


def _module(name: str) -> str:
    return name.partition(".lora_")[0]


def _without_rank(name: str, shape: tuple) -> tuple:
    return shape[1:] if name.endswith(".lora_A.weight") else shape[:1] + shape[2:]


def _check_names(file: Path, tensors: TensorFile, optim: Optional[OptimConfig], shapes: Mapping[str, tuple]) -> None:
    """UserError when the state has not just the tensors of this optimizer, in the sizes that it needs for matrices of these
    shapes."""
    assert optim is not None
    states = {name for name in tensors.names if name.startswith(STATE)}
    wanted = {STATE + key for key in state_names(optim) | set(COUNTERS)}
    if states != wanted:
        missing, unknown = sorted(wanted - states), sorted(states - wanted)
        raise UserError(
            f"--resume {file} is not the training state of this configuration ({len(missing)} tensors missing, {len(unknown)} "
            f"unknown: {', '.join(name.removeprefix(STATE) for name in missing + unknown)}): resume with the YAML of the first run"
        )
    trained = [tuple(shape) for name, shape in shapes.items() if trains(optim, name)]
    for name, size in {**state_sizes(optim, trained), **COUNTERS}.items():
        shape = tuple(tensors.shape(STATE + name))
        if shape != (size,):
            raise UserError(
                f"--resume {file} has {name} of shape {shape}, but this run needs ({size},): other networks train now or it is "
                "damaged, resume with the YAML of the first run"
            )


def _check_alphas(file: Path, saved: Mapping[str, np.ndarray], metadata: Mapping[str, str], adapters: Adapters) -> None:
    """UserError when a module's alpha is another; a state says them as one or as tensors."""
    text = metadata.get("lora_alpha")
    try:
        usual = None if text is None else float(text)
    except ValueError:
        raise UserError(f"--resume {file} says lora_alpha {text!r}, which is no number: give another copy of it") from None
    strange = [n for n in saved if n.endswith(ALPHA) and not n.startswith(STATE) and n.removesuffix(ALPHA) not in adapters]
    if strange:
        raise UserError(
            f"--resume {file} has {strange[0]}, but no such module has a LoRA: resume with the YAML of the first run"
        )
    several = bool(lora_facts(adapters)[1])
    for module, adapter in adapters.items():
        own = saved.get(f"{module}{ALPHA}")
        alpha = usual if own is None else float(own.reshape(-1)[0]) if own.size == 1 else float("nan")
        if alpha is not None and not np.isclose(alpha, adapter.alpha, rtol=1e-6):
            name = f"{module}{ALPHA}" if several or own is not None else "lora_alpha"
            verb, now = ("gives", f"{adapter.alpha:g}") if several or own is not None else ("says", f"{adapter.alpha:g}")
            was = f"{alpha:g}" if own is not None else text
            raise UserError(f"--resume {file} was trained with {name} {was}, but --config {verb} {now}: make them equal")


def _check_numbers(
    file: Path, saved: Mapping[str, np.ndarray], optim: Optional[OptimConfig], shapes: Mapping[str, tuple]
) -> None:
    """UserError for numbers that no run has written."""

    def refuse(what: str) -> UserError:
        return UserError(
            f"--resume {file} is damaged, {what}: give another copy of it, or start from a LoRA with --weight base,lora"
        )

    for name, value in saved.items():
        short = name.removeprefix(STATE)
        whole = name == STATE + "counters"
        if value.dtype.kind not in ("iu" if whole else "f"):
            raise refuse(f"{short} has the type {value.dtype}")
        if short in ("v", "row", "col") and name.startswith(STATE) and value.size and value.min() < 0:
            raise refuse(f"{short} holds negative numbers")
    counters, scale = saved[STATE + "counters"], float(saved[STATE + "loss_scale"][0])
    step, applied, skipped, good = (int(number) for number in counters)
    if min(step, applied, skipped, good) < 0 or applied + skipped != step:
        raise refuse(f"it counts {step} updates, {applied} of them applied and {skipped} skipped")
    if scale <= 0:
        raise refuse(f"its loss scale is {scale:g}")
