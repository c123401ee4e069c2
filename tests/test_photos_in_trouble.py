"""Photos at the edges of what is taken: long ones, small ones, odd files, files that change while a run goes on."""

import os

import numpy as np
import pytest
from PIL import Image

from bad_files import halves
from gm.config.types import CaptionConfig
from gm.data import crops, transforms
from gm.data.captions import Caption
from gm.data.crops import Photo, PhotoSet, plan_samples, require_enough_pixels
from gm.data.dreambooth import INSTANCE
from gm.data.images import count_images, image_size, read_image
from gm.data.masks import mask_of, read_mask
from gm.data.transforms import cut, place_crop, resized_part
from gm.errors import UserError


@pytest.mark.parametrize("interpolation", [0, 1, 2, 3, 4, 5])
def test_the_part_around_a_crop_gives_the_pixels_of_the_whole(monkeypatch, interpolation):
    """Where both ways are possible they differ by at most one level, at the borders of the photo as well."""
    image = np.random.default_rng(0).integers(0, 256, (37, 301, 3)).astype(np.uint8)
    crops_of_it = [place_crop((37, 301), (96, 64), corner) for corner in ((0.0, 0.0), (0.0, 0.337), (0.5, 0.9), (1.0, 1.0))]
    whole = [cut(image, crop, interpolation) for crop in crops_of_it]
    monkeypatch.setattr(transforms, "LARGEST_RESIZED", 0)
    for crop, expected in zip(crops_of_it, whole):
        difference = np.abs(cut(image, crop, interpolation) - expected) * 127.5
        if interpolation == 0:  # the nearest pixel: another one where two are equally near
            assert (difference > 0.5).mean() < 0.02
        else:
            assert difference.max() < 1.01


def test_a_long_photo_takes_little(monkeypatch):
    """10,000 x 100 for crops of 1024 is 102,400 x 1024 pixels when it is enlarged whole."""
    image = Image.fromarray(np.tile(np.arange(10_000) // 40, (100, 1)).astype(np.uint8))
    crop = place_crop((100, 10_000), (1024, 1024), (0.0, 0.5))
    assert crop.resized == (1024, 102_400)
    sizes, resize = [], Image.Image.resize
    monkeypatch.setattr(Image.Image, "resize", lambda self, size, *a, **k: sizes.append(size) or resize(self, size, *a, **k))
    part = resized_part(image, crop, Image.Resampling.BICUBIC)
    assert part.shape == (1024, 1024) and sizes == [(1024, 1024)]
    assert abs(int(part[0, 512]) - 125) <= 1
    assert mask_of(np.asarray(image), crop).shape == (1, 128, 128)


def photo(path, width, height, side=128):
    Image.new("RGB", (width, height), "red").save(path)
    return Photo(path, Caption("a dog", CaptionConfig()), (side, side))


def test_a_photo_that_is_too_small_is_refused_and_a_long_one_is_said(tmp_path, project_log):
    require_enough_pixels([photo(tmp_path / "a.png", 8, 8), photo(tmp_path / "b.png", 512, 64)])
    assert not project_log.records
    with pytest.raises(UserError, match="c.png has 90 x 7 pixels and would be enlarged 18 times: .* at least 8 x 8"):
        require_enough_pixels([photo(tmp_path / "a.png", 64, 64), photo(tmp_path / "c.png", 90, 7)])
    require_enough_pixels([photo(tmp_path / f"{i}.png", 640, 64) for i in range(7)])
    said = project_log.records[-1].getMessage()
    assert said.startswith("crops show less than an eighth of 7 photos (0.png, 640 x 64; 1.png") and "and 2 more" in said


def test_a_photo_that_changes_while_a_run_goes_on_is_named(tmp_path):
    given = [photo(tmp_path / "a.png", 64, 48, 32)]
    (sample,) = plan_samples([PhotoSet(INSTANCE, given, 3, "center", 42)], [(INSTANCE, 0, 0)]).values()
    assert sample.crop.read().shape == (48, 64, 3)
    Image.new("RGB", (64, 48), "blue").save(tmp_path / "a.png")
    with pytest.raises(UserError, match="a.png is not what it was at the start of the run"):
        sample.crop.read()
    (tmp_path / "a.png").unlink()
    for use in (sample.crop.read, lambda: image_size(tmp_path / "a.png"), lambda: crops.digest_of(tmp_path / "a.png")):
        with pytest.raises(UserError, match="a.png cannot be read any more"):
            use()


def test_a_header_is_read_once(tmp_path, monkeypatch):
    photo(tmp_path / "a.png", 64, 48)
    opened, really = [], Image.open
    monkeypatch.setattr(Image, "open", lambda *given, **more: opened.append(given) or really(*given, **more))
    assert [image_size(tmp_path / "a.png") for _ in range(3)] == [(48, 64)] * 3 and len(opened) == 1
    photo(tmp_path / "a.png", 32, 16)
    assert image_size(tmp_path / "a.png") == (16, 32) and len(opened) == 2


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_there_is_not_turns_nothing(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    halves().save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").shape == (20, 40, 3) and image_size(tmp_path / "a.jpg") == (20, 40)


def test_every_orientation_is_pillows(tmp_path):
    from PIL import ImageOps

    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 40, 3)).astype(np.uint8))
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        noise.save(tmp_path / "a.png", exif=exif)
        with Image.open(tmp_path / "a.png") as image:
            expected = np.asarray(ImageOps.exif_transpose(image))
        np.testing.assert_array_equal(read_image(tmp_path / "a.png"), expected)
        assert image_size(tmp_path / "a.png") == expected.shape[:2]


def test_an_exif_that_is_broken_says_nothing_of_the_pixels(tmp_path):
    halves().save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert read_image(tmp_path / "a.jpg").shape == (20, 40, 3)


def test_what_another_name_says_is_read_by_its_content(tmp_path):
    for kind in ("GIF", "TIFF", "WEBP", "PNG"):
        halves().save(tmp_path / "a.jpg", kind)
        assert read_image(tmp_path / "a.jpg").shape == (20, 40, 3)
    for kind in ("GIF", "TIFF"):
        halves().save(tmp_path / "a.jpg", kind, save_all=True, append_images=[halves().rotate(90)])
        with pytest.raises(UserError, match="a.jpg is animated"):
            read_image(tmp_path / "a.jpg")


def test_masks_of_16_bits_are_scaled_like_photos(tmp_path):
    photo(tmp_path / "a.png", 16, 8)
    Image.fromarray(np.full((8, 16), 257 * 100, np.uint16)).save(tmp_path / "mask.png")
    assert (read_mask(tmp_path / "mask.png", tmp_path / "a.png") == 100).all()


def test_odd_things_in_a_folder_are_no_photos_and_names_are_shown_safely(tmp_path, project_log):
    photo(tmp_path / f"{'a' * 250}.png", 64, 64)
    os.mkfifo(tmp_path / "pipe.jpg")
    os.symlink(tmp_path / "loop.jpg", tmp_path / "loop.jpg")
    os.symlink("/dev/zero", tmp_path / "zero.png")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "new\nline\x1b[2J\udcff").write_text("")
    assert [path.name for path in count_images(tmp_path)] == [f"{'a' * 250}.png"]
    said = project_log.records[-1].getMessage()
    assert said.isprintable() and "new\\nline\\x1b[2J\\udcff" in said and "pipe.jpg" in said
