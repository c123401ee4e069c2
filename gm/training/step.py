"""One optimizer update: micro-batches whose gradients add up, then reduce, check, clip and apply.

The micro-batch (micro_step.py) is compiled once for every latent shape, ahead of its first update; three small graphs add its
gradient to the window's, reduce it and apply it.
"""

import math
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Iterator, Mapping, Optional, Sequence

import mindspore as ms
import numpy as np
from mindspore import Tensor

from gm.config.types import Config
from gm.device import chip
from gm.diffusion.denoiser import DiffusionLoss, Network
from gm.ending import asked_to_stop
from gm.graph_cache import GraphCache
from gm.models.adapters import lora_state
from gm.models.conditioner import TextEncoders
from gm.models.unet import UNet
from gm.optimizers.gradient import FlatGradient, ReduceGradient, clip_factor, deal, parts
from gm.optimizers.rates import Rates, trains
from gm.optimizers.table import OPTIMIZERS, ordered
from gm.optimizers.weight_norms import WeightNorms, lora_scales
from gm.parallel.ranks import Ranks
from gm.training.batches import MicroBatch, TextArrays
from gm.training.micro_step import SUMS, MicroStep, PriorPrediction, WeightedLoss, micro_batch_arrays


@dataclass(frozen=True)
class Update:
    """What one update was."""

    loss: float  # what was trained: the sum of weight * loss over all samples of all ranks
    instance_loss: float  # plain mean over the instance samples of all ranks
    class_loss: Optional[float]  # the same for the class samples; None when there are none
    grad_norm: float  # before clipping
    lr: float  # the highest
    loss_scale: float
    skipped: bool  # the gradient was not finite and nothing was applied
    more: Mapping[str, object] = field(default_factory=dict)  # what else metrics.jsonl is to have


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

    asked: Optional[int] = None  # the signal by which any of the ranks was told to end, when the last update was reduced

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
        trainable = [p for cell in cells for p in cell.trainable_params()]
        self.parameters = ordered(config.optim, [p for p in trainable if trains(config.optim, p.name)])
        assert self.parameters, "no LoRA parameter to train"
        self.cells = cells
        self.config, self.loss_scale = config, loss_scale
        self.max_grad_norm, self.overflow_still_update = max_grad_norm, overflow_still_update
        self.step, self.applied, self.skipped = 0, 0, 0  # updates so far; of these applied, and skipped
        self.graphs = GraphCache(graph_folder, ranks.rank)
        self.compiled: set[tuple] = set()  # latent shapes with a graph
        self.updates = 0  # of this run
        self._text: Optional[TextArrays] = None  # what was put last
        loss = DiffusionLoss(Network(unet, config.model), config.model, config.loss.loss_type)
        self.masks = config.data.masks if config.data else None
        self.prior_unet, self._prior = prior_unet, None
        self.micro_step = MicroStep(WeightedLoss(loss, text_encoders), self.parameters, chip().saturates)
        self.ranks, self.reductions = ranks, 0  # all-reduces so far
        self._make_optimizer(lora_scales(cells), read)

    def _make_optimizer(self, scales: dict[str, float], read: Optional[Callable[[str], np.ndarray]] = None) -> None:
        """What acts on the gradient; `scales` of the modules' B A."""
        optim = self.config.optim
        self.gradient = FlatGradient(self.parameters, SUMS)
        self.rates = Rates(optim, self.config.data.total_step, self.parameters)
        self.reduce = ReduceGradient(self.gradient, self.ranks.size, self.rates.stopping)
        self.optimizer = OPTIMIZERS[optim.optimizer](self.parameters, self.gradient, optim, read, self.rates.factors)
        largest = optim.scale_weight_norms
        self.norms = WeightNorms(self.parameters, scales, largest) if largest is not None else None
        self.norms_scaled = 0  # modules, in the last update
        self.ema = self.optimizer.p.asnumpy().copy() if optim.ema_decay is not None else None

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
        self.rates.begin(self.step)
        self.norms_scaled = 0
        norm, weighted, instance_sum, instances, class_sum, classes, overflows = self._reduce(scale * spread)
        lr = self.rates.at(self.step, self.applied + 1)
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
            more=self._more(lr),
        )

    def _more(self, lr: float) -> dict[str, object]:
        rates = self.rates.by_network(lr)
        scaled = {"norms_scaled": self.norms_scaled} if self.norms is not None else {}
        return ({"rates": rates} if rates else {}) | self.optimizer.numbers() | scaled

    def _reduce(self, scale: float) -> list[float]:
        """The norm of the gradient and the SUMS over all ranks; leaves the gradient summed and unscaled."""
        # all ranks wait here: MindSpore's CPU collectives break when one comes 15 s later than another
        self.asked = next((signal for signal in self.ranks.share(asked_to_stop()) if signal is not None), None)
        numbers = self.reduce(Tensor(1.0 / scale, ms.float32))
        self.reductions += self.ranks.size > 1
        return numbers.asnumpy().tolist()

    def _apply(self, lr: float, norm: float) -> None:
        self.applied += 1
        weights = self.optimizer.update(lr, clip_factor(norm, self.max_grad_norm), self.applied)
        if self.norms is not None:
            weights, self.norms_scaled = self.norms(weights, self.rates.moves)
            if self.norms_scaled:
                self.optimizer.put(weights)
        deal(weights, self.parameters)
        if self.ema is not None:  # of update t from 0, as OneTrainer: what was at the start is soon forgotten
            t = self.applied - 1
            self.ema += np.float32(1.0 - min((1 + t) / (10 + t), self.config.optim.ema_decay)) * (weights - self.ema)

    @contextmanager
    def as_saved(self) -> Iterator[None]:
        """In the body the networks have the weights that are saved, to sample with: the average where there is one."""
        if self.ema is None:
            yield
            return
        deal(self.ema, self.parameters)
        try:
            yield
        finally:
            deal(self.optimizer.p.asnumpy(), self.parameters)

    def lora(self) -> dict[str, np.ndarray]:
        """All LoRA matrices by name in float32, trained or not, as they are saved: averaged where there is an average."""
        averaged = {} if self.ema is None else {p.name: part for p, part in parts(self.ema, self.parameters)}
        return self.matrices() | averaged

    def matrices(self) -> dict[str, np.ndarray]:
        """All LoRA matrices by name in float32, trained or not, as training goes on with them."""
        return lora_state(self.cells) | self.optimizer.by_name()

    def not_finite(self) -> Optional[str]:
        """The first trained matrix, or part of the optimizer's state, with a number that is not finite."""
        for flat in (self.optimizer.p.asnumpy(), *(() if self.ema is None else (self.ema,))):
            if not np.isfinite(flat).all():
                return next(p.name for p, part in parts(flat, self.parameters) if not np.isfinite(part).all())
        state = self.optimizer.state()
        return next((f"the optimizer's {name}" for name, value in state.items() if not np.isfinite(value).all()), None)

    def state(self) -> dict[str, np.ndarray]:
        """Everything a resumed run needs beside the `matrices`."""
        counters = np.array([self.step, self.applied, self.skipped, self.loss_scale.good], np.int64)
        average = {} if self.ema is None else {"ema": self.ema.copy()}
        scale = np.array([self.loss_scale.value], np.float32)
        return self.optimizer.state() | average | {"counters": counters, "loss_scale": scale}

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Continue where `state()` was taken; the caller has restored the LoRA matrices."""
        self.optimizer.set_state(state)
        if self.ema is not None:
            self.ema = np.array(state["ema"], np.float32)
        self.step, self.applied, self.skipped, self.loss_scale.good = (int(n) for n in state["counters"])
        self.loss_scale.value = float(state["loss_scale"][0])
