"""Network output -> denoised latent, and the training loss: each formula once, for training and sampling.

x0, noise, noised (B, z, h, w)   sigma (B, 1, 1, 1)   timestep (B,) float32, the index in the training schedule
context (B, 77, c)   pooled (B, e)   sizes (B, s), s = 6, of the refiner 5
alpha, std (B, 1, 1, 1): the weights of x0 and noise in a noised latent of unit variance, 1 and sigma / sqrt(sigma^2 + 1);
at a level that is noise alone, where sigma is infinite, 0 and 1
"""

from typing import Optional

import mindspore as ms
from mindspore import Tensor, nn, ops

from gm.config.types import ModelConfig
from gm.models.conditioner import SizeEmbedding


class Network(nn.Cell):
    """F: one UNet call on a noised latent x (B, z, h, w) of unit variance."""

    def __init__(self, unet: nn.Cell, config: ModelConfig):
        super().__init__(auto_prefix=False)
        self.unet = unet
        self.size_embedding = SizeEmbedding(config)

    def construct(self, x: Tensor, timestep: Tensor, context: Tensor, pooled: Tensor, sizes: Tensor) -> Tensor:
        return self.unet(x, timestep, context, self.size_embedding(pooled, sizes))


class Denoiser(nn.Cell):
    """D(x; sigma) from F(x / sqrt(sigma^2 + 1)): sgm `DiscreteDenoiser`.

    F is the noise: D = x - sigma F (`EpsScaling`). F is v: D = x / (sigma^2 + 1) - sigma / sqrt(sigma^2 + 1) F (`VScaling`).
    F is the latent: D = F (diffusers' prediction_type "sample").
    """

    def __init__(self, unet: nn.Cell, config: ModelConfig):
        super().__init__(auto_prefix=False)
        self.network = Network(unet, config)
        self.is_v, self.is_x0 = config.prediction == "v", config.prediction == "x0"

    def construct(
        self,
        noised: Tensor,
        sigma: Tensor,
        timestep: Tensor,
        context: Tensor,
        pooled: Tensor,
        sizes: Tensor,
        given: Optional[Tensor] = None,
    ) -> Tensor:
        """`given` (B, 1 + z, h, w): what an inpainting UNet sees beside the latent, the mask and the rest of the picture."""
        root = ops.sqrt(sigma * sigma + 1.0)
        x = noised / root if given is None else ops.concat((noised / root, given), 1)
        output = self.network(x, timestep, context, pooled, sizes)
        if self.is_x0:
            return output.astype(noised.dtype)
        if self.is_v:
            return noised / (root * root) - sigma / root * output
        return noised - sigma * output


def output_target(is_v: bool, x0: Tensor, noise: Tensor, alpha: Tensor, std: Tensor) -> Tensor:
    """The F for which Denoiser gives x0: the noise, or v = alpha noise - std x0 (arXiv 2202.00512, appendix D)."""
    return alpha * noise - std * x0 if is_v else noise


def latent(mean: Tensor, logvar: Tensor, posterior_noise: Tensor, scale_factor: float) -> Tensor:
    """x0 of a posterior, drawn anew every time."""
    return scale_factor * (mean + ops.exp(0.5 * logvar) * posterior_noise)


def noised_latent(x0: Tensor, noise: Tensor, alpha: Tensor, std: Tensor) -> Tensor:
    """What the network is given."""
    return alpha * x0 + std * noise


class DiffusionLoss(nn.Cell):
    """Per-sample loss (B,): mean over a latent of the squared error of F (sgm `StandardDiffusionLoss`; for the noise
    sigma^-2 (D - x0)^2, its `EpsWeighting`), or of another function of that error.

    huber: 2 c (sqrt(error^2 + c^2) - c), smooth_l1: without the leading c (sd-scripts); c (B, 1, 1, 1).
    """

    def __init__(self, network: Network, config: ModelConfig, loss_type: str = "l2"):
        super().__init__(auto_prefix=False)
        self.network = network
        self.scale_factor = config.scale_factor
        self.is_v = config.prediction == "v"
        self.loss_type = loss_type

    def construct(
        self,
        context: Tensor,
        pooled: Tensor,
        mean: Tensor,
        logvar: Tensor,
        posterior_noise: Tensor,
        noise: Tensor,
        input_noise: Tensor,
        alpha: Tensor,
        std: Tensor,
        timestep: Tensor,
        sizes: Tensor,
        huber_c: Optional[Tensor] = None,
        pixels: Optional[Tensor] = None,
        prior: Optional[Tensor] = None,
    ) -> Tensor:
        """`input_noise`: the noise of the network's input. `pixels` (B, 1 or 2, h, w): what the pixels count
        (gm/diffusion/masking.py), the second for the difference from `prior` (B, z, h, w), the output without LoRA."""
        x0 = latent(mean, logvar, posterior_noise, self.scale_factor)
        output = self.network(noised_latent(x0, input_noise, alpha, std), timestep, context, pooled, sizes)
        losses = self.of_error(output - output_target(self.is_v, x0, noise, alpha, std), huber_c)
        if pixels is not None:
            losses = losses * pixels[:, :1]
        if prior is not None:
            losses = losses + self.of_error(output - prior, huber_c) * pixels[:, 1:]
        return losses.mean((1, 2, 3))

    def of_error(self, error: Tensor, c: Optional[Tensor]) -> Tensor:
        """Element by element. The difference in Huber's formula is written as a quotient, which loses no digits."""
        square = (error * error).astype(ms.float32)
        if self.loss_type == "l2":
            return square
        return square * ((2.0 * c if self.loss_type == "huber" else 2.0) / (ops.sqrt(square + c * c) + c))
