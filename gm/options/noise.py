"""The flag that says whose noise a seed gives. No MindSpore import."""

from dataclasses import dataclass

from gm.options.parser import option
from gm.sampling.noise import NOISES


@dataclass(frozen=True)
class NoiseOptions:
    """Part of SampleOptions."""

    noise: str = option(
        "native",
        "whose pictures a seed gives: torch: diffusers' with a generator on the CPU; a1111-cpu: A1111's with random numbers "
        "from the CPU; comfyui: ComfyUI's",
        choices=NOISES,
        group="sampling",
    )
