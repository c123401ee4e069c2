"""Progress pictures: their files, their sheet, and what a resumed run keeps of them. The sampler is a stand-in; that it makes the
same pictures as the sampling command is tested in test_commands.py."""

import numpy as np
import pytest
from PIL import Image

from gm.config.types import SampleSettings
from gm.encoding.text import TextEmbedding
from gm.training.validation import LONGEST, Asked, ProgressPictures, Sheet, forget_after

ASKED = [
    Asked("a red dog", "", SampleSettings.square(64, 3), 5),
    Asked("a cat", "blurry", SampleSettings(32, 96, (32, 96, 0, 0, 32, 96), steps=2, guidance_scale=7.5), 8),
]


class Painter:
    """A sampler that paints its pictures in one grey: 100, and the first number of the text less that of the negative."""

    def __init__(self):
        self.asked = []

    def __call__(self, text, negative, settings, seeds, what):
        self.asked.append((float(text.context[0, 0]), float(negative.context[0, 0]), seeds, what))
        grey = 100 + int(text.context[0, 0] - negative.context[0, 0])
        return [np.full((settings.height, settings.width, 3), grey, np.uint8)]

    def texts(self, prompts):
        """A prompt's number is ten times its length."""
        return {p: TextEmbedding(np.full((2, 2), 10 * len(p), np.float32), np.zeros(2, np.float32)) for p in prompts}


@pytest.fixture
def painter():
    return Painter()


@pytest.fixture
def pictures(tmp_path, painter):
    return ProgressPictures(tmp_path, ASKED, painter, painter.texts, {"weight": "base"})


def names(folder) -> list[str]:
    return sorted(path.name for path in (folder / "progress").iterdir())


def test_each_picture_is_a_file_that_says_how_it_was_made(tmp_path, painter, pictures):
    pictures(500)
    assert names(tmp_path) == ["step_000500_00.png", "step_000500_01.png"]
    # one at a time, and an empty negative prompt is zeros
    assert painter.asked == [(90, 0, [5], "pictures after step 500, 1/2"), (50, 60, [8], "pictures after step 500, 2/2")]
    with Image.open(tmp_path / "progress" / "step_000500_01.png") as image:
        assert image.size == (96, 32)
        assert image.info == {
            **{"prompt": "a cat", "negative_prompt": "blurry", "seed": "8", "step": "500", "weight": "base"},
            **{"sampler": "EulerEDMSampler", "steps": "2", "guider": "VanillaCFG", "guidance_scale": "7.5"},
            **{"discretization": "LegacyDDPMDiscretization", "size": "96x32", "sizes": "32,96,0,0,32,96"},
        }


def test_the_sheet_grows_by_a_row_and_is_drawn_from_what_is_on_disk(tmp_path, painter, pictures):
    pictures(0)
    first = np.asarray(Image.open(tmp_path / "progress.png"))
    assert first.shape == (284, 524, 3)
    assert (first[30:270, 10:250] == 190).all()  # the first prompt, enlarged
    assert (first[30:100, 270:510] == 90).all() and (first[120:270, 270:510] == 255).all()  # 100 + 50 - 60, and nothing below
    pictures(20)
    second = np.asarray(Image.open(tmp_path / "progress.png"))
    assert second.shape == (564, 524, 3) and (second[30:270] == first[30:270]).all()
    label = second[284:302]
    assert label.min() < 100 and (label != second[4:22]).any()  # every row has its own
    # another process, and a picture that was lost
    (tmp_path / "progress" / "step_000020_00.png").unlink()
    Sheet(tmp_path / "progress").draw(tmp_path / "progress.png")
    third = np.asarray(Image.open(tmp_path / "progress.png"))
    assert (third[310:550, 10:250] == 255).all() and (third[310:380, 270:510] == 90).all()


def test_a_resumed_run_forgets_what_it_will_make_again(tmp_path, pictures):
    for step in (0, 20, 40, 1_000_000):
        pictures(step)
    (tmp_path / "progress" / "step_500.png").write_bytes(b"not ours")
    forget_after(tmp_path / "progress", 20)
    assert names(tmp_path) == [*(f"step_0000{step}_0{n}.png" for step in ("00", "20") for n in (0, 1)), "step_500.png"]
    pictures(30)
    assert Image.open(tmp_path / "progress.png").text["steps"] == "[0, 20, 30]"
    forget_after(tmp_path / "progress", 0)  # a run from the beginning
    assert names(tmp_path) == ["step_500.png"]
    forget_after(tmp_path / "nowhere", 0)


def test_a_long_run_has_room_on_the_sheet(tmp_path, pictures, project_log):
    for step in range(0, 120):
        for number in range(2):
            path = tmp_path / "progress" / f"step_{step:06d}_{number:02d}.png"
            path.parent.mkdir(exist_ok=True)
            Image.new("RGB", (8, 8)).save(path)
    (tmp_path / "progress" / "step_000003_00.png").write_bytes(b"damaged")
    Sheet(tmp_path / "progress").draw(tmp_path / "progress.png")
    with Image.open(tmp_path / "progress.png") as image:
        steps = [int(word) for word in image.text["steps"].strip("[]").split(",")]
        assert max(image.size) <= LONGEST and len(steps) == 45 and (steps[0], steps[-1]) == (0, 119)
        assert max(np.diff(steps)) <= 3
    assert "step_000003_00.png is not on the sheet" in project_log.text
