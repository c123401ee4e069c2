"""How long a training step takes and what memory it needs: full size, random weights, an instance and a class sample."""

import statistics
import time
from dataclasses import dataclass, replace
from typing import Callable

from gm.config.types import Config
from gm.device import Chip
from gm.runtime import Runtime
from tools.device_check.numbers import batch, make_trainer, synchronised_peak_gib, with_attention

LARGE = 1024  # pixels a side from which blocks are recomputed where attention is not fused
# (pixels, attention, recompute) -> GiB in the memory pool, counted from the compiled graph (bench/memory.md: 2 rows, rank 4)
COUNTED = {
    (512, "vanilla", False): 11,
    (512, "flash-attention", False): 9,
    (1024, "vanilla", True): 19,
    (1024, "flash-attention", False): 18,
}


@dataclass(frozen=True)
class Timing:
    """One training graph on one device."""

    compilation: float  # seconds
    first_step: float
    step: float  # the median of further ones, of one micro-batch each
    update: float  # of a step: what is not forward and backward, i.e. reducing, reading, applying and dealing out the LoRA
    peak_gib: float  # of the device's memory


def for_chip(config: Config, chip: Chip, pixels: int) -> Config:
    """The configuration as it should be used there."""
    model = with_attention(config.model, "flash-attention" if chip.fuses_attention else "vanilla")
    recompute = pixels >= LARGE and not chip.fuses_attention
    return replace(config, model=replace(model, unet=replace(model.unet, use_recompute=recompute)))


def measure(machine: Runtime, config: Config, pixels: int, steps: int) -> Timing:
    """Train `steps` updates of one micro-batch and as many of two, whose difference is the forward and backward pass of one; in
    the process that calls it."""
    machine.enter()
    trainer = make_trainer(machine, config, 1024.0 if machine.amp_level == "O2" else 1.0)
    batches = [batch(config, number, pixels // 8) for number in range(steps + 1)]
    batches = [replace(given, text=batches[0].text) for given in batches]

    def seconds(work: Callable, *given) -> float:
        start = time.perf_counter()
        work(*given)
        return time.perf_counter() - start

    compilation = seconds(trainer.compile, batches[0])
    first = seconds(trainer.update, batches[:1])
    one = statistics.median(seconds(trainer.update, [given]) for given in batches[1:])
    trainer.update([batches[0]] * 2)  # compiles what adds up gradients
    two = statistics.median(seconds(trainer.update, [given] * 2) for given in batches[1:])
    return Timing(compilation, first, one, max(2 * one - two, 0.0), synchronised_peak_gib())
