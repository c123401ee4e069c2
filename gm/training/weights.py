"""What training starts from: base weights, LoRA matrices, and the state of an earlier run; checked before anything is built."""

from dataclasses import dataclass
from typing import Mapping, Optional, Sequence

import numpy as np

from gm.checkpoint.dora import row_norms
from gm.checkpoint.lora_files import lora_in_base, open_lora
from gm.checkpoint.rules import MAGNITUDE, is_lora
from gm.checkpoint.weights import BaseWeights, open_base, split_weight_argument
from gm.config.types import Adapters, Config
from gm.errors import UserError
from gm.models import sdxl
from gm.models.adapters import adapters_of, initial_value
from gm.options.train import TrainOptions
from gm.training.identity import IDENTITY, Identity, read_identity
from gm.training.resume import STATE, read_state


@dataclass(frozen=True)
class StartingWeights:
    """Opened files; arrays are read when a network is filled."""

    base: BaseWeights
    adapters: Adapters
    lora_shapes: Mapping[str, tuple]
    lora: Optional[Mapping[str, np.ndarray]]  # matrices to start from; None: fresh ones
    state: Optional[Mapping[str, np.ndarray]]  # of the optimizer, to resume with
    seed: int
    before: Optional[Identity] = None  # what decided the numbers of the run that is resumed, where it says so

    @property
    def step(self) -> int:
        """Updates of the run that is resumed."""
        return 0 if self.state is None else int(self.state["counters"][0])

    def read(self, name: str) -> np.ndarray:
        """A parameter's first value by its native name."""
        if not is_lora(name):
            return self.base.read(name)
        return self.untrained(name) if self.lora is None else self.lora[name]

    def untrained(self, name: str) -> np.ndarray:
        """A LoRA parameter's value with which nothing is changed in the base model."""
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
    before = None
    if options.resume is not None:
        saved, metadata = read_state(options.resume, config, adapters, lora_shapes)
        before = read_identity(metadata.get(IDENTITY))
        lora = {name: saved[name] for name in lora_shapes}
        state = {name.removeprefix(STATE): value for name, value in saved.items() if name.startswith(STATE)}
    else:
        lora, state = _read_start_lora(lora_paths, base, config, adapters, lora_shapes), None
    return StartingWeights(
        base=base,
        adapters=adapters,
        lora_shapes=lora_shapes,
        lora=lora,
        state=state,
        seed=options.seed,
        before=before,
    )


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
