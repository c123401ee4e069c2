"""The flags that say how noise becomes a picture: sampler, schedule, guidance. No MindSpore import."""

from dataclasses import dataclass
from typing import Optional

from gm.config.bounds import MOST_STEPS, STRONGEST
from gm.diffusion.guidance import GUIDERS
from gm.diffusion.names import AUTOMATIC, SAMPLER_NAMES, SCHEDULE_NAMES, named_sampler, named_schedule, resolved
from gm.diffusion.samplers import ETAS
from gm.errors import UserError
from gm.options.parser import option


def sampler_text(text: str) -> str:
    """A sampler's name as it was given; ValueError with the end of a sentence for one that is not known."""
    named_sampler(text)
    return text


def _schedule_text(text: str) -> str:
    named_schedule(text)
    return text


@dataclass(frozen=True)
class SamplerOptions:
    """Part of SampleOptions."""

    sampler: str = option(
        "EulerEDMSampler",
        f"how noise becomes a picture: {', '.join(names[0] for names in SAMPLER_NAMES.values())}, or sgm's names of them; "
        '"DPM++ 2M Karras" says the schedule as well',
        read=sampler_text,
        metavar="NAME",
        group="sampling",
    )
    sample_step: int = option(40, "sampling steps", least=1, most=MOST_STEPS, group="sampling")
    schedule: Optional[str] = option(
        None,
        f"which noise levels are visited: {', '.join(names[0] for names in SCHEDULE_NAMES.values())}; {AUTOMATIC}: what A1111 "
        "has for the sampler",
        read=_schedule_text,
        metavar="NAME",
        shown="what the sampler's name says, else Legacy DDPM, SDXL's own",
        group="sampling",
    )
    discretization: Optional[str] = option(
        None,
        "the same by sgm's names, LegacyDDPMDiscretization and EDMDiscretization",
        read=_schedule_text,
        metavar="NAME",
        shown="as --schedule",
        group="sampling",
    )
    eta: Optional[float] = option(
        None,
        f"how much of a step's noise is fresh, 0: none; of {', '.join(SAMPLER_NAMES[name][0] for name in ETAS)}",
        least=0,
        most=1,
        shown="1; DDIM 0; TCD 0.3",
        group="sampling",
    )
    guider: str = option(
        "VanillaCFG", "IdentityGuider: no guidance, half the work of a step", choices=GUIDERS, group="sampling"
    )
    guidance_scale: float = option(
        5.0, "strength of the guidance; 1 is none", least=-STRONGEST, most=STRONGEST, group="sampling"
    )
    guidance_rescale: float = option(
        0.0, "keep guidance from too much contrast, by this share (arXiv 2305.08891)", least=0, most=1, group="sampling"
    )
    guidance_start: float = option(0.0, "share of the steps before guidance begins", least=0, most=1, group="sampling")
    guidance_stop: float = option(1.0, "share of the steps after which it ends", least=0, most=1, group="sampling")

    @property
    def has_guidance(self) -> bool:
        """Whether the negative prompt counts."""
        return GUIDERS[self.guider] is not None and self.guidance_scale != 1

    def check_guidance(self) -> None:
        """UserError where something is said about guidance that there is not."""
        if self.guidance_start >= self.guidance_stop:
            raise UserError(
                f"--guidance_start {self.guidance_start:g} and --guidance_stop {self.guidance_stop:g} leave no step with "
                "guidance: give a smaller start, or --guider IdentityGuider"
            )
        asked = self.guidance_rescale or self.guidance_start > 0 or self.guidance_stop < 1
        if asked and not self.has_guidance:
            raise UserError(
                "--guidance_rescale, --guidance_start and --guidance_stop say how there is guidance, but there is none: give "
                "--guider VanillaCFG and a --guidance_scale"
            )

    def sampler_and_schedule(self) -> tuple[str, str]:
        """The keys of SAMPLERS and DISCRETIZATIONS; UserError where two flags say different schedules, or the sampler has no eta."""
        if self.schedule and self.discretization and named_schedule(self.schedule) != named_schedule(self.discretization):
            raise UserError(
                f"--schedule {self.schedule} and --discretization {self.discretization} are two schedules: give one of them"
            )
        try:
            sampler, discretization = resolved(self.sampler, self.schedule or self.discretization)
        except ValueError as error:
            raise UserError(f"--sampler: {error}") from None
        if self.eta is not None and sampler not in ETAS:
            with_eta = ", ".join(SAMPLER_NAMES[name][0] for name in ETAS)
            raise UserError(
                f"--eta {self.eta:g} has no effect on the sampler {self.sampler}: leave it out, or take {with_eta}"
            )
        return sampler, discretization
