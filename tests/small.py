"""A smaller SDXL than the tiny golden model, with random weights, for the tests of whole commands that compare with no
golden number: its training graph compiles in 5 s instead of 15, and is compiled once for all commands with the same one."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest

import tiny
import train_dreambooth
from gm.checkpoint.lora_files import open_lora
from gm.config.load import load_config
from gm.config.types import ModelConfig
from modes import in_mode
from tools import make_random_checkpoint

TRAIN = tiny.ROOT / "train_dreambooth.py"
UNET = "model.params.network_config.params"
ENCODERS = "model.params.conditioner_config.params.emb_models"
SMALL = [
    *("--set", f"{UNET}.channel_mult=[1]", "--set", f"{UNET}.attention_resolutions=[1]"),
    *("--set", f"{UNET}.num_res_blocks=1", "--set", f"{UNET}.transformer_depth=[1]"),
    *("--set", f"{ENCODERS}.0.params.layers=2", "--set", f"{ENCODERS}.0.params.layer_idx=1"),
    *("--set", f"{ENCODERS}.1.params.layers=2"),
]


def model() -> ModelConfig:
    return load_config(str(tiny.TRAINING), SMALL[1::2], training=True).model


@dataclass(frozen=True)
class Small:
    """Files of the small model, and training it."""

    photos: Path
    folder: Path
    encoded: Path  # of all test processes

    @property
    def weights(self) -> Path:
        return self.folder / "plain.safetensors"

    @property
    def class_images(self) -> Path:
        """Three, which neither 2 nor 4 divides, so that none has to be sampled."""
        return self.folder / "class"

    def arguments(self, folder: Path, *more, steps: int = 10, config: Path = tiny.TRAINING, photos=None) -> list[str]:
        """Of a training command that writes to `folder`/runs."""
        words = (
            *("--config", config, "--weight", self.weights, "--device_target", "CPU"),
            *("--instance_data_path", photos or self.photos, "--instance_prompt", "A photo of a sks dog"),
            *("--class_data_path", self.class_images, "--class_prompt", "A photo of a dog", "--num_class_images", 3),
            *("--sample_step", 2, "--save_path", folder / "runs", "--set", f"data.total_step={steps}", *SMALL, *more),
        )
        return [str(word) for word in words]

    @property
    def rows(self) -> tuple:
        """The flag that takes what earlier commands have encoded."""
        return "--cache_dir", self.encoded

    @property
    def graphs(self) -> tuple:
        """The flag that takes what earlier commands have compiled."""
        return "--compile_cache_dir", self.folder / "graphs"

    @property
    def caches(self) -> tuple:
        return *self.rows, *self.graphs

    def train(self, folder: Path, *more, **given) -> str:
        """Train in a process of its own, with the graphs of earlier ones: MindSpore counts graphs from the start of a process.
        What it said."""
        words = [sys.executable, TRAIN, *self.arguments(folder, *self.caches, *more, **given)]
        done = subprocess.run(words, capture_output=True, text=True, env=environment(), cwd=self.folder)
        assert done.returncode == 0, done.stderr
        return done.stderr


@pytest.fixture
def train_here(small, run):
    """Train the small model in this process, which takes no time to start: what it said. In PyNative mode where --ms_mode is 1,
    else the training graph is compiled. What no earlier command has encoded is so in a process of its own, as ever."""

    def train(folder: Path, *more, **given) -> str:
        words = small.arguments(folder, *small.rows, *more, **given)
        eager = "--ms_mode" in words and words[words.index("--ms_mode") + 1] == "1"
        with in_mode(ms.PYNATIVE_MODE if eager else ms.GRAPH_MODE):
            status, said = run(train_dreambooth, *words)
        assert status == 0, said
        return said

    return train


def environment() -> dict[str, str]:
    """As a person has it: without what the tests set."""
    return {key: value for key, value in os.environ.items() if key != "GLOG_v"}


@pytest.fixture(scope="session")
def small(shared, tmp_path_factory) -> Small:
    folder = tmp_path_factory.mktemp("small")
    encoded = folder.parent.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    made = Small(shared / "data" / "dog", folder, encoded / "encoded")
    make_random_checkpoint.main(["--config", str(tiny.TRAINING), *SMALL, "--output", str(made.weights)])
    made.class_images.mkdir()
    for number, path in enumerate(sorted((shared / "data" / "dog6").iterdir())[:3]):
        shutil.copy(path, made.class_images / f"class_{number:05d}{path.suffix}")
    return made


@dataclass(frozen=True)
class Run:
    """A finished run: what it said, its records and its LoRA."""

    said: str
    records: list[dict]
    lora: dict[str, np.ndarray]


@dataclass(frozen=True)
class Twice:
    """The same training twice, with folders for rows and graphs that were empty the first time."""

    small: Small
    folder: Path

    def train(self, name: str, *more) -> Run:
        """Of 4 updates, with those folders unless `more` says otherwise."""
        said = self.small.train(self.folder / name, *self.caches, *more, steps=4)
        return Run(said, records(self.folder / name), trained(self.folder / name, 4))

    @property
    def caches(self) -> tuple:
        """The flags with those folders."""
        return "--cache_dir", self.folder / "cache", "--compile_cache_dir", self.folder / "graphs"

    @cached_property
    def cold(self) -> Run:
        return self.train("cold")

    @cached_property
    def warm(self) -> Run:
        assert self.cold
        return self.train("warm")


@pytest.fixture(scope="session")
def twice(small, tmp_path_factory) -> Twice:
    return Twice(small, tmp_path_factory.mktemp("twice"))


def lora_of(path: Path) -> dict[str, np.ndarray]:
    file = open_lora(path, model())
    return {name: file.read(name) for name in file.names()}


def trained(folder: Path, step: int) -> dict[str, np.ndarray]:
    """The LoRA that a run has written after this step."""
    return lora_of(folder / "runs" / f"SDXL_base_1.0_{step}_lora.ckpt")


def records(folder: Path) -> list[dict]:
    """What a run has logged, a record an update."""
    return [json.loads(line) for line in (folder / "runs" / "metrics.jsonl").read_text().splitlines()]


def largest_difference(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> float:
    """Over all matrices, relative to the largest weight."""
    assert set(first) == set(second)
    largest = max(np.abs(value).max() for value in first.values())
    return max(np.abs(first[name] - second[name]).max() for name in first) / largest
