"""What people call samplers and schedules: A1111's, ComfyUI's and diffusers' names -> those of this suite. No MindSpore import.

A name may end with its schedule, as in "DPM++ 2M Karras". Spaces, signs other than + and capitals do not count, nor does a k_ before it.
"""

import difflib
import re
from typing import Mapping, Optional

from gm.diffusion.samplers import SAMPLERS
from gm.diffusion.schedule import DISCRETIZATIONS
from gm.errors import shown

SAMPLER_NAMES: Mapping[str, tuple[str, ...]] = {  # A1111's name first
    "EulerEDMSampler": ("Euler", "EulerDiscreteScheduler"),
    "EulerAncestralSampler": ("Euler a", "Euler ancestral", "EulerAncestralDiscreteScheduler"),
    "HeunEDMSampler": ("Heun", "HeunDiscreteScheduler"),
    "DPMPP2MSampler": ("DPM++ 2M", "dpmpp_2m", "dpmsolver++", "DPMSolverMultistepScheduler"),
    "DPMPP2SAncestralSampler": ("DPM++ 2S a", "dpmpp_2s_ancestral"),
    "DPMPPSDESampler": ("DPM++ SDE", "dpmpp_sde", "dpmpp_sde_gpu", "DPMSolverSDEScheduler"),
    "DPMPP2MSDESampler": ("DPM++ 2M SDE", "dpmpp_2m_sde", "dpmpp_2m_sde_gpu"),
    "UniPCBH1Sampler": ("UniPC", "uni_pc", "uni_pc_bh1"),
    "UniPCBH2Sampler": ("UniPC bh2", "uni_pc_bh2"),
    "UniPCSampler": ("UniPC order 2", "UniPCMultistepScheduler"),
    "DDIMSampler": ("DDIM", "DDIMScheduler"),
    "LinearMultistepSampler": ("LMS", "LMSDiscreteScheduler"),
    "LCMSampler": ("LCM", "LCMScheduler"),
    "TCDSampler": ("TCD", "TCDScheduler"),
}
SCHEDULE_NAMES: Mapping[str, tuple[str, ...]] = {  # A1111's "Schedule type" first, where it has one
    "LegacyDDPMDiscretization": ("Legacy DDPM",),
    "EDMDiscretization": ("EDM",),
    "Karras": ("Karras",),
    "Exponential": ("Exponential", "Polyexponential"),  # which is the same with its rho of 1
    "Leading": ("DDIM", "ddim_uniform"),
    "LeadingDPM": ("Leading DPM",),
    "Trailing": ("Trailing",),
    "Normal": ("Normal", "Uniform", "linspace"),
    "SGMUniform": ("SGM Uniform", "sgm_uniform"),
    "Simple": ("Simple",),
    "AlignYourSteps": ("Align Your Steps", "AYS"),
    "Beta": ("Beta",),
    "LCM": ("LCM",),
    "HyperSD": ("Hyper-SD",),
}
OWN_SCHEDULE = {"LCMSampler": "LCM", "TCDSampler": "LCM", "DDIMSampler": "Leading"}  # where none is asked for
AUTOMATIC = "Automatic"  # a schedule that is the sampler's own in A1111 (modules/sd_samplers_kdiffusion.py)
AUTOMATICALLY = OWN_SCHEDULE | {
    "DPMPP2MSampler": "Karras",
    "DPMPPSDESampler": "Karras",
    "DPMPP2SAncestralSampler": "Karras",
    "DPMPP2MSDESampler": "Exponential",
}  # the others have "Normal"


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9+]", "", re.sub(r"^\s*k_", "", name.lower()))


_SAMPLERS = {_key(one): sampler for sampler, names in SAMPLER_NAMES.items() for one in (sampler, *names)}
_SCHEDULES = {_key(one): schedule for schedule, names in SCHEDULE_NAMES.items() for one in (schedule, *names)}


def named_schedule(name: str) -> str:
    """The key of DISCRETIZATIONS that people mean by `name`, or AUTOMATIC; ValueError with the end of a sentence."""
    found = AUTOMATIC if _key(name) == _key(AUTOMATIC) else _SCHEDULES.get(_key(name))
    if found is None:
        raise ValueError(_unknown(name, "schedule", [names[0] for names in SCHEDULE_NAMES.values()], DISCRETIZATIONS))
    return found


def named_sampler(name: str) -> tuple[str, Optional[str]]:
    """The key of SAMPLERS, and of DISCRETIZATIONS if the name ends with one; ValueError with the end of a sentence."""
    key = _key(name)
    if key in _SAMPLERS:
        return _SAMPLERS[key], None
    for ending, schedule in _SCHEDULES.items():
        if key.endswith(ending) and key[: -len(ending)] in _SAMPLERS:
            return _SAMPLERS[key[: -len(ending)]], schedule
    raise ValueError(_unknown(name, "sampler", [names[0] for names in SAMPLER_NAMES.values()], SAMPLERS))


def _unknown(name: str, what: str, known, others) -> str:
    near = difflib.get_close_matches(name.lower(), [one.lower() for one in (*known, *others)], 1)
    spelled = {one.lower(): one for one in (*known, *others)}
    hint = f", did you mean {spelled[near[0]]!r}?" if near else f", known are {', '.join(known)}"
    return f"{shown(name)} is no {what}{hint}"


def resolved(sampler: str, schedule: Optional[str] = None, usual: str = "LegacyDDPMDiscretization") -> tuple[str, str]:
    """The keys of SAMPLERS and DISCRETIZATIONS for names that are known. Where neither says the schedule, it is the sampler's
    own, or else `usual`. ValueError, a whole sentence, where the two say different ones."""
    found, said = named_sampler(sampler)
    asked = named_schedule(schedule) if schedule else None
    if asked == AUTOMATIC:
        asked = said or AUTOMATICALLY.get(found, "Normal")
    if said and asked and said != asked:
        raise ValueError(
            f"the sampler {sampler!r} names a schedule, but the schedule {schedule!r} is given too: give one of them"
        )
    return found, asked or said or OWN_SCHEDULE.get(found, usual)
