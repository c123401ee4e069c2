"""Network output -> denoised latent, and the training loss: each formula once, for training and sampling.

x0, noise, noised (B, z, h, w)   sigma (B, 1, 1, 1)   timestep (B,) float32, the index in the training schedule
context (B, 77, c)   pooled (B, e)   sizes (B, 6)
"""

import mindspore as ms
from mindspore import Tensor, nn, ops

from gm.config.types import ModelConfig
from gm.models.conditioner import SizeEmbedding


class Denoiser(nn.Cell):
    """D(x; sigma) = x - sigma * F(x / sqrt(sigma^2 + 1)): sgm `DiscreteDenoiser` with `EpsScaling`, one UNet call."""

    def __init__(self, unet: nn.Cell, config: ModelConfig):
        super().__init__(auto_prefix=False)
        self.unet = unet
        self.size_embedding = SizeEmbedding(config.size_embed_dim)

    def construct(
        self, noised: Tensor, sigma: Tensor, timestep: Tensor, context: Tensor, pooled: Tensor, sizes: Tensor
    ) -> Tensor:
        vector = self.size_embedding(pooled, sizes)
        return noised - sigma * self.unet(noised / ops.sqrt(sigma * sigma + 1.0), timestep, context, vector)


class DiffusionLoss(nn.Cell):
    """Per-sample loss (B,): mean over a latent of sigma^-2 (D - x0)^2 (sgm `StandardDiffusionLoss`, `EpsWeighting`).

    x0 = scale_factor * (mean + exp(logvar / 2) * posterior_noise), drawn anew from the cached posterior every time.
    """

    def __init__(self, denoiser: Denoiser, scale_factor: float):
        super().__init__(auto_prefix=False)
        self.denoiser = denoiser
        self.scale_factor = scale_factor

    def construct(
        self,
        context: Tensor,
        pooled: Tensor,
        mean: Tensor,
        logvar: Tensor,
        posterior_noise: Tensor,
        noise: Tensor,
        sigma: Tensor,
        timestep: Tensor,
        sizes: Tensor,
    ) -> Tensor:
        x0 = self.scale_factor * (mean + ops.exp(0.5 * logvar) * posterior_noise)
        denoised = self.denoiser(x0 + noise * sigma, sigma, timestep, context, pooled, sizes)
        error = (denoised - x0) / sigma
        return (error * error).astype(ms.float32).mean((1, 2, 3))
