"""What training starts from: base weights, LoRA matrices, and the state of an earlier run; checked before anything is built."""

from dataclasses import dataclass
from pathlib import Path
from typing import Mapping, Optional, Sequence

import numpy as np

from gm.checkpoint.dora import row_norms
from gm.checkpoint.io import open_tensors
from gm.checkpoint.lora_files import lora_in_base, open_lora
from gm.checkpoint.rules import MAGNITUDE, is_lora
from gm.checkpoint.weights import BaseWeights, open_base, split_weight_argument
from gm.config.types import Adapters, Config, OptimConfig
from gm.errors import UserError
from gm.models import sdxl
from gm.models.adapters import adapters_of, initial_value, lora_facts
from gm.optimizers.table import optimizer_of, state_names
from gm.options.train import TrainOptions

STATE_FILE = "training_state.ckpt"
STATE = "state."  # what the names of the optimizer's tensors begin with there
COUNTERS = {"counters", "loss_scale"}  # that are there whatever the optimizer


@dataclass(frozen=True)
class StartingWeights:
    """Opened files; arrays are read when a network is filled."""

    base: BaseWeights
    adapters: Adapters
    lora_shapes: Mapping[str, tuple]
    lora: Optional[Mapping[str, np.ndarray]]  # matrices to start from; None: fresh ones
    state: Optional[Mapping[str, np.ndarray]]  # of the optimizer, to resume with
    seed: int

    def read(self, name: str) -> np.ndarray:
        """A parameter's first value by its native name."""
        if not is_lora(name):
            return self.base.read(name)
        if self.lora is not None:
            return self.lora[name]
        if name.endswith(MAGNITUDE):
            return row_norms(self.base.read(f"{name.removesuffix(MAGNITUDE)}.weight"))
        return initial_value(name, self.lora_shapes[name], self.seed)


def open_starting_weights(options: TrainOptions, config: Config) -> StartingWeights:
    """The files of --weight, --vae and --resume; UserError when one does not fit the YAML."""
    adapters = adapters_of(config.model, config.lora)
    base_shapes, lora_shapes = sdxl.expected_shapes(config.model, adapters)
    base_path, lora_paths = split_weight_argument(options.weight)
    base = open_base(base_path, options.vae)
    base.check(base_shapes)
    if options.resume is not None:
        saved = read_resume(options.resume, config, adapters, lora_shapes)
        lora = {name: saved[name] for name in lora_shapes}
        state = {name.removeprefix(STATE): value for name, value in saved.items() if name.startswith(STATE)}
    else:
        lora, state = _read_start_lora(lora_paths, base, config, adapters, lora_shapes), None
    return StartingWeights(base=base, adapters=adapters, lora_shapes=lora_shapes, lora=lora, state=state, seed=options.seed)


def _read_start_lora(
    paths: Sequence[str], base: BaseWeights, config: Config, adapters: Adapters, shapes: Mapping[str, tuple]
) -> Optional[dict[str, np.ndarray]]:
    """The matrices of a second file in --weight, or of a base + LoRA file; None where there are none."""
    if len(paths) > 1:
        raise UserError(f"--weight names {len(paths)} LoRA files, but training continues one: give base,lora")
    if not paths and not base.lora_names():
        return None
    file = open_lora(paths[0], config.model) if paths else lora_in_base(base)
    file.check(shapes, {module: adapter.alpha for module, adapter in adapters.items()})
    return {name: file.read(name) for name in shapes}


def read_resume(path: str, config: Config, adapters: Adapters, shapes: Mapping[str, tuple]) -> dict[str, np.ndarray]:
    """All tensors of the training state in this file or folder."""
    file = Path(path) / STATE_FILE if Path(path).is_dir() else Path(path)
    with open_tensors(file) as tensors:
        saved = {name: tensors.read(name) for name in tensors.names}
        alpha = tensors.metadata.get("lora_alpha")
    _check_optimizer(file, {name.removeprefix(STATE) for name in saved if name.startswith(STATE)}, config.optim)
    about, alphas = lora_facts(adapters)
    wanted = set(shapes) | set(alphas) | {STATE + key for key in state_names(config.optim) | COUNTERS}
    wrong = [name for name in shapes if name in saved and saved[name].shape != tuple(shapes[name])]
    if set(saved) != wanted or wrong:
        raise UserError(
            f"--resume {file} is not the training state of this configuration ({len(wanted - set(saved))} tensors "
            f"missing, {len(set(saved) - wanted)} unknown, {len(wrong)} of another shape): resume with the YAML of "
            "the first run"
        )
    given = about.get("lora_alpha")
    if alpha is not None and given is not None and float(alpha) != float(given):
        raise UserError(
            f"--resume {file} was trained with lora_alpha {alpha}, but --config says {float(given):g}: make them equal"
        )
    for name in alphas:
        if saved[name] != alphas[name]:
            raise UserError(
                f"--resume {file} was trained with {name} {float(saved[name]):g}, but --config gives {float(alphas[name]):g}: "
                "make them equal"
            )
    return saved


def _check_optimizer(file: Path, names: set[str], config: Optional[OptimConfig]) -> None:
    """UserError when the state, which has these names, is that of another optimizer, or with or without an average."""
    assert config is not None
    found, wanted = optimizer_of(names - COUNTERS), config.optimizer
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
