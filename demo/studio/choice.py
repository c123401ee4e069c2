"""The model that pictures are made with, and what it starts from: its flags and those of the command line."""

import os
from dataclasses import fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Mapping, Sequence

from gm.checkpoint.weights import split_weight_argument
from gm.config.load import load_config
from gm.config.types import Config
from gm.diffusion.names import named_sampler, named_schedule
from gm.errors import UserError
from gm.options.prompts import is_prompt_file
from gm.options.refiner import RefinerOptions
from gm.options.sample import SampleOptions, parse_sample
from studio.models import Model
from studio.visit import Studio
from studio.words import say

WEAKEST, STRONGEST = -1.0, 2.0  # what a LoRA may be multiplied by
LARGEST_SEED = 2**53 - 1  # whole numbers above it are not whole numbers in a browser
ELSEWHERE = (
    "like",
    "batch_size",
    "compile_cache_dir",
    "save_init_latent",
    "lora_schedule",
    "lora_text_scale",
    "lora_block_scale",
)


def models_of(studio: Studio) -> Mapping[str, Model]:
    """Those to choose from: with --config or --weight on the command line this one alone."""
    if any(word.split("=", 1)[0] in ("--config", "--weight") for word in studio.argv):
        base = split_weight_argument(start_of(Model("", {}), studio.argv).weight)[0]
        return {Path(base).stem: Model(Path(base).stem, {}, (base,))}
    return studio.models


def start_of(model: Model, argv: Sequence[str]) -> SampleOptions:
    """The flags of the model with those of the command line over them; UserError for what the page cannot start with."""
    said = {word[2:].split("=", 1)[0] for word in argv if word.startswith("--")}
    flags = {**model.flags, **({"weight": model.weight} if model.weight else {})}
    flags = {name: value for name, value in flags.items() if name not in said}
    return _start_of(tuple(word for flag, value in flags.items() for word in (f"--{flag}", str(value))), tuple(argv))


@lru_cache(maxsize=32)
def _start_of(flags: tuple[str, ...], argv: tuple[str, ...]) -> SampleOptions:
    options = parse_sample([*flags, *argv])
    if is_prompt_file(options.prompt):
        raise UserError(f"--prompt {options.prompt} is a file of prompts, but the page takes one in words: give the words")
    if any(not WEAKEST <= scale <= STRONGEST for scale in options.lora_scale or ()):
        given = ",".join(f"{scale:g}" for scale in options.lora_scale or ())
        raise UserError(f"--lora_scale {given}: the page has strengths from {WEAKEST:g} to {STRONGEST:g}, give one of these")
    for one in fields(SampleOptions):
        value = getattr(options, one.name)
        of_stages = one.name in {of.name for of in fields(RefinerOptions)}
        if (one.name in ELSEWHERE or of_stages) and value not in (None, False, ()):
            raise UserError(f"--{one.name} {value}: the page has nothing of this kind, leave it away there")
    if options.seed > LARGEST_SEED:
        raise UserError(f"--seed {options.seed} is more than a browser can count: give at most {LARGEST_SEED}")
    sampler, schedule = named_sampler(options.sampler)
    said = options.schedule or options.discretization
    return replace(options, sampler=sampler, schedule=named_schedule(said) if said else schedule, discretization=None)


def config_of(options: SampleOptions) -> Config:
    """Of the model of these options, read once."""
    path = options.config
    version = os.stat(path).st_mtime_ns if os.path.isfile(path) else 0
    return _config(path, options.set, options.task == "inpaint", version)


@lru_cache(maxsize=16)
def _config(path: str, overrides: tuple[str, ...], inpainting: bool, version: int) -> Config:
    return load_config(path, overrides, training=False, inpainting=inpainting)


def require_weights(model: Model) -> None:
    """UserError naming all places where the weights of the model were looked for, where there is nothing."""
    if model.is_there:
        return
    places = ", ".join(model.weights or [model.weight])
    raise UserError(
        say(
            "the weights of {model} are not there, looked for {places}: checkpoints/README.md says where to get them",
            model=model.name,
            places=places,
        )
    )
