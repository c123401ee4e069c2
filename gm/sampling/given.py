"""The pictures, masks and latents that a command is given, as arrays of the size of what is made. No MindSpore import."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Optional

import numpy as np
from PIL import Image

from gm.checkpoint.io import open_tensors
from gm.config.bounds import LARGEST_SIDE
from gm.config.types import ModelConfig, SampleSettings
from gm.console import log
from gm.data.images import image_size, read_image
from gm.data.masks import read_grey
from gm.data.pixels import to_network
from gm.data.transforms import place_crop, resized_part
from gm.errors import UserError
from gm.files import replacing
from gm.options.sample import SampleOptions, sample_settings
from gm.pictures import writing
from gm.sampling.enlarging import OF_PICTURES
from gm.sampling.noise import NOISES

LATENT = 8  # pixels a side of one of a latent
LARGEST_AREA = 1024 * 1024  # pixels of a picture whose size nobody says: what SDXL was trained on
WHITE = 128  # from which on a mask counts as white
LARGEST_LATENTS = 2**31  # bytes of a file


# -- sizes ---------------------------------------------------------------------------------------------------------------


def sized(options: SampleOptions, multiple: int) -> SampleOptions:
    """The options with the size of the given picture where they say none: its shape, no larger than SDXL's area, both sides the
    nearest multiples of `multiple`. One side that is said leads to the other."""
    if options.img is None or options.sd_xl_base_ratios or options.height and options.width:
        return options
    height, width = image_size(_file("img", options.img))
    scale = min(1.0, (LARGEST_AREA / (height * width)) ** 0.5)
    if options.height or options.width:
        scale = options.height / height if options.height else (options.width or width) / width
    found = [_nearest(side * scale, multiple) for side in (height, width)]
    height, width = options.height or found[0], options.width or found[1]
    if max(height, width) > LARGEST_SIDE:
        raise UserError(f"--img {options.img} would become {width} x {height} pixels: give --height and --width")
    return replace(options, height=height, width=width)


def _nearest(pixels: float, multiple: int) -> int:
    return max(1, int(pixels / multiple + 0.5)) * multiple


def larger(options: SampleOptions, multiple: int) -> Optional[SampleSettings]:
    """How the second pass of a hires fix is sampled; None without one. UserError where it would be too large."""
    if options.hires_scale is None:
        return None
    sides = [_nearest(side * options.hires_scale, multiple) for side in options.size()]
    if max(sides) > LARGEST_SIDE:
        raise UserError(
            f"--hires_scale {options.hires_scale:g} makes pictures of {sides[1]} x {sides[0]} pixels: give a smaller one, a side may "
            f"have {LARGEST_SIDE}"
        )
    steps = options.hires_steps or options.sample_step
    return sample_settings(replace(options, height=sides[0], width=sides[1], sample_step=steps), multiple)


def steps_of(options: SampleOptions, settings: SampleSettings, multiple: int) -> int:
    """The sampling steps that are done for a picture."""
    second = larger(options, multiple)
    return int(settings.steps * options.start_strength) + (int(second.steps * options.second_strength) if second else 0)


def graphs_of(options: SampleOptions, multiple: int) -> list:
    """What beside a picture's own settings decides which graphs are compiled for it, and in which order."""
    second = larger(options, multiple)
    from_picture = [options.task] if options.img else []
    return from_picture + ([second.height, second.width, options.hires_upscaler in OF_PICTURES] if second else [])


# -- pictures and masks ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Given:
    """What is begun with, of the size of the picture that is made."""

    picture: np.ndarray  # (h, w, 3) uint8
    mask: Optional[np.ndarray] = None  # (h, w) bool: True where it is painted anew

    @property
    def image(self) -> np.ndarray:
        """(3, h, w) in [-1, 1], for the encoder."""
        return to_network(self.picture)

    @property
    def image_without_mask(self) -> np.ndarray:
        """`image`, grey where it is painted anew, as inpainting UNets have seen it in training."""
        return self.image * ~self.mask

    @property
    def latent_mask(self) -> np.ndarray:
        """(1, 1, h / 8, w / 8) float32, 1 where it is painted anew: as diffusers, what the first pixel of each says."""
        return self.mask[None, None, ::LATENT, ::LATENT].astype(np.float32)

    def kept(self, made: np.ndarray, blur: float) -> np.ndarray:
        """The picture that was made, (h, w, 3) uint8, where the mask is white, and the given one elsewhere; between them the mask is
        blurred by a normal curve of this standard deviation in pixels, as A1111 does it. Further off nothing is changed."""
        share = blurred(self.mask.astype(np.float32), blur)[..., None]
        return np.round(share * made + (1 - share) * self.picture).astype(np.uint8)


def given(options: SampleOptions, settings: SampleSettings) -> Given:
    """--img and --mask, resized as --resize_mode says. UserError for a file that cannot be used."""
    assert options.img, "the task has a picture"
    picture = read_image(_file("img", options.img))
    size = settings.height, settings.width
    whole = resized(picture, size, options.resize_mode or "crop")
    if options.mask is None:
        return Given(whole)
    mask = read_grey(_file("mask", options.mask))
    if mask.shape != picture.shape[:2]:
        mask = np.asarray(Image.fromarray(mask).resize(picture.shape[1::-1], Image.Resampling.LANCZOS))
    found = Given(whole, resized(mask, size, options.resize_mode or "crop") >= WHITE)
    if not found.latent_mask.any():
        raise UserError(
            f"--mask {options.mask} is black{'' if not found.mask.any() else ' or thinner than 8 pixels'} everywhere, so nothing of "
            "--img would be painted anew: make white what is to change"
        )
    return found


def _file(flag: str, path: str) -> Path:
    if not Path(path).is_file():
        raise UserError(f"--{flag} {path} is no file: give a picture")
    return Path(path)


def resized(image: np.ndarray, size: tuple[int, int], mode: str) -> np.ndarray:
    """(H, W) or (H, W, 3) uint8 as `size` (h, w), by Lanczos. crop: its middle; fill: the whole of it, its edges drawn out; stretch:
    the whole of it, out of proportion."""
    height, width = size
    if mode == "crop":
        return resized_part(Image.fromarray(image), place_crop(image.shape[:2], size, (0.5, 0.5)), Image.Resampling.LANCZOS)
    inner = size
    if mode == "fill":
        scale = min(height / image.shape[0], width / image.shape[1])
        inner = max(1, min(height, round(image.shape[0] * scale))), max(1, min(width, round(image.shape[1] * scale)))
    found = np.asarray(Image.fromarray(image).resize(inner[::-1], Image.Resampling.LANCZOS))
    before = (height - inner[0]) // 2, (width - inner[1]) // 2
    around = [(first, whole - part - first) for first, whole, part in zip(before, size, inner)]
    return np.pad(found, around + [(0, 0)] * (image.ndim - 2), "edge")


def blurred(mask: np.ndarray, deviation: float) -> np.ndarray:
    """(h, w) float32 blurred by a normal curve, cut off at 2.5 deviations (A1111 `masking`), mirrored at the edges."""
    reach = int(2.5 * deviation + 0.5)
    if not reach:
        return mask
    places = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (places / deviation) ** 2)
    weights = (weights / weights.sum()).astype(np.float32)
    for axis in (0, 1):
        around = [(reach, reach) if one == axis else (0, 0) for one in (0, 1)]
        wide = np.moveaxis(np.pad(mask, around, "reflect"), axis, 0)
        length = mask.shape[axis]
        mask = np.moveaxis(sum(weight * wide[i : i + length] for i, weight in enumerate(weights)), 0, axis)
    return mask


# -- noise -------------------------------------------------------------------------------------------------------------------


def init_latents(options: SampleOptions, settings: SampleSettings, channels: int) -> Optional[np.ndarray]:
    """The noise of --init_latent_path, (B, z, h, w) float32; None without one. UserError where it does not fit."""
    if options.init_latent_path is None:
        return None
    said = f"--init_latent_path {options.init_latent_path}"
    found = _numbers(Path(options.init_latent_path), said)
    wanted = channels, settings.height // LATENT, settings.width // LATENT
    if found.shape[-3:] != wanted or found.ndim not in (3, 4) or not found.size:
        raise UserError(
            f"{said} has the shape {found.shape}, but pictures of {settings.width} x {settings.height} pixels begin with {wanted}, or "
            f"(pictures, {', '.join(map(str, wanted))}): give a file of that shape, or another --height and --width"
        )
    if found.ndim == 4 and len(found) not in (1, options.num_cols):
        raise UserError(
            f"{said} is for {len(found)} pictures, but {options.num_cols} are asked for: give --num_cols {len(found)}"
        )
    found = found.astype(np.float32).reshape(-1, *wanted)
    if not np.isfinite(found).all():
        raise UserError(f"{said} holds numbers that are NaN or infinite: write it anew")
    return found


def first_noise(options: SampleOptions, settings: SampleSettings, column: int, channels: int) -> np.ndarray:
    """The unit-normal noise (z, h, w) that the picture with `options.seed` begins with, in this column of the pictures."""
    given_noise = init_latents(options, settings, channels)
    if given_noise is not None:
        return given_noise[column if len(given_noise) > 1 else 0]
    shape = channels, settings.height // LATENT, settings.width // LATENT
    noise = NOISES[settings.noise](options.seed, shape)
    if options.img:
        noise.posterior()  # which is drawn before it
    return noise.first()


def save_noise(path: Path, noise: np.ndarray) -> None:
    """Write it as .npy; appears under its name when it is whole."""
    with writing(path), replacing(path) as unfinished, open(unfinished, "wb") as file:
        np.save(file, noise)


def _numbers(path: Path, said: str) -> np.ndarray:
    """The array of an .npy file or the only one of a .safetensors file, of a kind of number that a float32 can hold."""
    if path.suffix == ".safetensors":
        with open_tensors(path) as file:
            if len(file.names) != 1:
                raise UserError(f"{said} holds {len(file.names)} tensors: give a file with one")
            return file.read(file.names[0])
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # numpy raises many kinds for broken files
        words = (isinstance(error, OSError) and error.strerror) or "it is no .npy file with numbers"
        raise UserError(f"{said} cannot be read ({words}): give an .npy or .safetensors file") from None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu" or array.nbytes > LARGEST_LATENTS:
        raise UserError(f"{said} is no array of numbers of at most {LARGEST_LATENTS // 10**9} GB: give unit-normal noise")
    return np.array(array)


# -- checks --------------------------------------------------------------------------------------------------------------------


def require_given(options: SampleOptions, settings: SampleSettings, model: ModelConfig) -> None:
    """UserError, before anything is loaded, for files that cannot be used and strengths that leave no step; what is odd is said."""
    _require_step("strength", options.start_strength, settings.steps)
    second = larger(options, model.unet.downsampling)
    if second:
        _require_step("hires_strength", options.second_strength, second.steps)
    noise = init_latents(options, settings, model.vae.embed_dim)
    if noise is not None and not 0.5 < noise.std() < 2:
        words = "--init_latent_path %s has the standard deviation %.3g, noise has 1: is it a latent without noise?"
        log.warning(words, options.init_latent_path, noise.std())
    if options.img is None:
        return
    mask = given(options, settings).mask
    if mask is None or options.mask is None:
        return
    if mask.all():
        log.warning("--mask %s is white everywhere: all of --img is painted anew", options.mask)
    of_mask, of_picture = image_size(Path(options.mask)), image_size(Path(options.img))
    if of_mask != of_picture:
        words = "--mask %s has %d x %d pixels, --img %d x %d: it is resized"
        log.info(words, options.mask, *of_mask[::-1], *of_picture[::-1])


def _require_step(flag: str, strength: float, steps: int) -> None:
    if int(steps * strength) < 1:
        raise UserError(
            f"--{flag} {strength:g} of {steps} steps is less than one: give at least {1 / steps:.3g}, or more steps"
        )
