"""One optimizer update: micro-batches whose gradients add up, then reduce, check, clip and apply.

The micro-batch (micro_step.py) is compiled once for every latent shape, ahead of its first update; three small graphs add its
gradient to the window's, reduce it and apply it.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Optional, Sequence

import mindspore as ms
import numpy as np
from mindspore import Tensor

from gm.config.types import Config
from gm.device import chip
from gm.diffusion.denoiser import DiffusionLoss, Network
from gm.graph_cache import GraphCache
from gm.models.adapters import lora_state
from gm.models.conditioner import TextEncoders
from gm.models.unet import UNet
from gm.parallel.ranks import Ranks
from gm.training.batches import MicroBatch, TextArrays
from gm.training.micro_step import SUMS, MicroStep, PriorPrediction, WeightedLoss, micro_batch_arrays
from gm.training.optim import AdamW, FlatGradient, ReduceGradient, clip_factor, learning_rate


@dataclass(frozen=True)
class Update:
    """What one update was."""

    loss: float  # what was trained: the sum of weight * loss over all samples of all ranks
    instance_loss: float  # plain mean over the instance samples of all ranks
    class_loss: Optional[float]  # the same for the class samples; None when there are none
    grad_norm: float  # before clipping
    lr: float
    loss_scale: float
    skipped: bool  # the gradient was not finite and nothing was applied


class LossScale:
    """Static, or dynamic: halved when a gradient overflows, doubled after `window` good updates (arXiv 1710.03740)."""

    def __init__(self, value: float, dynamic: bool, window: int = 2000):
        self.value, self.dynamic, self.window, self.good = float(value), dynamic, window, 0

    def after(self, finite: bool) -> None:
        if not self.dynamic:
            return
        self.good = self.good + 1 if finite else 0
        if not finite:
            self.value = max(self.value / 2, 1.0)
        elif self.good >= self.window:
            self.value, self.good = min(self.value * 2, 2.0**24), 0


def spread_of(micro_batches: int) -> float:
    """What the losses of an update's micro-batches, over all ranks, are multiplied by in the float16 backward pass, where
    their weights, 1 / micro_batches each, would let small gradients vanish. A power of two, which changes no digit."""
    return 2.0 ** math.floor(math.log2(micro_batches))


class Trainer:
    """Owns the trained parameters, the optimizer state and the compiled graphs."""

    def __init__(
        self,
        config: Config,
        unet: UNet,
        text_encoders: Optional[TextEncoders],
        loss_scale: LossScale,
        max_grad_norm: Optional[float] = None,
        overflow_still_update: bool = False,
        ranks: Ranks = Ranks(),
        graph_folder: Optional[Path] = None,
        read: Optional[Callable[[str], np.ndarray]] = None,
        prior_unet: Optional[UNet] = None,
    ):
        """`text_encoders` is given when their LoRA trains; compiled graphs are kept in `graph_folder`. `read(name)` gives the
        float32 matrices to start from, where the networks hold them in float16. `prior_unet`: the UNet without LoRA, where
        masks have a prior weight.

        Raises AssertionError when nothing is trainable.
        """
        cells = [unet] + ([text_encoders] if text_encoders is not None else [])
        self.parameters = [p for cell in cells for p in cell.trainable_params()]
        assert self.parameters, "no LoRA parameter to train"
        self.cells = cells
        self.config, self.loss_scale = config, loss_scale
        self.max_grad_norm, self.overflow_still_update = max_grad_norm, overflow_still_update
        self.step, self.applied, self.skipped = 0, 0, 0  # updates so far; of these applied, and skipped
        self.graphs = GraphCache(graph_folder)
        self.compiled: set[tuple] = set()  # latent shapes with a graph
        self.updates = 0  # of this run
        self._text: Optional[TextArrays] = None  # what was put last
        loss = DiffusionLoss(Network(unet, config.model), config.model, config.loss.loss_type)
        self.masks = config.data.masks if config.data else None
        self.prior_unet, self._prior = prior_unet, None
        self.gradient = FlatGradient(self.parameters, SUMS)
        self.micro_step = MicroStep(WeightedLoss(loss, text_encoders), self.parameters, chip().saturates)
        self.ranks, self.reduce = ranks, ReduceGradient(self.gradient, ranks.size)
        self.reductions = 0  # all-reduces so far
        self.adamw = AdamW(self.parameters, self.gradient, config.optim, read)

    @property
    def reduced_mb(self) -> float:
        """Size of one all-reduce: the gradient of all LoRA matrices, the losses and the numbers of samples."""
        return (self.gradient.size + SUMS) * 4 / 1e6

    def compile(self, batch: MicroBatch) -> None:
        """Compile the graph for micro-batches of this shape; nothing is computed. In PyNative mode there is none."""
        if ms.get_context("mode") == ms.GRAPH_MODE:
            with self.graphs():
                self._set_train()
                inputs = self._inputs(batch)
                if self.prior is not None:
                    self.prior.compile(*inputs[:2])
                    inputs += (Tensor(np.zeros(batch.latent_shape, np.float32)),)
                self.micro_step.compile(*inputs)
        self.compiled.add(batch.latent_shape)

    def _set_train(self) -> None:
        for cell in self.cells:  # sampling pictures on the way switches dropout off
            cell.set_train(True)

    def accumulate(self, batch: MicroBatch, first: bool, spread: float = 1.0) -> None:
        """Forward and backward of one micro-batch, the `first` of its window or a further one, at `spread` times the scale."""
        inputs = self._inputs(batch, self.loss_scale.value * spread)
        if self.prior is not None:
            inputs += (self.prior(*inputs[:2]),)
        self.gradient(self.micro_step(*inputs), first)

    @property
    def prior(self) -> Optional[PriorPrediction]:
        """What the network says without LoRA, where that is a part of the loss; once there is a text."""
        if self._prior is None and self.prior_unet is not None:
            network = Network(self.prior_unet, self.config.model)
            self._prior = PriorPrediction(network, self.config.model.scale_factor, self.micro_step.loss)
        return self._prior

    def _inputs(self, batch: MicroBatch, scale: float = 1.0) -> tuple[Tensor, ...]:
        if self._text is not batch.text:
            self.micro_step.loss.put_text(batch.text)
            self._text = batch.text
        return tuple(Tensor(array) for array in micro_batch_arrays(batch, scale, self.masks))

    def update(self, batches: Sequence[MicroBatch]) -> Update:
        """One optimizer update from a window of micro-batches (of this rank)."""
        if self.updates:
            update = self._update(batches)
        else:
            with self.graphs():
                update = self._update(batches)
        self.updates += 1
        return update

    def _update(self, batches: Sequence[MicroBatch]) -> Update:
        self._set_train()
        scale, spread = self.loss_scale.value, spread_of(len(batches) * self.ranks.size)
        for number, batch in enumerate(batches):
            self.accumulate(batch, number == 0, spread)
        norm, weighted, instance_sum, instances, class_sum, classes, overflows = self._reduce(scale * spread)
        lr = learning_rate(self.config.optim, self.step, self.config.data.total_step)
        finite = math.isfinite(norm) and not overflows
        if finite or self.overflow_still_update:
            self._apply(lr, norm)
        else:
            self.skipped += 1
        self.loss_scale.after(finite)
        self.step += 1
        return Update(
            loss=weighted / (scale * spread),
            instance_loss=instance_sum / instances,
            class_loss=class_sum / classes if classes else None,
            grad_norm=norm,
            lr=lr,
            loss_scale=scale,
            skipped=not finite and not self.overflow_still_update,
        )

    def _reduce(self, scale: float) -> list[float]:
        """The norm of the gradient and the SUMS over all ranks; leaves the gradient summed and unscaled."""
        self.ranks.barrier()  # MindSpore's CPU collectives break when a rank comes 15 s later than another
        numbers = self.reduce(Tensor(1.0 / scale, ms.float32))
        self.reductions += self.ranks.size > 1
        return numbers.asnumpy().tolist()

    def _apply(self, lr: float, norm: float) -> None:
        self.applied += 1
        self.adamw.apply(lr, clip_factor(norm, self.max_grad_norm), self.applied)

    def lora(self) -> dict[str, np.ndarray]:
        """All LoRA matrices by name in float32, trained or not."""
        return lora_state(self.cells) | self.adamw.by_name()

    def state(self) -> dict[str, np.ndarray]:
        """Everything a resumed run needs beside the LoRA matrices."""
        counters = np.array([self.step, self.applied, self.skipped, self.loss_scale.good], np.int64)
        scale = np.array([self.loss_scale.value], np.float32)
        return {"m": self.adamw.m.asnumpy(), "v": self.adamw.v.asnumpy(), "counters": counters, "loss_scale": scale}

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Continue where `state()` was taken; the caller has restored the LoRA matrices."""
        self.adamw.set_state(state["m"], state["v"])
        self.step, self.applied, self.skipped, self.loss_scale.good = (int(n) for n in state["counters"])
        self.loss_scale.value = float(state["loss_scale"][0])
