"""A run without a network, to be killed at any moment: python killed_run.py FOLDER STEPS. Each weight after an update is a function
of the one before, so that what a resumed run ends with shows whether it went on where the state says."""

import sys
from pathlib import Path

import numpy as np

from gm.checkpoint.io import open_tensors, write_tensors
from gm.training.checkpoints import Checkpoints, SaveSettings
from gm.training.records import Metrics
from gm.training.state_file import STATE_FILE, find_state

NUMBERS = 20_000


def start() -> np.ndarray:
    return np.linspace(-1, 1, NUMBERS).astype(np.float32)


def updated(weights: np.ndarray, step: int) -> np.ndarray:
    return (weights * np.float32(1.01) + np.float32(step)).astype(np.float32)


def main(folder: Path, steps: int) -> None:
    done, weights = 0, start()
    if (folder / STATE_FILE).exists():
        with open_tensors(find_state("True", str(folder), False)) as file:
            file.verify_checksum()
            done, weights = int(file.read("step")[0]), file.read("weights")

    def save(path: Path, step: int) -> None:
        write_tensors(path, [("weights", weights)], {"step": str(step)})
        write_tensors(path.parent / STATE_FILE, [("weights", weights), ("step", np.array([step]))], checksum=True)

    settings = SaveSettings(folder, every=1, keep=2, continues=done > 0)
    checkpoints, metrics = Checkpoints(settings, save, done), Metrics(folder / "metrics.jsonl", done)
    print("begins", flush=True)
    while done < steps:
        weights, done = updated(weights, done), done + 1
        metrics.add({"step": done, "loss": 1.0})
        checkpoints.save(done)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
