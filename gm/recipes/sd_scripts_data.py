"""Photos, captions, shapes, updates, saving and sampling of sd-scripts' settings -> this suite's."""

import math
from typing import Optional

from gm.recipes.draft import DATASET, DIFFERS, TAKEN, Draft, Settings
from gm.recipes.parts import put_caption, put_size
from gm.recipes.updates import Hints, Photos, updates_of

SDXL_MULTIPLE = 32  # pixels that sides of pictures are a multiple of, for SDXL
_SUBSET = "subsets."


def put_data(settings: Settings, draft: Draft, hints: Hints) -> int:
    """Returns the updates of the run."""
    photos, classes = _photos(settings, draft, hints)
    total = _updates(settings, draft, photos, classes)
    size = _size(settings, draft)
    _buckets(settings, draft, size)
    _captions(settings, draft)
    _saving(settings, draft, total, photos, classes)
    _samples(settings, draft, total)
    _machine(settings, draft)
    return total


def _photos(settings: Settings, draft: Draft, hints: Hints) -> tuple[Photos, bool]:
    """The photos of an epoch, and whether there are class images."""
    subsets = _subsets(settings)
    if subsets:
        return _of_subsets(settings, draft, hints, subsets)
    folder, of_class = settings.text("train_data_dir"), settings.text("reg_data_dir")
    if folder:
        draft.flags["instance_data_path"] = folder
        settings.taken("train_data_dir", "--instance_data_path; folders named 10_sks dog give repeats and prompt, as there")
    if of_class:
        draft.flags["class_data_path"] = of_class
        settings.differs(
            "reg_data_dir",
            "--class_data_path; each update sees as many class images as photos. Without folders named 1_dog give --class_prompt",
        )
    repeats = settings.number("dataset_repeats", int, 1)
    settings.taken("dataset_repeats", f"--train_data_repeat {repeats}, where folders do not say it")
    counted = settings.number("num_train_images", int)
    classes = bool(of_class or hints.class_data_path or settings.number("num_reg_images", int, 0))
    if counted and not hints.num_photos and not hints.instance_data_path:
        distinct = settings.number("distinct_images", int, counted)
        return Photos(distinct, counted, f"{counted} samples of an epoch, by the metadata"), classes
    return hints.photos(folder, repeats), classes


def _subsets(settings: Settings) -> list[dict]:
    """Those of a dataset TOML, from subsets.0.image_dir, subsets.0.num_repeats, ..."""
    found: dict[int, dict] = {}
    for name, value in settings.values.items():
        if name.startswith(_SUBSET):
            number, _, key = name[len(_SUBSET) :].partition(".")
            found.setdefault(int(number), {})[key] = value
    return [found[number] for number in sorted(found)]


def _of_subsets(settings: Settings, draft: Draft, hints: Hints, subsets: list[dict]) -> tuple[Photos, bool]:
    classes = [one for one in subsets if one.get("is_reg")]
    own = [one for one in subsets if not one.get("is_reg")]
    counted = [hints.photos(one.get("image_dir"), int(one.get("num_repeats", 1))) for one in own]
    known = [(int(one["img_count"]), int(one.get("num_repeats", 1))) for one in own if one.get("img_count")]
    if len(known) == len(own) and own and not hints.num_photos and not hints.instance_data_path:
        counted = [Photos.of(count, repeats, f"{count} x {repeats}, by the metadata") for count, repeats in known]
    photos = Photos(
        sum(p.count for p in counted), sum(p.samples for p in counted), "; ".join(dict.fromkeys(p.words for p in counted))
    )
    if len(own) == 1 and len(classes) <= 1:
        _one_subject(draft, own[0], classes[0] if classes else {})
        where = {
            "image_dir": "--instance_data_path",
            "class_tokens": "--instance_prompt",
            "num_repeats": "--train_data_repeat",
        }
    else:
        draft.put(DATASET + "concepts", [_concept(one, i, classes) for i, one in enumerate(own)])
        where = {"image_dir": "instance_data_path", "class_tokens": "instance_prompt", "num_repeats": "repeats"}
        where = {key: f"concepts: {value}" for key, value in where.items()}
    for number, one in enumerate(subsets):
        reg = bool(one.get("is_reg"))
        for key in one:
            name = f"{_SUBSET}{number}.{key}"
            if key == "is_reg":
                settings.taken(name, "class images" if reg else "photos of the subject")
            elif key == "metadata_file":
                settings.unsupported(
                    name, "captions are files beside photos here: write the metadata's captions into NAME.txt"
                )
            elif key == "img_count":
                settings.taken(name, "counts for the updates of an epoch")
            elif reg and key == "num_repeats":
                settings.differs(name, "class images are drawn as often as photos are")
            elif reg and key in where:
                settings.taken(name, "--class_data_path" if key == "image_dir" else "--class_prompt")
            elif key in where:
                settings.taken(name, where[key])
    return photos, bool(classes or hints.class_data_path)


def _one_subject(draft: Draft, one: dict, of_class: dict) -> None:
    flags = {
        "instance_data_path": one.get("image_dir"),
        "instance_prompt": one.get("class_tokens"),
        "train_data_repeat": int(one.get("num_repeats", 1)),
        "class_data_path": of_class.get("image_dir"),
        "class_prompt": of_class.get("class_tokens"),
    }
    draft.flags |= {name: value for name, value in flags.items() if value is not None}


def _concept(one: dict, number: int, classes: list[dict]) -> dict:
    concept = {"instance_data_path": one.get("image_dir", "/path/to/photos"), "repeats": int(one.get("num_repeats", 1))}
    if one.get("class_tokens"):
        concept["instance_prompt"] = one["class_tokens"]
    if classes:
        of_class = classes[min(number, len(classes) - 1)]
        concept["class_data_path"] = of_class.get("image_dir")
        if of_class.get("class_tokens"):
            concept["class_prompt"] = of_class["class_tokens"]
    return concept


def _updates(settings: Settings, draft: Draft, photos: Photos, classes: bool) -> int:
    batch, accumulated = settings.number("train_batch_size", int, 1), settings.number("gradient_accumulation_steps", int, 1)
    if not classes:
        draft.flags["prior_loss_weight"] = 0
        settings.taken("prior_loss_weight", "there are no class images: --prior_loss_weight 0")
        settings.taken("train_batch_size", f"per_batch_size: {batch}")
    else:
        weight = settings.number("prior_loss_weight", float, 1.0)
        draft.flags["prior_loss_weight"] = weight
        settings.taken("prior_loss_weight", f"--prior_loss_weight {weight:g}")
    own = max(1, batch // 2) if classes else batch
    if classes:
        words = f"per_batch_size: {own} photos and {own} class images; there, {batch} of both mixed"
        settings.say(TAKEN if batch % 2 == 0 else DIFFERS, "train_batch_size", words)
    draft.put("data.per_batch_size", own)
    settings.default("train_batch_size", 1, f"per_batch_size: {own}")
    if accumulated != 1:
        draft.flags["gradient_accumulation_steps"] = accumulated
    settings.taken("gradient_accumulation_steps", f"--gradient_accumulation_steps {accumulated}")
    epochs, steps = settings.number("max_train_epochs", float) or None, settings.number("max_train_steps", int) or None
    known = settings.number("updates_known", int)
    in_epochs = epochs or settings.number("epoch", float) or 1
    counted, arithmetic = updates_of(in_epochs, photos, batch, accumulated, 1, classes, rounded_once=not epochs)
    if known:
        total, arithmetic = known, f"{known} updates, as they were"
        settings.taken("max_train_epochs", f"{known} updates, by max_train_steps")
    elif epochs:
        total = counted
        settings.taken("max_train_epochs", f"total_step: {total}, for the photos named below")
        settings.taken("max_train_steps", "max_train_epochs counts instead, there as here")
    elif steps or "epoch" not in settings:
        total, arithmetic = steps or 1600, f"{steps or 1600} updates, as given"
        settings.default("max_train_steps", 1600, "total_step: 1600")
    else:
        total = counted
    total = _with_class_images(total, batch, own, classes, draft)
    settings.taken("max_train_steps", f"total_step: {total}")
    settings.taken("epoch", f"total_step: {total}" if not (epochs or steps) else "the number of updates counts instead")
    settings.taken("updates_known", f"total_step: {total}")
    settings.taken(["num_train_images", "num_reg_images", "distinct_images"], "counts for the updates of an epoch")
    draft.put("data.total_step", total)
    draft.notes.append(f"Updates: {arithmetic}.")
    return total


def _with_class_images(total: int, batch: int, own: int, classes: bool, draft: Draft) -> int:
    """The updates in which as many photos are seen, where a batch of one holds a photo or a class image."""
    if not classes or 2 * own == batch:
        return total
    fewer = max(1, math.ceil(total * batch / (2 * own)))
    draft.notes.append(
        f"A batch of {batch} holds photos or class images there; here an update has {own} of each, so {total} updates become {fewer}."
    )
    return fewer


def _size(settings: Settings, draft: Draft) -> int:
    sides = settings.numbers("resolution") or [1024]
    width, height = int(sides[0]), int(sides[-1])
    size = max(SDXL_MULTIPLE, round(math.sqrt(width * height) / SDXL_MULTIPLE) * SDXL_MULTIPLE)
    put_size(draft, size)
    if width == height == size:
        settings.taken("resolution", f"target_size: {size}")
    else:
        settings.differs("resolution", f"target_size: {size}, a square of about as many pixels")
    return size


def _buckets(settings: Settings, draft: Draft, size: int) -> None:
    names = ["min_bucket_reso", "max_bucket_reso", "bucket_reso_steps", "bucket_no_upscale"]
    random = settings.flag("random_crop")
    crop = "random" if random else "center"
    draft.put(DATASET + "transforms.2.params.crop", crop)
    settings.taken("random_crop", f"crop: {crop}")
    settings.default("random_crop", False, "crop: center")
    if not settings.flag("enable_bucket"):
        settings.taken(["enable_bucket", *names], "off: squares, as here")
        settings.default("enable_bucket", False, "squares, as here")
        return
    step, smallest = settings.number("bucket_reso_steps", int, 64), settings.number("min_bucket_reso", int, 256)
    largest, no_upscale = settings.number("max_bucket_reso", int, 1024), settings.flag("bucket_no_upscale")
    step_here = max(SDXL_MULTIPLE, step // SDXL_MULTIPLE * SDXL_MULTIPLE)
    smallest_here = max(step_here, min(smallest, size) // step_here * step_here)
    values = {
        "max_buckets": 4,
        "bucket_reso_steps": step_here,
        "min_bucket_reso": smallest_here,
        "max_bucket_reso": max(largest, size),
        "bucket_no_upscale": no_upscale,
    }
    draft.put(DATASET + "buckets", values)
    settings.differs(
        "enable_bucket", "buckets, at most 4 shapes (max_buckets): each is a compilation; photos go to the nearest"
    )
    for name, value in (("bucket_reso_steps", step), ("min_bucket_reso", smallest), ("max_bucket_reso", largest)):
        words = f"{name}: {values[name]}"
        if values[name] == value:
            settings.taken(name, words)
        else:
            settings.differs(
                name, f"{words}, which SDXL's UNet can take" if name != "max_bucket_reso" else f"{words}, the size itself"
            )
        settings.default(name, value, words)
    settings.taken("bucket_no_upscale", f"bucket_no_upscale: {no_upscale}")


def _captions(settings: Settings, draft: Draft) -> None:
    ending = settings.text("caption_extension") or settings.text("caption_extention") or ".caption"
    ending = ending if ending.startswith(".") else f".{ending}"
    put_caption(draft, "extensions", [ending])
    settings.taken(["caption_extension", "caption_extention"], f"captions: extensions: [{ending}]")
    settings.default("caption_extension", ".caption", "captions: extensions: [.caption]")
    shuffles = settings.flag("shuffle_caption")
    settings.taken("shuffle_caption", put_caption(draft, "shuffle", True) if shuffles else "off, as here")
    keep = settings.number("keep_tokens", int, 0)
    parting = settings.text("keep_tokens_separator")
    if parting and keep:
        settings.taken("keep_tokens", "keep_tokens_separator counts instead where a caption has it; here in all")
        keep = 0
    for name, key, value in (
        ("keep_tokens", "keep_tokens", keep),
        ("keep_tokens_separator", "keep_tokens_separator", parting),
        ("caption_prefix", "prefix", settings.text("caption_prefix")),
        ("caption_suffix", "suffix", settings.text("caption_suffix")),
        ("caption_dropout_rate", "dropout", settings.number("caption_dropout_rate", float, 0.0)),
        ("caption_tag_dropout_rate", "tag_dropout", settings.number("caption_tag_dropout_rate", float, 0.0)),
    ):
        settings.taken(name, put_caption(draft, key, value) if value else "off, as here")
    separator = settings.text("caption_separator") or ","
    if separator != ",":
        put_caption(draft, "separator", separator)
    settings.taken("caption_separator", f"captions: separator: {separator!r}")
    tokens = settings.number("max_token_length", int, 75) or 75
    draft.put(DATASET + "max_tokens", tokens if tokens in (75, 150, 225) else 75)
    settings.taken("max_token_length", f"max_tokens: {tokens}")
    folder = settings.text("conditioning_data_dir")
    if settings.flag("masked_loss", folder is not None) or settings.flag("alpha_mask"):
        draft.put(DATASET + "masks", {"unmasked_weight": 0.0, **({"folder": folder} if folder else {})})
        settings.taken("conditioning_data_dir", f"masks: folder: {folder}")
        if folder:
            settings.taken("masked_loss", "masks: unmasked_weight: 0")
        words = "masks: unmasked_weight: 0, from NAME-masklabel.png beside each photo, not from the alpha channel"
        settings.differs(["masked_loss", "alpha_mask"], f"{words}; a folder of masks: masks: folder")
    settings.off(["masked_loss", "alpha_mask"])


def _saving(settings: Settings, draft: Draft, total: int, photos: Photos, classes: bool) -> None:
    batch, accumulated = settings.number("train_batch_size", int, 1), settings.number("gradient_accumulation_steps", int, 1)
    every, epochs = settings.number("save_every_n_steps", int, 0), settings.number("save_every_n_epochs", int, 0)
    an_epoch, _ = updates_of(1, photos, batch, accumulated, 1, classes)
    interval = every or (epochs * an_epoch if epochs else 0)
    if interval:
        draft.flags["save_ckpt_interval"] = min(interval, total)
    words = f"--save_ckpt_interval {min(interval, total)}"
    settings.taken("save_every_n_steps", words if every else "off")
    settings.taken(
        "save_every_n_epochs", (words + f", {epochs} epochs of {an_epoch} updates") if epochs and not every else "off"
    )
    last = settings.number("save_last_n_steps", int, 0) // max(interval, 1)
    last = last + 1 if last else -(-settings.number("save_last_n_epochs", int, 0) // max(epochs or 1, 1))
    if last and interval:
        draft.flags["max_num_ckpt"] = last
        settings.taken(["save_last_n_steps", "save_last_n_epochs"], f"--max_num_ckpt {last}")
    settings.off(["save_last_n_steps", "save_last_n_epochs"])
    kind = settings.text("save_model_as") or "safetensors"
    draft.flags["save_format"] = "kohya"
    words = "--save_format kohya: .safetensors for other tools, beside this suite's .ckpt"
    settings.say(TAKEN if kind == "safetensors" else DIFFERS, "save_model_as", words)
    settings.default("save_model_as", "safetensors", words)
    output, name = settings.text("output_dir"), settings.text("output_name")
    if output:
        draft.flags["save_path"] = output
    settings.taken("output_dir", f"--save_path {output}")
    settings.differs("output_name", f"files are called SDXL_base_1.0_<step>_lora, in a folder that may be called {name}")


def _samples(settings: Settings, draft: Draft, total: int) -> None:
    every, epochs = settings.number("sample_every_n_steps", int, 0), settings.number("sample_every_n_epochs", int, 0)
    file = settings.text("sample_prompts")
    if not every and not epochs:
        settings.taken(["sample_every_n_steps", "sample_every_n_epochs"], "no progress pictures, as here")
        settings.taken(["sample_prompts", "sample_sampler", "sample_at_first"], "no progress pictures are asked for")
        return
    all_epochs = settings.number("max_train_epochs", float) or settings.number("epoch", float) or 1
    interval = every or max(1, round(epochs * total / all_epochs))
    draft.flags |= {"infer_during_train": True, "infer_interval": interval}
    settings.taken(["sample_every_n_steps", "sample_every_n_epochs"], f"--infer_during_train True --infer_interval {interval}")
    if file:
        draft.flags["infer_prompts"] = file
    settings.taken("sample_prompts", "--infer_prompts: the same lines")
    settings.differs("sample_sampler", "Euler; --ss in a line of --infer_prompts names another")
    settings.taken("sample_at_first", "there are always pictures before the first update")


def _machine(settings: Settings, draft: Draft) -> None:
    seed: Optional[int] = settings.number("seed", int)
    if seed is not None:
        draft.flags["seed"] = abs(seed)
    settings.differs("seed", f"--seed {abs(seed or 0)}: the order and the noise of this suite, not those of torch")
    norm = settings.number("max_grad_norm", float, 1.0)
    if norm > 0:
        draft.flags |= {"clip_grad": True, "max_grad_norm": norm}
    words = f"--clip_grad True --max_grad_norm {norm:g}" if norm > 0 else "gradients are not clipped, as here"
    settings.taken("max_grad_norm", words)
    settings.default("max_grad_norm", "1.0", words)
    precision = settings.text("mixed_precision") or "no"
    if precision == "no":
        draft.flags["ms_amp_level"] = "O0"
        settings.taken("mixed_precision", "--ms_amp_level O0, float32")
        settings.default("mixed_precision", "no", "--ms_amp_level O0, float32: the default on a device is O2, float16")
    elif precision == "fp16":
        settings.taken(
            "mixed_precision", "float16 with float32 norms, softmax and LoRA, the default on a device; a CPU has float32"
        )
    else:
        settings.differs(
            "mixed_precision", "float16 with float32 norms, softmax and LoRA instead of bfloat16; a CPU has float32"
        )
    if settings.flag("gradient_checkpointing"):
        draft.put("model.params.network_config.params.use_recompute", True)
    settings.taken("gradient_checkpointing", f"use_recompute: {settings.flag('gradient_checkpointing')}")
    if settings.flag("cache_latents_to_disk") or settings.flag("cache_text_encoder_outputs_to_disk"):
        draft.flags["cache_dir"] = "cache"
        settings.taken(["cache_latents_to_disk", "cache_text_encoder_outputs_to_disk"], "--cache_dir cache")
    settings.taken(["cache_latents_to_disk", "cache_text_encoder_outputs_to_disk"], "kept in memory")
    for name, flag in (("pretrained_model_name_or_path", "weight"), ("vae", "vae")):
        path = settings.text(name)
        if path:
            draft.flags[flag] = path
            settings.taken(name, f"--{flag} {path}")
