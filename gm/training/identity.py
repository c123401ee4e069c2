"""What decides the numbers of a run beside the weights: kept as JSON in the training state, and how two runs differ, in words.

Names are the flags and keys by which a person would change them. What a version does not know of an older state is not compared.
"""

import hashlib
import json
from dataclasses import asdict
from math import prod
from pathlib import Path
from typing import Any, Mapping, Optional, Sequence

from gm.config.types import Config
from gm.data.crops import Photo, PhotoSet
from gm.data.dreambooth import CLASS, INSTANCE
from gm.training.inputs import Inputs

IDENTITY = "run"  # the name in the metadata of the training state
Identity = Mapping[str, Any]  # name -> what JSON can hold; a list has an entry for each photo

STEPS, BATCH, ACCUMULATION, RANKS = (
    "data.total_step",
    "data.per_batch_size",
    "--gradient_accumulation_steps",
    "number of ranks",
)
SHAPES = "number of buckets"
BY_STEPS = ("optim.schedule", "optim.warmup_share", "optim.text_encoder_stop_share")  # what may make the rate depend on STEPS


def identity(inputs: Inputs, sets: Sequence[PhotoSet], ranks: int, precision: str) -> Identity:
    """Of a run on these photos; `precision`: the level of mixed precision."""
    options, data = inputs.options, inputs.config.data
    of_kind = {one.kind: one.photos for one in sets}
    photos, class_images = of_kind[INSTANCE], of_kind.get(CLASS, ())
    found = {
        "--seed": options.seed,
        STEPS: data.total_step,
        BATCH: data.per_batch_size,
        ACCUMULATION: options.gradient_accumulation_steps,
        RANKS: ranks,
        SHAPES: len(inputs.buckets.shapes),
        "--prior_loss_weight": options.prior_loss_weight,
        "--max_grad_norm": options.max_grad_norm if options.clip_grad else None,
        "--ms_amp_level": precision,
        "photos": [_content(photo.path) for photo in photos],
        "captions": [_of_text(photo.caption.text) for photo in photos],
        "repeats of photos": [photo.repeats for photo in photos],
        "weights of photos": [photo.loss_weight for photo in photos],
        "sizes of crops": [list(photo.size) for photo in photos],
        "masks": [_content(photo.mask) if photo.mask else None for photo in photos],
        "class images": [_by_size(photo) for photo in class_images],
        "captions of class images": [_of_text(photo.caption.text) for photo in class_images],
        **_settings(inputs.config),
    }
    return json.loads(json.dumps(found))


def _settings(config: Config) -> dict[str, object]:
    """The parts of the YAML that decide numbers, flat."""
    data = {key: value for key, value in asdict(config.data).items() if key not in ("total_step", "per_batch_size")}
    for of_places in ("concepts", "num_parallel_workers"):  # what photos they name is compared by itself
        data.pop(of_places, None)
    for section in ("captions", "masks"):
        for of_places in ("extensions", "folder"):
            (data.get(section) or {}).pop(of_places, None)
    sections = {
        "optim": asdict(config.optim),
        "data": data,
        "lora": {network: asdict(lora) for network, lora in config.lora.items()},
        "loss": asdict(config.loss),
        "weighting": asdict(config.weighting),
        "noise": asdict(config.noise),
    }
    return _flat("", sections)


def _flat(name: str, value: object) -> dict[str, object]:
    if not isinstance(value, Mapping):
        return {name: value}
    return {k: v for key, part in value.items() for k, v in _flat(f"{name}.{key}" if name else key, part).items()}


def _content(path: Path) -> str:
    return hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest()


def _of_text(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _by_size(photo: Photo) -> list:
    """Class images may be hundreds, which are not read once more."""
    return [photo.path.name, photo.path.stat().st_size]


def read_identity(text: Optional[str]) -> Optional[Identity]:
    """From the metadata of a training state; None where there is none that can be read."""
    try:
        found = json.loads(text or "null")
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def differences(before: Identity, now: Identity) -> list[str]:
    """What makes the rest of a run another one than it would have been, each in words."""
    by_itself = {STEPS, BATCH, ACCUMULATION, RANKS, SHAPES}
    names = [name for name in now if name in before and name not in by_itself and before[name] != now[name]]
    found = [_in_words(name, before[name], now[name]) for name in names]
    ways = _ways(before, now)
    if ways and not _equal_updates(before, now):
        found.append(f"an update had {ways[0]} samples (ranks x accumulation x batch) and has {ways[1]}")
    if STEPS in before and before[STEPS] != now[STEPS] and _rate_depends_on_steps(now):
        found.append(f"the rate follows {STEPS}, which was {before[STEPS]} and is {now[STEPS]}")
    return found


def rounds_otherwise(before: Identity, now: Identity) -> Optional[str]:
    """Where the same samples are only added up in another way: how."""
    ways = _ways(before, now)
    if ways is None or not _equal_updates(before, now):
        return None
    return f"an update's samples were {ways[0]} (ranks x accumulation x batch) and are {ways[1]}"


def _ways(before: Identity, now: Identity) -> Optional[list[str]]:
    """How the samples of an update are made up, where that is known and differs."""
    keys = (RANKS, ACCUMULATION, BATCH)
    if not all(isinstance(before.get(key), int) for key in keys) or all(before[key] == now[key] for key in keys):
        return None
    return [" x ".join(str(one[key]) for key in keys) for one in (before, now)]


def _equal_updates(before: Identity, now: Identity) -> bool:
    """Whether an update has the same samples: as many of them, and with several buckets, whose photos are not mixed in a batch,
    batches of the same size."""
    products = [prod(one[key] for key in (RANKS, ACCUMULATION, BATCH)) for one in (before, now)]
    one_shape = before.get(SHAPES) == now[SHAPES] == 1
    return products[0] == products[1] and (one_shape or before[BATCH] == now[BATCH])


def _rate_depends_on_steps(now: Identity) -> bool:
    schedule, share, stop = (now.get(name) for name in BY_STEPS)
    return schedule != "constant" or bool(share) or stop not in (None, 1.0)


def _in_words(name: str, before: object, now: object) -> str:
    if isinstance(before, list) and isinstance(now, list) and (len(before) > 4 or len(now) > 4 or _of_hashes(before + now)):
        if len(before) != len(now):
            return f"there were {len(before)} {name} and are {len(now)}"
        changed = sum(one != other for one, other in zip(before, now))
        return f"{changed} of {len(now)} {name} are others"
    return f"{name} was {_short(before)} and is {_short(now)}"


def _of_hashes(values: list) -> bool:
    return any(isinstance(value, (str, list)) for value in values)


def _short(value: object) -> str:
    text = json.dumps(value) if not isinstance(value, str) else value
    return text if len(text) <= 60 else f"{text[:57]}..."
