"""The samplers of k-diffusion and of diffusers, each run with a denoiser and noise that are given: what ours are compared with.

k-diffusion's package imports much that its samplers do not need, so only its sampling.py is taken.
"""

import importlib.util
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Callable, Optional

import numpy as np

SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
MEANS = (-0.8, 0.1, 0.6)  # of the mixture of normal distributions that the denoiser is exact for
SPREAD = 0.25


def denoise(x, sigma: float):
    """The exact D of a mixture of three normal distributions, of numpy arrays or of tensors alike; not linear in x."""
    variance = SPREAD**2 + float(sigma) ** 2
    logits = [-((x - mean) ** 2) / (2 * variance) for mean in MEANS]
    largest = logits[0]
    exp = np.exp if isinstance(x, np.ndarray) else __import__("torch").exp
    weights = [exp(one - largest) for one in logits]
    found = sum(weight * (mean + SPREAD**2 / variance * (x - mean)) for weight, mean in zip(weights, MEANS)) / sum(weights)
    return found.astype(x.dtype) if isinstance(x, np.ndarray) else found


def noises(number: int, shape=(1, 4, 8, 8), seed: int = 0) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).standard_normal((number, *shape)).astype(np.float32))


def k_diffusion() -> ModuleType:
    """Its sampling.py."""
    if "k_diffusion.sampling" not in sys.modules:
        found = importlib.util.find_spec("k_diffusion")
        assert found and found.submodule_search_locations, "bash tests/run.sh installs k-diffusion"
        package, utils = ModuleType("k_diffusion"), ModuleType("k_diffusion.utils")
        package.__path__ = list(found.submodule_search_locations)
        utils.append_dims = lambda x, ndim: x[(..., *(None,) * (ndim - x.ndim))]
        package.utils = utils
        sys.modules |= {"k_diffusion": package, "k_diffusion.utils": utils}
        importlib.import_module("k_diffusion.sampling")
    return sys.modules["k_diffusion.sampling"]


def of_k_diffusion(name: str, first: np.ndarray, sigmas: np.ndarray, later: list[np.ndarray]) -> np.ndarray:
    """What its sampler makes of the latent `first` at sigmas[0], with `later` as the noise of its steps."""
    import torch

    queue = iter(later)
    sampler = getattr(k_diffusion(), f"sample_{name}")
    given = {"noise_sampler": lambda *_: torch.from_numpy(next(queue)).double()} if later else {}
    levels = torch.from_numpy(np.asarray(sigmas))
    return sampler(
        lambda x, sigma: denoise(x, sigma[0]), torch.from_numpy(first).double(), levels, disable=True, **given
    ).numpy()


@dataclass(frozen=True)
class Scheduler:
    """A scheduler of diffusers: its class, and how it is set."""

    kind: str
    settings: dict
    timesteps: Optional[Callable] = None  # steps -> what set_timesteps is given beside them


def of_diffusers(scheduler: Scheduler, first: np.ndarray, steps: int, later: list[np.ndarray], monkeypatch) -> np.ndarray:
    """What a scheduler makes of unit-normal noise `first`, with `later` as the noise of its steps; a latent of unit weight."""
    import diffusers
    import torch

    made = getattr(diffusers, scheduler.kind)(**SCHEDULE, **scheduler.settings)
    made.set_timesteps(steps, **(scheduler.timesteps(steps) if scheduler.timesteps else {}))
    queue = iter(later)
    module = sys.modules[type(made).__module__]
    if hasattr(module, "randn_tensor"):
        monkeypatch.setattr(module, "randn_tensor", lambda *_, **__: torch.from_numpy(next(queue)).double())
    alphas = made.alphas_cumprod.double().numpy()
    table = np.sqrt((1 - alphas) / alphas)
    x = torch.from_numpy(first).double() * made.init_noise_sigma
    keeps_sigmas = scheduler.kind in ("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler",
                                      "LMSDiscreteScheduler")  # fmt: skip
    for number, t in enumerate(made.timesteps):
        scaled = made.scale_model_input(x, t)
        if hasattr(made, "sigmas") and made.step_index is not None:
            sigma = float(made.sigmas[made.step_index])
        elif hasattr(made, "sigmas") and len(made.sigmas) >= len(made.timesteps):
            sigma = float(made.sigmas[number])
        else:
            sigma = float(table[int(t)])
        root = np.sqrt(1 + sigma**2)
        latent = x if keeps_sigmas else scaled * root
        noise = (latent - denoise(latent, sigma)) / sigma
        x = made.step(noise, t, x, return_dict=False)[0]
    return x.numpy()
