"""The flags that all commands on a model have."""

from dataclasses import dataclass
from typing import Optional

from gm import runtime
from gm.options.parser import option

SDXL = "configs/inference/sd_xl_base.yaml"
EARLIER_FLAGS = {"--task": ("txt2img",)}  # accepted by commands that do one thing, for scripts of the earlier example


@dataclass(frozen=True)
class ModelOptions:
    """Which model, and where and how it computes."""

    config: str = option(SDXL, "the model", metavar="YAML", group="model")
    set: tuple[str, ...] = option(
        (), "override one entry of the YAML; repeatable", repeated=True, metavar="KEY=VALUE", group="model"
    )
    weight: str = option(
        "checkpoints/sd_xl_base_1.0_ms.ckpt",
        "base weights (official .safetensors, .ckpt, or diffusers' folder), then LoRA of any tool, separated by commas",
        metavar="BASE[,LORA]",
        group="model",
    )
    vae: Optional[str] = option(
        None,
        "another image encoder and decoder than the base's: a file, or diffusers' vae folder",
        metavar="FILE",
        group="model",
    )
    seed: int = option(42, "the same seed gives the same result", least=0, group="machine")
    device_target: str = option(
        lambda: runtime.device_here(),
        "where to compute",
        choices=("Ascend", "CPU", "GPU"),
        shown="Ascend where there is one, else CPU",
        group="machine",
    )
    ms_mode: int = option(0, "0 graph mode, 1 PyNative mode (same numbers, slower)", choices=(0, 1), group="machine")
    ms_amp_level: Optional[str] = option(
        None,
        "O0 float32, O2 float16 with float32 norms, softmax and LoRA",
        choices=("O0", "O2"),
        shown="O2, on the CPU O0",
        group="machine",
    )
