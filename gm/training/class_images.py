"""The class images of prior preservation (arXiv 2208.12242, section 3.2): which are missing, and sampling them."""

import time
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Callable, Iterator, Mapping, Sequence

import numpy as np

from gm import memory
from gm.config.types import SampleSettings
from gm.console import bar, log
from gm.data.buckets import Size
from gm.data.images import count_images, image_size, list_images
from gm.encoding.source import Source
from gm.encoding.text import TextEmbedding, unconditional
from gm.errors import UserError
from gm.files import make_writable
from gm.models.unet import UNet
from gm.models.vae import VAE
from gm.parallel.ranks import Ranks, deal
from gm.pictures import save_png
from gm.randomness import picture_seed
from gm.sampling.full_precision import in_float32
from gm.sampling.pictures import PictureSampler
from gm.training.folders import used_alone
from gm.training.inputs import Inputs, class_flag
from gm.training.photos import shares_of
from gm.training.setting import Setting

NAME = "class_{:05d}.png"


@dataclass(frozen=True)
class ClassImage:
    """One that has to be sampled."""

    folder: Path
    prompt: str
    number: int
    size: Size


@contextmanager
def filling(inputs: Inputs, ranks: Ranks) -> Iterator[list[ClassImage]]:
    """The class images that have to be sampled, the same on every rank; those of one folder and shape one after the other. In the
    body no other run fills their folders: UserError where one does."""
    folders = list(dict.fromkeys(image.folder for image in _shared(inputs, ranks)))
    with used_alone(class_flag(inputs.options), folders, ranks):
        missing = _shared(inputs, ranks) if folders else []  # anew: another run may have filled them meanwhile
        for one in inputs.class_folders:
            count = sum(image.folder == one.folder for image in missing)
            if count:
                log.info("%d class images are missing in %s: sampling them from %r", count, one.folder, one.prompt)
                with ranks.agreeing():
                    make_writable((class_flag(inputs.options), one.folder))
            else:
                log.info("%d class images in %s, none is missing", len(count_images(one.folder)), one.folder)
        yield missing


def _shared(inputs: Inputs, ranks: Ranks) -> list[ClassImage]:
    """What rank 0 finds missing."""
    found = [[str(i.folder), i.prompt, i.number, list(i.size)] for i in _all_missing(inputs)] if ranks.is_main else None
    shared = ranks.share(found)[0]
    return [ClassImage(Path(folder), prompt, number, tuple(size)) for folder, prompt, number, size in shared]


def _all_missing(inputs: Inputs) -> list[ClassImage]:
    """As many of each shape as training needs beside the photos."""
    missing = []
    shares = shares_of(inputs.subjects, inputs.buckets)
    for one in inputs.class_folders:
        numbers = missing_images(one.folder, inputs.options.num_class_images)
        there = [inputs.buckets.of(image_size(path)) for path in count_images(one.folder)] if len(shares) > 1 else []
        shapes = shapes_of_missing(there, len(numbers), shares)
        missing += [ClassImage(one.folder, one.prompt, number, shape) for number, shape in zip(numbers, shapes)]
    return missing


def shapes_of_missing(there: Sequence[Size], missing: int, shares: Mapping[Size, float]) -> list[Size]:
    """The shape of each missing image, so that of all each shape has about its share; equal ones one after the other."""
    total, count = len(there) + missing, {shape: 0 for shape in shares}
    for shape in there:
        count[shape] += 1
    found = []
    for _ in range(missing):
        shape = max(shares, key=lambda one: total * shares[one] - count[one])
        count[shape] += 1
        found.append(shape)
    return sorted(found)


def sample_class_images(
    setting: Setting, missing: Sequence[ClassImage], texts: Mapping[str, TextEmbedding], load: Callable[[], tuple[UNet, VAE]]
) -> None:
    """Sample these class images. The ranks share them out in whole batches, so that a batch holds the same images for any
    number of ranks; `load` is called on the ranks that get any."""
    inputs, options = setting.inputs, setting.inputs.options
    size = options.sample_batch_size
    batches = []
    for _, alike in groupby(missing, key=lambda image: (image.folder, image.size)):
        images = list(alike)
        batches += [images[start : start + size] for start in range(0, len(images), size)]
    mine = deal(batches, setting.ranks.size, setting.ranks.rank)
    if not mine:
        return
    model, machine = inputs.class_config.model, setting.machine
    for height, width in sorted({image.size for image in missing}):
        settings = SampleSettings.of(height, width, options.sample_step)
        memory.require_for_sampling(model, settings, size, machine, 0, "class images")
    weight, vae = setting.weights.base.paths
    again = in_float32(Source(model=model, weight=weight, machine=machine, use_lora=False, vae=vae))
    sampler = PictureSampler(*load(), model, again)

    def sample(images: Sequence[ClassImage], what: str) -> list[np.ndarray]:
        keyed = [picture_seed(options.seed, image.number) for image in images]
        text = texts[images[0].prompt]
        settings = SampleSettings.of(*images[0].size, options.sample_step)
        return sampler(text, unconditional(text), settings, keyed, what)

    about = {"sampler": SampleSettings.sampler, "steps": options.sample_step}
    with setting.timings("class images"):
        sample_images(mine, size, sample, about)


def class_images_of(inputs: Inputs, ranks: Ranks) -> list[Path]:
    """The class images that rank 0 sees when all ranks have sampled theirs; UserError when another rank lacks some."""
    ranks.barrier()
    images: list[Path] = []
    flag = class_flag(inputs.options)
    for one in inputs.class_folders:
        names = ranks.share([path.name for path in list_images(one.folder, flag)] if ranks.is_main else None)[0]
        found, deadline = [one.folder / name for name in names], time.monotonic() + 30
        with ranks.agreeing():
            while not all(path.exists() for path in found):  # a network file system shows new files late
                if time.monotonic() > deadline:
                    raise UserError(f"{flag} {one.folder} lacks images that rank 0 has: it must be shared by all hosts")
                time.sleep(0.5)
        images += found
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
    batches: Sequence[Sequence[ClassImage]],
    size: int,
    sample: Callable[[Sequence[ClassImage], str], list[np.ndarray]],
    text: dict[str, object],
) -> None:
    """Sample image `class_<number>.png` for every one in `batches`; `sample(images, what)` makes `size` pictures.

    A smaller batch is filled up (a graph is compiled for one batch size) and the surplus thrown away. A file that has
    appeared in the meantime is not overwritten.
    """
    done, total = 0, sum(len(batch) for batch in batches)
    with bar(None, "sampling class images", total=total, unit="image") as progress:
        for images in batches:
            filled = list(images) + [images[-1]] * (size - len(images))
            pictures = sample(filled, f"class images {done + 1}-{done + len(images)} of {total}")
            for image, picture in zip(images, pictures):
                path = image.folder / NAME.format(image.number)
                if not picture.any():
                    raise UserError(
                        f"the class image {path} came out wholly black and is not written: see whether the base weights sample good "
                        "pictures, and sample with --ms_amp_level O0 where float16 overflows"
                    )
                if path.exists():
                    log.warning("%s appeared while sampling, and stays as it is", path)
                    continue
                save_png(path, picture, {"prompt": image.prompt, **text, "seed": image.number})
            done += len(images)
            progress.update(len(images))
