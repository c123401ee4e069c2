"""The command line of tools/evaluate.py. No MindSpore import."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Optional, Sequence

from gm.options.commands import FACTOR, POSITIVE, common_parser, parsed, prompt_text, read_prompts
from gm.errors import UserError

JUDGE = Path(__file__).resolve().parents[2] / "checkpoints" / "judge.safetensors"
PLACES = ("swimming in a pool", "in the snow", "in a bucket", "in a doghouse", "at night")
RESERVED = ("base model", "real pictures", "evaluation")


@dataclass(frozen=True)
class EvaluateOptions:
    """What was asked of tools/evaluate.py; the flags' help texts below say what each is."""

    config: str
    set: tuple[str, ...]
    weight: str
    vae: Optional[str]
    lora: tuple[tuple[str, Path], ...]  # name and file
    subject_photos: str
    held_out: Optional[str]
    subject: str
    prompts: tuple[str, ...]
    class_prompt: str
    num_seeds: int
    num_class_pictures: int
    size: int
    sample_step: int
    guidance_scale: float
    sample_batch_size: int
    features: str
    judge: Path
    output: Path
    seed: int
    device_target: str
    ms_mode: int
    ms_amp_level: Optional[str]


def _parser():
    about = "Tell how well LoRA have learned a subject: the figures of the DreamBooth paper, beside those of the base model."
    parser = common_parser("evaluate.py", about, "configs/inference/sd_xl_base.yaml")
    add = parser.add_argument
    add("--lora", action="append", required=True, metavar="NAME=FILE", help="a LoRA, and its name in the table; repeatable")
    add("--subject_photos", required=True, metavar="FOLDER", help="the photos that the LoRA were trained with")
    add("--held_out", metavar="FOLDER", help="other photos of the subject, to compare with (default: --subject_photos)")
    add("--subject", type=prompt_text, default="sks dog", help="what the prompts call it")
    add("--prompts", default="default", metavar="FILE", help="a text file with one a line, {} for the subject (default: five)")
    add("--class_prompt", type=prompt_text, default="A photo of a dog", help="what others of its class are asked for with")
    add("--num_seeds", type=POSITIVE, default=8, help="pictures of each prompt, with the seeds seed, seed + 1, ...")
    add("--num_class_pictures", type=POSITIVE, help="pictures of --class_prompt (default: as many as of the subject)")
    add("--size", type=POSITIVE, default=1024, help="pixels of each side of a picture")
    add("--sample_step", type=POSITIVE, default=40, help="sampling steps")
    add("--guidance_scale", type=FACTOR, default=5.0, help="strength of the guidance")
    add("--sample_batch_size", type=POSITIVE, default=8, help="pictures sampled at once")
    add("--features", default="judge", metavar="FILE.py", help="what compares: judge, or FILE.py[:FUNCTION], see its docstring")
    add("--judge", type=Path, default=JUDGE, metavar="FILE", help="the judge's weights")
    add("--output", type=Path, required=True, metavar="FOLDER", help="where pictures, table and plot go")
    return parser


def parse_evaluate(argv: Sequence[str]) -> EvaluateOptions:
    """The options, with the prompts in full. Raises UserError for anything that cannot be right by itself."""
    options = parsed(_parser(), argv, EvaluateOptions)
    prompts = [f"a {{}} {p}" for p in PLACES] if options.prompts == "default" else read_prompts(options.prompts, "--prompts")
    prompts = tuple(dict.fromkeys(prompt.replace("{}", options.subject) for prompt in prompts))
    if "," in options.weight:
        raise UserError(f"--weight {options.weight} names a LoRA: give the base weights, and each LoRA as --lora NAME=FILE")
    lora = tuple(_named(text) for text in options.lora)
    twice = [name for i, (name, _) in enumerate(lora) if name in [other for other, _ in lora[:i]]]
    if twice:
        raise UserError(f"--lora {twice[0]} was given twice: give each LoRA a name of its own")
    number = options.num_class_pictures or options.num_seeds * len(prompts)
    return replace(options, lora=lora, prompts=prompts, num_class_pictures=number)


def _named(text: str) -> tuple[str, Path]:
    name, _, path = text.partition("=")
    if not path or not re.fullmatch(r"[\w ,.()+-]+", name) or name[0] in " ." or name in RESERVED:
        raise UserError(
            f"--lora {text!r} is not NAME=FILE: give a name of letters, digits and spaces, other than {', '.join(RESERVED)}"
        )
    return name, Path(path)
