"""What a run will make of its photos, shown before it trains: a table in the log, and <save_path>/data.png with each photo, where
it is cut, and what of it counts."""

from pathlib import Path
from typing import Sequence

import numpy as np
from PIL import Image, ImageDraw

from gm.console import log, table
from gm.data.buckets import cut_off, scale_to
from gm.data.crops import Photo, PhotoSet, Sample, Samples
from gm.data.dreambooth import INSTANCE, DreamBoothSchedule
from gm.data.images import image_size, read_image
from gm.data.pixels import to_pixels
from gm.errors import one_line
from gm.pictures import contact_sheet, save_png
from gm.training.inputs import Inputs

ROWS = 30  # of the table and of the sheet
CROPS = 3  # of a photo on the sheet
CELL = 256  # pixels
ENLARGED = 1.5  # times, from which on it is said


def log_data(inputs: Inputs, photos: PhotoSet, schedule: DreamBoothSchedule, samples: Samples) -> None:
    """Log the table, and say which photos are never drawn."""
    shown = photos.photos[:ROWS]
    shapes = len(inputs.buckets.shapes) > 1
    if shapes or inputs.config.data.masks or inputs.config.data.concepts or any(one.caption.varies for one in photos.photos):
        log.info("the photos:\n%s", photo_table(shown))
        if len(photos.photos) > ROWS:
            log.info("and %d more", len(photos.photos) - ROWS)
    if shapes:
        log.info("%d buckets, of which a micro-batch holds one: %s", len(inputs.buckets.shapes), _buckets(inputs, schedule))
    sizes = [(one_line(photo.path.name), scale_to(image_size(photo.path), photo.size)) for photo in photos.photos]
    small = [f"{name} {scale:.1f} times" for name, scale in sizes if scale > ENLARGED]
    if small:
        log.warning("%d of %d photos are enlarged (%s): larger ones teach more", len(small), len(sizes), ", ".join(small[:5]))
    drawn = {image for kind, image, _ in samples if kind == INSTANCE}
    lost = [one_line(photo.path.name) for number, photo in enumerate(photos.photos) if number not in drawn]
    if lost:
        words = "%d of %d photos are never drawn (%s): raise total_step, --gradient_accumulation_steps or per_batch_size"
        log.warning(words, len(lost), len(photos.photos), ", ".join(lost[:5]))


def write_sheet(folder: Path, photos: PhotoSet, samples: Samples) -> None:
    """<folder>/data.png."""
    shown = photos.photos[:ROWS]
    about = {"captions": "\n".join(photo.caption.text for photo in shown)}
    save_png(folder / "data.png", sheet(shown, samples), about)


def photo_table(photos: Sequence[Photo]) -> str:
    """A line a photo: its size, bucket, scale, share that is cut off, repeats, mask and caption."""
    rows = []
    for photo in photos:
        size = image_size(photo.path)
        rows.append(
            (
                *(
                    one_line(photo.path.name),
                    photo.caption.text[:60],
                    f"{size[1]}x{size[0]}",
                    f"{photo.size[1]}x{photo.size[0]}",
                ),
                *(f"{scale_to(size, photo.size):.2f}", f"{cut_off(size, photo.size):.0%}", photo.repeats),
                "yes" if photo.mask else "-",
            )
        )
    return table(("photo", "caption", "size", "bucket", "scale", "cut off", "repeats", "mask"), rows)


def _buckets(inputs: Inputs, schedule: DreamBoothSchedule) -> str:
    of_shape = zip(inputs.buckets.shapes, schedule.instances)
    return ", ".join(f"{width}x{height} for {len(order.images)} photos" for (height, width), order in of_shape)


def sheet(photos: Sequence[Photo], samples: Samples) -> np.ndarray:
    """A row a photo: the photo with the places of its crops, then up to CROPS of them, dark where they do not count."""
    rows, labels = [], []
    for number, photo in enumerate(photos):
        mine = [samples[key] for key in sorted(samples) if key[:2] == (INSTANCE, number)]
        crops: list[Sample] = list({sample.crop: sample for sample in mine}.values())
        image = read_image(photo.path)
        rows.append([_outlined(image, crops), *(_masked(sample, image) for sample in crops[:CROPS])])
        said = photo.caption.text if crops else "never drawn"
        labels.append(f"{one_line(photo.path.name)}: {said}")
    return contact_sheet(rows, labels, CELL)


def _outlined(image: np.ndarray, crops: Sequence[Sample]) -> np.ndarray:
    """The photo, small, with a line around each crop."""
    scale = min(1.0, CELL / max(image.shape[:2]))
    small = Image.fromarray(image).resize((max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))))
    pen = ImageDraw.Draw(small)
    for crop in (sample.crop.crop for sample in crops):
        of_photo = small.height / crop.resized[0]
        (top, left), (height, width) = crop.top_left, crop.size
        corners = (left, top, left + width, top + height)
        pen.rectangle([round(corner * of_photo) for corner in corners], outline="red")
    return np.asarray(small)


def _masked(sample: Sample, image: np.ndarray) -> np.ndarray:
    """The crop as it is trained; what its mask leaves out is dark."""
    pixels = to_pixels(sample.crop.pixels(image))
    if sample.mask is None:
        return pixels
    counts = sample.mask[0].repeat(8, 0).repeat(8, 1)[..., None]
    return (pixels * (0.25 + 0.75 * counts)).astype(np.uint8)
