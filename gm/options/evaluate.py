"""The command line of tools/evaluate.py. No MindSpore import."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Optional, Sequence

from gm.config.bounds import LARGEST_SIDE, MOST_AT_ONCE, MOST_COLUMNS, MOST_IMAGES, MOST_STEPS, STRONGEST
from gm.errors import UserError, shown
from gm.options.model import EARLIER_FLAGS, ModelOptions
from gm.options.parser import REQUIRED, option, parse
from gm.options.prompts import read_prompts
from gm.texts import path_text, prompt_text

JUDGE = Path(__file__).resolve().parents[2] / "checkpoints" / "judge.safetensors"
PLACES = ("swimming in a pool", "in the snow", "in a bucket", "in a doghouse", "at night")
RESERVED = ("base model", "real pictures", "evaluation")


def _named(text: str) -> tuple[str, Path]:
    name, _, path = text.partition("=")
    if not path or not re.fullmatch(r"[\w ,.()+-]{1,60}", name) or name[0] in " ." or name in RESERVED:
        raise UserError(
            f"--lora {shown(text)} is not NAME=FILE: give a name of at most 60 letters, digits and spaces, other than "
            f"{', '.join(RESERVED)}"
        )
    return name, Path(path_text(path))


def _prompts(path: str) -> tuple[str, ...]:
    return () if path == "default" else tuple(read_prompts(path, "--prompts"))


@dataclass(frozen=True)
class EvaluateOptions(ModelOptions):
    """What was asked of tools/evaluate.py."""

    lora: tuple[tuple[str, Path], ...] = option(
        REQUIRED,
        "a LoRA, and its name in the table; repeatable",
        repeated=True,
        read=_named,
        metavar="NAME=FILE",
        group="model",
    )
    subject_photos: str = option(REQUIRED, "the photos that the LoRA were trained with", metavar="FOLDER", group="photos")
    held_out: Optional[str] = option(
        None, "other photos of the subject, to compare with", metavar="FOLDER", shown="--subject_photos", group="photos"
    )
    subject: str = option("sks dog", "what the prompts call it", read=prompt_text, group="prompts")
    prompts: tuple[str, ...] = option(
        (), "a text file with one a line, {} for the subject", read=_prompts, metavar="FILE", shown="five", group="prompts"
    )
    class_prompt: str = option(
        "A photo of a dog", "what others of its class are asked for with", read=prompt_text, group="prompts"
    )
    num_seeds: int = option(
        8, "pictures of each prompt, with the seeds seed, seed + 1, ...", least=1, most=MOST_COLUMNS, group="sampling"
    )
    num_class_pictures: Optional[int] = option(
        None, "pictures of --class_prompt", least=1, most=MOST_IMAGES, shown="as many as of the subject", group="sampling"
    )
    size: int = option(1024, "pixels of each side of a picture", least=1, most=LARGEST_SIDE, group="sampling")
    sample_step: int = option(40, "sampling steps", least=1, most=MOST_STEPS, group="sampling")
    guidance_scale: float = option(5.0, "strength of the guidance", least=0, most=STRONGEST, group="sampling")
    sample_batch_size: int = option(8, "pictures sampled at once", least=1, most=MOST_AT_ONCE, group="sampling")
    features: str = option(
        "judge", "what compares: judge, or FILE.py[:FUNCTION], see its docstring", metavar="FILE.py", group="figures"
    )
    judge: Path = option(JUDGE, "the judge's weights", metavar="FILE", shown="checkpoints/judge.safetensors", group="figures")
    output: Path = option(REQUIRED, "where pictures, table and plot go", metavar="FOLDER", group="figures")


def parse_evaluate(argv: Sequence[str]) -> EvaluateOptions:
    """The options, with the prompts in full. Raises UserError for anything that cannot be right by itself."""
    about = "Tell how well LoRA have learned a subject: the figures of the DreamBooth paper, beside those of the base model."
    options = parse(EvaluateOptions, argv, "evaluate.py", about, ignored=EARLIER_FLAGS)
    prompts = options.prompts or [f"a {{}} {place}" for place in PLACES]
    prompts = tuple(dict.fromkeys(prompt.replace("{}", options.subject) for prompt in prompts))
    if "," in options.weight:
        raise UserError(f"--weight {options.weight} names a LoRA: give the base weights, and each LoRA as --lora NAME=FILE")
    names = [name for name, _ in options.lora]
    twice = [name for i, name in enumerate(names) if name in names[:i]]
    if twice:
        raise UserError(f"--lora {twice[0]} was given twice: give each LoRA a name of its own")
    number = options.num_class_pictures or options.num_seeds * len(prompts)
    return replace(options, prompts=prompts, num_class_pictures=number)
