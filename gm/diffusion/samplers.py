"""The samplers by name. No MindSpore import."""

import inspect
from functools import partial
from typing import Mapping, Optional

import numpy as np

from gm.diffusion.noisy_samplers import ddim, dpmpp_2m_sde, dpmpp_2s_ancestral, dpmpp_sde, euler_ancestral, lcm, tcd
from gm.diffusion.ode_samplers import dpmpp_2m, euler_edm, heun_edm, lms
from gm.diffusion.solver import Sampler
from gm.diffusion.unipc import unipc, unipc_bh1, unipc_bh2

SAMPLERS: Mapping[str, Sampler] = {
    "EulerEDMSampler": euler_edm,
    "HeunEDMSampler": heun_edm,
    "DPMPP2MSampler": dpmpp_2m,
    "LinearMultistepSampler": lms,
    "EulerAncestralSampler": euler_ancestral,
    "DPMPP2SAncestralSampler": dpmpp_2s_ancestral,
    "DPMPPSDESampler": dpmpp_sde,
    "DPMPP2MSDESampler": dpmpp_2m_sde,
    "UniPCSampler": unipc,
    "UniPCBH1Sampler": unipc_bh1,
    "UniPCBH2Sampler": unipc_bh2,
    "DDIMSampler": ddim,
    "LCMSampler": lcm,
    "TCDSampler": tcd,
}


def _takes(name: str) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(SAMPLERS[name]).parameters


# the samplers with fresh noise, and the eta of each where none is asked for
ETAS: Mapping[str, float] = {name: _takes(name)["eta"].default for name in SAMPLERS if "eta" in _takes(name)}


def sampler_of(name: str, table: np.ndarray, eta: Optional[float] = None) -> Sampler:
    """The sampler for a model whose training schedule has the sigmas `table`. `eta` instead of its own where it is one of ETAS."""
    given: dict[str, object] = {"table": table} if "table" in _takes(name) else {}
    if eta is not None and name in ETAS:
        given["eta"] = eta
    return partial(SAMPLERS[name], **given)
