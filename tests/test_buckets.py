"""Shapes of crops: those of sd-scripts, few of them, and the batches that are made of them."""

from collections import Counter

import pytest

from gm.config.types import BucketConfig
from gm.data.buckets import (
    Buckets,
    bucket_shapes,
    choose_buckets,
    cut_off,
    nearest_shape,
    scale_to,
    shape_without_upscaling,
)
from gm.data.dreambooth import CLASS, INSTANCE, BucketOrder, DreamBoothSchedule, SampleOrder
from gm.errors import UserError
from gm.training.class_images import shapes_of_missing

SDXL = BucketConfig(max_buckets=4, step=64, smallest=256, largest=2048, upscale=True)
# (width, height) of a photo -> its bucket, and that without upscaling, as sd-scripts' BucketManager (48d368fa) gives them
OF_SD_SCRIPTS = {
    (1300, 4862): ((512, 1920), (512, 1920)),
    (716, 2289): ((576, 1792), (512, 1600)),
    (1165, 4258): ((512, 1856), (512, 1856)),
    (3882, 4068): ((1024, 1024), (960, 1024)),
    (3309, 1919): ((1344, 768), (1344, 768)),
    (968, 4196): ((448, 2048), (448, 1920)),
    (432, 3393): ((256, 2048), (320, 2496)),
    (3745, 217): ((2048, 256), (3712, 192)),
    (3848, 2381): ((1280, 768), (1216, 768)),
    (2074, 1037): ((1408, 704), (1408, 704)),
    (382, 408): ((960, 1088), (320, 384)),
}


def turned(size):
    return size[1], size[0]


def test_the_shapes_are_those_of_sd_scripts():
    shapes = bucket_shapes(1024, SDXL)
    assert len(shapes) == 41
    for photo, (bucket, without_upscaling) in OF_SD_SCRIPTS.items():
        assert turned(nearest_shape(turned(photo), shapes)) == bucket
        assert turned(shape_without_upscaling(turned(photo), 1024, 64)) == without_upscaling


def test_few_shapes_are_those_that_cut_off_least():
    photos = {(3000, 4000): 3, (4000, 3000): 2, (2000, 2000): 4, (1000, 3000): 1, (1600, 2000): 1}
    four = choose_buckets(photos, 1024, SDXL)
    assert len(four.shapes) == 4 and (1024, 1024) in four.shapes
    for shape in four.shapes:  # no other four of the shapes wanted lose less
        wanted = {nearest_shape(photo, bucket_shapes(1024, SDXL)) for photo in photos}
        for other in wanted - set(four.shapes):
            exchanged = Buckets(tuple(sorted({*four.shapes, other} - {shape})))
            assert exchanged.lost(photos) >= four.lost(photos)
    one = choose_buckets(photos, 1024, BucketConfig(1, 64, 256, 2048, True))
    assert len(one.shapes) == 1 and all(one.of(photo) == one.shapes[0] for photo in photos)


def test_what_is_cut_off():
    assert cut_off((100, 200), (64, 128)) == 0 and scale_to((100, 200), (64, 128)) == 0.64
    assert cut_off((100, 200), (64, 64)) == pytest.approx(0.5)


def test_without_upscaling_no_photo_is_enlarged():
    photos = {(500, 700): 1, (700, 500): 1, (3000, 3000): 1}
    buckets = choose_buckets(photos, 1024, BucketConfig(3, 64, 256, 2048, False))
    assert all(scale_to(photo, buckets.of(photo)) <= 1 for photo in photos)
    with pytest.raises(UserError, match="need 2 buckets, but max_buckets is 1"):
        choose_buckets({(100, 700): 1, (700, 100): 1}, 1024, BucketConfig(1, 64, 256, 2048, False))
    with pytest.raises(UserError, match="a photo of 700 x 50 pixels is too small"):
        choose_buckets({(50, 700): 1}, 1024, BucketConfig(1, 64, 256, 2048, False))


def schedule(batch: int, accumulation: int, ranks: int, shuffle: bool = True) -> DreamBoothSchedule:
    """Three buckets of 5, 1 and 2 photos with 3, 3 and 2 repeats, and class images in each."""
    images = ((0, 2, 3, 5, 7), (1,), (4, 6))
    instances = tuple(
        SampleOrder(of, (2 if n == 2 else 3,) * len(of), shuffle, 42, INSTANCE, n) for n, of in enumerate(images)
    )
    classes = tuple(SampleOrder((n, n + 3), (1, 1), shuffle, 42, CLASS, n) for n in range(3))
    return DreamBoothSchedule(instances, classes, batch, accumulation, ranks)


def rows(s: DreamBoothSchedule, step: int):
    return [s.micro_batch(step, micro, rank) for micro in range(s.accumulation) for rank in range(s.ranks)]


@pytest.mark.parametrize("batch", [1, 2])
def test_a_batch_is_of_one_bucket_and_a_cycle_holds_every_sample(batch):
    s, bucket_of = schedule(batch, 1, 1), {0: 0, 2: 0, 3: 0, 5: 0, 7: 0, 1: 1, 4: 2, 6: 2}
    cycle = sum(s.buckets.batches)
    assert s.buckets.batches == ((15, 3, 4) if batch == 1 else (8, 2, 2))
    drawn = Counter()
    for step in range(cycle):
        (one,) = rows(s, step)
        instances = [draw for draw in one if draw.kind == INSTANCE]
        (bucket,) = {bucket_of[draw.image] for draw in instances}
        assert {draw.image % 3 for draw in one if draw.kind == CLASS} == {bucket}
        drawn.update((draw.image, draw.repeat) for draw in instances)
    assert set(drawn) == {(image, n) for image, bucket in bucket_of.items() for n in range(2 if bucket == 2 else 3)}
    assert max(drawn.values()) <= batch


@pytest.mark.parametrize("accumulation, ranks", [(4, 1), (2, 2), (1, 4)])
def test_any_split_over_ranks_holds_the_same_batches(accumulation, ranks):
    for step in range(20):
        whole, split = rows(schedule(2, 4, 1), step), rows(schedule(2, accumulation, ranks), step)
        assert sorted(map(str, whole)) == sorted(map(str, split))


@pytest.mark.parametrize("shuffle", [True, False])
def test_what_is_drawn_is_known_before(shuffle):
    for steps in (1, 4, 30):
        s = schedule(2, 2, 2, shuffle)
        drawn = {(d.kind, d.image, d.repeat) for step in range(steps) for batch in rows(s, step) for d in batch}
        assert drawn == set(s.distinct_draws(steps))


def test_batches_before():
    order = BucketOrder((3, 1, 2), True, 7)
    seen = Counter()
    for number in range(40):
        assert order.counts(number) == [seen[bucket] for bucket in range(3)]
        bucket, before = order.at(number)
        assert before == seen[bucket]
        seen[bucket] += 1


def test_one_bucket_is_the_order_without_any():
    one = SampleOrder.of(5, 3, True, 42, INSTANCE)
    s = DreamBoothSchedule((one,), (), 2, 1, 1)
    drawn = [(draw.image, draw.repeat) for step in range(20) for draw in s.micro_batch(step, 0, 0)]
    assert drawn == [one.at(position) for position in range(40)]


def test_class_images_in_the_shapes_that_are_needed():
    shares = {(64, 64): 0.5, (48, 80): 0.3, (80, 48): 0.2}
    assert Counter(shapes_of_missing([], 10, shares)) == {(64, 64): 5, (48, 80): 3, (80, 48): 2}
    assert Counter(shapes_of_missing([(64, 64)] * 5 + [(48, 80)] * 2, 3, shares)) == {(48, 80): 1, (80, 48): 2}
    assert shapes_of_missing([(64, 64)] * 9, 0, shares) == []
