"""What stands in the text chunks of pictures: ours, from which --like makes a picture again, and A1111's `parameters`."""

import hashlib
import json
import os
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from typing import Optional

from gm.checkpoint.lora_strength import Strength
from gm.checkpoint.weights import split_weight_argument
from gm.config.types import SampleSettings
from gm.models.prompt_weights import in_a1111
from gm.options.lora_tags import tag_of
from gm.options.parser import PATH_LISTS, PATHS, as_text, fields_of
from gm.options.refiner import REFINER_WEIGHT
from gm.options.sample import SampleOptions
from gm.pictures import A1111
from gm.sampling.a1111_names import HIRES_UPSCALERS, to_a1111
from gm.sampling.a1111_text import to_parameters

FILES = "files"  # chunk: path -> its size and a digest of its ends
VERSION = "sdxl-dreambooth-mindspore"
NAMED_FILES = "FILE[,FILE]"  # metavar of a flag whose files may have names before them: NAME=FILE
ENDS = 1 << 16  # bytes
# flags that have other names in the chunks, or are in `in_words`
OTHERWISE = {
    *("prompt", "negative_prompt", "seed", "height", "width", "sd_xl_base_ratios", "sampler", "sample_step", "guider"),
    *("guidance_scale", "discretization", "schedule", "crop_coords_top", "crop_coords_left", "weight"),
    *("orig_height", "orig_width", "target_height", "target_width"),
}
# flags that decide where, how fast and how often, not what
NOT_OF_A_PICTURE = {
    *("device_target", "ms_mode", "jit_level", "max_device_memory"),
    *("num_cols", "save_path", "like", "batch_size", "compile_cache_dir", "save_init_latent"),
}
RECORDED = [one.name for one in fields(SampleOptions) if one.name not in OTHERWISE | NOT_OF_A_PICTURE]


def in_words(settings: SampleSettings) -> dict[str, object]:
    """How a picture is sampled, for its text chunks."""
    return {
        "sampler": settings.sampler,
        "steps": settings.steps,
        "guider": settings.guider,
        "guidance_scale": settings.guidance_scale,
        "discretization": settings.discretization,
        "size": f"{settings.width}x{settings.height}",
        "sizes": ",".join(f"{number:g}" for number in settings.sizes),
    }


def about(options: SampleOptions, settings: SampleSettings, prompt: str, seed: int) -> dict[str, object]:
    """What goes into a PNG's text chunks: all that makes it again. `options`: of this picture."""
    further = {name: as_text(options, name) for name in RECORDED}
    return {
        "prompt": prompt,
        "negative_prompt": options.negative_prompt,
        "seed": seed,
        **in_words(settings),
        "weight": options.weight,
        **{name: text for name, text in further.items() if text is not None},
        FILES: json.dumps({path: digest for path in paths_of(options) if (digest := file_digest(path))}),
        A1111: as_a1111(options, settings, prompt, seed),
    }


def paths_of(options: SampleOptions) -> list[str]:
    """The files that a picture is made from."""
    found = []
    for name, flag in fields_of(SampleOptions).items():
        value = getattr(options, name)
        if name in (*RECORDED, "weight") and value:
            found += files_in(",".join(map(str, value)) if isinstance(value, tuple) else str(value), flag.metavar)
    return found


def files_in(text: str, metavar: Optional[str]) -> list[str]:
    """The files that the text of a flag names; none where its metavar is not of files."""
    if metavar == NAMED_FILES:
        return [part if Path(part).exists() else part.partition("=")[2] or part for part in text.split(",")]
    return text.split(",") if metavar in PATH_LISTS else [text] if metavar in PATHS else []


@lru_cache(maxsize=256)
def file_digest(path: str) -> Optional[str]:
    """The size of a file and a hash of its first and last bytes, where other weights differ as well; None for what is no file."""
    try:
        if not Path(path).is_file():
            return None
        size, digest = os.path.getsize(path), hashlib.blake2b(digest_size=8)
        with open(path, "rb") as file:
            digest.update(file.read(ENDS))
            file.seek(max(size - ENDS, 0))
            digest.update(file.read(ENDS))
    except OSError:
        return None
    return f"{size} bytes, {digest.hexdigest()}"


def as_a1111(options: SampleOptions, settings: SampleSettings, prompt: str, seed: int) -> str:
    """The picture as A1111 says it, LoRA in the prompt; what it has no words for is left out."""
    base, lora = split_weight_argument(options.weight)
    scales = [*(options.lora_scale or ()), *[1.0] * len(lora)]
    strengths = map(Strength, scales, options.lora_text_scale or scales)
    sampler, schedule = to_a1111(settings.sampler, settings.discretization)
    words = [
        in_a1111(prompt, options.prompt_style),
        *(tag_of(_name(path), strength) for path, strength in zip(lora, strengths)),
    ]
    values = {
        "Steps": settings.steps,
        "Sampler": sampler,
        "Schedule type": schedule,
        "CFG scale": f"{settings.guidance_scale:g}" if settings.guider != "IdentityGuider" else 1,
        "Seed": seed,
        ("Eta DDIM" if settings.sampler == "DDIMSampler" else "Eta"): None if settings.eta is None else f"{settings.eta:g}",
        "Size": f"{settings.width}x{settings.height}",
        "Model": _name(base),
        "VAE": _name(options.vae) if options.vae else None,
        "Clip skip": options.clip_skip + 2,  # counted from the last layer; SDXL's own is the last but one
        "Denoising strength": _strength(options),
        **({} if options.hires_scale is None else _hires(options)),
        "Mask blur": f"{options.blur:g}" if options.task == "inpaint" else None,
        **_second_stage(options),
        "RNG": "CPU" if settings.noise in ("a1111-cpu", "torch") else None,
        "Version": VERSION,
    }
    return to_parameters(" ".join(words), in_a1111(options.negative_prompt, options.prompt_style), values)


def _strength(options: SampleOptions) -> Optional[str]:
    """Of the pass that begins with a picture, if there is one."""
    if options.task != "txt2img":
        return f"{options.start_strength:g}"
    return None if options.hires_scale is None else f"{options.second_strength:g}"


def _second_stage(options: SampleOptions) -> dict[str, object]:
    """Of the refiner that goes on where the base stops; A1111 knows no other."""
    if not options.add_pipeline or options.refiner_starts is None:
        return {}
    refiner, _ = split_weight_argument(options.pipeline_weight or REFINER_WEIGHT)
    return {"Refiner": _name(refiner), "Refiner switch at": f"{options.refiner_starts:g}"}


def _hires(options: SampleOptions) -> dict[str, object]:
    upscaler = HIRES_UPSCALERS.get(options.hires_upscaler or "latent", options.hires_upscaler)
    return {"Hires upscale": f"{options.hires_scale:g}", "Hires steps": options.hires_steps, "Hires upscaler": upscaler}


def _name(path: str) -> str:
    """A file as A1111 calls it: without its ending, and without signs that have a meaning there."""
    return "".join(" " if letter in ',:<>"\n' else letter for letter in Path(path).stem)
