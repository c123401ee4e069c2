"""The samplers of k-diffusion and of diffusers, each run with a denoiser and noise that are given: what ours are compared with.

k-diffusion's package imports much that its samplers do not need, so only its sampling.py is taken.
"""

import importlib
import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Mapping, Sequence
from unittest import mock

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gm.diffusion.names import SAMPLER_NAMES
from gm.diffusion.samplers import SAMPLERS
from gm.diffusion.schedule import DISCRETIZATIONS, sampling_sigmas

TRAINING = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
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


@dataclass(frozen=True)
class Scheduler:
    """A scheduler of diffusers, how it is set, and the schedule that is the same here."""

    kind: str
    schedule: str
    settings: Mapping[str, object]
    in_sigmas: bool = False  # its latents have unit weight, as ours; those of the others unit variance
    draws: bool = False


LEADING = {"timestep_spacing": "leading", "steps_offset": 1}
KARRAS = {"use_karras_sigmas": True}
SCHEDULERS = {
    "EulerEDMSampler": Scheduler("EulerDiscreteScheduler", "Leading", LEADING, in_sigmas=True),
    "EulerAncestralSampler": Scheduler("EulerAncestralDiscreteScheduler", "Leading", LEADING, in_sigmas=True, draws=True),
    "HeunEDMSampler": Scheduler("HeunDiscreteScheduler", "Karras", KARRAS, in_sigmas=True),
    "LinearMultistepSampler": Scheduler("LMSDiscreteScheduler", "Karras", KARRAS, in_sigmas=True),
    "DPMPP2MSampler": Scheduler("DPMSolverMultistepScheduler", "Karras", KARRAS | {"euler_at_final": True}),
    "DPMPP2MSDESampler": Scheduler(
        "DPMSolverMultistepScheduler",
        "Karras",
        KARRAS | {"algorithm_type": "sde-dpmsolver++", "euler_at_final": True},
        draws=True,
    ),
    "UniPCSampler": Scheduler("UniPCMultistepScheduler", "Karras", KARRAS),
    "DDIMSampler": Scheduler("DDIMScheduler", "Leading", LEADING | {"set_alpha_to_one": False, "clip_sample": False}),
    "LCMSampler": Scheduler("LCMScheduler", "LCM", {}, draws=True),
    "TCDSampler": Scheduler("TCDScheduler", "LCM", {}, draws=True),
}
K_DIFFUSION = {  # sampler -> its name there, and how often a step draws
    "EulerEDMSampler": ("euler", 0),
    "HeunEDMSampler": ("heun", 0),
    "DPMPP2MSampler": ("dpmpp_2m", 0),
    "LinearMultistepSampler": ("lms", 0),
    "EulerAncestralSampler": ("euler_ancestral", 1),
    "DPMPP2SAncestralSampler": ("dpmpp_2s_ancestral", 1),
    "DPMPPSDESampler": ("dpmpp_sde", 2),
    "DPMPP2MSDESampler": ("dpmpp_2m_sde", 1),
}


def ours(name: str, first: np.ndarray, sigmas: np.ndarray, later: Sequence[np.ndarray]) -> np.ndarray:
    """What our sampler makes of the latent `first` at sigmas[0]."""
    queue = iter(later)
    return SAMPLERS[name](denoise, first, sigmas, lambda *_: next(queue), lambda steps: steps)


def of_k_diffusion(name: str, first: np.ndarray, sigmas: np.ndarray, later: Sequence[np.ndarray]) -> np.ndarray:
    """What k-diffusion's does, in double precision."""
    import torch

    queue = iter(later)
    sampler = getattr(k_diffusion(), f"sample_{K_DIFFUSION[name][0]}")
    given = {"noise_sampler": lambda *_: torch.from_numpy(next(queue)).double()} if later else {}
    start, levels = torch.from_numpy(first).double(), torch.from_numpy(np.asarray(sigmas))
    return sampler(lambda x, sigma: denoise(x, sigma[0]), start, levels, disable=True, **given).numpy()


def of_diffusers(name: str, noise: np.ndarray, steps: int, later: Sequence[np.ndarray]) -> np.ndarray:
    """What diffusers' scheduler makes of unit-normal noise, in double precision."""
    import diffusers
    import torch

    one = SCHEDULERS[name]
    made = getattr(diffusers, one.kind)(**TRAINING, **one.settings)
    made.set_timesteps(steps)
    queue = iter(later)
    table, x = sampling_sigmas(), torch.from_numpy(noise).double() * float(made.init_noise_sigma)
    with mock.patch.object(
        sys.modules[type(made).__module__], "randn_tensor", lambda *_, **__: torch.from_numpy(next(queue)), create=True
    ):
        for number, t in enumerate(made.timesteps):
            place = getattr(made, "step_index", None) or number
            sigma = float(made.sigmas[place]) if hasattr(made, "sigmas") else float(table[int(t)])
            made.scale_model_input(x, t)
            latent = x if one.in_sigmas else x * (1 + sigma**2) ** 0.5
            x = made.step((latent - denoise(latent, sigma)) / sigma, t, x, return_dict=False)[0]
    return x.numpy()


def difference(name: str, reference: str, steps: int) -> float:
    """The largest between our sampler and the reference's, relative to the largest of its latent."""
    noise, *later = noises(1 + 2 * steps)
    if reference == "k-diffusion":
        sigmas = DISCRETIZATIONS["Karras"](steps)
        first, later = noise * np.float32(sigmas[0]), later[: K_DIFFUSION[name][1] * steps]
        expected = of_k_diffusion(name, first, sigmas, later)
    else:
        one = SCHEDULERS[name]
        sigmas = DISCRETIZATIONS[one.schedule](steps)
        alone = one.in_sigmas and one.schedule != "Leading"  # diffusers scales the noise of "leading" steps alone so
        first = noise * np.float32(sigmas[0] if alone else (1 + sigmas[0] ** 2) ** 0.5)
        expected = of_diffusers(name, noise, steps, later)
    return float(np.abs(ours(name, first, sigmas, later) - expected).max() / np.abs(expected).max())


STEPS = (4, 20, 40)
PAIRS = [(name, "k-diffusion") for name in K_DIFFUSION] + [(name, "diffusers") for name in SCHEDULERS]


def main() -> None:
    """Write the table of docs/sampling.md to the screen."""
    print("| sampler | reference | " + " | ".join(f"{steps} steps" for steps in STEPS) + " |")
    print("|---|---|" + "---|" * len(STEPS))
    for name, reference in sorted(PAIRS):
        found = " | ".join(f"{difference(name, reference, steps):.0e}" for steps in STEPS)
        words = (
            f"k-diffusion `sample_{K_DIFFUSION[name][0]}`"
            if reference == "k-diffusion"
            else f"diffusers `{SCHEDULERS[name].kind}`"
        )
        print(f"| {SAMPLER_NAMES[name][0]} | {words} | {found} |")


if __name__ == "__main__":
    main()
