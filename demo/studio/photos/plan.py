"""What training will do with each photo of a draft, and what may be wrong with it: a `Plan` a photo, with its `Remark`s."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Mapping, Optional, Sequence

import numpy as np

from gm.config.types import DataConfig
from gm.data.buckets import Buckets, Size, cut_off, scale_to
from gm.data.concepts import Subject
from gm.data.crops import MOST_ENLARGED
from gm.data.images import count_images, image_size
from gm.data.transforms import Crop, place_crop
from gm.errors import UserError
from gm.training.data_sheet import ENLARGED
from gm.training.photos import shape_of, shapes_of
from studio.draft import Draft, Settings
from studio.photos import measures, texts
from studio.recipe import command
from studio.visit import Studio
from studio.words import later, say

CUT_OFF = 0.4  # share of a photo
IN_CROP = 0.6  # share of the mask's white
FEWEST = 3  # photos
FALLBACK = 64  # pixels, where the recipe does not say

# what may be wrong -> of one photo, and of several with their {names}
REMARKS = {
    "broken": (later("It cannot be read: {why}"), later("Cannot be read: {names}")),
    "tiny": (
        later("It would be enlarged {times} times, which training refuses: leave it out, or give a larger one"),
        later("Too small, so that training refuses them: {names}"),
    ),
    "small": (
        later("It is small and gets enlarged {times} times: a larger one teaches more"),
        later("Small, and enlarged for training: {names}. Larger ones teach more"),
    ),
    "cut": (
        later("{share} of it is cut off: crop it yourself so that the subject stays, or turn on buckets in the recipe"),
        later("Much is cut off: {names}. Crop them yourself so that the subject stays, or turn on buckets in the recipe"),
    ),
    "lost": (
        later("Only {share} of what its mask marks is in the crop: crop the photo closer to its subject"),
        later("The subject that the mask marks may be outside of the crop: {names}. Crop these closer to the subject"),
    ),
    "mask": (later("Its mask cannot be used: {why}"), later("The mask cannot be used: {names}")),
    "equal": (
        later("It is nearly equal to {other}: one of them is enough"),
        later("Nearly equal to another one: {names}. One of each is enough, others teach more"),
    ),
    "blurred": (later("It looks blurred: what is learned will be as well"), later("Blurred, as it seems: {names}")),
    "flat": (later("It is of one colour and shows nothing"), later("Of one colour, so that they show nothing: {names}")),
    "caption": (later("Its caption cannot be used: {why}"), later("The caption cannot be used: {names}")),
    "silent": (
        later("Nothing says what it shows: write a caption, or a prompt in the recipe"),
        later("Nothing says what they show: {names}. Write captions, or a prompt in the recipe"),
    ),
    "uncaptioned": (
        later("It has no caption while others have one: the prompt of the recipe is said of it"),
        later("Without a caption, while others have one: {names}. The prompt of the recipe is said of these"),
    ),
}


@dataclass(frozen=True)
class Remark:
    """Something that may be wrong."""

    kind: str  # of REMARKS
    values: Mapping[str, str]

    @property
    def sentence(self) -> str:
        words = REMARKS[self.kind][0]
        return say(words, **self.values)


@dataclass(frozen=True)
class Plan:
    """A photo as it will be trained."""

    path: Path
    excluded: bool
    size: Size = (0, 0)  # pixels, (height, width)
    shape: Size = (0, 0)  # of its crops
    crops: tuple[Crop, ...] = ()  # where they may be
    caption: Optional[str] = None  # what is said of it
    own_caption: bool = False  # whether that is from its own file
    masked: bool = False
    remarks: tuple[Remark, ...] = ()

    @property
    def scale(self) -> float:
        """What it is scaled by."""
        return scale_to(self.size, self.shape)

    @property
    def cut(self) -> float:
        """The share that is cut off."""
        return cut_off(self.size, self.shape)


def data_of(studio: Studio, settings: Settings) -> tuple[DataConfig, Optional[UserError]]:
    """How the recipe has photos; a small square with the reason, where it cannot be read."""
    try:
        data = command.config_of(studio, settings).data
        return data or DataConfig(target_size=FALLBACK), None
    except UserError as error:
        return DataConfig(target_size=FALLBACK), error


def plans(draft: Draft, settings: Settings, data: DataConfig) -> list[Plan]:
    """Of every photo, in the order of their names. UserError where photos and recipe do not go together."""
    photos = count_images(draft.photos)
    good = [photo for photo in photos if _reason(photo) is None]
    trained = [photo for photo in good if photo.name not in settings.excluded]
    prompt = settings.instance_prompt or None
    buckets = shapes_of(data, [Subject(draft.photos, tuple(trained or good), prompt, 1)])
    equal = measures.nearly_equal(trained)
    found = []
    for photo in photos:
        excluded, why = photo.name in settings.excluded, _reason(photo)
        if why is not None:
            found.append(Plan(photo, excluded, remarks=(Remark("broken", {"why": why}),)))
            continue
        plan = _plan(photo, excluded, settings, data, buckets)
        if photo in equal:
            plan = replace(plan, remarks=(*plan.remarks, Remark("equal", {"other": equal[photo].name})))
        found.append(plan)
    if any(plan.own_caption for plan in found if not plan.excluded):
        found = [_uncaptioned(plan) for plan in found]
    return found


def _reason(photo: Path) -> Optional[str]:
    """Why the photo cannot be read."""
    try:
        measures.look(photo)
        return None
    except UserError as error:
        return str(error).replace(str(photo), photo.name)


def _plan(photo: Path, excluded: bool, settings: Settings, data: DataConfig, buckets: Buckets) -> Plan:
    size = image_size(photo)
    shape = shape_of(size, buckets)
    corners = (0.0, 0.5, 1.0) if data.crop == "random" else (0.5,)
    crops = tuple(dict.fromkeys(place_crop(size, shape, (corner, corner)) for corner in corners))
    remarks = []
    scale, cut, seen = scale_to(size, shape), cut_off(size, shape), measures.look(photo)
    if scale > MOST_ENLARGED:
        remarks.append(Remark("tiny", {"times": f"{scale:.0f}"}))
    elif scale > ENLARGED:
        remarks.append(Remark("small", {"times": f"{scale:.1f}"}))
    if cut > CUT_OFF:
        remarks.append(Remark("cut", {"share": f"{cut:.0%}"}))
    mask = measures.mask_beside(photo)
    if mask is not None and mask.small is None:
        remarks.append(Remark("mask", {"why": str(mask.problem).replace(str(photo.parent) + "/", "")}))
    elif mask is not None:
        share = min(share_inside(mask.small, crop) for crop in crops)
        if share < IN_CROP:
            remarks.append(Remark("lost", {"share": f"{share:.0%}"}))
    if seen.flat:
        remarks.append(Remark("flat", {}))
    elif seen.blurred:
        remarks.append(Remark("blurred", {}))
    caption, own = None, False
    try:
        own = texts.own_caption(photo, data.captions.extensions) is not None
        caption = texts.said(photo, settings.instance_prompt, data.captions)
        if caption is None:
            remarks.append(Remark("silent", {}))
    except UserError as error:
        own = True
        remarks.append(Remark("caption", {"why": str(error).replace(str(photo.parent) + "/", "")}))
    return Plan(
        path=photo,
        excluded=excluded,
        size=size,
        shape=shape,
        crops=crops,
        caption=caption,
        own_caption=own,
        masked=mask is not None,
        remarks=tuple(remarks),
    )


def _uncaptioned(plan: Plan) -> Plan:
    if plan.own_caption or plan.excluded or plan.caption is None:
        return plan
    return replace(plan, remarks=(*plan.remarks, Remark("uncaptioned", {})))


def share_inside(mask: np.ndarray, crop: Crop) -> float:
    """How much of the white of a mask, of any size, a crop shows."""
    height, width = mask.shape
    (top, left), (rows, columns) = crop.top_left, crop.size
    down, across = height / crop.resized[0], width / crop.resized[1]
    part = mask[
        math.floor(top * down) : math.ceil((top + rows) * down),
        math.floor(left * across) : math.ceil((left + columns) * across),
    ]
    whole = float(mask.sum())
    return float(part.sum()) / whole if whole else 0.0


def gathered(found: Sequence[Plan]) -> list[tuple[str, list[str]]]:
    """(kind of a remark, names of the photos that it is made of), of those that are trained."""
    names: dict[str, list[str]] = {kind: [] for kind in REMARKS}
    for plan in found:
        if not plan.excluded:
            for remark in plan.remarks:
                names[remark.kind].append(plan.path.name)
    return [(kind, of) for kind, of in names.items() if of]
