"""The settings of the page -> the pictures that are asked for. UserError naming the field that is wrong."""

from dataclasses import replace
from typing import Any, Sequence

from gm.checkpoint.weights import split_weight_argument
from gm.errors import UserError
from gm.options.lora_tags import RUNS
from gm.options.parser import reader_of
from gm.options.prompts import is_prompt_file
from gm.options.sample import SampleOptions
from gm.options.start import require_start
from gm.texts import LONGEST_PROMPT, require_prompt
from studio.access import inside
from studio.choice import LARGEST_SEED
from studio.sampling import axes
from studio.sampling.axes import Grid
from studio.sampling.fields import BLUR, CHECKED, COUNT, HEIGHT, RESIZE, SEED, STRENGTH, WIDTH, Field, checked
from studio.sampling.loras import active
from studio.sampling.settings import Settings
from studio.visit import Studio
from studio.words import say

MOST = 16  # pictures at a click without a grid
WIDE = 4  # pictures of a row
OF_A_START = ("strength", "resize_mode", "mask_blur", "img", "mask")
OF_HIRES = ("hires_scale", "hires_strength", "hires_steps", "hires_upscaler")


def options_of(studio: Studio, settings: Settings, start: SampleOptions) -> SampleOptions:
    """What is set, for one picture, with a seed; `start`: what the page began with."""
    values = settings.values
    prompt, negative = (_prompt(values[name]) for name in ("prompt", "negative_prompt"))
    if not prompt:
        raise UserError(say("the prompt is empty: say in words what the pictures show"))
    for text in (prompt, negative):
        if is_prompt_file(text):
            raise UserError(say("the prompt ends like the name of a file: say in words what the pictures show"))
    given: dict[str, Any] = {"prompt": prompt, "negative_prompt": negative}
    given |= {one.name: _value(studio, one.name, checked_of(settings, one), start) for one in CHECKED if one is not COUNT}
    given |= {name: values[name] for name in ("sampler", "schedule", "task")}
    given |= {"num_cols": 1, "discretization": None, "sd_xl_base_ratios": None}
    given |= _of_task(studio, settings, given, start)
    if given["prompt_style"] != "a1111":
        given["lora_dir"] = None
    elif str(studio.runs) != RUNS:
        given["lora_dir"] = start.lora_dir or str(studio.runs)
    lora = active(settings)
    base = split_weight_argument(start.weight)[0]
    given |= {"weight": ",".join([base, *(one.path for one in lora)])}
    given |= {"lora_scale": tuple(one.strength for one in lora) or None}
    options = replace(start, **given).with_seed
    require_start(options)
    return options


def checked_of(settings: Settings, field: Field) -> Any:
    """The number of a field; UserError naming it."""
    value = settings.values[field.name]
    if field in (WIDTH, HEIGHT) and value is None:
        return None  # as the picture, or as the model begins with
    return checked(field, value, LARGEST_SEED if field is SEED else MOST if field is COUNT else None)


def _prompt(text: Any) -> str:
    words = " ".join((text or "").split())
    if len(words) > LONGEST_PROMPT:
        raise UserError(say("the prompt has {count} characters: give at most {most}", count=len(words), most=LONGEST_PROMPT))
    try:
        require_prompt(words)
    except ValueError as error:
        raise UserError(str(error)) from None
    return words


def _value(studio: Studio, name: str, value: Any, start: SampleOptions) -> Any:
    """As the flag has it; UserError for a file outside of the folders of the page."""
    if name == "embedding":
        said = value or ""
        if said == ",".join(start.embedding):
            return start.embedding
        found = reader_of(SampleOptions, name)(said) if said else ()
        for one in found:
            inside(one.partition("=")[2] or one, studio.roots)
        return found
    if name in ("vae", "init_latent_path") and value and value != getattr(start, name):
        inside(value, studio.roots)
    return value


def _of_task(studio: Studio, settings: Settings, given: dict[str, Any], start: SampleOptions) -> dict[str, Any]:
    """What only counts where there is a picture to begin with, or none."""
    values, task = settings.values, given["task"]
    if task == "txt2img":
        unused: dict[str, Any] = dict.fromkeys(OF_A_START)
        height, width = start.size()
        unused |= {"height": given["height"] or height, "width": given["width"] or width}
        return unused if given["hires_scale"] else {**unused, **dict.fromkeys(OF_HIRES)}
    if not values["img"]:
        raise UserError(say("there is no picture to begin with: give one, or choose pictures from words"))
    if task == "inpaint" and not values["mask"]:
        raise UserError(say("nothing is painted: paint over what is to change, or give a mask"))
    files = {"img": values["img"], "mask": values["mask"] if task == "inpaint" else None}
    for name, path in files.items():
        if path and path != getattr(start, name):
            inside(path, studio.roots)
    fields = {one.name: values[one.name] for one in (STRENGTH, RESIZE, BLUR)}
    if task != "inpaint":
        fields["mask_blur"] = None
    return {**dict.fromkeys(OF_HIRES), **files, **fields}


def grid_of(settings: Settings, options: SampleOptions, beside_base: bool) -> Grid:
    """All pictures: of the grid that is set, or the number with following seeds; `beside_base`: each without LoRA as well."""
    if beside_base:
        return _beside_base(settings, options)
    if axes.is_asked(settings):
        return axes.grid_of(settings, options)
    count = checked_of(settings, COUNT)
    return Grid([replace(options, seed=options.seed + i) for i in range(count)], [], [])


def _beside_base(settings: Settings, options: SampleOptions) -> Grid:
    base, paths = split_weight_argument(options.weight)
    if not paths:
        raise UserError(say("no LoRA is on, so there is nothing to compare: add one"))
    plain = replace(options, weight=base, lora_scale=None)
    seeds = [options.seed + i for i in range(checked_of(settings, COUNT))]
    wanted = [replace(one, seed=seed) for seed in seeds for one in (plain, options)]
    return Grid(wanted, [say("base model"), say("with LoRA")], [say("seed {seed}", seed=seed) for seed in seeds])


def labels_of(grid: Grid) -> Sequence[str]:
    """What stands under each picture."""
    if not grid.across:
        return [say("seed {seed}", seed=one.seed) for one in grid.wanted]
    return [" · ".join(filter(None, (down, across))) for down in grid.down for across in grid.across]
