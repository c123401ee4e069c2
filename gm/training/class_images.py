"""The class images of prior preservation (arXiv 2208.12242, section 3.2): which are missing, and sampling them."""

import time
from pathlib import Path
from typing import Callable, Sequence

import numpy as np

from gm.config.types import SampleSettings
from gm.console import bar, log
from gm.data.images import count_images, list_images
from gm.encoding.text import TextEmbedding, unconditional
from gm.errors import UserError
from gm.files import make_writable
from gm.models.unet import UNet
from gm.models.vae import VAE
from gm.parallel.ranks import Ranks, deal
from gm.pictures import save_png
from gm.randomness import picture_seed
from gm.sampling.pictures import PictureSampler
from gm.training.inputs import Inputs
from gm.training.setting import Setting

NAME = "class_{:05d}.png"


def missing_class_images(inputs: Inputs, ranks: Ranks) -> list[int]:
    """The numbers of the class images that have to be sampled, the same on every rank."""
    folder = inputs.class_folder
    if folder is None:
        return []
    numbers = ranks.share(missing_images(folder, inputs.options.num_class_images) if ranks.is_main else None)[0]
    if numbers:
        words = "%d class images are missing in %s: sampling them from %r"
        log.info(words, len(numbers), folder, inputs.options.class_prompt)
        with ranks.agreeing():
            make_writable({"--class_data_path": folder})
    else:
        log.info("%d class images in %s, none is missing", len(count_images(folder)), folder)
    return numbers


def sample_class_images(
    setting: Setting, numbers: Sequence[int], text: TextEmbedding, load: Callable[[], tuple[UNet, VAE]]
) -> None:
    """Sample these class images. The ranks share them out in whole batches, so that a batch holds the same images for any
    number of ranks; `load` is called on the ranks that get any."""
    inputs, options = setting.inputs, setting.inputs.options
    size = options.sample_batch_size
    batches = [numbers[start : start + size] for start in range(0, len(numbers), size)]
    mine = deal(batches, setting.ranks.size, setting.ranks.rank)
    if not mine:
        return
    sampler = PictureSampler(*load(), inputs.class_config.model)
    settings = SampleSettings.square(inputs.config.data.target_size, options.sample_step)

    def sample(seeds: Sequence[int], what: str) -> list[np.ndarray]:
        keyed = [picture_seed(options.seed, seed) for seed in seeds]
        return sampler(text, unconditional(text), settings, keyed, what)

    about = {"prompt": options.class_prompt, "sampler": settings.sampler, "steps": settings.steps}
    with setting.timings("class images"):
        sample_images(inputs.class_folder, mine, size, sample, about)


def class_images_of(inputs: Inputs, ranks: Ranks) -> list[Path]:
    """The class images that rank 0 sees when all ranks have sampled theirs; UserError when another rank lacks some."""
    folder = inputs.class_folder
    if folder is None:
        return []
    ranks.barrier()
    names = ranks.share([path.name for path in list_images(folder, "--class_data_path")] if ranks.is_main else None)[0]
    images, deadline = [folder / name for name in names], time.monotonic() + 30
    with ranks.agreeing():
        while not all(path.exists() for path in images):  # a network file system shows new files late
            if time.monotonic() > deadline:
                raise UserError(f"--class_data_path {folder} lacks images that rank 0 has: it must be shared by all hosts")
            time.sleep(0.5)
    return images


def missing_images(folder: Path, wanted: int) -> list[int]:
    """The numbers of the images to sample so that `folder` holds `wanted`; none of their names is taken.

    Only real images count. Numbers already on disk are left out, so an interrupted sampling continues where it was.
    """
    missing = max(0, wanted - len(count_images(folder)))
    taken = {path.stem for path in folder.iterdir()} if folder.is_dir() else set()
    numbers, candidate = [], 0
    while len(numbers) < missing:
        if Path(NAME.format(candidate)).stem not in taken:
            numbers.append(candidate)
        candidate += 1
    return numbers


def sample_images(
    folder: Path,
    batches: Sequence[Sequence[int]],
    size: int,
    sample: Callable[[Sequence[int], str], list[np.ndarray]],
    text: dict[str, object],
) -> None:
    """Sample image `class_<number>.png` for every number in `batches`; `sample(seeds, what)` makes `size` pictures.

    A smaller batch is filled up (a graph is compiled for one batch size) and the surplus thrown away. A file that has
    appeared in the meantime is not overwritten.
    """
    done, total = 0, sum(len(batch) for batch in batches)
    with bar(None, "sampling class images", total=total, unit="image") as progress:
        for numbers in batches:
            seeds = list(numbers) + [numbers[-1]] * (size - len(numbers))
            pictures = sample(seeds, f"class images {done + 1}-{done + len(numbers)} of {total}")
            for number, picture in zip(numbers, pictures):
                path = folder / NAME.format(number)
                if path.exists():
                    raise UserError(f"{path} appeared while sampling: is another run filling the same folder?")
                save_png(path, picture, {**text, "seed": number})
            done += len(numbers)
            progress.update(len(numbers))
