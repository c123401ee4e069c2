"""One micro-batch, forward and backward, as one graph: what it is given and what it gives back."""

from typing import Optional

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.amp import all_finite

from gm.data.dreambooth import CLASS
from gm.diffusion.denoiser import DiffusionLoss
from gm.models.conditioner import TextEncoders
from gm.models.kernels import as_type, reshape
from gm.training.batches import MicroBatch, TextArrays
from gm.training.optim import flatten


class WeightedLoss(nn.Cell):
    """Sum of weight * per-sample loss, and the per-sample losses (B,)."""

    def __init__(self, loss: DiffusionLoss, text_encoders: Optional[TextEncoders]):
        super().__init__(auto_prefix=False)
        self.loss = loss
        self.trains_text = text_encoders is not None
        if self.trains_text:
            self.text_encoders = text_encoders

    def put_text(self, arrays: TextArrays) -> None:
        """The text of the micro-batches to come. It may be 100 MB, and only a parameter stays on the device."""
        tensors = [Tensor(np.ascontiguousarray(array)) for array in arrays]
        if hasattr(self, "text_1"):
            self.text_1.set_data(tensors[0])
            self.text_2.set_data(tensors[1])
        else:
            self.text_1 = Parameter(tensors[0], name="text_1", requires_grad=False)
            self.text_2 = Parameter(tensors[1], name="text_2", requires_grad=False)

    def construct(self, weight: Tensor, *row):
        """`row`: the arguments of DiffusionLoss but for the text."""
        context, pooled = self.text_1, self.text_2
        if self.trains_text:
            context, pooled = self.text_encoders(context, pooled)
        per_sample = self.loss(context, pooled, *row)
        return (per_sample * weight).sum(), per_sample


class MicroStep(nn.Cell):
    """Forward and backward of one micro-batch: the gradient of all parameters with the batch's SUMS behind it, (n + SUMS,).

    images (4, B, z, h, w): mean and logvar of the posterior, its noise, the noise. numbers (B, 10): weight times loss scale,
    1 for a class sample, sigma, timestep, sizes. It writes to no parameter: side effects in so large a graph lengthen its
    compilation.
    """

    def __init__(self, loss: WeightedLoss, parameters: list[Parameter], saturates: bool):
        """`saturates`: the device makes an overflow the largest number, and remembers it."""
        super().__init__(auto_prefix=False)
        self.loss = loss  # a graph from MindSpore's compile cache finds its weights through the cells that are attributes
        self.value_and_grad = ms.value_and_grad(loss, None, ms.ParameterTuple(parameters), has_aux=True)
        self.of_one_type = len({parameter.dtype for parameter in parameters}) == 1  # a DoRA's magnitudes are float32
        self.saturates, self.none = saturates, Tensor(0.0, ms.float32)

    def construct(self, images: Tensor, numbers: Tensor) -> Tensor:
        weight, is_class, sigma, timestep, sizes = self.columns(numbers)
        row = (images[0], images[1], images[2], images[3], reshape(sigma, (-1, 1, 1, 1)), timestep, sizes)
        (loss, per_sample), gradients = self.value_and_grad(weight, *row)
        of_class = per_sample * is_class
        sums = (loss, (per_sample - of_class).sum(), (1.0 - is_class).sum(), of_class.sum(), is_class.sum())
        overflows = 1.0 - as_type(all_finite(gradients), ms.float32) if self.saturates else self.none
        flat = flatten(gradients) if self.of_one_type else flatten(gradients, False)
        return _join((flat, ops.stack(sums + (overflows,))))

    def columns(self, numbers: Tensor) -> tuple:
        return numbers[:, 0], numbers[:, 1], numbers[:, 2], numbers[:, 3], numbers[:, 4:]


SUMS = 6  # the weighted loss, loss and number of the instance and of the class samples, number of overflows
_join = ops.Concat(0)


def micro_batch_arrays(batch: MicroBatch, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """What MicroStep is given of a micro-batch, which is all that goes to the device for it."""
    images = np.stack((batch.mean, batch.logvar, batch.posterior_noise, batch.noise)).astype(np.float32)
    columns = (batch.weight * scale, batch.kind == CLASS, batch.sigma, batch.timestep)
    return images, np.column_stack((*columns, batch.sizes)).astype(np.float32)
