"""Rules of the diagnosis on what a run was given: photos, time, memory."""

from typing import Optional

from gm.checkpoint.json_text import parse_json
from gm.training.diagnosis.facts import Facts

OFTEN = 500  # times a photo is trained on: the paper has about 1,000 updates for 3 to 5 photos
UNEVEN = 10  # times as many samples
LONG = 30.0  # seconds of a part of the run that are worth a word

REMEDIES = {  # part of the run, as timings.json calls it -> what makes it shorter
    "compilation": "--compile_cache_dir FOLDER keeps the graphs for the next run; with buckets, a smaller max_buckets makes fewer",
    "class images": "they stay in --class_data_path for the next run; --num_class_images, --sample_step make it shorter",
    "prompts": "--cache_dir FOLDER keeps them for the next run",
    "photos": "--cache_dir FOLDER keeps them for the next run; a smaller --train_data_repeat makes fewer crops",
    "waiting for prompts and photos": "--cache_dir FOLDER keeps them for the next run; a smaller --train_data_repeat makes fewer crops",
    "progress pictures": "a larger --infer_interval, fewer prompts or a smaller --sample_step make it shorter",
    "evaluation": "a larger --evaluate_every or fewer --evaluate_seeds make it shorter",
    "saving": "a larger --save_ckpt_interval saves less often",
}


def seen_often(f: Facts) -> Optional[str]:
    """Few photos many times, and nobody has looked whether their places were learned as well."""
    folders, batch, epoch = _folders(f), f.number("ss_total_batch_size"), f.number("ss_num_train_images")
    if f.evaluation is not None or not folders or not batch or not epoch:
        return None
    photos, repeats = max(folders.values(), key=lambda folder: folder[1])
    often = f.updates * batch * repeats / epoch
    if often < OFTEN:
        return None
    return (
        f"each of {photos} photos was trained on {often:.0f} times, where 200 to 300 are usual, and an overfitted LoRA repeats their "
        "places: compare its checkpoints with tools/evaluate.py --checkpoints, or take one from earlier"
    )


def uneven_subjects(f: Facts) -> Optional[str]:
    """One subject has nearly all samples."""
    samples = {name: photos * repeats for name, (photos, repeats) in _folders(f).items()}
    if len(samples) < 2 or max(samples.values()) < UNEVEN * min(samples.values()):
        return None
    most, least = max(samples, key=lambda name: samples[name]), min(samples, key=lambda name: samples[name])
    repeats = round(samples[most] / _folders(f)[least][0])
    return (
        f"{most!r} has {samples[most]} samples of an epoch and {least!r} {samples[least]}, which is hardly learned beside it: give "
        f"{least!r} {repeats} repeats"
    )


def time_elsewhere(f: Facts) -> Optional[str]:
    """More than half of the time went into something else than updates."""
    parts = {name: seconds for name, seconds in f.seconds.items() if name in REMEDIES}
    total = sum(f.seconds.values())
    longest = max(parts, key=lambda name: parts[name], default=None)
    if longest is None or parts[longest] < LONG or parts[longest] < total / 2:
        return None
    updates = f.seconds.get("first step", 0.0) + f.seconds.get("further steps", 0.0)
    return f"{longest} took {parts[longest]:.0f} of {total:.0f} seconds, the updates themselves {updates:.0f}: {REMEDIES[longest]}"


def memory_unused(f: Facts) -> Optional[str]:
    """Most of the device's memory was never used."""
    data = f.config.data if f.config else None
    if not f.peak_gb or not f.device_gb or data is None:
        return None
    times = int(0.8 * f.device_gb / f.peak_gb)  # the weights do not grow with the batch, so this much fits
    if times < 2:
        return None
    batch, windows = data.per_batch_size, max(1, int(f.number("ss_gradient_accumulation_steps") or 1))
    words = f"{f.peak_gb:.0f} of {f.device_gb:.0f} GB of the device's memory were used: data.per_batch_size"
    together = max(n for n in range(1, min(times, windows) + 1) if windows % n == 0)
    if together > 1:
        return (
            f"{words}={batch * together} with --gradient_accumulation_steps {windows // together} gives the same updates in fewer "
            "passes"
        )
    return f"{words} could be {batch * times} instead of {batch}, for more samples an update"


def _folders(f: Facts) -> dict[str, tuple[int, int]]:
    """Folder of a subject -> its photos and their repeats."""
    try:
        found = parse_json(f.said.get("ss_dataset_dirs", "{}"))
        folders = {str(name): (int(of["img_count"]), int(of["n_repeats"])) for name, of in found.items()}
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
        return {}
    return {name: of for name, of in folders.items() if min(of) > 0}
