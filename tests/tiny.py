"""The tiny golden model as this suite sees it: its configuration, its weights, and the golden micro-batches."""

from pathlib import Path

import numpy as np

from gm.checkpoint.weights import open_base
from gm.config.load import load_config
from gm.config.types import Adapters, Config, DataConfig, LoraConfig, ModelConfig, OptimConfig
from gm.data.dreambooth import CLASS, INSTANCE
from gm.diffusion.schedule import train_sigmas
from gm.models import sdxl
from gm.models.adapters import adapters_of
from gm.training.batches import MicroBatch

ROOT = Path(__file__).resolve().parent.parent
TRAINING = ROOT / "configs" / "training" / "tiny_dreambooth_lora_cpu.yaml"
TEXT_TRAINING = ROOT / "configs" / "training" / "tiny_dreambooth_textencoder_lora_cpu.yaml"
INFERENCE = ROOT / "configs" / "inference" / "tiny_sdxl.yaml"


def model() -> ModelConfig:
    return load_config(str(INFERENCE), training=False).model


def adapters(text_lora: bool = False) -> Adapters:
    """LoRA of rank and alpha 4 in the UNet, and in both text encoders if asked for."""
    return adapters_of(model(), lora(text_lora))


def lora(text_lora: bool = False) -> dict[str, LoraConfig]:
    networks = ("unet", "text_encoder_1", "text_encoder_2") if text_lora else ("unet",)
    return {network: LoraConfig(rank=4, alpha=4.0) for network in networks}


def config(text_lora: bool = False, **data) -> Config:
    """Training with the golden run's optimizer."""
    optim = OptimConfig(base_learning_rate=1e-3, eps=1e-8, weight_decay=0.01)
    return Config(version="SDXL-base-1.0", model=model(), lora=lora(text_lora), optim=optim, data=DataConfig(**data), raw="")


def reader(weights: Path, matrices: dict[str, np.ndarray], prefix: str = "train.init."):
    """Base weights of the tiny model and the golden LoRA matrices `<prefix><module>.lora_A`."""
    base = open_base(weights)
    return lambda name: matrices[prefix + name.removesuffix(".weight")] if sdxl.is_lora(name) else base.read(name)


def sizes(golden) -> np.ndarray:
    keys = ("cond.original_size", "cond.crop_top_left", "cond.target_size")
    return np.concatenate([golden[key] for key in keys], 1).astype(np.float32)


def golden_batch(golden, step: int, text: tuple[np.ndarray, np.ndarray], rows: slice = slice(0, 2)) -> MicroBatch:
    """The micro-batch of a golden update. Its x0 is given as a posterior without spread."""
    index = golden[f"train.step{step}.idx"][rows]
    x0 = golden[f"train.step{step}.x0"][rows] / np.float32(0.13025)
    return MicroBatch(
        mean=x0,
        logvar=np.full_like(x0, -60.0),
        posterior_noise=np.ones_like(x0),
        noise=golden[f"train.step{step}.noise"][rows],
        sigma=train_sigmas()[index],
        timestep=index,
        text=tuple(array[rows] for array in text),
        sizes=sizes(golden)[rows],
        weight=np.ones(len(index)),
        kind=np.array([INSTANCE, CLASS])[rows],
    )


def relative_error(given: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference over the largest magnitude expected."""
    return float(np.abs(np.asarray(given, np.float64) - expected).max() / np.abs(expected).max())
