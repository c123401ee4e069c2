"""--like: what a picture says of itself -> flags. No MindSpore import.

A PNG is somebody else's word: its texts become flags that are read as strictly as those of a command line, only flags that decide
a picture, and every file that they name is said, and must be there.
"""

import json
import re
from pathlib import Path
from typing import Iterator, Mapping, Optional, Sequence

from gm.checkpoint.json_text import parse_json
from gm.config.types import REFINER_SIZES, SIZE_NUMBERS
from gm.console import log
from gm.diffusion.names import named_sampler, resolved
from gm.errors import UserError, one_line, shortened, shown
from gm.options.parser import fields_of, parse
from gm.options.prompts import is_prompt_file
from gm.options.refiner import RefinerOptions
from gm.options.sample import SampleOptions
from gm.pictures import A1111, text_of
from gm.sampling.a1111_names import HIRES_UPSCALERS, from_a1111
from gm.sampling.a1111_text import from_parameters
from gm.sampling.output import FILES, RECORDED, file_digest, files_in
from gm.texts import path_text

Given = Sequence[tuple[str, str]]  # (flag without its --, text), in their order
OURS = ("seed", "sampler", "guider", "size")  # a picture of this suite has these chunks
TOLD = ("orig_height", "orig_width", "crop_coords_top", "crop_coords_left", "target_height", "target_width")
SIZES_OF_REFINER = sum(SIZE_NUMBERS[key] for key in REFINER_SIZES)
STAGES = {"stage2strength", "finish_denoising", "refiner_switch"}  # which say the same in two ways
ONE_TO_ONE = {  # A1111's names
    "Steps": "sample_step",
    "CFG scale": "guidance_scale",
    "Seed": "seed",
    "Eta": "eta",
    "Eta DDIM": "eta",
}
HIRES = {  # with a strength of its own
    "Hires upscale": "hires_scale",
    "Hires steps": "hires_steps",
    "Hires upscaler": "hires_upscaler",
    "Denoising strength": "hires_strength",
}
UPSCALERS = {theirs: ours for ours, theirs in HIRES_UPSCALERS.items()}
NETWORKS = re.compile(r" ?<(?:lora|lyco|hypernet):[^<>]*>")
SAYS_NOTHING = {
    "Model",
    "Model hash",
    "Version",
    "Hashes",
    "Lora hashes",
    "VAE hash",
    "Sampler",
    "Schedule type",
    "Size",
    "RNG",
}
FOLDERS = ("weight", "vae", "lora_dir", "pipeline_weight")  # what may be a folder of diffusers


def with_like(argv: Sequence[str]) -> list[str]:
    """The command line with the flags of its --like before it, where it has one; those of `argv` win. UserError for a picture that
    says nothing, nonsense, or names a file that is not there."""
    path = _value_of(argv, "--like")
    if path is None:
        return list(argv)
    said = f"--like {path}"
    given = {word.split("=", 1)[0][2:] for word in argv if word.startswith("--")}
    found = flags_of(path, said, given)
    words = [f"--{name}={text}" for name, text in found]
    try:
        parse(SampleOptions, words, "", "")  # which of them go together is seen when all are there
    except UserError as error:
        raise UserError(f"{said} says what this version does not take: {error}") from None
    replaced = _replaced(given, _value_of(argv, "--sampler"))
    if (_value_of(argv, "--add_pipeline") or "").lower() == "false":
        replaced |= set(fields_of(RefinerOptions))
    taken = [(name, text) for name, text in found if name not in replaced]
    _tell_of_files(path, said, taken)
    return [*(f"--{name}={text}" for name, text in taken), *argv]


def _value_of(argv: Sequence[str], flag: str) -> Optional[str]:
    """What the last such flag says; None without one, or without a word behind it."""
    found = None
    for place, word in enumerate(argv):
        if word == flag and place + 1 < len(argv):
            found = argv[place + 1]
        elif word.startswith(flag + "="):
            found = word.split("=", 1)[1]
    return found


def _replaced(given: set[str], sampler: Optional[str]) -> set[str]:
    """Flags of a picture that do not count where these are given, and this sampler."""
    says_schedule = sampler is not None and _names_schedule(sampler)
    of_schedule = {"discretization"} if says_schedule or given & {"schedule", "discretization"} else set()
    of_lora = {name for name in RECORDED if name.startswith("lora_")} if "weight" in given else set()
    of_size = {"height", "width"} if "sd_xl_base_ratios" in given else set()
    of_stages = STAGES if given & STAGES else set()
    return given | of_lora | of_size | of_schedule | of_stages


def _names_schedule(sampler: str) -> bool:
    try:
        return named_sampler(sampler)[1] is not None
    except ValueError:  # which is said where it is read
        return False


def flags_of(path: str, said: str, given: set[str] = set()) -> Given:
    """What the picture says of itself as flags, which nobody has read yet. `said`: how messages call it; `given`: flags of the
    command line. UserError for a picture that says nothing."""
    try:
        path_text(path)
    except ValueError as error:
        raise UserError(f"--like: {error}") from None
    if not Path(path).is_file():
        raise UserError(f"{said} is no file: give a PNG that this suite or A1111 has made")
    texts = text_of(Path(path))
    if all(name in texts for name in OURS):
        found = list(_of_ours(texts, said))
    elif A1111 in texts:
        found = list(_of_a1111(texts[A1111], said, given))
    else:
        raise UserError(f"{said} does not say how it was made: give a PNG that this suite or A1111 has made")
    prompt = dict(found).get("prompt", "")
    if is_prompt_file(prompt):
        raise UserError(f"{said} has the prompt {shown(prompt)}, which would be read as a file of prompts: give --prompt")
    return found


def _of_ours(texts: Mapping[str, str], said: str) -> Iterator[tuple[str, str]]:
    names = {"steps": "sample_step"}
    for name in (
        "prompt",
        "negative_prompt",
        "seed",
        "sampler",
        "steps",
        "guider",
        "guidance_scale",
        "discretization",
        "weight",
    ):
        if name in texts:
            yield names.get(name, name), texts[name]
    width, height = _numbers(texts["size"], "x", 2, said)
    yield from (("width", width), ("height", height))
    sizes = texts.get("sizes", "")
    of_refiner = sizes.count(",") + 1 == SIZES_OF_REFINER  # the last is a score, which has a chunk of its own
    told = _numbers(sizes, ",", SIZES_OF_REFINER if of_refiner else len(TOLD), said) if sizes else []
    told = told[:-1] if of_refiner else told
    own = (height, width, "0", "0", height, width)
    yield from ((flag, number) for flag, number, same in zip(TOLD, told, own) if number != same)
    for name in RECORDED:
        if name in texts:
            parts = _list(texts[name], said) if fields_of(SampleOptions)[name].repeated else [texts[name]]
            yield from ((name, part) for part in parts)


def _usual_schedule(sampler: str) -> Optional[str]:
    try:
        return resolved(sampler)[1]
    except ValueError:
        return None


def _numbers(text: str, sign: str, count: int, said: str) -> list[str]:
    parts = text.split(sign)
    if len(parts) != count:
        raise UserError(f"{said} has the size {shown(text)}, which is no {sign.join('N' * count)}: give another picture")
    return parts


def _list(text: str, said: str) -> list[str]:
    try:
        found = parse_json(text.encode())
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise UserError(f"{said} has {shown(text)} where a list is written: give another picture")
    return found


def _of_a1111(text: str, said: str, given: set[str]) -> Iterator[tuple[str, str]]:
    """`given`: flags of the command line: a picture to begin with, and where LoRA are, are not in the text."""
    prompt, negative, values = from_parameters(text)
    left = {name: value for name, value in values.items() if name not in ONE_TO_ONE and name not in SAYS_NOTHING}
    networks = []
    if "lora_dir" not in given:  # else they are looked for there
        networks = [one.strip() for text in (prompt, negative) for one in NETWORKS.findall(text)]
        prompt, negative = (NETWORKS.sub("", one).strip() for one in (prompt, negative))
    yield from (("prompt", prompt), ("negative_prompt", negative), ("prompt_style", "a1111"))
    if values.get("Clip skip") in ("1", "2"):  # which A1111 does not look at for SDXL, whose layer is the last but one
        del left["Clip skip"]
    yield from ((flag, values[name]) for name, flag in ONE_TO_ONE.items() if name in values)
    if "Sampler" in values:
        try:
            sampler, discretization = from_a1111(values["Sampler"], values.get("Schedule type"))
            yield from (("sampler", sampler), ("discretization", discretization))
        except ValueError:
            left |= {name: values[name] for name in ("Sampler", "Schedule type") if name in values}
    if "Size" in values:
        width, height = _numbers(values["Size"], "x", 2, said)
        yield from (("width", width), ("height", height))
    if "Hires upscale" in values and values.get("Hires upscaler") in UPSCALERS:
        hires = [(flag, left.pop(name)) for name, flag in HIRES.items() if name in left]
        yield from ((flag, UPSCALERS.get(value, value)) for flag, value in hires if (flag, value) != ("hires_steps", "0"))
    elif "Denoising strength" in values and "img" in given:
        yield from (("task", "img2img"), ("strength", left.pop("Denoising strength")))
    if values.get("RNG") == "CPU":
        yield "noise", "a1111-cpu"
    else:  # drawn on a GPU, in another order
        left["RNG"] = values.get("RNG", "GPU")
    if "Model" in values:
        log.info("%s was made with the model %s: --weight says which is used here", said, shown(values["Model"]))
    if left or networks:
        words = one_line(", ".join([*networks, *(f"{name}: {value}" for name, value in left.items())]))
        log.warning("%s: not taken over: %s", said, shortened(words, 1000))


def _tell_of_files(path: str, said: str, taken: Given) -> None:
    """Say which files the picture has chosen; UserError where one is not there. Warns of one that has changed."""
    digests = _digests(text_of(Path(path)).get(FILES, "{}"))
    for name, text in taken:
        files = files_in(text, fields_of(SampleOptions)[name].metavar)
        if files:
            log.info("%s: --%s %s", said, name, text)
        for file in files:
            if not (Path(file).is_file() or name in FOLDERS and Path(file).is_dir()):
                raise UserError(f"{said} was made with {shown(file)}, which is not there: give --{name}")
            if file in digests and file_digest(file) != digests[file]:
                log.warning("%s has changed since %s was made", file, path)


def _digests(text: str) -> Mapping[str, object]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
