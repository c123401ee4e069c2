"""The two commands on the tiny golden model: their arguments, and the pictures that sampling makes."""

import subprocess
import sys

import numpy as np
from PIL import Image

import tiny
from small import environment

sys.path.insert(0, str(tiny.ROOT / "demo"))

import sampling_without_streamlit as sampling
import train_dreambooth as training  # noqa: F401


def train_arguments(shared, folder, *more, config=tiny.TRAINING, steps=6):
    return (
        *("--config", config, "--weight", shared / "golden" / "tiny_sdxl.safetensors", "--device_target", "CPU"),
        *("--instance_data_path", shared / "data" / "dog", "--instance_prompt", "A photo of a sks dog"),
        *("--class_data_path", folder / "class", "--class_prompt", "A photo of a dog", "--num_class_images", 3),
        *("--sample_step", 4, "--save_path", folder / "runs", "--set", f"data.total_step={steps}", *more),
    )


def pictures_in(folder) -> list[np.ndarray]:
    return [np.asarray(Image.open(path)) for path in sorted(folder.glob("[0-9]*.png"))]


def sample_apart(folder, weight, *more):
    """The same as a process of its own, whose output must hold nothing but the project's own words."""
    command = (sys.executable, tiny.ROOT / "demo" / "sampling_without_streamlit.py", "--config", tiny.INFERENCE)
    usual = ("--device_target", "CPU", "--height", 128, "--width", 128, "--sample_step", 4, "--save_path", folder)
    words = [str(word) for word in (*command, "--weight", weight, *usual, *more)]
    done = subprocess.run(words, capture_output=True, text=True, env=environment(), cwd=folder.parent, timeout=500)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr and not done.stdout
    assert not {"rank_0", "kernel_meta"} & {path.name for path in folder.parent.iterdir()}
    return pictures_in(folder)


def sample(run, folder, weight, *more):
    status, errors = run(
        sampling,
        *("--config", tiny.INFERENCE, "--weight", weight, "--device_target", "CPU", "--height", 128, "--width", 128),
        *("--sample_step", 4, "--save_path", folder, *more),
    )
    assert status == 0, errors
    return pictures_in(folder)
