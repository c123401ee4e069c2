"""Samplers, schedules and upscalers as A1111 has them in its infotext, both ways. No MindSpore import."""

from typing import Optional

from gm.diffusion.names import SAMPLER_NAMES, resolved

SCHEDULE_TYPES = {  # of DISCRETIZATIONS -> A1111's with the same noise levels, up to the rounding of a time step
    "LegacyDDPMDiscretization": "SGM Uniform",
    "EDMDiscretization": "Karras",
    "Karras": "Karras",
    "Exponential": "Exponential",
    "Leading": "DDIM",
    "Trailing": "Simple",
    "Normal": "Normal",
    "SGMUniform": "SGM Uniform",
    "Simple": "Simple",
    "AlignYourSteps": "Align Your Steps",
    "Beta": "Beta",
}
HIRES_UPSCALERS = {  # of gm/sampling/enlarging.py -> A1111's
    "latent": "Latent",
    "latent-bicubic": "Latent (bicubic)",
    "latent-nearest": "Latent (nearest)",
    "latent-nearest-exact": "Latent (nearest-exact)",
    "lanczos": "Lanczos",
    "nearest": "Nearest",
    "bicubic": "Bicubic",
}


def to_a1111(sampler: str, discretization: str) -> tuple[str, Optional[str]]:
    """Names of SAMPLERS and DISCRETIZATIONS -> A1111's "Sampler" and "Schedule type", None where it has no such. Karras stands in
    the sampler's name too: A1111 takes it away there, and ComfyUI looks for it nowhere else."""
    name, schedule = SAMPLER_NAMES.get(sampler, (sampler,))[0], SCHEDULE_TYPES.get(discretization)
    return (f"{name} Karras" if schedule == "Karras" else name), schedule


def from_a1111(sampler: str, schedule: Optional[str]) -> tuple[str, str]:
    """A1111's "Sampler" and "Schedule type", None where it stands in the sampler's name or nowhere -> names of SAMPLERS and
    DISCRETIZATIONS; ValueError with the end of a sentence for one that is not known."""
    return resolved(sampler, schedule, "Normal")
