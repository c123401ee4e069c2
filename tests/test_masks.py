"""Masks of photos: where they are found, which are refused, and what of them a crop shows."""

import numpy as np
import pytest
from PIL import Image

from gm.data.images import count_images
from gm.data.masks import mask_file, mask_of, read_mask
from gm.data.transforms import place_crop
from gm.errors import UserError


@pytest.fixture
def photo(tmp_path):
    Image.new("RGB", (48, 32), "red").save(tmp_path / "a.jpg")
    return tmp_path / "a.jpg"


def test_a_mask_is_beside_its_photo_or_in_a_folder_and_is_no_photo(photo, tmp_path):
    assert mask_file(photo, None) is None
    Image.new("L", (48, 32), 255).save(tmp_path / "a-masklabel.png")
    assert mask_file(photo, None) == tmp_path / "a-masklabel.png"
    assert count_images(tmp_path) == [photo]
    folder = tmp_path / "masks"
    folder.mkdir()
    assert mask_file(photo, folder) is None
    Image.new("L", (48, 32), 255).save(folder / "a.png")
    assert mask_file(photo, folder) == folder / "a.png"


def test_masks_that_cannot_be_used(photo, tmp_path):
    mask = tmp_path / "a-masklabel.png"
    for image, words in (
        (Image.new("L", (32, 48), 255), "has 32 x 48 pixels, but its photo 48 x 32"),
        (Image.new("L", (48, 32), 0), "is black everywhere"),
    ):
        image.save(mask)
        with pytest.raises(UserError, match=words):
            read_mask(mask, photo)
    mask.write_bytes(b"no picture")
    with pytest.raises(UserError, match="the mask .* is not a picture that can be read"):
        read_mask(mask, photo)


def test_a_crop_of_a_mask_is_the_mean_over_the_pixels_of_the_latent():
    rng = np.random.default_rng(0)
    mask = rng.integers(0, 256, (32, 48)).astype(np.uint8)
    crop = place_crop((32, 48), (32, 32), (0.0, 1.0))  # no scaling: the right square
    expected = np.array([[mask[8 * i : 8 * i + 8, 16 + 8 * j : 24 + 8 * j].mean() / 255 for j in range(4)] for i in range(4)])
    found = mask_of(mask, crop)
    assert found.shape == (1, 4, 4) and found.dtype == np.float32
    np.testing.assert_allclose(found[0], expected, atol=1e-6)


def test_a_mask_is_scaled_with_its_photo():
    mask = np.zeros((64, 96), np.uint8)
    mask[:, 48:] = 255
    found = mask_of(mask, place_crop((64, 96), (32, 32), (0.0, 0.5)))  # the middle: white from its centre on
    np.testing.assert_allclose(found[0, :, :1], 0, atol=1e-6)
    np.testing.assert_allclose(found[0, :, 3:], 1, atol=1e-6)
    assert 0.4 < found.mean() < 0.6
