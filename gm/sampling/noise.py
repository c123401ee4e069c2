"""Whose pictures a seed gives: the noise of this suite, or that of another tool with the same seed.

A tool's name stands for its noise and for how it uses it: how strong the first noise is, and with which time step the network
is asked at a noise level that is between two of the training schedule. Everything here is of ONE picture (z, h, w) float32 and
never depends on the pictures beside it.

| | first noise | noise of later steps | of DPM++ SDE, DPM++ 2M SDE |
|---|---|---|---|
| native | keyed generator | keyed generator | keyed generator |
| torch: diffusers, generator=torch.Generator("cpu") | stream of the seed | the same stream | Brownian tree; the stream |
| a1111-cpu: A1111, random number generator source CPU | stream of the seed | the same stream | Brownian tree |
| comfyui: ComfyUI on a CPU | stream of the seed | stream of the seed + 1 | Brownian tree |

ComfyUI with a GPU draws the first noise and the Brownian tree on the CPU as well, but the noise of ancestral samplers on the GPU.
Sources: diffusers 0.42 schedulers and pipelines; A1111 modules/rng.py, sd_samplers_common.py, sd_samplers_kdiffusion.py;
ComfyUI comfy/sample.py, comfy/model_sampling.py, comfy/k_diffusion/sampling.py.
"""

import math
from typing import Callable, Optional

import numpy as np

from gm.diffusion.schedule import timestep_between, usual_level
from gm.randomness import PICTURE_NOISE, generator
from gm.sampling.brownian import BrownianNoise
from gm.sampling.torch_generator import TorchGenerator

StepNoise = Callable[[float, float], np.ndarray]  # (sigma before, sigma after) -> unit-normal noise
SDE, SDE_2M = "DPMPPSDESampler", "DPMPP2MSDESampler"
# diffusers' schedulers with sigmas, and its spacings "trailing" and "linspace"
SIGMA_SPACE = ("EulerEDMSampler", "EulerAncestralSampler", "HeunEDMSampler", "LinearMultistepSampler", SDE)
FROM_THE_LAST_INDEX = ("LegacyDDPMDiscretization", "Trailing", "Normal")
VARIANCE_PRESERVING = (
    "DDIMSampler",
    "UniPCSampler",
    "UniPCBH1Sampler",
    "UniPCBH2Sampler",
)  # A1111 runs them on latents of unit variance
BELOW_THE_LAST_INDEX = ("Leading", "LeadingDPM")


class NativeNoise:
    """This suite's own: each draw has a generator of its own, keyed by the seed and its number."""

    brownian: tuple[str, ...] = ()  # samplers whose noise is of a Brownian tree

    def __init__(self, seed: int, shape: tuple[int, int, int]):
        self.seed, self.shape, self.drawn = seed, shape, 0

    def first(self) -> np.ndarray:
        """Of which the picture is made."""
        return self._keyed(0)

    def next(self) -> np.ndarray:
        """Of a later step, in the order of the steps."""
        self.drawn += 1
        return self._keyed(self.drawn)

    def posterior(self) -> Optional[np.ndarray]:
        """What is drawn when a photo is encoded, before `first`; None: its latent is the mean."""
        return None

    def of_steps(self, sampler: str, sigmas: np.ndarray) -> StepNoise:
        """The noise that a sampler asks for on its way through `sigmas`, those of the whole schedule."""
        if sampler in self.brownian:
            return BrownianNoise(self.seed, self.shape, sigmas)
        return lambda sigma_from, sigma_to: self.next()

    @staticmethod
    def strength(sampler: str, discretization: str, sigma: float) -> float:
        """What the first noise is multiplied by where nothing else is there: as if a latent of unit variance were under it."""
        return math.sqrt(1.0 + sigma**2)

    @classmethod
    def asked(cls, sampler: str, discretization: str, sigma: float, table: np.ndarray) -> tuple[float, float]:
        """The level and the time step with which the network is asked; `table`: the sigmas of the training schedule."""
        return usual_level(discretization, sigma, table)

    def _keyed(self, number: int) -> np.ndarray:
        return generator(self.seed, PICTURE_NOISE, number).standard_normal(self.shape, np.float32)


class TorchNoise(NativeNoise):
    """diffusers, with one torch.Generator("cpu").manual_seed(seed) a picture."""

    brownian = (SDE,)  # its DPMSolverSDEScheduler(noise_sampler_seed=seed)
    rounded: tuple[str, ...] = (
        "DPMPP2MSampler",
        SDE_2M,
        "UniPCSampler",
        "UniPCBH1Sampler",
        "UniPCBH2Sampler",
    )  # whose time steps are whole

    def __init__(self, seed: int, shape: tuple[int, int, int]):
        super().__init__(seed, shape)
        self.stream = TorchGenerator(seed)

    def first(self) -> np.ndarray:
        return self.stream.normal(self.shape)

    def next(self) -> np.ndarray:
        return self.stream.normal(self.shape)

    def posterior(self) -> Optional[np.ndarray]:
        return self.stream.normal(self.shape)

    @staticmethod
    def strength(sampler: str, discretization: str, sigma: float) -> float:
        """Its schedulers that do not compute in unit variance leave the latent out where the steps begin at the last index."""
        alone = sampler in SIGMA_SPACE and discretization in FROM_THE_LAST_INDEX
        return sigma if alone else math.sqrt(1.0 + sigma**2)

    @classmethod
    def asked(cls, sampler: str, discretization: str, sigma: float, table: np.ndarray) -> tuple[float, float]:
        """At `sigma` itself; the time step is between two, linear in log sigma, or the nearer of them."""
        step = timestep_between(sigma, table)
        return float(sigma), float(round(step)) if sampler in cls.rounded else step


class A1111Noise(TorchNoise):
    """A1111. What its encoder draws is not the seed's: the mean takes its place."""

    brownian = (SDE, SDE_2M)
    rounded = VARIANCE_PRESERVING

    def posterior(self) -> None:
        return None

    @staticmethod
    def strength(sampler: str, discretization: str, sigma: float) -> float:
        """k-diffusion's samplers start from the noise alone."""
        return math.sqrt(1.0 + sigma**2) if sampler in VARIANCE_PRESERVING else sigma


class ComfyNoise(TorchNoise):
    """ComfyUI. Its encoder gives the mean."""

    brownian = (SDE, SDE_2M)

    def __init__(self, seed: int, shape: tuple[int, int, int]):
        super().__init__(seed, shape)
        self.later = TorchGenerator(seed + 1)

    @staticmethod
    def strength(sampler: str, discretization: str, sigma: float) -> float:
        """Below the largest level the noise is alone."""
        return sigma if discretization in BELOW_THE_LAST_INDEX else math.sqrt(1.0 + sigma**2)

    def next(self) -> np.ndarray:
        return self.later.normal(self.shape)

    def posterior(self) -> None:
        return None

    @classmethod
    def asked(cls, sampler: str, discretization: str, sigma: float, table: np.ndarray) -> tuple[float, float]:
        """At `sigma` itself, with the time step that is nearest in log sigma; in float32, which decides half way."""
        distances = np.log(np.float32(sigma)) - np.log(table).astype(np.float32)
        return float(sigma), float(np.abs(distances).argmin())


NOISES = {"native": NativeNoise, "torch": TorchNoise, "a1111-cpu": A1111Noise, "comfyui": ComfyNoise}
