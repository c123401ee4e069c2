"""The flags that all commands on a model have."""

from dataclasses import dataclass
from typing import Optional

from gm import device
from gm.config.bounds import LARGEST_SEED
from gm.errors import UserError, shown
from gm.options.parser import option
from gm.runtime import Runtime
from gm.texts import number

SDXL = "configs/inference/sd_xl_base.yaml"
EARLIER_FLAGS = {"--task": ("txt2img",)}  # accepted by commands that do one thing, for scripts of the earlier example


def _memory(text: str) -> str:
    if not text.endswith("GB"):
        raise ValueError(f"{shown(text)} is not a size such as 58GB")
    number(text[:-2], float, above=0, most=100_000)
    return text


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
    seed: int = option(42, "the same seed gives the same result, up to 64 bits", least=0, most=LARGEST_SEED, group="machine")
    device_target: str = option(
        lambda: device.device_here(),
        "where to compute",
        choices=("Ascend", "CPU", "GPU"),
        shown="Ascend or a GPU where there is one, else CPU",
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
    jit_level: Optional[str] = option(
        None,
        "how MindSpore compiles for Ascend: O0 kernel by kernel, O1 with fusion, O2 by the graph engine",
        choices=("O0", "O1", "O2"),
        shown="MindSpore's own choice: O0 on the 910B, O2 on the 910A",
        group="machine",
    )
    max_device_memory: Optional[str] = option(
        None, "device memory MindSpore may use, e.g. 58GB", read=_memory, metavar="SIZE", group="machine"
    )

    def __post_init__(self) -> None:
        if self.jit_level and self.device_target != "Ascend":
            raise UserError(
                f"--jit_level {self.jit_level} says how to compile for Ascend, but the device is {self.device_target}"
            )
        if self.max_device_memory and self.device_target == "CPU":
            raise UserError(
                f"--max_device_memory {self.max_device_memory} limits a device's memory, but the device is the CPU"
            )

    @property
    def machine(self) -> Runtime:
        """Where and how to compute."""
        return Runtime(
            device=self.device_target,
            mode=self.ms_mode,
            amp_level=self.ms_amp_level or ("O0" if self.device_target == "CPU" else "O2"),
            jit_level=self.jit_level,
            max_memory=self.max_device_memory,
        )
