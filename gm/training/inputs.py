"""What a run is given, checked before MindSpore is imported: flags, YAML, photos, folders."""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Optional, Sequence

from gm.config.load import load_config
from gm.config.types import Config, ModelConfig
from gm.data.images import check_images, count_images, list_images
from gm.errors import UserError
from gm.files import make_writable
from gm.models.adapters import adapters_of
from gm.options.train import TrainOptions, parse_train
from gm.parallel.launch import check_launcher
from gm.parallel.ranks import Ranks


@dataclass(frozen=True)
class Inputs:
    """What was asked for."""

    options: TrainOptions
    config: Config
    class_config: Config  # of the model that samples the class images
    instance_images: Sequence[Path]
    class_folder: Optional[Path]  # None: no prior preservation
    folder: Path  # of the results

    @property
    def infer_prompt(self) -> str:
        return self.options.infer_prompt or self.options.instance_prompt

    @property
    def prompts(self) -> list[str]:
        """All prompts of the run, each once."""
        options = self.options
        given = [options.instance_prompt, self.infer_prompt] + ([options.class_prompt] if options.class_prompt else [])
        return list(dict.fromkeys(given))


def check_inputs(argv: Sequence[str], ranks: Ranks) -> Inputs:
    """The inputs, the same on every rank; UserError for anything that can be seen to be wrong without MindSpore."""
    with ranks.agreeing():
        options = parse_train(argv)
        check_launcher(ranks, options.is_parallel)
        config = load_config(options.config, options.set, training=True, version=options.version)
        class_config = _class_image_config(options, config)
        adapters_of(config.model, config.lora)  # its patterns name modules of the model
        if options.cache_text_products and config.lora["unet"].kind == "dora":
            raise UserError(
                "--cache_text_products True leaves away weights that lora_kind: dora needs: leave the flag away or train plain LoRA"
            )
        instance_images = list_images(Path(options.instance_data_path), "--instance_data_path")
        class_folder = Path(options.class_data_path) if options.class_data_path and options.prior_loss_weight > 0 else None
        check_images(instance_images + (count_images(class_folder) if class_folder else []), config.data.num_parallel_workers)
    ranks.require_same(
        {
            "the command line": list(argv),
            "the YAML": config.raw,
            "--instance_data_path": [[path.name, path.stat().st_size] for path in instance_images],
        }
    )
    folder = Path(options.save_path)
    if options.save_path_with_time:
        folder = folder / time.strftime("%Y-%m-%d_%H-%M-%S")
    return Inputs(
        options=options,
        config=config,
        class_config=class_config,
        instance_images=instance_images,
        class_folder=class_folder,
        folder=folder,
    )


def make_folders(inputs: Inputs, ranks: Ranks) -> None:
    """Make the folders that the run writes to; UserError naming the flag of one that cannot be written to."""
    options = inputs.options
    caches = {"--cache_dir": options.cache_dir, "--compile_cache_dir": options.compile_cache_dir}
    make_writable({flag: Path(folder) for flag, folder in caches.items() if folder})
    if ranks.is_main:
        class_folder = {"--class_data_path": inputs.class_folder} if inputs.class_folder else {}
        make_writable({"--save_path": inputs.folder, **class_folder})


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
    }
