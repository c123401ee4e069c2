"""Which sample, crop and noise is drawn when: independent of ranks, accumulation and restarts."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import tiny
from gm.config.types import CaptionConfig, LossConfig, NoiseConfig, WeightingConfig
from gm.data.captions import Caption, CaptionChooser
from gm.data.crops import PhotoCrop, Sample
from gm.data.dreambooth import CLASS, INSTANCE, DreamBoothSchedule, SampleOrder, crop_corner
from gm.data.transforms import place_crop
from gm.diffusion.levels import Levels
from gm.encoding.text import TextEmbedding
from gm.training.batches import BatchMaker, TextRows
from gm.training.noise import draw_noise

LEVELS = Levels.of(tiny.model(), WeightingConfig(), LossConfig())


def schedule(batch: int = 1, accumulation: int = 1, ranks: int = 1, classes: int = 7, repeats: int = 3):
    return DreamBoothSchedule(
        (SampleOrder.of(5, repeats, True, 42, INSTANCE),),
        (SampleOrder.of(classes, 1, True, 42, CLASS),) if classes else (),
        *(batch, accumulation, ranks),
    )


def update(s: DreamBoothSchedule, step: int):
    return [row for m in range(s.accumulation) for rank in range(s.ranks) for row in s.micro_batch(step, m, rank)]


@pytest.mark.parametrize("batch, accumulation, ranks", [(1, 4, 1), (4, 1, 1), (2, 2, 1), (1, 2, 2), (1, 1, 4), (2, 1, 2)])
def test_every_split_of_an_update_holds_the_same_samples(batch, accumulation, ranks):
    whole, split = schedule(4), schedule(batch, accumulation, ranks)
    for step in range(9):
        assert Counter(update(whole, step)) == Counter(update(split, step))


def test_shares_add_up_to_the_two_means():
    rows = update(schedule(2, 3), 0)
    assert sum(r.share for r in rows if r.kind == INSTANCE) == pytest.approx(1.0)
    assert sum(r.share for r in rows if r.kind == CLASS) == pytest.approx(1.0)


def test_the_weight_of_a_row_is_its_share_times_that_of_its_sample():
    photo = PhotoCrop("hash", place_crop((32, 32), (32, 32), (0, 0)), 3, Path("a.png"))
    samples = {
        (kind, image, repeat): Sample(photo, weight)
        for kind, weight in ((INSTANCE, 1.0), (CLASS, 0.5))
        for image in range(7)
        for repeat in range(3)
    }
    text = TextRows({p: TextEmbedding(np.full((2, 3), len(p)), np.zeros(4)) for p in ("a sks dog", "a dog")})
    s = schedule(2, 3)
    captions = {
        kind: CaptionChooser([Caption(prompt, CaptionConfig())] * 7, kind, 42, False)
        for kind, prompt in ((INSTANCE, "a sks dog"), (CLASS, "a dog"))
    }
    make = BatchMaker(s, samples, captions, lambda crop: np.zeros((2, 4, 4, 4), np.float32), text, 42, LEVELS)
    batches = [make(0, micro, 0) for micro in range(3)]
    for kind, whole in ((INSTANCE, 1.0), (CLASS, 0.5)):
        assert sum(float(batch.weight[batch.kind == kind].sum()) for batch in batches) == pytest.approx(whole)
    assert list(batches[0].text[0][:, 0, 0]) == [9, 9, 5, 5]  # each row has the text of its own prompt
    assert batches[1].text is batches[0].text  # and the same prompts the same arrays


def test_an_epoch_holds_every_photo_and_repeat_once_in_an_order_of_its_own():
    order = SampleOrder.of(5, 3, True, 42, INSTANCE)
    epochs = [[order.at(e * 15 + i) for i in range(15)] for e in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == [(image, repeat) for image in range(5) for repeat in range(3)]
    assert epochs[0] != epochs[1] != epochs[2]
    plain = SampleOrder.of(5, 3, False, 42, INSTANCE)
    assert [plain.at(i)[0] for i in range(10)] == [0, 1, 2, 3, 4] * 2


def test_without_class_images_a_batch_has_instances_only():
    assert {row.kind for row in update(schedule(2, classes=0), 0)} == {INSTANCE}


def test_what_is_drawn_is_what_is_cached():
    for steps in (1, 3, 40):
        s = schedule(2, 2)
        drawn = {(r.kind, r.image, r.repeat) for step in range(steps) for r in update(s, step)}
        assert drawn <= set(s.distinct_draws(steps))
        assert len(s.distinct_draws(steps)) <= min(5 * 3, steps * 4) + min(7, steps * 4)


def test_noise_belongs_to_the_sample_not_to_the_batch():
    rows = update(schedule(4), 5)
    together = draw_noise(rows, 42, (4, 8, 8), 1000)
    for i, row in enumerate(rows):
        alone = draw_noise([row], 42, (4, 8, 8), 1000)
        for a, b in zip(together, alone):
            assert np.array_equal(a[i], b[0])
    assert not np.array_equal(together[1][0], together[1][1])
    assert not np.array_equal(together[1], draw_noise(rows, 43, (4, 8, 8), 1000)[1])


def test_noise_has_the_right_distribution():
    index, noise, posterior, _ = draw_noise(update(schedule(400), 0), 42, (4, 8, 8), 1000)
    for numbers in (noise, posterior):
        assert abs(numbers.mean()) < 0.01 and abs(numbers.std() - 1) < 0.01
    assert index.min() < 10 and index.max() > 989 and abs(index.mean() - 499.5) < 35
    assert abs(np.corrcoef(noise.ravel(), posterior.ravel())[0, 1]) < 0.01


def test_a_noise_offset_is_one_number_a_channel():
    rows = update(schedule(50), 0)
    plain, offset = (draw_noise(rows, 42, (4, 8, 8), 1000, NoiseConfig(offset_noise_level=share)) for share in (0.0, 0.1))
    assert np.array_equal(plain[0], offset[0]) and np.array_equal(plain[2], offset[2])
    added = offset[1] - plain[1]
    assert np.abs(added - added[:, :, :1, :1]).max() < 1e-6
    numbers = added[:, :, 0, 0] / 0.1
    assert numbers.shape == (100, 4) and abs(numbers.mean()) < 0.15 and abs(numbers.std() - 1) < 0.1
    alone = draw_noise(rows[7:8], 42, (4, 8, 8), 1000, NoiseConfig(offset_noise_level=0.1))
    assert np.array_equal(alone[1][0], offset[1][7])


def test_crops():
    assert crop_corner(1, INSTANCE, 0, 0, "center") == (0.5, 0.5)
    corners = {crop_corner(1, INSTANCE, image, repeat, "random") for image in range(5) for repeat in range(10)}
    assert len(corners) == 50 and all(0 <= c < 1 for corner in corners for c in corner)
