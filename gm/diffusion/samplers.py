"""The samplers by name. No MindSpore import."""

from typing import Mapping

from gm.diffusion.noisy_samplers import dpmpp_2m_sde, dpmpp_2s_ancestral, dpmpp_sde, euler_ancestral, lcm, tcd
from gm.diffusion.ode_samplers import ddim, dpmpp_2m, euler_edm, heun_edm, lms, unipc
from gm.diffusion.solver import Sampler

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
    "DDIMSampler": ddim,
    "LCMSampler": lcm,
    "TCDSampler": tcd,
}
