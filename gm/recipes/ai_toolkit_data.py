"""Updates, shapes, saving and sampling of ai-toolkit's settings -> this suite's."""

import math
import os
import re
from dataclasses import dataclass

from gm.config.bounds import LARGEST_TOLD
from gm.errors import UserError, shown
from gm.recipes.ai_toolkit_photos import Folder, put_photos
from gm.recipes.ai_toolkit_words import SAMPLE
from gm.recipes.draft import DATASET, DIFFERS, TAKEN, UNET, Draft, Settings
from gm.recipes.parts import put_size

STEP = 64  # pixels that sides of its shapes are multiples of, its bucket_tolerance
MULTIPLE = 32  # pixels that sides of pictures are a multiple of, for SDXL
_BASES = ("stabilityai/stable-diffusion-xl-base-1.0",)


@dataclass(frozen=True)
class Steps:
    """How long a run is."""

    accumulated: int  # its steps of an update: of gradient_accumulation_steps
    summed: int  # micro-batches whose gradients it adds up, not averages: of gradient_accumulation
    total: int  # updates, here
    a_step: float  # updates here for one of its steps


def put_data(settings: Settings, draft: Draft) -> Steps:
    """Returns how long the run is."""
    folders = put_photos(settings, draft)
    steps = _updates(settings, draft, any(one.is_reg for one in folders))
    _shapes(settings, draft, folders)
    _saving(settings, draft, steps)
    _samples(settings, draft, steps)
    _machine(settings, draft)
    return steps


def _updates(settings: Settings, draft: Draft, classes: bool) -> Steps:
    given, batch = settings.number("train.steps", int, 1000), settings.number("train.batch_size", int, 1)
    old, new = (
        settings.number("train.gradient_accumulation_steps", int, 1),
        settings.number("train.gradient_accumulation", int, 1),
    )
    if given < 1 or batch < 1:
        raise UserError(f"{settings.where}: steps and batch_size must be at least 1")
    accumulated, summed = max(1, old), max(1, new)
    total = max(1, given // accumulated)
    words = f"{given} steps" + (f" / {accumulated} accumulated = {total} updates" if accumulated > 1 else " = updates")
    if classes:
        total = max(1, math.ceil(total / 2))
        words += f"; half of them are of class images, which are in each update here: {total} updates"
    draft.notes.append(f"Updates: {words}.")
    draft.put("data.total_step", total)
    draft.put("data.per_batch_size", batch)
    settings.say(DIFFERS if total != given else TAKEN, "train.steps", f"total_step: {total}")
    settings.default("train.steps", 1000, f"total_step: {total}")
    settings.taken("train.batch_size", f"per_batch_size: {batch}" + (" photos, and as many class images" if classes else ""))
    settings.default("train.batch_size", 1, f"per_batch_size: {batch}")
    if accumulated * summed > 1:
        draft.flags["gradient_accumulation_steps"] = accumulated * summed
    words = f"--gradient_accumulation_steps {accumulated * summed}"
    if old < 0:
        settings.unsupported("train.gradient_accumulation_steps", "1, not a whole epoch: give --gradient_accumulation_steps")
    elif accumulated > 1:
        settings.differs(
            "train.gradient_accumulation_steps",
            f"{words}; its loop clears gradients in each step, so that only the last counts",
        )
    settings.taken("train.gradient_accumulation_steps", words)
    if summed > 1:
        settings.differs(
            "train.gradient_accumulation", f"{words}, whose mean is taken; there the sum, which only changes what is clipped"
        )
    settings.taken("train.gradient_accumulation", words)
    return Steps(accumulated, summed, total, total / given)


def _shapes(settings: Settings, draft: Draft, folders: list[Folder]) -> None:
    names = [f"{one.at}resolution" for one in folders]
    sides = {_side(settings, name) for name in names} or {512}
    sides = set().union(*sides) if names else {512}
    size = max(MULTIPLE, round(max(sides) / MULTIPLE) * MULTIPLE)
    put_size(draft, size)
    words = f"target_size: {size}" + (", the largest: one size for all photos" if len(sides) > 1 else "")
    settings.say(TAKEN if sides == {size} else DIFFERS, names, words)
    for one in folders[:1] or [Folder("datasets.", {})]:
        settings.default(f"{one.at}resolution", 512, words)
    random = [settings.flag(f"{one.at}random_crop") for one in folders]
    crop = "random" if any(random) else "center"
    draft.put(DATASET + "transforms.2.params.crop", crop)
    settings.say(TAKEN if len(set(random)) < 2 else DIFFERS, [f"{one.at}random_crop" for one in folders], f"crop: {crop}")
    for one in folders[:1]:
        settings.default(f"{one.at}random_crop", False, f"crop: {crop}")
    buckets = [settings.flag(f"{one.at}buckets", True) and not settings.flag(f"{one.at}square_crop") for one in folders] or [
        True
    ]
    names = [f"{one.at}{name}" for one in folders for name in ("buckets", "bucket_tolerance", "square_crop")]
    if not any(buckets):
        settings.taken(names, "squares, as here")
        return
    smallest, largest = max(STEP, size // 4 // STEP * STEP), 2 * size
    draft.put(
        DATASET + "buckets",
        {
            "max_buckets": 4,
            "bucket_reso_steps": STEP,
            "min_bucket_reso": smallest,
            "max_bucket_reso": largest,
            "bucket_no_upscale": True,
        },
    )
    words = f"buckets, sides from {smallest} to {largest} in steps of {STEP}, no photo is enlarged; at most 4 shapes (max_buckets), as each is "
    words += "a compilation, where there are as many as photos need there"
    settings.differs(names, words)
    for one in folders[:1]:
        settings.default(f"{one.at}buckets", True, words, DIFFERS)


def _side(settings: Settings, name: str) -> frozenset[int]:
    value = settings.values[name] if name in settings else 512
    given = [str(side) for side in (value if isinstance(value, list) else [value])]
    if not given or not all(side.isdecimal() and 1 <= int(side[:20]) <= LARGEST_TOLD for side in given):
        raise UserError(f"{settings.where}: {name} is {shown(value)}: it must be a number of pixels, or a list of them")
    return frozenset(map(int, given))


def _saving(settings: Settings, draft: Draft, steps: Steps) -> None:
    every, keep = settings.number("save.save_every", int, 1000), settings.number("save.max_step_saves_to_keep", int, 5)
    interval = min(steps.total, max(1, round(every * steps.a_step))) if every > 0 else steps.total
    draft.flags["save_ckpt_interval"] = interval
    settings.taken("save.save_every", f"--save_ckpt_interval {interval}: updates")
    settings.default("save.save_every", 1000, f"--save_ckpt_interval {interval}: updates")
    if keep > 0:
        draft.flags["max_num_ckpt"] = keep
    settings.taken("save.max_step_saves_to_keep", f"--max_num_ckpt {keep}")
    settings.default("save.max_step_saves_to_keep", 5, "--max_num_ckpt 5")
    draft.flags["save_format"] = "kohya-diffusers"
    words = "--save_format kohya-diffusers: .safetensors, beside this suite's .ckpt"
    settings.say(DIFFERS if settings.text("save.save_format") == "diffusers" else TAKEN, "save.save_format", words)
    settings.default("save.save_format", "safetensors", words)
    settings.differs("save.dtype", "LoRA files are float32: tools/export_lora.py --precision fp16 makes smaller ones")
    folder = settings.text("training_folder") or settings.text("config.training_folder")
    name = settings.text("name") or settings.text("config.name")
    if folder:
        draft.flags["save_path"] = os.path.join(folder, name) if name else folder
        words = f"--save_path {draft.flags['save_path']}"
        settings.taken(["training_folder", "config.training_folder", "name", "config.name"], words)
    settings.taken(["name", "config.name"], "the name of a folder there: --save_path")


def _samples(settings: Settings, draft: Draft, steps: Steps) -> None:
    every = settings.number("sample.sample_every", int, 100)
    prompts = settings.values.get("sample.prompts")
    texts = [str(one) for one in prompts] if isinstance(prompts, list) else []
    found = [re.fullmatch(r"sample\.samples\.(\d+)\.prompt", name) for name in settings.values]
    numbered = sorted(int(match[1]) for match in found if match)
    texts = [settings.text(f"sample.samples.{number}.prompt") or "" for number in numbered] or texts
    texts = [text.partition(" --")[0] for text in texts if text]
    off = settings.flag("train.disable_sampling")
    settings.taken("train.disable_sampling", "no progress pictures, as here" if off else "there are progress pictures")
    names = [
        name for name in settings.values if name.startswith(("sample.", "first_sample.")) and name.rpartition(".")[2] in SAMPLE
    ]
    if off or not texts or every <= 0:
        settings.taken(names, "no progress pictures are drawn, as here")
        settings.taken(["train.skip_first_sample", "train.force_first_sample"], "no progress pictures are drawn")
        return
    interval = min(steps.total, max(1, round(every * steps.a_step)))
    trigger = settings.text("trigger_word") or ""
    first = texts[0].replace("[trigger]", trigger)
    draft.flags |= {"infer_during_train": True, "infer_interval": interval, "infer_prompt": first}
    words = f"--infer_during_train True --infer_interval {interval}"
    settings.taken("sample.sample_every", words)
    settings.default("sample.sample_every", 100, words)
    more = "--infer_prompt: the first; --infer_prompts takes a file with more, one a line"
    mine = ["sample.prompts", *(f"sample.samples.{number}.prompt" for number in numbered)]
    settings.say(DIFFERS if len(texts) > 1 else TAKEN, mine, more if len(texts) > 1 else "--infer_prompt")
    settings.unsupported("train.skip_first_sample", "there are always pictures before the first update")
    settings.taken("train.force_first_sample", "there are always pictures before the first update")
    settings.taken(
        [n for n in ("sample.num_frames", "sample.fps", "sample.ext", "sample.format", "sample.samples") if n in settings],
        "pictures are PNG",
    )
    line = "a line of --infer_prompts says it: PROMPT --n NEGATIVE --w 1024 --h 1024 --d SEED --s STEPS --l SCALE --ss SAMPLER"
    settings.unsupported(names, line)


def _machine(settings: Settings, draft: Draft) -> None:
    seed = settings.number("training_seed", int, settings.number("config.training_seed", int))
    if seed is not None:
        draft.flags["seed"] = abs(seed)
    words = f"--seed {abs(seed or 0)}: the order and the noise of this suite, not those of torch"
    settings.differs(["training_seed", "config.training_seed"], words)
    kind = (settings.text("train.dtype") or "fp32").lower()
    half = "float16 with float32 norms, softmax and LoRA"
    if kind in ("fp32", "float32", "float", "torch.float32"):
        draft.flags["ms_amp_level"] = "O0"
        settings.taken("train.dtype", "--ms_amp_level O0, float32")
        settings.default("train.dtype", "fp32", "--ms_amp_level O0, float32: the default on a device is O2, float16")
    elif kind in ("fp16", "float16", "torch.float16"):
        settings.taken("train.dtype", f"{half}, the default on a device; a CPU has float32")
    else:
        settings.differs("train.dtype", f"{half} instead of {kind}; a CPU has float32")
    if settings.flag("train.gradient_checkpointing", True):
        draft.put(UNET + "use_recompute", True)
    words = f"use_recompute: {settings.flag('train.gradient_checkpointing', True)}"
    settings.taken("train.gradient_checkpointing", words)
    settings.default("train.gradient_checkpointing", True, words)
    if any(str(value).lower() == "true" for name, value in settings.values.items() if name.endswith(".cache_latents_to_disk")):
        draft.flags["cache_dir"] = "cache"
    for name, flag in (("model.name_or_path", "weight"), ("model.vae_path", "vae")):
        path = settings.text(name)
        if path in _BASES:
            settings.taken(name, "the base of --weight")
        elif path and (os.path.exists(path) or path.endswith((".safetensors", ".ckpt")) and "://" not in path):
            draft.flags[flag] = path
            settings.taken(name, f"--{flag} {path}")
        settings.unsupported(name, f"nothing is downloaded: give its file or folder as --{flag}")
