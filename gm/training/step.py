"""One optimizer update: micro-batches whose gradients add up, then reduce, check, clip and apply.

The micro-batch (forward and backward) is compiled once for every latent shape, ahead of its first update; three small
graphs add its gradient to the window's, reduce it and apply it.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Sequence

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn

from gm.config.types import Config
from gm.data.dreambooth import CLASS, INSTANCE
from gm.diffusion.denoiser import Denoiser, DiffusionLoss
from gm.graph_cache import GraphCache
from gm.models.conditioner import TextEncoders
from gm.models.unet import UNet
from gm.parallel.ranks import Ranks
from gm.training.batches import MicroBatch
from gm.training.optim import AdamW, FlatGradient, ReduceGradient, clip_factor, flatten, learning_rate


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


class WeightedLoss(nn.Cell):
    """Loss scale * sum of weight * per-sample loss, and the per-sample losses (B,)."""

    def __init__(self, loss: DiffusionLoss, text_encoders: Optional[TextEncoders]):
        super().__init__(auto_prefix=False)
        self.loss = loss
        self.trains_text = text_encoders is not None
        if self.trains_text:
            self.text_encoders = text_encoders

    def construct(self, scale, weight, text_1, text_2, *row):
        """`row`: the arguments of DiffusionLoss but for the text."""
        context, pooled = text_1, text_2
        if self.trains_text:
            context, pooled = self.text_encoders(text_1, text_2)
        per_sample = self.loss(context, pooled, *row)
        return (per_sample * weight).sum() * scale, per_sample


class MicroStep(nn.Cell):
    """Forward and backward of one micro-batch: the per-sample losses (B,) and the gradient of all parameters (n,).

    It writes to no parameter: side effects in so large a graph lengthen its compilation.
    """

    def __init__(self, loss: WeightedLoss, parameters: list[Parameter]):
        super().__init__(auto_prefix=False)
        self.loss = loss  # a graph from MindSpore's compile cache finds its weights through the cells that are attributes
        self.value_and_grad = ms.value_and_grad(loss, None, ms.ParameterTuple(parameters), has_aux=True)

    def construct(self, *inputs):
        (_, per_sample), gradients = self.value_and_grad(*inputs)
        return per_sample, flatten(gradients)


SUMS = 5  # numbers that an update sums over its micro-batches and ranks beside the gradient


def batch_sums(per_sample: np.ndarray, batch: MicroBatch) -> np.ndarray:
    """(SUMS,) float32: the weighted loss, which is what trains; then loss and number of the instance and class samples."""
    sums = [float(batch.weight @ per_sample)]
    for kind in (INSTANCE, CLASS):
        of_kind = per_sample[batch.kind == kind]
        sums += [float(of_kind.sum()), len(of_kind)]
    return np.array(sums, np.float32)


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
    ):
        """`text_encoders` is given when their LoRA trains; compiled graphs are kept in `graph_folder`.

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
        self._text: tuple[Optional[tuple], tuple] = (None, ())  # the arrays given last, and their Tensors
        loss = DiffusionLoss(Denoiser(unet, config.model), config.model.scale_factor)
        self.gradient = FlatGradient(self.parameters)
        self.micro_step = MicroStep(WeightedLoss(loss, text_encoders), self.parameters)
        self.ranks, self.reduce = ranks, ReduceGradient(self.gradient, ranks.size)
        self.reductions = 0  # all-reduces so far
        self.adamw = AdamW(self.parameters, self.gradient, config.optim)

    @property
    def reduced_mb(self) -> float:
        """Size of one all-reduce: the gradient of all LoRA matrices, the losses and the numbers of samples."""
        return (self.gradient.size + SUMS) * 4 / 1e6

    def compile(self, batch: MicroBatch) -> None:
        """Compile the graph for micro-batches of this shape; nothing is computed. In PyNative mode there is none."""
        if ms.get_context("mode") == ms.GRAPH_MODE:
            with self.graphs(f"micro-batch of {batch.latent_shape}"):
                self._set_train()
                self.micro_step.compile(*self._inputs(batch))
        self.compiled.add(batch.latent_shape)

    def _set_train(self) -> None:
        for cell in self.cells:  # sampling pictures on the way switches dropout off
            cell.set_train(True)

    def accumulate(self, batch: MicroBatch) -> np.ndarray:
        """Forward and backward of one micro-batch; returns the per-sample losses (B,)."""
        per_sample, gradient = self.micro_step(*self._inputs(batch))
        self.gradient(gradient)
        return per_sample.asnumpy()

    def _inputs(self, batch: MicroBatch) -> tuple[Tensor, ...]:
        f32 = lambda a: Tensor(np.ascontiguousarray(a, np.float32))  # noqa: E731
        return (
            f32(self.loss_scale.value),
            f32(batch.weight),
            *self._text_tensors(batch.text),
            f32(batch.mean),
            f32(batch.logvar),
            f32(batch.posterior_noise),
            f32(batch.noise),
            f32(batch.sigma.reshape(-1, 1, 1, 1)),
            f32(batch.timestep),
            f32(batch.sizes),
        )

    def _text_tensors(self, arrays: tuple[np.ndarray, np.ndarray]) -> tuple[Tensor, Tensor]:
        """The same Tensors for as long as the same tuple comes: they may be large, and on the device already."""
        if self._text[0] is not arrays:
            self._text = arrays, tuple(Tensor.from_numpy(np.ascontiguousarray(array)) for array in arrays)
        return self._text[1]

    def update(self, batches: Sequence[MicroBatch]) -> Update:
        """One optimizer update from a window of micro-batches (of this rank)."""
        if self.updates:
            update = self._update(batches)
        else:
            with self.graphs("update"):
                update = self._update(batches)
        self.updates += 1
        return update

    def _update(self, batches: Sequence[MicroBatch]) -> Update:
        self._set_train()
        sums = np.zeros(SUMS, np.float32)
        for batch in batches:
            sums += batch_sums(self.accumulate(batch), batch)
        scale = self.loss_scale.value
        norm, sums = self._reduce(scale, sums)
        lr = learning_rate(self.config.optim, self.step, self.config.data.total_step)
        finite = math.isfinite(norm)
        if finite or self.overflow_still_update:
            self._apply(lr, norm)
        else:
            self.skipped += 1
        self.gradient.clear()
        self.loss_scale.after(finite)
        self.step += 1
        loss, instance_sum, instances, class_sum, classes = (float(number) for number in sums)
        return Update(
            loss=loss,
            instance_loss=instance_sum / instances,
            class_loss=class_sum / classes if classes else None,
            grad_norm=norm,
            lr=lr,
            loss_scale=scale,
            skipped=not finite and not self.overflow_still_update,
        )

    def _reduce(self, scale: float, sums: np.ndarray) -> tuple[float, np.ndarray]:
        """The norm of the gradient, and `sums` over all ranks; leaves the gradient summed and unscaled."""
        self.ranks.barrier()  # MindSpore's CPU collectives break when a rank comes 15 s later than another
        norm, total = self.reduce(Tensor(1.0 / scale, ms.float32), Tensor(sums))
        self.reductions += self.ranks.size > 1
        return float(norm.asnumpy()), total.asnumpy()

    def _apply(self, lr: float, norm: float) -> None:
        self.applied += 1
        self.adamw.apply(lr, clip_factor(norm, self.max_grad_norm), self.applied)

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
