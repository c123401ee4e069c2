"""Photos of every kind: read as a person sees them, or refused by name."""

import numpy as np
import pytest
from PIL import Image

from bad_files import BAD_IMAGES, LEFT, RIGHT, halves
from gm.data.images import count_images, list_images, read_image
from gm.data.transforms import cut, place_crop
from gm.errors import UserError


def close(pixel, colour, tolerance: int = 12) -> bool:
    return bool((np.abs(np.asarray(pixel, int) - colour) <= tolerance).all())


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".png", ".webp", ".bmp", ".PNG"])
def test_every_kind_is_read(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    halves().save(path, quality=95)
    pixels = read_image(path)
    assert pixels.shape == (20, 40, 3) and pixels.dtype == np.uint8
    assert close(pixels[10, 5], LEFT, 20) and close(pixels[10, 35], RIGHT, 20)


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 270 degrees to see it upright
    halves().save(tmp_path / "a.jpg", exif=exif, quality=95)
    pixels = read_image(tmp_path / "a.jpg")
    assert pixels.shape == (40, 20, 3)
    assert close(pixels[5, 10], LEFT, 20) and close(pixels[35, 10], RIGHT, 20)


def test_transparency_becomes_white(tmp_path):
    image = halves().convert("RGBA")
    image.putalpha(0)
    image.save(tmp_path / "a.png")
    assert (read_image(tmp_path / "a.png") == 255).all()
    palette = halves().quantize(4)
    palette.save(tmp_path / "b.png", transparency=palette.getpixel((0, 0)))
    pixels = read_image(tmp_path / "b.png")
    assert close(pixels[10, 5], (255, 255, 255)) and close(pixels[10, 35], RIGHT)


@pytest.mark.parametrize("mode", ["P", "L", "1", "LA"])
def test_other_modes(tmp_path, mode):
    halves().convert(mode).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").shape == (20, 40, 3)


def test_cmyk(tmp_path):
    halves().convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    pixels = read_image(tmp_path / "a.jpg")
    assert close(pixels[10, 5], LEFT, 25) and close(pixels[10, 35], RIGHT, 25)


def test_sixteen_bits_are_scaled_not_cut(tmp_path):
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)
    Image.fromarray(np.tile(ramp, (16, 1))).save(tmp_path / "a.png")
    pixels = read_image(tmp_path / "a.png")
    assert (np.abs(pixels[0, :, 0].astype(int) - np.arange(256)) <= 1).all()


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_a_bad_image_is_refused_by_name(tmp_path, name):
    make, words = BAD_IMAGES[name]
    make(tmp_path / name)
    with pytest.raises(UserError) as error:
        read_image(tmp_path / name)
    assert name in str(error.value) and words in str(error.value)


def test_only_images_count_and_the_rest_is_named_once(tmp_path, project_log):
    for name in ("b.png", "a.jpg"):
        halves().save(tmp_path / name)
    (tmp_path / ".hidden.png").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "more.png").mkdir()
    for _ in range(2):
        assert [path.name for path in count_images(tmp_path)] == ["a.jpg", "b.png"]
    assert project_log.text.count("notes.txt") == 1
    assert ".hidden.png" in project_log.text and "more.png" in project_log.text


@pytest.mark.parametrize("kind, words", [("none", "does not exist"), ("file", "is a file"), ("empty", "holds no image")])
def test_a_folder_without_images(tmp_path, kind, words):
    folder = tmp_path / "photos"
    if kind == "file":
        folder.write_text("")
    elif kind == "empty":
        folder.mkdir()
    with pytest.raises(UserError, match=words):
        list_images(folder, "--instance_data_path")


@pytest.mark.parametrize("shape", [(300, 200), (200, 300), (64, 64), (40, 90), (129, 128)])
def test_crop(shape):
    """The square lies inside, its corner and the original size are reported, and the corner picks the pixels."""
    height, width = shape
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = np.linspace(0, 255, width).astype(np.uint8)
    image[..., 1] = np.linspace(0, 255, height).astype(np.uint8)[:, None]
    first, last = (place_crop(shape, (64, 64), corner) for corner in ((0.0, 0.0), (1.0, 1.0)))
    squares = [cut(image, crop, 3) for crop in (first, last)]
    for crop, pixels in zip((first, last), squares):
        assert pixels.shape == (3, 64, 64) and pixels.min() >= -1 and pixels.max() <= 1
        assert crop.sizes.tolist()[:2] == [height, width] and crop.sizes.tolist()[4:] == [64, 64]
    assert first.top_left == (0, 0)
    free = max(round(height * 64 / min(shape)), 64) - 64, max(round(width * 64 / min(shape)), 64) - 64
    assert last.top_left == free
    assert squares[0][0, :, 0].max() < -0.95 and squares[1][1, -1].min() > 0.95


@pytest.mark.parametrize("size", [(64, 96), (96, 64), (32, 128)])
@pytest.mark.parametrize("shape", [(300, 200), (200, 300), (64, 64)])
def test_a_crop_of_another_shape(shape, size):
    """The photo is resized to just cover it, and nothing outside of the photo is cut."""
    image = np.random.default_rng(0).integers(0, 255, (*shape, 3), np.uint8)
    for corner in ((0.0, 0.0), (0.3, 0.8), (1.0, 1.0)):
        crop = place_crop(shape, size, corner)
        assert cut(image, crop, 3).shape == (3, *size) and crop.sizes.tolist()[4:] == list(size)
        assert all(a >= b for a, b in zip(crop.resized, size)) and any(a == b for a, b in zip(crop.resized, size))


def test_the_first_picture_of_a_phone_is_taken(tmp_path):
    """MPO: a JPEG with further pictures behind the first, as many phones and cameras write it."""
    first, second = (Image.new("RGB", (32, 24), colour) for colour in ("red", "blue"))
    first.save(tmp_path / "phone.jpg", format="MPO", save_all=True, append_images=[second], quality=95)
    with Image.open(tmp_path / "phone.jpg") as image:
        assert image.format == "MPO" and image.n_frames == 2
    pixels = read_image(tmp_path / "phone.jpg")
    assert pixels.shape == (24, 32, 3) and np.abs(pixels.astype(int) - (255, 0, 0)).max() < 5


def test_a_folder_of_heic_says_how_to_go_on(tmp_path):
    (tmp_path / "IMG_1.HEIC").write_bytes(b"")
    with pytest.raises(UserError, match="export the HEIC files as JPEG"):
        list_images(tmp_path, "--instance_data_path")
