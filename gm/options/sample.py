"""The command line of demo/sampling_without_streamlit.py, which the page shares. No MindSpore import."""

import secrets
import shlex
from dataclasses import dataclass, fields, replace
from typing import Callable, Mapping, Optional, Sequence

from gm.config.bounds import LARGEST_SEED, LARGEST_SIDE, LARGEST_TOLD
from gm.config.types import SampleSettings
from gm.diffusion.names import named_sampler
from gm.errors import UserError, require_multiple
from gm.options.lora import LoraOptions
from gm.options.model import ModelOptions
from gm.options.noise import NoiseOptions
from gm.options.output import OutputOptions
from gm.options.parser import PATHS, fields_of, option, parse, reader_of
from gm.options.prompt_text import PromptTextOptions
from gm.options.prompts import PromptLine
from gm.options.refiner import RefinerOptions
from gm.options.sampler import SamplerOptions
from gm.options.start import StartOptions, require_start

# name -> (width, height), the sizes SDXL was trained on (arXiv 2307.01952, appendix I), and two small ones
SD_XL_BASE_RATIOS = {
    "0.5": (704, 1408),
    "0.52": (704, 1344),
    "0.57": (768, 1344),
    "0.6": (768, 1280),
    "0.68": (832, 1216),
    "0.72": (832, 1152),
    "0.78": (896, 1152),
    "0.82": (896, 1088),
    "0.88": (960, 1088),
    "0.94": (960, 1024),
    "1.0": (1024, 1024),
    "1.0_768": (768, 768),
    "1.0_512": (512, 512),
    "1.07": (1024, 960),
    "1.13": (1088, 960),
    "1.21": (1088, 896),
    "1.29": (1152, 896),
    "1.38": (1152, 832),
    "1.46": (1216, 832),
    "1.67": (1280, 768),
    "1.75": (1344, 768),
    "1.91": (1344, 704),
    "2.0": (1408, 704),
    "2.09": (1472, 704),
    "2.4": (1536, 640),
    "2.5": (1600, 640),
    "2.89": (1664, 576),
    "3.0": (1728, 576),
}
_PICTURE = "the picture's"
OF_A_PICTURE = ("sampling", "size", "sizes SDXL is told", "hires fix")  # groups of flags
TOLD = ("orig_height", "orig_width", "crop_coords_top", "crop_coords_left", "target_height", "target_width")


def _told_beside_the_negative_prompt(words: str) -> Optional[int]:
    return option(
        None,
        f"{words} beside the negative prompt",
        least=0,
        most=LARGEST_TOLD,
        shown="as beside the prompt",
        group="sizes SDXL is told",
    )


@dataclass(frozen=True)
class SampleOptions(
    PromptTextOptions, StartOptions, RefinerOptions, OutputOptions, LoraOptions, NoiseOptions, SamplerOptions, ModelOptions
):
    """What was asked of demo/sampling_without_streamlit.py."""

    seed: int = option(
        42,
        "the same seed gives the same picture, up to 64 bits; -1: one at random, which is said",
        least=-1,
        most=LARGEST_SEED,
        group="machine",
    )
    sd_xl_base_ratios: Optional[str] = option(
        None,
        "width / height, of the sizes SDXL was trained on",
        choices=SD_XL_BASE_RATIOS,
        shown="1.0, or the shape of --img",
        group="size",
    )
    height: Optional[int] = option(None, "height in pixels, instead of the ratio's", least=1, most=LARGEST_SIDE, group="size")
    width: Optional[int] = option(None, "width in pixels, instead of the ratio's", least=1, most=LARGEST_SIDE, group="size")
    orig_height: Optional[int] = option(
        None, "height of the original", least=1, most=LARGEST_TOLD, shown=_PICTURE, group="sizes SDXL is told"
    )
    orig_width: Optional[int] = option(
        None, "width of the original", least=1, most=LARGEST_TOLD, shown=_PICTURE, group="sizes SDXL is told"
    )
    target_height: Optional[int] = option(
        None, "target height", least=1, most=LARGEST_TOLD, shown=_PICTURE, group="sizes SDXL is told"
    )
    target_width: Optional[int] = option(
        None, "target width", least=1, most=LARGEST_TOLD, shown=_PICTURE, group="sizes SDXL is told"
    )
    crop_coords_top: int = option(0, "top of the crop", least=0, most=LARGEST_TOLD, group="sizes SDXL is told")
    crop_coords_left: int = option(0, "left of the crop", least=0, most=LARGEST_TOLD, group="sizes SDXL is told")
    negative_orig_height: Optional[int] = _told_beside_the_negative_prompt("height of the original")
    negative_orig_width: Optional[int] = _told_beside_the_negative_prompt("width of the original")
    negative_crop_coords_top: Optional[int] = _told_beside_the_negative_prompt("top of the crop")
    negative_crop_coords_left: Optional[int] = _told_beside_the_negative_prompt("left of the crop")
    negative_target_height: Optional[int] = _told_beside_the_negative_prompt("target height")
    negative_target_width: Optional[int] = _told_beside_the_negative_prompt("target width")

    def size(self) -> tuple[int, int]:
        """(height, width) in pixels: of the aspect ratio, where --height and --width do not say otherwise."""
        width, height = SD_XL_BASE_RATIOS[self.sd_xl_base_ratios or "1.0"]
        return self.height or height, self.width or width

    @property
    def with_seed(self) -> "SampleOptions":
        """These options with a seed at random, of 32 bits as other tools have them, where that is asked for."""
        return replace(self, seed=secrets.randbelow(2**32)) if self.seed < 0 else self

    def of(self, line: PromptLine) -> "SampleOptions":
        """These options for a prompt of a file, with what its line says instead."""
        names = {"steps": "sample_step"}
        given = {names.get(one.name, one.name): getattr(line, one.name) for one in fields(line)}
        further = dict(line.further)
        given = {name: value for name, value in given.items() if value is not None and name in fields_of(SampleOptions)}
        if line.sampler and named_sampler(line.sampler)[1] or {"schedule", "discretization"} & further.keys():
            given |= {"schedule": None, "discretization": None}  # the line says it
        found = replace(self, **{**given, **further})
        try:
            require_start(found)
        except UserError as error:
            raise UserError(f"{line.where}: {error}") from None
        return found


def line_flags() -> dict[str, Callable[[object], object]]:
    """Flags that a prompt of a file may have a value of its own for -> their readers: those of one picture that name no file."""
    names = [
        name for name, flag in fields_of(SampleOptions).items() if flag.group in OF_A_PICTURE and flag.metavar not in PATHS
    ]
    said_otherwise = {
        *(one.name for one in fields(PromptLine)),
        "sample_step",
        "sd_xl_base_ratios",
        *fields_of(RefinerOptions),
    }
    return {name: reader_of(SampleOptions, name) for name in (*names, "strength") if name not in said_otherwise}


def parse_sample(argv: Sequence[str]) -> SampleOptions:
    """The options of demo/sampling_without_streamlit.py, or UserError."""
    about = "Sample pictures from SDXL, with or without a LoRA."
    options = parse(SampleOptions, argv, "sampling_without_streamlit.py", about)
    require_start(options)
    options.check_refiner()
    return options


def sampling_command(flags: Mapping[str, object]) -> str:
    """The command that samples with these flags, `--name` -> value, those that are None left out: for a person to copy."""
    words = [word for flag, value in flags.items() if value is not None for word in (flag, str(value))]
    return shlex.join(["python", "demo/sampling_without_streamlit.py", "--task", "txt2img", *words])


def sample_settings(options: SampleOptions, multiple: int) -> SampleSettings:
    """SampleSettings from the options; UserError when a side is no multiple of `multiple` pixels, which the network needs."""
    height, width = options.size()
    for flag, pixels in (("height", height), ("width", width)):
        require_multiple(flag, pixels, multiple)
    sampler, discretization = options.sampler_and_schedule()
    options.check_guidance()
    options.require_prompt_options()
    original = options.orig_height or height, options.orig_width or width
    target = options.target_height or height, options.target_width or width
    sizes = (*original, options.crop_coords_top, options.crop_coords_left, *target)
    negative = [getattr(options, f"negative_{name}") for name in TOLD]
    for name, told in zip(TOLD, negative):
        if told is not None and not options.has_guidance:
            raise UserError(
                f"--negative_{name} {told} has no effect, as there is no guidance: leave it out, or give --guider VanillaCFG and a "
                "--guidance_scale"
            )
    return SampleSettings(
        height=height,
        width=width,
        sizes=sizes,
        negative_sizes=tuple(size if other is None else other for size, other in zip(sizes, negative))
        if any(other is not None for other in negative)
        else None,
        sampler=sampler,
        steps=options.sample_step,
        guider=options.guider,
        guidance_scale=options.guidance_scale,
        guidance_rescale=options.guidance_rescale,
        guided_steps=(options.guidance_start, options.guidance_stop),
        discretization=discretization,
        noise=options.noise,
        eta=options.eta,
    )
