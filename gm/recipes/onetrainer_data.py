"""Updates, shapes, saving and sampling of OneTrainer's settings -> this suite's. Its steps are micro-batches."""

import math
import os
import re
from dataclasses import dataclass
from typing import Optional

from gm.config.bounds import LARGEST_TOLD
from gm.errors import UserError, shown
from gm.recipes.draft import DATASET, DIFFERS, TAKEN, UNET, Draft, Settings
from gm.recipes.onetrainer_concepts import put_concepts
from gm.recipes.onetrainer_words import SAMPLE, say_words
from gm.recipes.parts import put_caption, put_size
from gm.recipes.updates import Hints, Photos

STEP = 64  # pixels that sides of its shapes are multiples of, for SDXL
_BASES = ("stabilityai/stable-diffusion-xl-base-1.0",)
_SECONDS = {"SECOND": 1, "MINUTE": 60, "HOUR": 3600}
# output_model_format -> --save_format
_LAYOUTS = {"KOHYA_LORA": "kohya", "LEGACY_LORA": "kohya-diffusers", "SAFETENSORS": "kohya-diffusers"}
_LAYOUTS |= {"DIFFUSERS_LORA": "peft", "ORIGINAL_LORA": "kohya", "COMFY_LORA": "kohya"}


@dataclass(frozen=True)
class Run:
    """How long it is."""

    epochs: int
    batch: int  # samples of a micro-batch, there
    accumulated: int  # micro-batches of an update
    an_epoch: int  # micro-batches of an epoch, there
    total: int  # updates, here

    @property
    def batches(self) -> int:
        """Micro-batches of the run, there."""
        return self.epochs * self.an_epoch


def put_data(settings: Settings, draft: Draft, hints: Hints) -> Run:
    """Returns how long the run is."""
    photos, classes = put_concepts(settings, draft, hints)
    run = _updates(settings, draft, photos, classes)
    _shapes(settings, draft)
    _caption_dropout(settings, draft)
    _saving(settings, draft, run)
    _samples(settings, draft, run)
    _machine(settings, draft)
    return run


def _updates(settings: Settings, draft: Draft, photos: Photos, classes: Optional[Photos]) -> Run:
    """An epoch has only full batches there, and accumulation goes on over its end."""
    epochs, batch = settings.number("epochs", int, 100), settings.number("batch_size", int, 1)
    accumulated = settings.number("gradient_accumulation_steps", int, 1)
    if min(epochs, batch, accumulated) < 1:
        raise UserError(f"{settings.where}: epochs, batch_size and gradient_accumulation_steps must be at least 1")
    samples = photos.samples + (classes.samples if classes else 0)
    an_epoch = max(1, samples // batch)
    total = max(1, epochs * an_epoch // accumulated)
    words = f"{samples} samples an epoch / batch {batch} = {an_epoch} full batches, x {epochs} epochs"
    words += f" / {accumulated} accumulated" if accumulated > 1 else ""
    draft.notes.append(
        f"Updates: {words} = {total} updates ({photos.words}); with several shapes OneTrainer drops more that fill no batch."
    )
    own = batch
    if classes is None:
        settings.taken("batch_size", f"per_batch_size: {batch}")
    else:
        own, share = max(1, batch // 2), photos.samples / samples
        fitting = max(1, math.ceil(total * batch * share / own))
        settings.differs("batch_size", f"per_batch_size: {own} photos and {own} class images; there, {batch} of both mixed")
        if fitting != total:
            draft.notes.append(f"{total} updates with {batch * share:g} photos each become {fitting} with {own}.")
            total = fitting
    settings.default("batch_size", 1, f"per_batch_size: {own}")
    settings.taken("epochs", f"total_step: {total}, for the photos named below")
    settings.default("epochs", 100, f"total_step: {total}, for the photos named below")
    if accumulated != 1:
        draft.flags["gradient_accumulation_steps"] = accumulated
    settings.taken("gradient_accumulation_steps", f"--gradient_accumulation_steps {accumulated}")
    draft.put("data.per_batch_size", own)
    draft.put("data.total_step", total)
    return Run(epochs, batch, accumulated, an_epoch, total)


def _shapes(settings: Settings, draft: Draft) -> None:
    text = settings.text("resolution") or "512"
    sides = [int(part) for part in re.findall(r"\d+", text)]
    if not sides or min(sides) < 1 or max(sides) > LARGEST_TOLD:
        raise UserError(f"{settings.where}: resolution is {shown(text)}: it must be a number of pixels, e.g. 1024")
    fixed = "x" in text and "," not in text and len(sides) == 2
    side = math.sqrt(sides[0] * sides[1]) if fixed else max(sides)
    size = max(STEP, round(side / STEP) * STEP)
    put_size(draft, size)
    if fixed:
        settings.differs("resolution", f"target_size: {size}, a square of about as many pixels")
    elif len(sides) > 1:
        settings.differs("resolution", f"target_size: {size}, the largest: one size for all photos")
    else:
        settings.say(TAKEN if size == side else DIFFERS, "resolution", f"target_size: {size}")
    settings.default("resolution", 512, f"target_size: {size}")
    jitter = [name for name in settings.values if name.endswith(".image.enable_crop_jitter")]
    random = settings.flag(jitter[0], True) if jitter else True
    crop = "random" if random else "center"
    draft.put(DATASET + "transforms.2.params.crop", crop)
    settings.say(
        TAKEN if len({settings.flag(name) for name in jitter}) < 2 else DIFFERS, jitter, f"crop: {crop}, for all photos"
    )
    if not settings.flag("aspect_ratio_bucketing", True) or fixed:
        settings.taken("aspect_ratio_bucketing", "off: squares, as here" if not fixed else "one shape for all photos")
        return
    smallest, largest = (max(STEP, round(size * factor / STEP) * STEP) for factor in (0.5, 2))
    draft.put(
        DATASET + "buckets",
        {"max_buckets": 4, "bucket_reso_steps": STEP, "min_bucket_reso": smallest, "max_bucket_reso": largest},
    )
    words = f"buckets, sides from {smallest} to {largest} in steps of {STEP}, at most 4 shapes (max_buckets), as each is a compilation; "
    words += "there 17 shapes, of the aspects 1, 1.25, 1.5 ... 4. No photo is dropped here"
    settings.differs("aspect_ratio_bucketing", words)
    settings.default("aspect_ratio_bucketing", True, words, DIFFERS)


def _caption_dropout(settings: Settings, draft: Draft) -> None:
    names = [f"{part}.dropout_probability" for part in ("text_encoder", "text_encoder_2")]
    chances = [settings.number(name, float, 0.0) for name in names]
    if any(chances):
        put_caption(draft, "dropout", max(chances))
        words = (
            f"captions: dropout: {max(chances):g}: an empty caption for both text encoders, where each one's output is 0 there"
        )
        settings.differs(names, words)
    settings.off(names)
    for name in ("text_encoder_layer_skip", "text_encoder_2_layer_skip"):
        if settings.number(name, int, 0):
            settings.unsupported(name, "0: SDXL's own layer of the text encoders")
        settings.off(name)


def _interval(
    settings: Settings, name: str, usual: tuple[float, str], run: Run
) -> tuple[Optional[int], Optional[float], float]:
    """Of NAME and NAME_unit: updates between two events, or minutes, or neither; and the number that is given."""
    number, unit = settings.number(name, float, usual[0]), settings.text(f"{name}_unit") or usual[1]
    if unit in _SECONDS and number > 0:
        return None, number * _SECONDS[unit] / 60, number
    micro = {"STEP": number, "EPOCH": number * run.an_epoch, "ALWAYS": 1.0}.get(unit, 0.0)
    return (max(1, round(micro / run.accumulated)), None, number) if micro > 0 else (None, None, number)


def _saving(settings: Settings, draft: Draft, run: Run) -> None:
    updates, minutes, _ = _interval(settings, "save_every", (0, "NEVER"), run)
    names = ["save_every", "save_every_unit"]
    if updates:
        draft.flags["save_ckpt_interval"] = min(updates, run.total)
        settings.taken(names, f"--save_ckpt_interval {min(updates, run.total)}: updates")
    elif minutes:
        draft.flags["save_every_minutes"] = minutes
        settings.taken(names, f"--save_every_minutes {minutes:g}")
    settings.taken(names, "the last is always saved")
    if settings.number("save_skip_first", float, 0):
        settings.unsupported("save_skip_first", "saves begin with the first interval")
    settings.off("save_skip_first")
    backup, names = _interval(settings, "backup_after", (30, "MINUTE"), run), ["backup_after", "backup_after_unit"]
    rolling, count = settings.flag("rolling_backup"), settings.number("rolling_backup_count", int, 3)
    if backup[1] and not minutes and "backup_after" in settings:
        draft.flags["save_every_minutes"] = backup[1]
        settings.taken(names, f"--save_every_minutes {backup[1]:g}: a LoRA with the state to continue from")
    elif backup[0] and not updates:
        draft.flags["save_ckpt_interval"] = min(backup[0], run.total)
        settings.taken(names, f"--save_ckpt_interval {min(backup[0], run.total)}: each save has the state to continue from")
    settings.taken(names, "each save has the state to continue from: --resume True")
    settings.taken(
        ["rolling_backup", "rolling_backup_count"], f"only the newest state is kept, {count if rolling else 'all'} there"
    )
    layout = settings.text("output_model_format") or "SAFETENSORS"
    draft.flags["save_format"] = _LAYOUTS.get(layout, "kohya-diffusers")
    words = f"--save_format {draft.flags['save_format']}: .safetensors, beside this suite's .ckpt"
    settings.say(DIFFERS if layout in ("ORIGINAL_LORA", "COMFY_LORA") else TAKEN, "output_model_format", words)
    settings.default("output_model_format", "SAFETENSORS", words)
    destination = settings.text("output_model_destination")
    words = f"files are called SDXL_base_1.0_<step>_lora, in --save_path instead of {destination}"
    settings.differs("output_model_destination", words)


def _samples(settings: Settings, draft: Draft, run: Run) -> None:
    """Progress pictures of the first prompt; the others belong into a file."""
    numbers = sorted({int(name.split(".")[1]) for name in settings.values if re.match(r"samples\.\d+\.", name)})
    on = [number for number in numbers if settings.flag(f"samples.{number}.enabled", True)]
    prompts = {number: settings.text(f"samples.{number}.prompt") or "" for number in on}
    settings.taken("samples", "no progress pictures in this file")
    words = "not read: write its prompts into a file, one a line, and give --infer_during_train True --infer_prompts FILE"
    settings.unsupported("sample_definition_file_name", words)
    if not any(prompts.values()):
        settings.taken(
            ["sample_after", "sample_after_unit", "sample_skip_first"],
            "no progress pictures: --infer_during_train True draws them",
        )
        _say_samples(settings, numbers, None)
        return
    updates, minutes, _ = _interval(settings, "sample_after", (10, "MINUTE"), run)
    interval = updates or min(500, run.total)
    first = next(number for number, prompt in prompts.items() if prompt)
    draft.flags |= {"infer_during_train": True, "infer_interval": min(interval, run.total), "infer_prompt": prompts[first]}
    words, names = (
        f"--infer_during_train True --infer_interval {min(interval, run.total)}",
        ["sample_after", "sample_after_unit"],
    )
    settings.say(DIFFERS if minutes else TAKEN, names, words + (": updates, not minutes" if minutes else ""))
    settings.default("sample_after", "10 MINUTE", words, DIFFERS)
    if settings.number("sample_skip_first", float, 0):
        settings.unsupported("sample_skip_first", "there are always pictures before the first update")
    settings.off("sample_skip_first")
    _say_samples(settings, numbers, first)


def _say_samples(settings: Settings, numbers: list[int], first: Optional[int]) -> None:
    for number in numbers:
        at = f"samples.{number}."
        settings.taken(f"{at}enabled", "drawn" if settings.flag(f"{at}enabled", True) else "not drawn, there as here")
        if number == first:
            settings.taken(f"{at}prompt", "--infer_prompt")
        settings.unsupported(f"{at}prompt", "one prompt: --infer_prompts takes a file with more, one a line")
        say_words(settings, SAMPLE, at)


def _machine(settings: Settings, draft: Draft) -> None:
    base, vae = settings.text("base_model_name"), settings.text("vae.model_name")
    if base in _BASES:
        settings.taken("base_model_name", "the base of --weight")
    elif base and (os.path.exists(base) or base.endswith((".safetensors", ".ckpt"))):
        draft.flags["weight"] = base
        settings.taken("base_model_name", f"--weight {base}")
    elif base:
        settings.unsupported("base_model_name", "nothing is downloaded: give its file or folder as --weight")
    if vae and (os.path.exists(vae) or vae.endswith((".safetensors", ".ckpt"))):
        draft.flags["vae"] = vae
        settings.taken("vae.model_name", f"--vae {vae}")
    settings.unsupported("vae.model_name", "nothing is downloaded: give its file or folder as --vae")
    caching = settings.flag("latent_caching", True)
    words = (
        "--cache_latents True, the default; each crop is encoded once, and a latent is drawn from it each time, the mean there"
    )
    if not caching:
        draft.flags["cache_latents"] = False
        words = "--cache_latents False"
    settings.say(DIFFERS if caching else TAKEN, "latent_caching", words)
    settings.default("latent_caching", True, words, DIFFERS)
    settings.differs("cache_dir", "kept in memory: --cache_dir FOLDER keeps encoded crops and prompts for later runs")
    old = str(settings.values.get("gradient_checkpointing", "")).upper()
    recompute = old not in ("FALSE", "OFF") if old else settings.flag("unet.gradient_checkpointing", True)
    if recompute:
        draft.put(UNET + "use_recompute", True)
    settings.taken(["gradient_checkpointing", "unet.gradient_checkpointing"], f"use_recompute: {recompute}")
    settings.default("unet.gradient_checkpointing", True, f"use_recompute: {recompute}")
