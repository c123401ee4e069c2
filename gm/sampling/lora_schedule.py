"""LoRA whose strength in the UNet follows a schedule: between steps the matrices are written that change, and no graph is
compiled for it."""

import numpy as np
from mindspore import nn

from gm.checkpoint.lora_stack import LoraStack
from gm.encoding.source import Weights
from gm.models import sdxl
from gm.sampling.pictures import PictureSampler


class LoraSchedule:
    """Called before each step with the share of the steps that are done. The LoRA must stay apart from the weights."""

    def __init__(self, unet: nn.Cell, stack: LoraStack):
        """`unet` was loaded with `stack`, without its schedule."""
        self.stack = stack
        self.matrices = {p.name: p for p in unet.get_parameters() if p.name.endswith(".lora_B.weight")}
        self.written = [1.0] * len(stack.files)  # the factor of each file; NaN while it is not known

    def __call__(self, share: float) -> None:
        factors = [strength.factor(share) for strength in self.stack.strengths]
        changed = [file for file, now, new in zip(self.stack.files, self.written, factors) if now != new]
        names = dict.fromkeys(f"{module}.lora_B.weight" for file in changed for module in file.modules)
        parameters = [self.matrices[name] for name in names if name in self.matrices]
        if parameters:
            self.written = [np.nan] * len(factors)  # all are written anew after an interruption
            sdxl.set_values(parameters, self.stack.at(share).read)
        self.written = factors


def unchanged(share: float) -> None:
    """Before each step, where no LoRA has a schedule."""


def scheduled(pictures: PictureSampler, weights: Weights) -> PictureSampler:
    """`pictures`, whose UNet has these weights, with LoRA that follow their schedules where they have any; returns it."""
    stack, sampler = weights.stack, pictures.sampler
    sampler.before_step = LoraSchedule(sampler.denoiser.cell, stack) if stack.is_scheduled else unchanged
    return pictures
