"""Training the first stage (VAE) from nothing: absolute and squared error of pixels, that of edges, and a little KL.

image (B, 3, H, W) in [-1, 1]   posterior noise (B, z, H/8, W/8) unit normal
"""

from typing import Mapping

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from gm.config.types import OptimConfig
from gm.errors import UserError
from gm.models.vae import VAE, VAE_PREFIX, VAEDecode, VAEEncode
from gm.optimizers.flat import AdamW
from gm.optimizers.gradient import FlatGradient, ReduceGradient, clip_factor, flatten
from gm.optimizers.rates import learning_rate
from gm.parallel.ranks import Ranks

HOPELESS = 20  # updates in a row without a finite gradient
EDGES, KL = 0.5, 1e-5  # weights of parts of the loss; a KL of 1e-3 leaves channels of the latent empty


class FirstStageLoss(nn.Cell):
    """With the error e = y - x: mean |e| + mean e^2 + EDGES * mean |e - e of the neighbour| + KL * mean KL(posterior, N(0, 1)).

    The square is for colours: the absolute error alone is content with the commonest one for a long time.
    """

    def __init__(self, vae: VAE):
        super().__init__(auto_prefix=False)
        self.encode, self.decode = VAEEncode(vae), VAEDecode(vae, 1.0)

    def construct(self, image: Tensor, noise: Tensor):
        """The loss, and the mean absolute error of the pixels alone."""
        mean, logvar = self.encode(image)
        spread = ops.exp(0.5 * logvar)
        error = self.decode(mean + spread * noise) - image
        pixels = ops.abs(error).mean()
        edges = ops.abs(error[:, :, 1:] - error[:, :, :-1]).mean() + ops.abs(error[..., 1:] - error[..., :-1]).mean()
        kl = 0.5 * (mean * mean + spread * spread - logvar - 1.0).mean()
        return pixels + (error * error).mean() + EDGES * edges + KL * kl, pixels


class _Step(nn.Cell):
    def __init__(self, loss: FirstStageLoss, parameters: list):
        super().__init__(auto_prefix=False)
        self.value_and_grad = ms.value_and_grad(loss, None, ms.ParameterTuple(parameters), has_aux=True)

    def construct(self, image: Tensor, noise: Tensor):
        (_, pixels), gradients = self.value_and_grad(image, noise)
        return pixels, flatten(gradients)


class FirstStageTrainer:
    """Owns the VAE's parameters and the optimizer state; graphs are compiled for each picture size."""

    def __init__(self, vae: VAE, optim: OptimConfig, total_step: int, max_grad_norm: float = 1.0):
        self.parameters = list(vae.get_parameters())
        for parameter in self.parameters:
            parameter.requires_grad = True
        self.optim, self.total_step, self.max_grad_norm, self.step = optim, total_step, max_grad_norm, 0
        self.skipped = 0  # updates in a row whose gradient was not finite
        self.gradient = FlatGradient(self.parameters)
        self.micro_step = _Step(FirstStageLoss(vae), self.parameters)
        self.reduce = ReduceGradient(self.gradient, Ranks().size)
        self.adamw = AdamW(self.parameters, self.gradient, optim)

    def update(self, images: np.ndarray, noise: np.ndarray) -> float:
        """One update; returns the mean absolute error of the pixels, which are in [-1, 1]. UserError when nothing can come of it
        any more."""
        pixels, gradient = self.micro_step(Tensor(images), Tensor(noise))
        self.gradient(gradient, True)
        norm = float(self.reduce(Tensor(1.0, ms.float32)).asnumpy()[0])
        if np.isfinite(norm):
            lr = learning_rate(self.optim, self.step, self.total_step)
            self.adamw.apply(lr, clip_factor(norm, self.max_grad_norm), self.step + 1)
        self.skipped = 0 if np.isfinite(norm) else self.skipped + 1
        if self.skipped == HOPELESS:
            raise UserError(
                f"the gradient of the first stage is not finite in {HOPELESS} updates in a row, the last is step {self.step + 1}: "
                "go on from other weights (--init), or with what was saved before in another --output"
            )
        self.step += 1
        return float(pixels.asnumpy())

    def state(self) -> dict[str, np.ndarray]:
        """What `set_state` continues from."""
        weights = {parameter.name: parameter.asnumpy() for parameter in self.parameters}
        return weights | self.adamw.state() | {"step": np.array([self.step], np.int64)}

    def set_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Continue where `state()` was taken."""
        for parameter in self.parameters:
            parameter.set_data(Tensor(state[parameter.name]))
        self.adamw.set_state(state)
        self.step = int(state["step"][0])


def normalised(weights: Mapping[str, np.ndarray], means: np.ndarray, scale_factor: float) -> dict[str, np.ndarray]:
    """The weights of the same VAE with latents that have mean 0 and, times `scale_factor`, deviation 1 in each channel.

    `means` (N, z, h, w): posterior means of many pictures. The change is folded into the two 1x1 convolutions beside the
    latent, so that SDXL's own scale factor is right for a VAE that has not SDXL's statistics.
    """
    axes = (0, 2, 3)
    centre, gain = means.mean(axes), 1.0 / (scale_factor * means.std(axes))
    channels, changed = len(centre), dict(weights)
    out, into = VAE_PREFIX + "quant_conv.", VAE_PREFIX + "post_quant_conv."
    weight, bias = weights[out + "weight"].copy(), weights[out + "bias"].copy()
    weight[:channels] *= gain.reshape(-1, 1, 1, 1)
    bias[:channels] = (bias[:channels] - centre) * gain
    bias[channels:] += 2.0 * np.log(gain)  # the log-variance of the posterior
    changed |= {out + "weight": weight, out + "bias": bias}
    weight = weights[into + "weight"]
    changed[into + "weight"] = weight / gain.reshape(1, -1, 1, 1)
    changed[into + "bias"] = weights[into + "bias"] + weight[:, :, 0, 0] @ centre
    return {name: np.asarray(array, np.float32) for name, array in changed.items()}
