"""What the tests of the part Recipe share: a visitor's studio whose jobs do not run, a draft with two photos, a foreign recipe."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
RECIPE = ROOT / "demo" / "studio" / "recipe"
OPTIMIZER = "optim.optimizer_config.target"
LORA = "model.params.network_config.params."
PHOTOS = "data.dataset_config.params."


@dataclass(frozen=True)
class FakeJob:
    folder: Path
    words: tuple[str, ...]
    device: str


def fake_add(runs, name, prepare, device, at_once=1):
    """As gm.jobs.control.add, but nothing runs."""
    folder = runs / name
    folder.mkdir(parents=True)
    try:
        return FakeJob(folder, tuple(prepare(folder)), device)
    except BaseException:
        shutil.rmtree(folder)
        raise


@pytest.fixture
def studio(tmp_path, monkeypatch):
    """A visitor's studio with the models of the page."""
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(ROOT / "demo"))
    from sampling import MODELS
    from studio.access import PageOptions
    from studio.recipe import starting
    from studio.visit import Studio

    monkeypatch.setattr(starting, "add", fake_add)
    return Studio(PageOptions(runs=tmp_path / "runs"), {model.name: model for model in MODELS}, (), "a" * 12)


@pytest.fixture
def draft(studio):
    """With two photos, of which one has a caption, and prompts, for the CPU."""

    made = studio.draft
    made.photos.mkdir(parents=True)
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 255, (80, 100, 3), np.uint8)
        Image.fromarray(pixels).save(made.photos / f"dog{number}.png")
    (made.photos / "dog0.txt").write_text("a sks dog on grass")
    made.change(device="CPU", instance_prompt="a photo of a sks dog", class_prompt="a photo of a dog")
    return made


def mask_one(draft) -> None:
    Image.new("L", (100, 80), 255).save(draft.photos / "dog1-masklabel.png")


def flag(words, name) -> Optional[str]:
    return words[words.index(f"--{name}") + 1] if f"--{name}" in words else None


KOHYA = {
    "LoRA_type": "Standard",
    "sdxl": True,
    "max_resolution": "1024,1024",
    "network_dim": 12,
    "network_alpha": 6,
    "learning_rate": 3e-4,
    "optimizer": "AdamW",
    "max_train_steps": 333,
    "seed": 9,
    "no_such_setting": 5,
}


def take_over(studio, draft, *files, own_size=True) -> Any:
    from studio.recipe.taking_over import take_over as take

    return take(studio, draft, [(name, text.encode()) for name, text in files], own_size)
