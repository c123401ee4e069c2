"""Runs of the loop on a toy trainer, with files as a run writes them."""

from pathlib import Path
from typing import Iterator

import mindspore as ms
import numpy as np
import pytest

from gm.checkpoint.io import open_tensors, write_tensors
from gm.config.types import OptimConfig
from gm.console import log
from gm.training.loop import LoopSettings, fit
from gm.training.state_file import STATE_FILE
from gm.training.step import LossScale
from gm.training.timings import Timings
from modes import in_mode
from toy_trainer import SHAPES, ToyTrainer, gradients


class Batch(tuple):
    """Gradients, as a micro-batch."""

    latent_shape = (1, 4, 1, 1)


def toy(scale: float = 1.0, dynamic: bool = False, total: int = 10, **more) -> ToyTrainer:
    trainer = ToyTrainer(OptimConfig(base_learning_rate=0.05), LossScale(scale, dynamic), **more)
    trainer.config.data.total_step = total
    trainer.compiled = {Batch.latent_shape}
    return trainer


def saves(trainer: ToyTrainer):
    """As results.save: the LoRA, then the state."""

    def save(path: Path, step: int) -> None:
        write_tensors(path, trainer.lora().items(), {"step": str(step)})
        state = trainer.matrices() | {f"state.{key}": value for key, value in trainer.state().items()}
        write_tensors(path.parent / STATE_FILE, state.items(), checksum=True)

    return save


def train(trainer: ToyTrainer, folder: Path, make=None, save=None, infer=None, accumulation: int = 1, **more) -> Path:
    """`more`: of LoopSettings."""
    given = {"save_every": 100, "keep": None, "log_every": 1000, "infer_every": 1 if infer else None, **more}

    def usual(step: int, micro: int, rank: int) -> Batch:
        return Batch(gradients(step * accumulation + micro, SHAPES))

    return fit(trainer, make or usual, accumulation, LoopSettings(folder, **given), save or saves(trainer), Timings(), infer)


def resumed(folder: Path, **more) -> ToyTrainer:
    trainer = toy(**more)
    with open_tensors(folder / STATE_FILE) as file:
        file.verify_checksum()
        values = {name: file.read(name) for name in file.names}
    for parameter in trainer.parameters:
        parameter.set_data(ms.Tensor(values[parameter.name]))
    trainer.set_state({name[6:]: value for name, value in values.items() if name.startswith("state.")})
    return trainer


def steps_in(folder: Path, ending_of_name: str = ".ckpt") -> list[int]:
    return sorted(int(path.name.split("_")[3]) for path in folder.glob(f"SDXL*{ending_of_name}"))


def equal(one: ToyTrainer, other: ToyTrainer) -> bool:
    mine, theirs = one.matrices() | one.state(), other.matrices() | other.state()
    return all(np.array_equal(mine[name], theirs[name]) for name in mine)


@pytest.fixture(autouse=True)
def pynative() -> Iterator[None]:
    ms.set_device("CPU")
    with in_mode(ms.PYNATIVE_MODE):
        yield


@pytest.fixture
def said(monkeypatch) -> list[str]:
    """What was logged."""
    lines: list[str] = []
    for kind in ("info", "warning"):
        monkeypatch.setattr(log, kind, lambda text, *values: lines.append(text % values))
    return lines
