"""What a run is given, checked before MindSpore is imported: flags, YAML, photos, captions, folders."""

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Optional, Sequence

from gm.config.load import load_config
from gm.config.types import ConceptConfig, Config, ModelConfig
from gm.console import log
from gm.data.buckets import Buckets
from gm.data.concepts import ClassFolder, Subject, find_classes, find_subjects
from gm.data.crops import require_enough_pixels
from gm.data.dreambooth import CLASS, INSTANCE
from gm.data.images import check_images, count_images
from gm.errors import UserError
from gm.files import make_writable
from gm.models.adapters import adapters_of
from gm.options.prompts import PromptLine, read_prompt_lines
from gm.options.train import TrainOptions, parse_train
from gm.parallel.launch import check_launcher
from gm.parallel.ranks import Ranks
from gm.training.evaluation_inputs import ToEvaluate, to_evaluate
from gm.training.folders import check_folders
from gm.training.photos import check_masks, class_photos, instance_photos, of_one_colour, shapes_of, texts_of
from gm.training.state_file import find_state


@dataclass(frozen=True)
class Inputs:
    """What was asked for."""

    options: TrainOptions  # `resume` is the state's file
    config: Config
    class_config: Config  # of the model that samples the class images
    subjects: Sequence[Subject]
    class_folders: Sequence[ClassFolder]  # none: no prior preservation
    buckets: Buckets  # the shapes of crops
    first_caption: str  # of the first photo
    texts: Sequence[str]  # all that is said of photos and class images, each once; where the text encoders train, a part of it
    folder: Path  # of the results
    infer_lines: Sequence[PromptLine] = ()  # of --infer_prompts
    evaluation: Optional[ToEvaluate] = None  # of --evaluate_every

    @property
    def prompt(self) -> str:
        """What stands for the subject where one prompt is asked for."""
        return _prompt(self.subjects, self.first_caption)

    @property
    def infer_prompt(self) -> str:
        return self.options.infer_prompt or self.prompt

    @property
    def prompts(self) -> list[str]:
        """All prompts of the run, each once."""
        of_pictures = [prompt for line in self.infer_lines for prompt in line.prompts] or [self.infer_prompt]
        evaluated = self.evaluation.all_prompts if self.evaluation else []
        return list(dict.fromkeys([*self.texts, *of_pictures, *evaluated]))


def check_inputs(argv: Sequence[str], ranks: Ranks) -> Inputs:
    """The inputs, the same on every rank; UserError for anything that can be seen to be wrong without MindSpore."""
    with ranks.agreeing():
        options = parse_train(argv)
        check_launcher(ranks, options.is_parallel)
        config = load_config(options.config, options.set, training=True, version=options.version)
        multiple = config.model.unet.downsampling
        lines = read_prompt_lines(options.infer_prompts, "--infer_prompts", multiple) if options.infer_prompts else []
        class_config = _class_image_config(options, config)
        adapters_of(config.model, config.lora)  # its patterns name modules of the model
        if options.cache_text_products and config.lora["unet"].kind == "dora":
            raise UserError(
                "--cache_text_products True leaves away weights that lora_kind: dora needs: leave the flag away or train plain LoRA"
            )
        concepts, where = _concepts(options, config)
        subjects = find_subjects(concepts, options.train_data_repeat, where)
        class_folders = find_classes(concepts, class_flag(options)) if options.prior_loss_weight > 0 else []
        if options.prior_loss_weight > 0 and not class_folders:
            raise UserError(
                "prior preservation needs class_data_path and class_prompt of at least one concept: give them, or "
                "--prior_loss_weight 0"
            )
        check_folders(options.save_path, subjects, class_folders, where, class_flag(options))
        images = [path for subject in subjects for path in subject.photos]
        class_images = [path for one in class_folders for path in count_images(one.folder)]
        check_images(images + class_images, config.data.num_parallel_workers)
        blank = of_one_colour(class_images)
        if blank:
            log.warning(
                "%d class images show one colour and nothing else, e.g. %s: delete them, and new ones are sampled",
                len(blank),
                blank[0],
            )
        buckets = shapes_of(config.data, subjects)
        photos = instance_photos(config.data, subjects, buckets)
        check_masks(photos, config.data)
        require_enough_pixels(photos)
        of_class = class_photos(config.data, class_folders, class_images, buckets, options.prior_loss_weight)
        evaluation = to_evaluate(
            options, subjects, class_folders, concepts, _prompt(subjects, photos[0].caption.text), config.data.total_step
        )
        if evaluation and evaluation.held_out:
            check_images(evaluation.held_out, config.data.num_parallel_workers)
        endless = config.trains_text_encoders
        texts = texts_of(photos, INSTANCE, options.seed, endless) + [one.prompt for one in class_folders]
        texts += texts_of(of_class, CLASS, options.seed, endless)
    ranks.require_same(
        {
            "the command line": list(argv),
            "the YAML": config.raw,
            **({"--infer_prompts": [asdict(line) for line in lines]} if lines else {}),
            **({"--evaluate_prompts": evaluation.all_prompts} if evaluation else {}),
            where: [[path.name, path.stat().st_size] for path in images],
            "the captions": [photo.caption.text for photo in photos],
        }
    )
    options, folder = _places(options, ranks)
    return Inputs(
        options=options,
        config=config,
        class_config=class_config,
        subjects=subjects,
        class_folders=class_folders,
        buckets=buckets,
        first_caption=photos[0].caption.text,
        texts=list(dict.fromkeys(texts)),
        folder=folder,
        infer_lines=lines,
        evaluation=evaluation,
    )


def _prompt(subjects: Sequence[Subject], first_caption: str) -> str:
    return next((subject.prompt for subject in subjects if subject.prompt), first_caption)


def _places(options: TrainOptions, ranks: Ranks) -> tuple[TrainOptions, Path]:
    """The options with the file of the state in `resume`, the same on every rank, and the folder of the results. The newest
    state in --save_path (--resume True) is gone on with in its folder."""
    with ranks.agreeing():
        state = find_state(options.resume, options.save_path, options.save_path_with_time) if ranks.is_main else None
    state = ranks.share(str(state) if state else None)[0]
    folder = Path(options.save_path)
    if options.save_path_with_time:
        in_place = state is not None and options.resume == "True"
        folder = Path(state).parent if in_place else folder / time.strftime("%Y-%m-%d_%H-%M-%S")
    return replace(options, resume=state), folder


def make_folders(inputs: Inputs, ranks: Ranks) -> None:
    """Make the folders that the run writes to; UserError naming the flag of one that cannot be written to."""
    options = inputs.options
    caches = {"--cache_dir": options.cache_dir, "--compile_cache_dir": options.compile_cache_dir}
    make_writable(*((flag, Path(folder)) for flag, folder in caches.items() if folder))
    if ranks.is_main:
        of_classes = ((class_flag(options), one.folder) for one in inputs.class_folders)
        make_writable(("--save_path", inputs.folder), *of_classes)


def _concepts(options: TrainOptions, config: Config) -> tuple[Sequence[ConceptConfig], str]:
    """The subjects of the flags or of the YAML, and what their folders are called in messages."""
    key = "data.dataset_config.params.concepts"
    if options.instance_data_path is None:
        if not config.data.concepts:
            raise UserError(f"no photos were given: give --instance_data_path, or {key} in --config {options.config}")
        return config.data.concepts, "instance_data_path"
    if config.data.concepts:
        raise UserError(
            f"--instance_data_path was given, but --config {options.config} lists its subjects in {key}: give one of the two"
        )
    single = {name: getattr(options, name) for name in ("instance_prompt", "class_data_path", "class_prompt")}
    return [ConceptConfig(instance_data_path=options.instance_data_path, repeats=None, **single)], "--instance_data_path"


def class_flag(options: TrainOptions) -> str:
    """What a class folder is called in messages."""
    return "class_data_path" if options.instance_data_path is None else "--class_data_path"


def _class_image_config(options: TrainOptions, config: Config) -> Config:
    """The YAML for sampling class images; another one than --config must be of the same base model."""
    if not options.generate_class_image_config:
        return config
    other = load_config(options.generate_class_image_config, training=False)
    here, there = (_network_sizes(one.model) for one in (config, other))
    differing = [network for network in here if here[network] != there[network]]
    if differing:
        raise UserError(
            f"--generate_class_image_config {options.generate_class_image_config} has another {' and another '.join(differing)} "
            f"than {options.config}: give a YAML for the same base model"
        )
    return other


def _network_sizes(model: ModelConfig) -> dict[str, object]:
    """What decides the weights of each network and the scale of latents, without how they are computed."""
    unet = replace(model.unet, attention="vanilla", use_recompute=False)
    return {
        "UNet": (unet, model.size_embed_dim),
        "pair of text encoders": model.text_encoders,
        "first stage": (model.vae, model.scale_factor),
        "kind of prediction": (model.prediction, model.zero_terminal_snr),
    }
