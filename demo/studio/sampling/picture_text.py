"""Settings read back from a picture: of this visitor's gallery, or one that was dropped on the page.

Its texts are somebody else's word: flags are read as strictly as those of a command line, and files that it names count only
where the page may touch them; what is left out is said.
"""

from pathlib import Path
from typing import Any, Mapping, Optional

from gm.checkpoint.weights import split_weight_argument
from gm.diffusion.names import named_sampler, named_schedule
from gm.errors import UserError, shortened, shown
from gm.options.parser import fields_of, parse
from gm.options.sample import SampleOptions
from gm.sampling.like import flags_of
from gm.sampling.output import files_in
from studio.access import inside
from studio.models import Model
from studio.sampling.settings import FLAGS, begin_with
from studio.visit import Studio
from studio.words import say

FILES_OF_SETTINGS = ("vae", "embedding", "img", "mask", "init_latent_path")


def settings_of(
    studio: Studio, path: Path, models: Mapping[str, Model], called: Optional[str] = None
) -> tuple[dict[str, Any], Optional[str], list[str]]:
    """What the picture was made with: settings, the name of the model where the page has it, and what was left out, in words.
    `called`: the picture's name for people."""
    said = called or path.name
    found = [(name, text) for name, text in flags_of(str(path), said) if name != "save_path"]
    left: list[str] = []
    kept = [(name, text) for name, text in found if _may_stay(studio, name, text, left)]
    try:
        options = parse(SampleOptions, [f"--{name}={text}" for name, text in kept], "", "")
    except UserError as error:
        raise UserError(say("{picture} says what this version does not take: {reason}", picture=said, reason=error)) from None
    names = {name for name, _ in kept}
    values = begin_with(options)
    taken = {name: values[name] for name in FLAGS if name in names or name in _usual(options)}
    taken |= {name: side for name, side in (("height", options.height), ("width", options.width)) if side}
    sampler, of_sampler = named_sampler(options.sampler)
    schedule = options.schedule or options.discretization
    taken |= {"sampler": sampler, "schedule": named_schedule(schedule) if schedule else of_sampler}
    taken |= {"num_cols": 1, "across": "", "down": ""}
    taken["lora"], model = _weights(studio, options, "weight" in names, models, left)
    taken["embedding"] = values["embedding"]
    return taken, model, left


def _usual(options: SampleOptions) -> set[str]:
    """Settings that a picture names only where they are unusual."""
    return set(FLAGS) - {"prompt", "negative_prompt", "seed", "sampler", "sample_step", "guidance_scale"}


def _may_stay(studio: Studio, name: str, text: str, left: list[str]) -> bool:
    """Whether a flag counts here; adds to `left` why not."""
    fields = fields_of(SampleOptions)
    if name not in fields or name not in (*FLAGS, "weight", "height", "width", "discretization", "embedding", "lora_scale"):
        left.append(f"{name}: {shortened(text, 80)}")
        return False
    if name not in FILES_OF_SETTINGS:
        return True
    for file in files_in(text, fields[name].metavar):
        if not _is_ours(studio, file):
            left.append(f"{name}: {shown(file)}")
            return False
    return True


def _is_ours(studio: Studio, file: str) -> bool:
    try:
        return inside(file, studio.roots).exists()
    except UserError:
        return False


def _weights(
    studio: Studio, options: SampleOptions, is_said: bool, models: Mapping[str, Model], left: list[str]
) -> tuple[list[dict[str, Any]], Optional[str]]:
    """The LoRA that may be put on, and the model whose base it is."""
    if not is_said:
        return [], None
    base, paths = split_weight_argument(options.weight)
    model = next((name for name, one in models.items() if base in (one.weight, *one.weights)), None)
    if model is None:
        left.append(say("the base model {file}", file=shown(Path(base).name)))
    scales = [*(options.lora_scale or ()), *[1.0] * len(paths)]
    lora = []
    for path, scale in zip(paths, scales):
        if _is_ours(studio, path):
            lora.append({"path": path, "strength": scale, "on": True})
        else:
            left.append(say("the LoRA {file}", file=shown(Path(path).name)))
    return lora, model
