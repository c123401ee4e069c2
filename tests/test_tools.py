"""The tools that make something to try the commands with."""

import numpy as np
import pytest

import tiny
from gm.checkpoint.weights import open_base
from gm.data.images import list_images, read_image
from gm.errors import UserError
from gm.models.sdxl import expected_shapes
from tools import draw_photos, make_random_checkpoint


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_random_checkpoint_is_a_model_that_loads(tmp_path, dtype):
    path = tmp_path / "a.safetensors"
    arguments = ["--config", str(tiny.INFERENCE), "--output", str(path), "--dtype", dtype]
    make_random_checkpoint.main(arguments)
    file = open_base(path)
    file.check(expected_shapes(tiny.model())[0])
    weight = file.read("model.diffusion_model.input_blocks.4.1.proj_in.weight").astype(np.float32)
    assert 0.3 < weight.std() * 64**0.5 < 0.8
    before = path.read_bytes()
    with pytest.raises(UserError, match="exists already"):
        make_random_checkpoint.main(arguments)
    assert path.read_bytes() == before


def test_drawn_photos(tmp_path):
    draw_photos.main(["--output", str(tmp_path / "a")])
    photos = [read_image(path) for path in list_images(tmp_path / "a", "--output")]
    assert len(photos) == 5 and all(min(photo.shape[:2]) == 320 for photo in photos)
    assert len({photo.tobytes() for photo in photos}) == 5
    draw_photos.main(["--output", str(tmp_path / "b")])
    assert all(np.array_equal(a, read_image(b)) for a, b in zip(photos, list_images(tmp_path / "b", "--output")))
    with pytest.raises(UserError, match="holds images already"):
        draw_photos.main(["--output", str(tmp_path / "a")])
