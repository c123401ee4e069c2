"""Photos, updates, sizes, files and pictures of diffusers' training scripts -> this suite's."""

from gm.config.bounds import MOST_AT_ONCE
from gm.errors import UserError, shown
from gm.recipes.draft import DATASET, DIFFERS, TAKEN, Draft, Settings
from gm.recipes.parts import put_size
from gm.recipes.updates import Hints, Photos, updates_of

_MULTIPLE = 32  # pixels that a side is a multiple of, for SDXL
_INTERPOLATION = {
    "nearest": 0,
    "nearest_exact": 0,
    "lanczos": 1,
    "bilinear": 2,
    "bicubic": 3,
    "box": 4,
    "hamming": 5,
}  # Pillow's


def put_photos(settings: Settings, draft: Draft, hints: Hints, subject: bool) -> Photos:
    """Those of an epoch: as many as there are class images, if these are more."""
    folder = settings.text("instance_data_dir") or settings.text("train_data_dir") or ""
    repeats = settings.number("repeats", int, 1)
    draft.flags["train_data_repeat"] = hints.repeats or repeats
    settings.taken("repeats", f"--train_data_repeat {repeats}")
    settings.default("repeats", 1, "--train_data_repeat 1")
    if folder:
        draft.flags["instance_data_path"] = folder
        settings.taken("instance_data_dir", f"--instance_data_path {folder}")
        settings.differs(
            "train_data_dir",
            f"--instance_data_path {folder}; write the captions of metadata.jsonl into NAME.txt beside each photo",
        )
    given = settings.text("dataset_name")
    settings.unsupported(
        "dataset_name", "nothing is downloaded: save its pictures into a folder and give it as --instance_data_path"
    )
    captions = bool(given or not subject)
    words = (
        "captions are files beside the photos: write the column into NAME.txt"
        if captions
        else "has no effect without dataset_name"
    )
    settings.say(DIFFERS if captions else TAKEN, "caption_column", words)
    prompt = settings.text("instance_prompt")
    if prompt:
        draft.flags["instance_prompt"] = prompt
        settings.taken(
            "instance_prompt", f"--instance_prompt {shown(prompt)}" + (", of photos without a caption" if captions else "")
        )
    photos = hints.photos(folder or None, repeats)
    if not settings.flag("with_prior_preservation"):
        draft.flags["prior_loss_weight"] = 0
        settings.off("with_prior_preservation")
        names = ["class_data_dir", "class_prompt", "num_class_images", "prior_loss_weight", "sample_batch_size"]
        settings.taken(names, "no class images without --with_prior_preservation, there as here")
        settings.default("with_prior_preservation", False, "--prior_loss_weight 0")
        return photos
    count, weight = settings.number("num_class_images", int, 100), settings.number("prior_loss_weight", float, 1.0)
    draft.flags |= {"num_class_images": count, "prior_loss_weight": weight}
    for name, flag in (("class_data_dir", "class_data_path"), ("class_prompt", "class_prompt")):
        value = settings.text(name)
        if value:
            draft.flags[flag] = value
            settings.taken(name, f"--{flag} {shown(value) if ' ' in value else value}")
    settings.taken("with_prior_preservation", "each micro-batch has as many class images as photos, there as here")
    settings.taken("num_class_images", f"--num_class_images {count}")
    settings.default("num_class_images", 100, "--num_class_images 100")
    settings.taken("prior_loss_weight", f"--prior_loss_weight {weight:g}")
    at_once = settings.number("sample_batch_size", int, 4)
    draft.flags["sample_batch_size"] = min(at_once, MOST_AT_ONCE)
    settings.taken("sample_batch_size", f"--sample_batch_size {draft.flags['sample_batch_size']}")
    if count > photos.samples:
        return Photos(photos.count, count, f"{photos.words}; an epoch there ends with the {count} class images")
    return photos


def put_updates(settings: Settings, draft: Draft, photos: Photos, subject: bool, processes: int) -> tuple[int, int]:
    """Those of the run, and those of an epoch."""
    batch, accumulated = (
        settings.number("train_batch_size", int, 4 if subject else 16),
        settings.number("gradient_accumulation_steps", int, 1),
    )
    if batch < 1 or accumulated < 1:
        raise UserError(
            f"{settings.where}: train_batch_size {batch} and gradient_accumulation_steps {accumulated} must be at least 1"
        )
    own = min(batch, MOST_AT_ONCE)
    draft.put("data.per_batch_size", own)
    prior = settings.flag("with_prior_preservation") and subject
    words = f"per_batch_size: {own}" + (f" photos, and {own} class images, as there" if prior else "")
    settings.taken("train_batch_size", words)
    settings.default("train_batch_size", batch, words)
    if accumulated != 1:
        draft.flags["gradient_accumulation_steps"] = accumulated
    settings.taken("gradient_accumulation_steps", f"--gradient_accumulation_steps {accumulated}")
    steps, epochs = settings.number("max_train_steps", int), settings.number("num_train_epochs", float, 1 if subject else 100)
    an_epoch, _ = updates_of(1, photos, batch, accumulated, processes)
    total, arithmetic = updates_of(epochs, photos, batch, accumulated, processes)
    if steps:
        total, arithmetic = steps, f"{steps} updates, as given"
    draft.put("data.total_step", total)
    draft.notes.append(f"Updates: {arithmetic}.")
    settings.taken("max_train_steps", f"total_step: {total}")
    settings.taken(
        "num_train_epochs", "max_train_steps counts instead, there as here" if steps else f"total_step: {total}, see below"
    )
    if not steps:
        settings.default("num_train_epochs", f"{epochs:g}", f"total_step: {total}, see below")
    share = settings.number("train_text_encoder_frac", float, 1.0)
    if settings.flag("train_text_encoder") and 0 < share < 1:
        draft.put("optim.text_encoder_stop_share", share)
        settings.taken("train_text_encoder_frac", f"optim.text_encoder_stop_share: {share:g}")
    settings.taken("train_text_encoder_frac", "the text encoders train to the end, or not at all")
    return total, an_epoch


def put_pixels(settings: Settings, draft: Draft) -> None:
    given = settings.number("resolution", int, 1024)
    size = max(_MULTIPLE, round(given / _MULTIPLE) * _MULTIPLE)
    put_size(draft, size)
    settings.say(TAKEN if size == given else DIFFERS, "resolution", f"target_size: {size}")
    settings.default("resolution", 1024, "target_size: 1024")
    crop = "center" if settings.flag("center_crop") else "random"
    draft.put(DATASET + "transforms.2.params.crop", crop)
    settings.taken("center_crop", f"crop: {crop}")
    name = (settings.text("image_interpolation_mode", "lanczos") or "lanczos").lower()
    number = _INTERPOLATION.get(name)
    if number is None:
        raise UserError(
            f"{settings.where}: image_interpolation_mode is {shown(name)}: it must be one of {', '.join(_INTERPOLATION)}"
        )
    draft.put(DATASET + "transforms.0.params.interpolation", number)
    words = f"interpolation: {number}, Pillow's {name}"
    settings.taken("image_interpolation_mode", words)
    settings.default("image_interpolation_mode", name, words)


def put_results(settings: Settings, draft: Draft, total: int, an_epoch: int, subject: bool) -> None:
    every = settings.number("checkpointing_steps", int, 500)
    draft.flags["save_ckpt_interval"] = max(1, every)
    settings.taken("checkpointing_steps", f"--save_ckpt_interval {every}")
    settings.default("checkpointing_steps", 500, "--save_ckpt_interval 500")
    limit = settings.number("checkpoints_total_limit", int)
    if limit:
        draft.flags["max_num_ckpt"] = limit
    settings.taken("checkpoints_total_limit", f"--max_num_ckpt {limit}")
    if settings.flag("output_kohya_format"):
        draft.flags["save_format"] = "kohya"
    else:
        draft.flags["save_format"] = "diffusers"
        settings.default("output_kohya_format", False, "--save_format diffusers, beside this suite's .ckpt")
    settings.off("output_kohya_format")
    output = settings.text("output_dir")
    if output:
        draft.flags["save_path"] = output
    settings.taken("output_dir", f"--save_path {output}")
    prompt, epochs = settings.text("validation_prompt"), settings.number("validation_epochs", int, 50 if subject else 1)
    count = settings.number("num_validation_images", int, 4)
    if not prompt:
        settings.taken(
            ["num_validation_images", "validation_epochs"], "no progress pictures without a validation_prompt, there as here"
        )
        return
    interval = max(1, min(epochs * an_epoch, total))
    draft.flags |= {"infer_during_train": True, "infer_prompt": prompt, "infer_interval": interval}
    settings.taken("validation_prompt", f"--infer_during_train True --infer_prompt {shown(prompt)}")
    words = f"--infer_interval {interval}: {epochs} epochs of {an_epoch} updates" + (
        ", or the end" if epochs * an_epoch > total else ""
    )
    settings.taken("validation_epochs", words)
    settings.default("validation_epochs", epochs, words)
    if "sample_batch_size" not in draft.flags:
        draft.flags["sample_batch_size"] = max(1, min(count, MOST_AT_ONCE))
    at_once = draft.flags["sample_batch_size"]
    settings.say(
        TAKEN if at_once == count else DIFFERS,
        "num_validation_images",
        f"--sample_batch_size {at_once}, pictures of the prompt",
    )
    settings.default("num_validation_images", 4, f"--sample_batch_size {at_once}, pictures of the prompt")
