"""The tools that make something to try the commands with."""

import numpy as np
import pytest
from PIL import Image

import tiny
from gm.checkpoint.weights import open_base
from gm.errors import UserError
from gm.models.sdxl import expected_shapes
from gm.pictures import save_png
from tools import contact_sheet, make_random_checkpoint


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


def test_folders_become_rows_of_a_sheet_with_the_prompts_of_their_pictures(tmp_path):
    red, blue = np.full((8, 8, 3), (200, 0, 0), np.uint8), np.full((8, 16, 3), (0, 0, 200), np.uint8)
    save_png(tmp_path / "photos" / "0.png", red, {})
    save_png(tmp_path / "made" / "00000.png", blue, {"prompt": "a dog"})
    save_png(tmp_path / "made" / "00001.png", red, {"prompt": "a cat"})
    save_png(tmp_path / "made" / "sheet_00000.png", red, {"prompts": "a dog"})
    sheet = tmp_path / "sheet.png"
    rows = ["--row", f"photos={tmp_path / 'photos'}", "--row", f"with LoRA={tmp_path / 'made'}"]
    contact_sheet.main([*rows, "--output", str(sheet), "--size", "16"])
    with Image.open(sheet) as image:
        assert image.info["rows"] == "photos\nwith LoRA: a dog; a cat"
        pixels = np.asarray(image)
    assert pixels.shape == (2 * 40 + 4, 2 * 20 + 4, 3)  # two pictures a row: contact sheets are left out
    assert (pixels[24 + 8, 4 + 8] == (200, 0, 0)).all() and (pixels[64 + 4, 4 + 8] == (0, 0, 200)).all()
    save_png(tmp_path / "sheets" / "sheet_00000.png", red, {"prompts": "a dog"})
    for wrong, words in (
        ([*rows, "--output", "a.jpg"], "must end with .png"),
        (["--row", "x", "--output", "a.png"], "NAME=FOLDER"),
        (["--row", f"x={tmp_path / 'sheets'}", "--output", "a.png"], "holds contact sheets only"),
    ):
        with pytest.raises(UserError, match=words):
            contact_sheet.main(wrong)
