"""Teach SDXL a subject from a few photos: DreamBooth (arXiv 2208.12242) with LoRA (arXiv 2106.09685).

Read from top to bottom: options -> checks -> networks -> class images -> caches -> training loop.
The loss is gm/diffusion/denoiser.py, the update gm/training/step.py, the loop gm/training/loop.py.
"""

import sys
import time
from pathlib import Path
from typing import Optional, Sequence

from gm import runtime
from gm.options.train import TrainOptions, parse_train
from gm.config.types import Config
from gm.console import log
from gm.data.images import check_images, count_images, list_images
from gm.errors import UserError
from gm.parallel.launch import check_launcher, run_command
from gm.parallel.ranks import Ranks
from gm.config.load import load_config
from gm.training.class_images import make_writable, missing_images


def main(argv: Sequence[str], ranks: Ranks = Ranks()) -> None:
    """The command, on one of the ranks. Everything that can be wrong is checked before a network is built."""
    with ranks.agreeing():
        options = parse_train(argv)
        check_launcher(ranks, options.is_parallel)
        config = load_config(options.config, options.set, training=True, version=options.version)
        class_config = _class_image_config(options, config)
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

    # MindSpore is imported from here on
    machine = runtime.start(
        options.device_target,
        options.ms_mode,
        options.ms_amp_level,
        options.seed,
        ranks,
        options.max_device_memory,
        options.master_addr,
        options.join_timeout,
    )
    from gm.training.job import Job

    folder = Path(options.save_path)
    if options.save_path_with_time:
        folder = folder / time.strftime("%Y-%m-%d_%H-%M-%S")
    with ranks.agreeing():
        job = Job(options, config, class_config, machine, ranks)
        caches = {"--cache_dir": options.cache_dir, "--compile_cache_dir": options.compile_cache_dir}
        make_writable({flag: Path(cache) for flag, cache in caches.items() if cache})
        if ranks.is_main:
            make_writable({"--save_path": folder} | ({"--class_data_path": class_folder} if class_folder else {}))

    if class_folder:
        numbers = ranks.share(missing_images(class_folder, options.num_class_images) if ranks.is_main else None)[0]
        if numbers:
            with ranks.agreeing():
                make_writable({"--class_data_path": class_folder})
            job.sample_class_images(class_folder, numbers)
        else:
            log.info("%d class images in %s, none is missing", len(count_images(class_folder)), class_folder)
    if options.stop_after_sampling:
        log.info("stopping after the class images, as --stop_after_sampling asks: look at %s, then train", class_folder)
        return
    class_images = _class_images(class_folder, ranks) if class_folder else []
    if ranks.is_main:
        (folder / "config.yaml").write_text(config.raw)
    last = job.train(instance_images, class_images, folder)
    log.info("done: %s", last)


def _class_images(folder: Path, ranks: Ranks) -> list[Path]:
    """The class images that rank 0 sees when all ranks have sampled theirs; UserError when another rank lacks some."""
    ranks.barrier()
    names = ranks.share([path.name for path in list_images(folder, "--class_data_path")] if ranks.is_main else None)[0]
    images, deadline = [folder / name for name in names], time.monotonic() + 30
    with ranks.agreeing():
        while not all(path.exists() for path in images):  # a network file system shows new files late
            if time.monotonic() > deadline:
                raise UserError(f"--class_data_path {folder} lacks images that rank 0 has: it must be shared by all hosts")
            time.sleep(0.5)
    return images


def _class_image_config(options: TrainOptions, config: Config) -> Optional[Config]:
    """The YAML for sampling class images, if another one was given; it must be of the same base model."""
    if not options.generate_class_image_config:
        return None
    other = load_config(options.generate_class_image_config, training=False)
    if (other.model.vae, other.model.scale_factor) != (config.model.vae, config.model.scale_factor):
        raise UserError(
            f"--generate_class_image_config {options.generate_class_image_config} has another first stage than "
            f"{options.config}: give a YAML for the same base model"
        )
    return other


if __name__ == "__main__":
    sys.exit(run_command(main))
