"""The samplers of k-diffusion and of diffusers, each run with a denoiser and noise that are given: what ours are compared with.

k-diffusion's package imports much that its samplers do not need, so only its sampling.py is taken.
"""

import importlib
import importlib.util
import sys
from dataclasses import dataclass
from functools import reduce
from types import ModuleType
from typing import Iterator, Mapping, Optional
from unittest import mock

import numpy as np

from gm.diffusion.names import SAMPLER_NAMES
from gm.diffusion.samplers import ETAS, sampler_of
from gm.diffusion.schedule import DISCRETIZATIONS, sampling_sigmas

TRAINING = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
MEANS = (-0.8, 0.1, 0.6)  # of the mixture of normal distributions that the denoiser is exact for
SPREAD = 0.25


def denoise(x, sigma: float):
    """The exact D of a mixture of three normal distributions, of numpy arrays or of tensors alike; not linear in x."""
    variance = SPREAD**2 + float(sigma) ** 2
    logits = [-((x - mean) ** 2) / (2 * variance) for mean in MEANS]
    library = np if isinstance(x, np.ndarray) else importlib.import_module("torch")
    largest = reduce(library.maximum, logits)
    weights = [library.exp(one - largest) for one in logits]
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
    ends_early: bool = False  # at the first level of the training schedule


LEADING = {"timestep_spacing": "leading", "steps_offset": 1}
KARRAS = {"use_karras_sigmas": True}
SCHEDULERS = {
    "EulerEDMSampler": Scheduler("EulerDiscreteScheduler", "Leading", LEADING, in_sigmas=True),
    "EulerAncestralSampler": Scheduler("EulerAncestralDiscreteScheduler", "Leading", LEADING, in_sigmas=True),
    "HeunEDMSampler": Scheduler("HeunDiscreteScheduler", "Karras", KARRAS, in_sigmas=True),
    "LinearMultistepSampler": Scheduler("LMSDiscreteScheduler", "Karras", KARRAS, in_sigmas=True),
    "DPMPP2MSampler": Scheduler("DPMSolverMultistepScheduler", "LeadingDPM", LEADING),
    "DPMPPSDESampler": Scheduler("DPMSolverSDEScheduler", "Karras", KARRAS, in_sigmas=True),
    "DPMPP2MSDESampler": Scheduler("DPMSolverMultistepScheduler", "Karras", KARRAS | {"algorithm_type": "sde-dpmsolver++"}),
    "UniPCSampler": Scheduler("UniPCMultistepScheduler", "Karras", KARRAS),
    "UniPCBH1Sampler": Scheduler(  # which gives no number in a step to 0
        "UniPCMultistepScheduler",
        "Trailing",
        {"timestep_spacing": "trailing", "solver_order": 3, "solver_type": "bh1", "final_sigmas_type": "sigma_min"},
        ends_early=True,
    ),
    "UniPCBH2Sampler": Scheduler("UniPCMultistepScheduler", "Karras", KARRAS | {"solver_order": 3}),
    "DDIMSampler": Scheduler("DDIMScheduler", "Leading", LEADING | {"set_alpha_to_one": False, "clip_sample": False}),
    "LCMSampler": Scheduler("LCMScheduler", "LCM", {}),
    "TCDSampler": Scheduler("TCDScheduler", "LCM", {}),
}
K_DIFFUSION = {
    "EulerEDMSampler": "euler",
    "HeunEDMSampler": "heun",
    "DPMPP2MSampler": "dpmpp_2m",
    "LinearMultistepSampler": "lms",
    "EulerAncestralSampler": "euler_ancestral",
    "DPMPP2SAncestralSampler": "dpmpp_2s_ancestral",
    "DPMPPSDESampler": "dpmpp_sde",
    "DPMPP2MSDESampler": "dpmpp_2m_sde",
}


@dataclass(frozen=True)
class Pair:
    """A sampler and what it is compared with."""

    name: str
    reference: str  # "k-diffusion" or "diffusers"
    eta: Optional[float] = None

    @property
    def words(self) -> tuple[str, str]:
        """What the two are called."""
        ours = SAMPLER_NAMES[self.name][0] + ("" if self.eta is None else f", eta {self.eta:g}")
        theirs = f"sample_{K_DIFFUSION[self.name]}" if self.reference == "k-diffusion" else SCHEDULERS[self.name].kind
        return ours, f"{self.reference} `{theirs}`"


STEPS = (4, 20, 40)
PAIRS = [
    *(Pair(name, "k-diffusion") for name in K_DIFFUSION),
    *(Pair(name, "k-diffusion", 0.5) for name in K_DIFFUSION if name in ETAS),
    *(Pair(name, "diffusers") for name in SCHEDULERS),
    *(Pair("DDIMSampler", "diffusers", eta) for eta in (0.5, 1.0)),
    *(Pair("TCDSampler", "diffusers", eta) for eta in (0.0, 0.7, 1.0)),
]


def ours(pair: Pair, first: np.ndarray, sigmas: np.ndarray, later: Iterator[np.ndarray]) -> np.ndarray:
    """What our sampler makes of the latent `first` at sigmas[0]."""
    run = sampler_of(pair.name, sampling_sigmas(), pair.eta)
    return run(denoise, first, sigmas, lambda *_: next(later), lambda steps: steps)


def of_k_diffusion(pair: Pair, first: np.ndarray, sigmas: np.ndarray, later: Iterator[np.ndarray]) -> np.ndarray:
    """What k-diffusion's does, in double precision."""
    import torch

    given: dict[str, object] = {} if pair.eta is None else {"eta": pair.eta}
    if pair.name in ETAS:
        given["noise_sampler"] = lambda *_: torch.from_numpy(next(later)).double()
    start, levels = torch.from_numpy(first).double(), torch.from_numpy(np.asarray(sigmas))
    sampler = getattr(k_diffusion(), f"sample_{K_DIFFUSION[pair.name]}")
    return sampler(lambda x, sigma: denoise(x, sigma[0]), start, levels, disable=True, **given).numpy()


def of_diffusers(pair: Pair, noise: np.ndarray, steps: int, later: Iterator[np.ndarray]) -> np.ndarray:
    """What diffusers' scheduler makes of unit-normal noise, in double precision."""
    import diffusers
    import torch

    one = SCHEDULERS[pair.name]
    made = getattr(diffusers, one.kind)(**TRAINING, **one.settings)
    made.set_timesteps(steps)
    made.noise_sampler = lambda *_: torch.from_numpy(next(later)).double()
    given = {} if pair.eta is None else {"eta": pair.eta}
    table, x = sampling_sigmas(), torch.from_numpy(noise).double() * float(made.init_noise_sigma)
    with mock.patch.object(
        sys.modules[type(made).__module__], "randn_tensor", lambda *_, **__: torch.from_numpy(next(later)), create=True
    ):
        for number, t in enumerate(made.timesteps):
            place = getattr(made, "step_index", None) or number
            sigma = float(made.sigmas[place]) if hasattr(made, "sigmas") else float(table[int(t)])
            if getattr(made, "mid_point_sigma", None) is not None:  # the second call of a step
                sigma = float(made.mid_point_sigma)
            made.scale_model_input(x, t)
            latent = x if one.in_sigmas else x * (1 + sigma**2) ** 0.5
            x = made.step((latent - denoise(latent, sigma)) / sigma, t, x, return_dict=False, **given)[0]
    return x.numpy() * (1 + sampling_sigmas()[0] ** 2) ** 0.5 if one.ends_early else x.numpy()


def difference(pair: Pair, steps: int) -> float:
    """The largest between our sampler and the reference's, relative to the largest of its latent."""
    noise, *later = noises(1 + 2 * steps)
    left = [iter(later), iter(later)]
    if pair.reference == "k-diffusion":
        sigmas = DISCRETIZATIONS["Karras"](steps)
        first = noise * np.float32(sigmas[0])
        expected = of_k_diffusion(pair, first, sigmas, left[0])
    else:
        one = SCHEDULERS[pair.name]
        sigmas = DISCRETIZATIONS[one.schedule](steps)
        sigmas[-1] = sampling_sigmas()[0] if one.ends_early else 0.0
        alone = one.in_sigmas and one.schedule != "Leading"  # diffusers scales the noise of "leading" steps alone so
        first = noise * np.float32(sigmas[0] if alone else (1 + sigmas[0] ** 2) ** 0.5)
        expected = of_diffusers(pair, noise, steps, left[0])
    found = ours(pair, first, sigmas, left[1])
    assert 0 <= len(list(left[1])) - len(list(left[0])) <= 1, "one draws more often"  # diffusers also in a last step, times 0
    return float(np.abs(found - expected).max() / np.abs(expected).max())
