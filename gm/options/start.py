"""The flags that say what a picture begins with: noise, a given picture, a mask on it; and the second, larger pass. No MindSpore
import."""

from dataclasses import dataclass
from typing import Optional

from gm.config.bounds import MOST_STEPS
from gm.errors import UserError
from gm.options.parser import option
from gm.sampling.enlarging import UPSCALERS

TASKS = ("txt2img", "img2img", "inpaint")
RESIZE_MODES = ("crop", "fill", "stretch")
STRENGTH = {"txt2img": 1.0, "img2img": 0.75, "inpaint": 1.0}  # where nobody says how strong
MOST_BLUR = 64.0  # pixels
MOST_ENLARGED = 8.0  # times a side


@dataclass(frozen=True)
class StartOptions:
    """Part of SampleOptions."""

    task: str = option(
        "txt2img",
        "what to make; txt2img: pictures from words; img2img: from --img; inpaint: into --img, where --mask is white",
        choices=TASKS,
        group="pictures",
    )
    img: Optional[str] = option(None, "the picture to begin with", metavar="FILE", group="from a picture")
    mask: Optional[str] = option(
        None, "a picture that is white where --img is painted anew", metavar="FILE", group="from a picture"
    )
    strength: Optional[float] = option(
        None,
        "how much of --img becomes another: the share of --sample_step that is done, as in diffusers",
        above=0,
        most=1,
        shown="0.75, of inpaint 1",
        group="from a picture",
    )
    resize_mode: Optional[str] = option(
        None,
        "how --img comes to --height and --width; crop: its middle; fill: the whole of it, its edges drawn out; stretch: the whole "
        "of it, out of proportion",
        choices=RESIZE_MODES,
        shown="crop",
        group="from a picture",
    )
    mask_blur: Optional[float] = option(
        None,
        "pixels over which the painted becomes --img, the standard deviation of a blur of the mask",
        least=0,
        most=MOST_BLUR,
        shown="4",
        group="from a picture",
    )
    init_latent_path: Optional[str] = option(
        None,
        "noise to begin with instead of the seed's, unit-normal (z, h, w) with sides of 1/8 of the picture's, or (pictures, z, h, w): "
        ".npy or .safetensors",
        metavar="FILE",
        group="sampling",
    )
    save_init_latent: bool = option(
        False, "write the noise that a picture began with beside it, for --init_latent_path", group="pictures"
    )
    hires_scale: Optional[float] = option(
        None,
        "hires fix: make each picture, enlarge it so many times a side, and go over it once more",
        above=1,
        most=MOST_ENLARGED,
        group="hires fix",
    )
    hires_strength: Optional[float] = option(
        None, "--strength of the second pass", above=0, most=1, shown="0.5", group="hires fix"
    )
    hires_steps: Optional[int] = option(
        None, "--sample_step of the second pass", least=1, most=MOST_STEPS, shown="--sample_step", group="hires fix"
    )
    hires_upscaler: Optional[str] = option(
        None, "what enlarges, the latent or the picture", choices=UPSCALERS, shown="latent", group="hires fix"
    )

    @property
    def start_strength(self) -> float:
        """--strength, or that of the task."""
        return STRENGTH[self.task] if self.strength is None else self.strength

    @property
    def second_strength(self) -> float:
        """--hires_strength, or its default."""
        return 0.5 if self.hires_strength is None else self.hires_strength

    @property
    def last_strength(self) -> float:
        """Of the last pass."""
        return self.start_strength if self.hires_scale is None else self.second_strength

    @property
    def blur(self) -> float:
        """--mask_blur, or its default."""
        return 4.0 if self.mask_blur is None else self.mask_blur


NEEDS = {  # flag -> what it does nothing without
    "img": "--task img2img or inpaint",
    "mask": "--task inpaint",
    "strength": "--task img2img or inpaint, and --img",
    "resize_mode": "--task img2img or inpaint, and --img",
    "mask_blur": "--task inpaint",
    "hires_scale": "--task txt2img",
    "hires_strength": "--hires_scale",
    "hires_steps": "--hires_scale",
    "hires_upscaler": "--hires_scale",
}


def require_start(options: StartOptions) -> None:
    """UserError for a flag that cannot act, or one that a task lacks."""
    from_picture, inpaints = options.task != "txt2img", options.task == "inpaint"
    acts = {
        **{"img": from_picture, "mask": inpaints, "strength": from_picture, "resize_mode": from_picture},
        **{"mask_blur": inpaints, "hires_scale": not from_picture},
    }
    for flag, needs in NEEDS.items():
        value = getattr(options, flag)
        if value is not None and not acts.get(flag, options.hires_scale is not None):
            raise UserError(f"--{flag} {value} does nothing without {needs}: give that as well, or leave it away")
    for flag, needed in (("img", from_picture), ("mask", inpaints)):
        if needed and getattr(options, flag) is None:
            raise UserError(f"--task {options.task} needs a picture: give --{flag} FILE")
