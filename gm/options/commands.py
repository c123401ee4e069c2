"""The command lines of train_dreambooth.py and demo/sampling_without_streamlit.py. No MindSpore import.

Each flag is one line of a table; parsing gives a frozen dataclass, or a UserError with one sentence.
"""

import argparse
import difflib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Optional, Sequence

from gm.checkpoint.lora_rules import LAYOUTS
from gm.errors import UserError
from gm.parallel.launch import JOIN_TIMEOUT

SAMPLERS = ("EulerEDMSampler", "HeunEDMSampler", "DPMPP2MSampler", "EulerAncestralSampler")

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


@dataclass(frozen=True)
class TrainOptions:
    """What was asked of train_dreambooth.py; the flags' help texts below say what each is."""

    version: str
    task: str
    config: str
    set: tuple[str, ...]
    weight: str
    vae: Optional[str]
    instance_data_path: str
    instance_prompt: str
    class_data_path: Optional[str]
    class_prompt: Optional[str]
    num_class_images: int
    sample_batch_size: int
    sample_step: int
    generate_class_image_config: Optional[str]
    stop_after_sampling: bool
    prior_loss_weight: float
    train_data_repeat: int
    cache_latents: bool
    cache_dir: Optional[str]
    compile_cache_dir: Optional[str]
    gradient_accumulation_steps: int
    clip_grad: bool
    max_grad_norm: float
    loss_scale_type: str
    loss_scale: Optional[float]
    loss_scale_window: int
    overflow_still_update: bool
    seed: int
    save_path: str
    save_path_with_time: bool
    save_ckpt_interval: int
    save_format: Optional[str]
    max_num_ckpt: Optional[int]
    resume: Optional[str]
    log_interval: int
    infer_during_train: bool
    infer_interval: int
    infer_prompt: Optional[str]
    device_target: str
    ms_mode: int
    ms_amp_level: Optional[str]
    is_parallel: bool
    master_addr: Optional[str]
    join_timeout: int
    max_device_memory: Optional[str]


@dataclass(frozen=True)
class SampleOptions:
    """What was asked of demo/sampling_without_streamlit.py."""

    task: str
    config: str
    set: tuple[str, ...]
    weight: str
    vae: Optional[str]
    lora_scale: Optional[tuple[float, ...]]
    prompt: str
    negative_prompt: str
    sampler: str
    guider: str
    guidance_scale: float
    discretization: str
    sample_step: int
    num_cols: int
    seed: int
    save_path: str
    sd_xl_base_ratios: str
    height: Optional[int]
    width: Optional[int]
    orig_width: Optional[int]
    orig_height: Optional[int]
    target_width: Optional[int]
    target_height: Optional[int]
    crop_coords_top: Optional[int]
    crop_coords_left: Optional[int]
    device_target: str
    ms_mode: int
    ms_amp_level: Optional[str]

    def size(self) -> tuple[int, int]:
        """(height, width) in pixels: of the aspect ratio, where --height and --width do not say otherwise."""
        width, height = SD_XL_BASE_RATIOS[self.sd_xl_base_ratios]
        return self.height or height, self.width or width


class _Parser(argparse.ArgumentParser):
    """Raises UserError instead of printing usage and leaving."""

    def error(self, message: str) -> None:
        raise UserError(f"{message}; --help lists what is accepted")


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")
    return text.lower() == "true"


def _number(kind: type, least: Optional[float], open_end: bool = False):
    """A parser of int or float with a lower bound (excluded when `open_end`)."""

    def parse(text: str):
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not {'a whole' if kind is int else 'a'} number") from None
        if value != value or value in (float("inf"), float("-inf")):
            raise argparse.ArgumentTypeError(f"{text!r} is not a finite number")
        if least is not None and (value < least or (open_end and value == least)):
            raise argparse.ArgumentTypeError(f"{text} is too small: {'more than' if open_end else 'at least'} {least:g}")
        return value

    return parse


def prompt_text(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("the prompt is empty: say in words what the pictures show")
    return text


def _memory(text: str) -> str:
    number = text[:-2]
    if not text.endswith("GB") or not number.replace(".", "", 1).isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 58GB")
    return text


def scale_list(text: str) -> tuple[float, ...]:
    """Numbers separated by commas, one for each LoRA."""
    return tuple(_number(float, None)(part) for part in text.split(","))


POSITIVE, NATURAL = _number(int, 1), _number(int, 0)
FACTOR = _number(float, 0)


def common_parser(prog: str, about: str, config: str) -> argparse.ArgumentParser:
    """A parser with the flags that all commands on a model have; `config` is the default YAML."""
    formatter = argparse.ArgumentDefaultsHelpFormatter
    parser = _Parser(prog=prog, description=about, formatter_class=formatter, allow_abbrev=False)
    add = parser.add_argument
    add("--task", choices=("txt2img",), default="txt2img", help="what to do")
    add("--config", default=config, metavar="YAML", help="the model and, for training, data and optimizer")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="override one entry of the YAML; repeatable")
    add(
        "--weight",
        default="checkpoints/sd_xl_base_1.0_ms.ckpt",
        metavar="BASE[,LORA]",
        help="base weights (official .safetensors, .ckpt, or diffusers' folder), then LoRA of any tool, separated by commas",
    )
    add("--vae", metavar="FILE", help="another image encoder and decoder than the base's: a file, or diffusers' vae folder")
    add("--seed", type=NATURAL, default=42, help="the same seed gives the same result")
    add("--device_target", choices=("Ascend", "CPU", "GPU"), default="Ascend", help="where to compute")
    add("--ms_mode", type=int, choices=(0, 1), default=0, help="0 graph mode, 1 PyNative mode (same numbers, slower)")
    add(
        "--ms_amp_level",
        choices=("O0", "O2"),
        default=None,
        help="O0 float32, O2 float16 with float32 norms, softmax and LoRA (default: O2, on the CPU O0)",
    )
    return parser


def _train_parser() -> argparse.ArgumentParser:
    about = "Teach SDXL a subject from a few photos: DreamBooth with LoRA and prior preservation."
    parser = common_parser("train_dreambooth.py", about, "configs/training/sd_xl_base_finetune_dreambooth_lora_910b.yaml")
    add = parser.add_argument
    add("--version", choices=("SDXL-base-1.0",), default="SDXL-base-1.0", help="the base model")
    add("--instance_data_path", required=True, metavar="FOLDER", help="the photos of the subject")
    add("--instance_prompt", type=prompt_text, required=True, help="what they show, e.g. 'A photo of a sks dog'")
    add("--class_data_path", metavar="FOLDER", help="images of the class; missing ones are sampled into it")
    add("--class_prompt", type=prompt_text, help="what those show, e.g. 'A photo of a dog'")
    add("--num_class_images", type=POSITIVE, default=50, help="class images there should be")
    add("--sample_batch_size", type=POSITIVE, default=2, help="pictures sampled at once (class and progress pictures)")
    add("--sample_step", type=POSITIVE, default=40, help="sampling steps of class and progress pictures")
    add("--generate_class_image_config", metavar="YAML", help="sample class images with the model of this YAML instead")
    add("--stop_after_sampling", type=_boolean, default=False, help="end when the class images are there")
    add("--prior_loss_weight", type=FACTOR, default=1.0, help="weight of the class images' loss; 0 trains without them")
    add("--train_data_repeat", type=POSITIVE, default=10, help="times a photo occurs in an epoch, each with its own crop")
    add("--cache_latents", type=_boolean, default=True, help="encode every crop once; False: whenever it is drawn")
    add("--cache_dir", metavar="FOLDER", help="keep encoded crops and prompts here for later runs (default: in memory only)")
    add("--compile_cache_dir", metavar="FOLDER", help="keep the compiled training graph here for later runs")
    add("--gradient_accumulation_steps", type=POSITIVE, default=1, help="micro-batches per optimizer update")
    add("--clip_grad", type=_boolean, default=False, help="clip the gradient's norm")
    add("--max_grad_norm", type=_number(float, 0, True), default=1.0, help="to at most this")
    add("--loss_scale_type", choices=("static", "dynamic"), default="static", help="dynamic adapts to overflows")
    add(
        "--loss_scale",
        type=_number(float, 0, True),
        default=None,
        help="first loss scale (default: 1 in float32; in float16 1024, dynamic 65536)",
    )
    add("--loss_scale_window", type=POSITIVE, default=2000, help="good updates before a dynamic scale doubles")
    add("--overflow_still_update", type=_boolean, default=False, help="apply gradients that are not finite as well")
    add("--save_path", default="./runs", metavar="FOLDER", help="where results go")
    add("--save_path_with_time", type=_boolean, default=False, help="into a sub-folder named after the time")
    add("--save_ckpt_interval", type=POSITIVE, default=1000, help="updates between LoRA files; the last is always saved")
    add("--save_format", choices=LAYOUTS, default=None, help="write each LoRA also as .safetensors, in this layout")
    add("--max_num_ckpt", type=POSITIVE, default=None, help="keep only this many newest LoRA files")
    add("--resume", metavar="PATH", help="continue a run: its folder, or its training_state.ckpt")
    add("--log_interval", type=POSITIVE, default=1, help="updates between log lines")
    add("--infer_during_train", type=_boolean, default=False, help="sample progress pictures")
    add("--infer_interval", type=POSITIVE, default=500, help="updates between them")
    add("--infer_prompt", type=prompt_text, help="their prompt (default: the instance prompt)")
    add("--is_parallel", type=_boolean, default=False, help="one of several processes that mpirun or msrun started")
    add("--master_addr", metavar="ADDRESS", help="under mpirun: address of rank 0's host for the others (default: found out)")
    add("--join_timeout", type=POSITIVE, default=JOIN_TIMEOUT, help="seconds a process waits for the others at the start")
    add("--max_device_memory", type=_memory, help="device memory MindSpore may use, e.g. 58GB (Ascend)")
    return parser


def _sample_parser() -> argparse.ArgumentParser:
    about = "Sample pictures from SDXL, with or without a LoRA."
    parser = common_parser("sampling_without_streamlit.py", about, "configs/inference/sd_xl_base.yaml")
    add = parser.add_argument
    add(
        "--lora_scale",
        type=scale_list,
        default=None,
        metavar="NUMBER[,NUMBER]",
        help="strength of each LoRA of --weight, separated by commas (default: 1 each)",
    )
    add("--prompt", type=prompt_text, default="a photo of a dog on a beach", help="the prompt, or a .txt file with one a line")
    add("--negative_prompt", default="", help="what the pictures should not show")
    add("--sampler", choices=SAMPLERS, default=SAMPLERS[0], help="how noise becomes a picture")
    add("--guider", choices=("VanillaCFG", "IdentityGuider"), default="VanillaCFG", help="IdentityGuider: no guidance")
    add("--guidance_scale", type=_number(float, None), default=5.0, help="strength of the guidance")
    discretizations = ("LegacyDDPMDiscretization", "EDMDiscretization")
    add("--discretization", choices=discretizations, default=discretizations[0], help="which noise levels are visited")
    add("--sample_step", type=POSITIVE, default=40, help="sampling steps")
    add("--num_cols", type=POSITIVE, default=1, help="pictures per prompt, with the seeds seed, seed + 1, ...")
    add("--save_path", default="outputs/demo/", metavar="FOLDER", help="where the PNGs go")
    add("--sd_xl_base_ratios", choices=tuple(SD_XL_BASE_RATIOS), default="1.0", help="width / height, of SDXL's sizes")
    for side in ("height", "width"):
        add(f"--{side}", type=POSITIVE, help=f"{side} in pixels, instead of the ratio's")
        add(f"--orig_{side}", type=POSITIVE, help=f"{side} of the original that SDXL is told (default: the picture's)")
        add(f"--target_{side}", type=POSITIVE, help=f"target {side} that SDXL is told (default: the picture's)")
    for edge in ("top", "left"):
        add(f"--crop_coords_{edge}", type=NATURAL, help=f"{edge} of the crop that SDXL is told (default: 0)")
    return parser


def parsed(parser: argparse.ArgumentParser, argv: Sequence[str], options: type):
    """The dataclass `options` from the command line; UserError for what the parser does not know."""
    known, unknown = None, []
    flags = [flag for flag in parser._option_string_actions if flag.startswith("--")]
    given = [word.split("=", 1)[0] for word in argv if word.startswith("--")]
    for flag in given:
        if flag not in flags:
            near = difflib.get_close_matches(flag, flags, 1)
            raise UserError(f"unknown flag {flag}" + (f", did you mean {near[0]}?" if near else "; --help lists the known ones"))
    known, unknown = parser.parse_known_args(list(argv))
    if unknown:
        raise UserError(f"unexpected {unknown[0]!r}: values follow their flag, and one with spaces needs quotes")
    values = vars(known)
    values["set"] = tuple(values["set"])
    return options(**{field.name: values[field.name] for field in fields(options)})


def parse_train(argv: Sequence[str]) -> TrainOptions:
    """The options of train_dreambooth.py. Raises UserError for anything that cannot be right by itself."""
    options = parsed(_train_parser(), argv, TrainOptions)
    wants_class = options.prior_loss_weight > 0
    if options.class_data_path and not options.class_prompt:
        raise UserError("--class_data_path was given without --class_prompt: say what the class images show")
    if wants_class and not options.class_data_path:
        raise UserError(
            "prior preservation needs --class_data_path and --class_prompt: give both, or --prior_loss_weight 0"
        )
    if options.stop_after_sampling and not wants_class:
        raise UserError("--stop_after_sampling True samples nothing with --prior_loss_weight 0: give a weight above 0")
    if options.class_data_path and Path(options.class_data_path).resolve() == Path(options.instance_data_path).resolve():
        raise UserError(
            f"--class_data_path and --instance_data_path are the same folder {options.instance_data_path}: the class "
            "images need one of their own"
        )
    return options


def parse_sample(argv: Sequence[str]) -> SampleOptions:
    """The options of demo/sampling_without_streamlit.py, or UserError."""
    return parsed(_sample_parser(), argv, SampleOptions)


def read_prompts(path: str, flag: str) -> list[str]:
    """The non-empty lines of a text file; UserError naming the flag when it cannot be read or has none."""
    try:
        lines = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{flag} {path} cannot be read as a text file of prompts ({error}): give one prompt a line") from None
    prompts = [line for line in lines if line]
    if not prompts:
        raise UserError(f"{flag} {path} holds no prompt: write one prompt a line")
    return prompts
