"""The command line of train_dreambooth.py. No MindSpore import."""

from dataclasses import dataclass
from typing import Optional, Sequence

from gm.checkpoint.lora_rules import LAYOUTS
from gm.config.bounds import MOST_ACCUMULATED, MOST_AT_ONCE, MOST_COLUMNS, MOST_IMAGES, MOST_REPEATS, MOST_STEPS
from gm.errors import UserError, shown
from gm.options.evaluate import SEEDS_OF_RUN
from gm.options.evaluating import features_text, require_evaluation
from gm.options.model import EARLIER_FLAGS, ModelOptions
from gm.options.parser import boolean, option, parse
from gm.parallel.launch import JOIN_TIMEOUT
from gm.texts import prompt_text

TRAINING = "configs/training/sd_xl_base_finetune_dreambooth_lora_910b.yaml"
MOVED = {"--noise_offset": "model.params.loss_fn_config.params.offset_noise_level"}


def _automatic_or_boolean(text: str) -> Optional[bool]:
    """None for auto."""
    if text.lower() == "auto":
        return None
    try:
        return boolean(text)
    except ValueError:
        raise ValueError(f"{shown(text)} is none of auto, True and False") from None


@dataclass(frozen=True)
class TrainOptions(ModelOptions):
    """What was asked of train_dreambooth.py."""

    config: str = option(TRAINING, "the model, data and optimizer", metavar="YAML", group="model")
    version: Optional[str] = option(
        None, "what the YAML's version must be, e.g. SDXL-base-1.0", metavar="NAME", shown="not checked", group="model"
    )

    instance_data_path: Optional[str] = option(
        None, "the photos of the subject", metavar="FOLDER", shown="the concepts of the YAML", group="photos"
    )
    instance_prompt: Optional[str] = option(
        None,
        "what they show, e.g. 'A photo of a sks dog', where no caption file beside a photo says it",
        read=prompt_text,
        group="photos",
    )
    train_data_repeat: int = option(
        10, "times a photo occurs in an epoch, each with its own crop", least=1, most=MOST_REPEATS, group="photos"
    )

    class_data_path: Optional[str] = option(
        None, "images of the class; missing ones are sampled into it", metavar="FOLDER", group="class images"
    )
    class_prompt: Optional[str] = option(
        None, "what those show, e.g. 'A photo of a dog'", read=prompt_text, group="class images"
    )
    num_class_images: int = option(50, "class images there should be", least=1, most=MOST_IMAGES, group="class images")
    generate_class_image_config: Optional[str] = option(
        None, "sample class images with the model of this YAML instead", metavar="YAML", group="class images"
    )
    stop_after_sampling: bool = option(False, "end when the class images are there", group="class images")
    prior_loss_weight: float = option(
        1.0, "weight of the class images' loss; 0 trains without them", least=0, most=1000, group="class images"
    )

    gradient_accumulation_steps: int = option(
        1, "micro-batches per optimizer update", least=1, most=MOST_ACCUMULATED, group="updates"
    )
    clip_grad: bool = option(False, "clip the gradient's norm", group="updates")
    max_grad_norm: float = option(1.0, "to at most this", above=0, group="updates")
    loss_scale_type: str = option("static", "dynamic adapts to overflows", choices=("static", "dynamic"), group="updates")
    loss_scale: Optional[float] = option(
        None, "first loss scale", above=0, most=2**32, shown="1 in float32; in float16 1024, dynamic 65536", group="updates"
    )
    loss_scale_window: int = option(2000, "good updates before a dynamic scale doubles", least=1, group="updates")
    overflow_still_update: bool = option(False, "apply gradients that are not finite as well", group="updates")

    cache_latents: bool = option(True, "encode every crop once; False: whenever it is drawn", group="what is kept")
    cache_dir: Optional[str] = option(
        None,
        "keep encoded crops and prompts here for later runs",
        metavar="FOLDER",
        shown="in memory only",
        group="what is kept",
    )
    compile_cache_dir: Optional[str] = option(
        None, "keep the compiled training graph here for later runs", metavar="FOLDER", group="what is kept"
    )
    cache_text_products: Optional[bool] = option(
        None,
        "keep the products of each prompt with the frozen cross-attention; auto: where there are at most 4 prompts",
        read=_automatic_or_boolean,
        metavar="auto|True|False",
        shown="auto",
        group="what is kept",
    )

    save_path: str = option("./runs", "where results go", metavar="FOLDER", group="results")
    save_path_with_time: bool = option(False, "into a sub-folder named after the time", group="results")
    save_ckpt_interval: int = option(1000, "updates between LoRA files; the last is always saved", least=1, group="results")
    save_format: Optional[str] = option(
        None, "write each LoRA also as .safetensors, in this layout", choices=LAYOUTS, group="results"
    )
    max_num_ckpt: Optional[int] = option(None, "keep only this many newest LoRA files", least=1, group="results")
    save_every_minutes: Optional[float] = option(
        None, "save also when so many minutes have passed since the last LoRA file", above=0, shown="never", group="results"
    )
    resume: Optional[str] = option(
        None,
        "continue a run: its folder, its training_state.ckpt, or True, the newest in --save_path",
        metavar="PATH|True",
        shown="start anew",
        group="results",
    )
    export_recipe: Optional[str] = option(
        None,
        "instead of training, write the run as a recipe of sd-scripts: this file and NAME_dataset.toml beside it",
        metavar="NAME.toml",
        shown="train",
        group="results",
    )
    log_interval: int = option(0, "updates between log lines; 0: about 30 lines a run", least=0, group="results")

    infer_during_train: bool = option(False, "sample progress pictures", group="progress pictures")
    infer_interval: int = option(500, "updates between them", least=1, group="progress pictures")
    infer_prompt: Optional[str] = option(
        None, "their prompt", read=prompt_text, shown="the instance prompt", group="progress pictures"
    )
    infer_prompts: Optional[str] = option(
        None,
        "their prompts instead: a file with one a line (--w --h --d --s --l --n --ss behind it), or a .yaml list",
        metavar="FILE",
        group="progress pictures",
    )
    sample_step: int = option(
        40, "sampling steps of class and progress pictures", least=1, most=MOST_STEPS, group="progress pictures"
    )
    sample_batch_size: int = option(
        2,
        "class images sampled at once; progress pictures of the one prompt",
        least=1,
        most=MOST_AT_ONCE,
        group="progress pictures",
    )

    evaluate_every: Optional[int] = option(
        None,
        "score the run as tools/evaluate.py does and save: before the first update, after every so many, and at the end",
        least=1,
        shown="never",
        group="evaluation",
    )
    features: Optional[str] = option(
        None,
        "what compares pictures: FILE.py[:FUNCTION], see gm/evaluation/features.py, or judge, that of the drawn world",
        read=features_text,
        metavar="FILE.py",
        group="evaluation",
    )
    held_out: Optional[str] = option(
        None, "other photos of the subject, to compare with", metavar="FOLDER", shown="the photos", group="evaluation"
    )
    evaluate_prompts: Optional[str] = option(
        None, "a text file with one a line, {} for the subject", metavar="FILE", shown="five", group="evaluation"
    )
    evaluate_seeds: Optional[int] = option(
        None,
        "pictures of each prompt, and as many in all of the class prompt",
        least=1,
        most=MOST_COLUMNS,
        shown=str(SEEDS_OF_RUN),
        group="evaluation",
    )
    stop_when_learned: bool = option(
        False, "end the run when the scores show that more updates bring nothing", group="evaluation"
    )

    is_parallel: bool = option(False, "one of several processes that mpirun or msrun started", group="many devices")
    master_addr: Optional[str] = option(
        None,
        "under mpirun: address of rank 0's host for the others",
        metavar="ADDRESS",
        shown="found out",
        group="many devices",
    )
    join_timeout: int = option(
        JOIN_TIMEOUT, "seconds a process waits for the others at the start", least=1, most=86_400, group="many devices"
    )


def parse_train(argv: Sequence[str]) -> TrainOptions:
    """The options of train_dreambooth.py. Raises UserError for anything that cannot be right by itself."""
    about = "Teach SDXL a subject from a few photos: DreamBooth with LoRA and prior preservation."
    options = parse(TrainOptions, argv, "train_dreambooth.py", about, ignored=EARLIER_FLAGS, moved=MOVED)
    wants_class = options.prior_loss_weight > 0
    if options.stop_after_sampling and not wants_class:
        raise UserError("--stop_after_sampling True samples nothing with --prior_loss_weight 0: give a weight above 0")
    if options.infer_prompts and options.infer_prompt:
        raise UserError(f"--infer_prompts {options.infer_prompts} and --infer_prompt were both given: give one of them")
    if options.infer_prompts and not options.infer_during_train:
        raise UserError(f"--infer_prompts {options.infer_prompts} draws nothing without --infer_during_train True: give both")
    if options.export_recipe and (options.resume or options.stop_after_sampling):
        given = "--resume" if options.resume else "--stop_after_sampling True"
        raise UserError(
            f"--export_recipe {options.export_recipe} writes a recipe and ends, so that {given} cannot act: give one of them"
        )
    require_evaluation(options)
    if options.instance_data_path is None:
        single = ("instance_prompt", "class_data_path", "class_prompt")
        lost = next((name for name in single if getattr(options, name) is not None), None)
        if lost:
            raise UserError(f"--{lost} was given without --instance_data_path: give the photos that it belongs to")
        return options
    if wants_class and not options.class_data_path:
        raise UserError("prior preservation needs --class_data_path and --class_prompt: give both, or --prior_loss_weight 0")
    return options
