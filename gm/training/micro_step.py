"""One micro-batch, forward and backward, as one graph: what it is given and what it gives back."""

from typing import Optional

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.amp import all_finite

from gm.config.types import MaskConfig
from gm.data.dreambooth import CLASS
from gm.diffusion.denoiser import DiffusionLoss, Network, latent, noised_latent
from gm.diffusion.masking import pixel_weights
from gm.diffusion.schedule import alpha_and_std
from gm.models.conditioner import TextEncoders
from gm.models.kernels import as_type, reshape
from gm.optimizers.gradient import flatten
from gm.training.batches import MicroBatch, TextArrays


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

    images (4, B, z, h, w): mean and logvar of the posterior, its noise, the noise; (5, B, z, h, w) with the noise of the
    network's input, where that is another. numbers (B, 11): weight times loss scale, 1 for a class sample, alpha, std,
    timestep, sizes; (B, 12) with the threshold of a Huber loss. masks: `pixels` and `prior` of DiffusionLoss, as far as there
    are any. It writes to no parameter: side effects in so large a graph lengthen its compilation.
    """

    def __init__(self, loss: WeightedLoss, parameters: list[Parameter], saturates: bool):
        """`saturates`: the device makes an overflow the largest number, and remembers it."""
        super().__init__(auto_prefix=False)
        self.loss = loss  # a graph from MindSpore's compile cache finds its weights through the cells that are attributes
        self.value_and_grad = ms.value_and_grad(loss, None, ms.ParameterTuple(parameters), has_aux=True)
        self.of_one_type = len({parameter.dtype for parameter in parameters}) == 1  # a DoRA's magnitudes are float32
        self.saturates, self.none = saturates, Tensor(0.0, ms.float32)

    def construct(self, images: Tensor, numbers: Tensor, *masks) -> Tensor:
        weight, is_class = numbers[:, 0], numbers[:, 1]
        row = noise_of(images) + level_of(numbers)
        (loss, per_sample), gradients = self.value_and_grad(weight, *row, *masks)
        of_class = per_sample * is_class
        sums = (loss, (per_sample - of_class).sum(), (1.0 - is_class).sum(), of_class.sum(), is_class.sum())
        overflows = 1.0 - as_type(all_finite(gradients), ms.float32) if self.saturates else self.none
        return _join((flatten(gradients, self.of_one_type), ops.stack(sums + (overflows,))))


class PriorPrediction(nn.Cell):
    """The network's output (B, z, h, w) for the same noised latents as a MicroStep is given, without the LoRA."""

    def __init__(self, network: Network, scale_factor: float, loss: WeightedLoss):
        """`network`: a UNet without LoRA; `loss` has the text."""
        super().__init__(auto_prefix=False)
        self.network, self.scale_factor = network, scale_factor
        self.text_1, self.text_2 = loss.text_1, loss.text_2

    def construct(self, images: Tensor, numbers: Tensor) -> Tensor:
        mean, logvar, posterior_noise, _, input_noise = noise_of(images)
        alpha, std, timestep, sizes, _ = level_of(numbers)
        noised = noised_latent(latent(mean, logvar, posterior_noise, self.scale_factor), input_noise, alpha, std)
        return self.network(noised, timestep, self.text_1, self.text_2, sizes)


def noise_of(images: Tensor) -> tuple:
    """images of MicroStep -> mean, logvar, posterior noise, noise, noise of the network's input."""
    noise = images[3]
    return images[0], images[1], images[2], noise, images[4] if images.shape[0] > 4 else noise


def level_of(numbers: Tensor) -> tuple:
    """numbers of MicroStep -> alpha, std, timestep, sizes, and the threshold of a Huber loss or None."""
    alpha, std, timestep, sizes = numbers[:, 2], numbers[:, 3], numbers[:, 4], numbers[:, 5:11]
    huber_c = reshape(numbers[:, 11], _OVER_LATENT) if numbers.shape[1] > 11 else None
    return reshape(alpha, _OVER_LATENT), reshape(std, _OVER_LATENT), timestep, sizes, huber_c


_OVER_LATENT = (-1, 1, 1, 1)
SUMS = 6  # the weighted loss, loss and number of the instance and of the class samples, number of overflows
_join = ops.Concat(0)


def micro_batch_arrays(batch: MicroBatch, scale: float, masks: Optional[MaskConfig] = None) -> tuple[np.ndarray, ...]:
    """What MicroStep is given of a micro-batch, which is all that goes to the device for it."""
    images = (batch.mean, batch.logvar, batch.posterior_noise, batch.noise)
    images += () if batch.input_noise is None else (batch.input_noise,)
    columns = (batch.weight * scale, batch.kind == CLASS, *alpha_and_std(batch.sigma), batch.timestep, batch.sizes)
    columns += () if batch.huber_c is None else (batch.huber_c,)
    pixels = () if masks is None else (pixel_weights(batch.mask, masks),)
    return np.stack(images).astype(np.float32), np.column_stack(columns).astype(np.float32), *pixels
