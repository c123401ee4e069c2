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
SUBJECT, CLASS_PROMPT, SIZE = "sks dog", "A photo of a dog", 1024  # where neither a flag nor a run says another
SEEDS, SEEDS_OF_RUN = 8, 4  # pictures of a prompt; of many checkpoints fewer are enough to choose by (bench/chooser.md)


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
        (),
        "a LoRA, and its name in the table; repeatable",
        repeated=True,
        read=_named,
        metavar="NAME=FILE",
        group="model",
    )
    checkpoints: Optional[Path] = option(
        None,
        "a run's --save_path, in place of --lora: score every LoRA in it and name the best; what the run says of model, size, "
        "subject and class need not be given",
        metavar="FOLDER",
        group="model",
    )
    subject_photos: str = option(REQUIRED, "the photos that the LoRA were trained with", metavar="FOLDER", group="photos")
    held_out: Optional[str] = option(
        None, "other photos of the subject, to compare with", metavar="FOLDER", shown="--subject_photos", group="photos"
    )
    subject: Optional[str] = option(
        None, "what the prompts call it", read=prompt_text, shown=f"{SUBJECT}, or what --checkpoints says", group="prompts"
    )
    prompts: tuple[str, ...] = option(
        (), "a text file with one a line, {} for the subject", read=_prompts, metavar="FILE", shown="five", group="prompts"
    )
    class_prompt: Optional[str] = option(
        None,
        "what others of its class are asked for with",
        read=prompt_text,
        shown=f"{CLASS_PROMPT}, or what --checkpoints says",
        group="prompts",
    )
    num_seeds: Optional[int] = option(
        None,
        "pictures of each prompt, with the seeds seed, seed + 1, ...",
        least=1,
        most=MOST_COLUMNS,
        shown=f"{SEEDS}, with --checkpoints {SEEDS_OF_RUN}",
        group="sampling",
    )
    num_class_pictures: Optional[int] = option(
        None, "pictures of --class_prompt", least=1, most=MOST_IMAGES, shown="as many as of the subject", group="sampling"
    )
    size: Optional[int] = option(
        None,
        "pixels of each side of a picture",
        least=1,
        most=LARGEST_SIDE,
        shown=f"{SIZE}, or what --checkpoints says",
        group="sampling",
    )
    sample_step: int = option(40, "sampling steps", least=1, most=MOST_STEPS, group="sampling")
    guidance_scale: float = option(5.0, "strength of the guidance", least=0, most=STRONGEST, group="sampling")
    sample_batch_size: int = option(8, "pictures sampled at once", least=1, most=MOST_AT_ONCE, group="sampling")
    features: str = option(
        "judge",
        "what compares: judge, or FILE.py[:FUNCTION] such as tools/features/clip_dino.py",
        metavar="FILE.py",
        group="figures",
    )
    judge: Path = option(JUDGE, "the judge's weights", metavar="FILE", shown="checkpoints/judge.safetensors", group="figures")
    output: Optional[Path] = option(
        None,
        "where pictures, table and plot go",
        metavar="FOLDER",
        shown="of --checkpoints: its sub-folder evaluation",
        group="figures",
    )


def parse_evaluate(argv: Sequence[str]) -> EvaluateOptions:
    """The options; with --lora all of them, with --checkpoints those that `completed` takes from the run are None yet. Raises
    UserError for anything that cannot be right by itself."""
    about = "Tell how well LoRA have learned a subject: the figures of the DreamBooth paper, beside those of the base model."
    options = parse(EvaluateOptions, argv, "evaluate.py", about, ignored=EARLIER_FLAGS)
    if "," in options.weight:
        raise UserError(f"--weight {options.weight} names a LoRA: give the base weights, and each LoRA as --lora NAME=FILE")
    if options.checkpoints is not None:
        return _of_run(options, options.checkpoints, argv)
    if not options.lora:
        raise UserError("nothing is to be evaluated: give --lora NAME=FILE, or --checkpoints and the folder of a run")
    if options.output is None:
        raise UserError("--output is missing, the folder for pictures, table and plot: give one")
    names = [name for name, _ in options.lora]
    twice = [name for i, name in enumerate(names) if name in names[:i]]
    if twice:
        raise UserError(f"--lora {twice[0]} was given twice: give each LoRA a name of its own")
    return completed(options, options.subject or SUBJECT, options.class_prompt or CLASS_PROMPT, SIZE)


def _of_run(options: EvaluateOptions, run: Path, argv: Sequence[str]) -> EvaluateOptions:
    """With the run's own YAML, unless --config was given."""
    if options.lora:
        raise UserError(
            f"--lora {options.lora[0][0]} and --checkpoints {run} were both given: compare single LoRA in a command of their own"
        )
    config, given = run / "config.yaml", any(word.split("=")[0] == "--config" for word in argv)
    return replace(
        options,
        config=options.config if given or not config.is_file() else str(config),
        output=options.output or run / "evaluation",
        num_seeds=options.num_seeds or SEEDS_OF_RUN,
    )


def completed(options: EvaluateOptions, subject: str, class_prompt: str, size: int) -> EvaluateOptions:
    """With the prompts in full, and these where nobody said another."""
    prompts = options.prompts or [f"a {{}} {place}" for place in PLACES]
    prompts = tuple(dict.fromkeys(prompt.replace("{}", subject) for prompt in prompts))
    seeds = options.num_seeds or SEEDS
    return replace(
        options,
        subject=subject,
        class_prompt=class_prompt,
        prompts=prompts,
        size=options.size or size,
        num_seeds=seeds,
        num_class_pictures=options.num_class_pictures or seeds * len(prompts),
    )
