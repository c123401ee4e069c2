"""Small computations that are the same anywhere: where a device's results differ from the CPU's, it shows.

Every function is run in a process of its own and enters the machine that it is given. The weights are random, by name; the
CPU's results are held against the PyTorch originals in the project's tests.
"""

from dataclasses import replace
from typing import Mapping

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from gm.config.types import Config
from gm.data.dreambooth import CLASS, INSTANCE
from gm.diffusion.schedule import train_sigmas
from gm.models import sdxl
from gm.models.adapters import adapters_of, initial_value
from gm.models.conditioner import tokenize
from gm.models.unet import UNet
from gm.models.vae import VAEDecode, VAEEncode
from gm.runtime import Runtime
from gm.training.batches import MicroBatch
from gm.training.step import LossScale, Trainer
from tools.make_random_checkpoint import random_weight

SIDE = 16  # of a latent, in pixels
UPDATES = 5
SCALES = {"O0": 1.0, "O2": 1024.0}  # of the loss
# Largest difference over the largest magnitude: up to this it is ok, up to ten times as much off. Adam divides a gradient by
# its own size, so that the matrices after updates say less than the first gradient.
LIMITS = {
    "O0": {"text": 1e-4, "VAE encoder": 1e-4, "VAE decoder": 1e-4, "UNet": 1e-4, "gradient": 1e-3, "five updates": 1e-2},
    "O2": {"text": 2e-2, "VAE encoder": 1e-4, "VAE decoder": 1e-4, "UNet": 3e-2, "gradient": 5e-2, "five updates": 2e-1},
}


def compute(machine: Runtime, config: Config) -> dict[str, np.ndarray]:
    """Quantity of LIMITS -> its numbers."""
    machine.enter()
    model, rng, found = config.model, np.random.default_rng(0), {}
    encoders = _filled(sdxl.build_text_encoders(model, machine.dtype))
    found["text"] = encoders(*map(Tensor, tokenize(["a sks dog on a beach"])))[0].asnumpy()
    vae = _filled(sdxl.build_vae(model))
    image = rng.uniform(-1, 1, (1, 3, 8 * SIDE, 8 * SIDE)).astype(np.float32)
    found["VAE encoder"] = np.concatenate([part.asnumpy() for part in VAEEncode(vae)(Tensor(image))])
    latent = rng.standard_normal((1, model.vae.embed_dim, SIDE, SIDE)).astype(np.float32)
    found["VAE decoder"] = VAEDecode(vae, model.scale_factor)(Tensor(latent)).asnumpy()
    found["UNet"] = _output(unet_with_lora(machine, config), config)
    trainer = make_trainer(machine, config, SCALES[machine.amp_level])
    for number in range(UPDATES):
        trainer.update([batch(config, number)])
        found.setdefault("gradient", _flat(trainer.gradient.by_name(trainer.parameters)))  # the first one
    found["five updates"] = _flat(trainer.lora())
    return found


def _flat(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([array.reshape(-1) for array in arrays.values()])


def relative_errors(reference: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Of every quantity; infinite where it is not finite."""
    errors = {}
    for name, expected in reference.items():
        given = found[name].astype(np.float64)
        difference = np.abs(given - expected).max() / np.abs(expected).max()
        errors[name] = float(difference) if np.isfinite(given).all() else float("inf")
    return errors


def flash_error(machine: Runtime, config: Config) -> float:
    """How far the UNet with flash attention is from the one without, relative to the largest output."""
    machine.enter()
    kinds = ("vanilla", "flash-attention")
    vanilla, flash = (
        _output(unet_with_lora(machine, replace(config, model=with_attention(config.model, kind))), config) for kind in kinds
    )
    return float(np.abs(flash - vanilla).max() / np.abs(vanilla).max())


def skips_overflow(machine: Runtime, config: Config) -> bool:
    """Whether an update with a loss scale that float16 cannot bear is skipped, and one with a bearable scale is not."""
    machine.enter()
    trainer = make_trainer(machine, config, 2.0**40)
    skipped = trainer.update([batch(config, 0)]).skipped
    trainer.loss_scale = LossScale(SCALES["O2"], dynamic=False)
    return skipped and not trainer.update([batch(config, 1)]).skipped


def convolution_error(machine: Runtime) -> float:
    """Of a float32 convolution of 64 channels: near 1e-7 in float32, near 1e-3 where it is computed in HF32, TF32 or float16."""
    machine.enter()
    rng = np.random.default_rng(1)
    x, kernel = rng.standard_normal((1, 64, 9, 9)).astype(np.float32), rng.standard_normal((8, 64, 3, 3)).astype(np.float32)
    cell = nn.Conv2d(64, 8, 3, pad_mode="valid")
    cell.weight.set_data(Tensor(kernel))
    shifted = [x[0, :, i : i + 7, j : j + 7].astype(np.float64) for i in range(3) for j in range(3)]
    expected = np.einsum("kchw,ock->ohw", shifted, kernel.reshape(8, 64, 9).astype(np.float64))
    return float(np.abs(cell(Tensor(x)).asnumpy()[0] - expected).max() / np.abs(expected).max())


def with_attention(model, kind: str):
    return replace(model, unet=replace(model.unet, attention=kind))


def _value(name: str, shape: tuple) -> np.ndarray:
    if sdxl.is_lora(name):
        return initial_value(name.replace("lora_B", "lora_A"), shape, 0)
    return random_weight(name, shape, 0)


def _filled(cell: nn.Cell) -> nn.Cell:
    shapes = {parameter.name: tuple(parameter.shape) for parameter in cell.get_parameters()}
    sdxl.fill([cell], lambda name: _value(name, shapes[name]))
    return cell


def unet_with_lora(machine: Runtime, config: Config) -> UNet:
    return _filled(sdxl.build_unet(config.model, machine.dtype, adapters_of(config.model, config.lora)))


def make_trainer(machine: Runtime, config: Config, scale: float) -> Trainer:
    unet = unet_with_lora(machine, config)
    shapes = {parameter.name: tuple(parameter.shape) for parameter in unet.get_parameters()}
    return Trainer(config, unet, None, LossScale(scale, dynamic=False), read=lambda name: _value(name, shapes[name]))


def _output(unet: UNet, config: Config) -> np.ndarray:
    given = batch(config, 9)
    vector = np.random.default_rng(2).standard_normal((2, config.model.unet.adm_in_channels)).astype(np.float32)
    arrays = (given.noise, given.timestep.astype(np.float32), given.text[0], vector)
    return unet(*map(Tensor, arrays)).asnumpy()


def batch(config: Config, number: int, side: int = SIDE) -> MicroBatch:
    """An instance and a class sample of random numbers."""
    model, rng = config.model, np.random.default_rng(number)
    shape = (2, model.unet.in_channels, side, side)
    text = np.random.default_rng(3)  # the same for every batch
    context = text.standard_normal((2, 77, model.unet.context_dim)).astype(np.float32)
    pooled = text.standard_normal((2, model.pooled_dim)).astype(np.float32)
    index = rng.integers(0, model.num_timesteps, 2)
    return replace(
        MicroBatch.blank(shape, (context, pooled)),
        mean=rng.standard_normal(shape).astype(np.float32),
        noise=rng.standard_normal(shape).astype(np.float32),
        posterior_noise=rng.standard_normal(shape).astype(np.float32),
        sigma=train_sigmas(model.num_timesteps)[index],
        timestep=index,
        sizes=np.tile([8.0 * side, 8.0 * side, 0, 0, 8.0 * side, 8.0 * side], (2, 1)),
        weight=np.full(2, 0.5),
        kind=np.array([INSTANCE, CLASS]),
    )


def synchronised_peak_gib() -> float:
    """Device memory in the pool at the peak, in GiB, after all that was started has ended; on the CPU 0."""
    if ms.get_context("device_target") == "CPU":
        return 0.0
    ms.runtime.synchronize()
    return ms.runtime.max_memory_reserved() / 2**30
