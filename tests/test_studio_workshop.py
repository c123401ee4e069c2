"""The workshop of the page: pictures that are made in the background, their progress, stopping, and what goes wrong."""

import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tiny
from gm.checkpoint.io import open_tensors
from gm.checkpoint.lora_files import save_lora
from gm.checkpoint.weights import open_base
from gm.config.load import load_config
from gm.errors import UserError
from gm.options.sample import parse_sample
from lora_samples import ATTENTION, make_lora

pytestmark = pytest.mark.xdist_group("page")
sys.path.insert(0, str(tiny.ROOT / "demo"))


def wait(task, seconds=300):
    until = time.monotonic() + seconds
    while not task.over:
        assert time.monotonic() < until, task.words
        time.sleep(0.05)
    return task


@pytest.fixture(scope="module")
def shop():
    from studio.sampling.workshop import Workshop

    shop = Workshop()
    yield shop
    shop.model.close()


@pytest.fixture(scope="module")
def config():
    return load_config(str(tiny.INFERENCE), training=False)


@pytest.fixture(scope="module")
def lora(tmp_path_factory, tiny_weights) -> Path:
    path = tmp_path_factory.mktemp("lora") / "SDXL_base_1.0_400_lora.ckpt"
    make_lora(path, open_base(tiny_weights), lambda module: 4 * module.endswith(ATTENTION))
    return path


@pytest.fixture
def options(tiny_weights):
    words = ("--config", tiny.INFERENCE, "--weight", tiny_weights, "--device_target", "CPU", "--ms_mode", 1)
    return parse_sample([*map(str, words), "--height", "64", "--width", "64", "--sample_step", "2"])


def test_pictures_of_one_task(shop, config, options, lora, tmp_path):
    """Base and LoRA of one seed, in the order that was asked for, with their texts; the same as the command's."""
    with_lora = replace(options, weight=f"{options.weight},{lora}", lora_scale=(0.5,))
    wanted = [with_lora, options, replace(with_lora, seed=7), replace(options, prompt="a cat", seed=7)]
    saved = []

    def finish(pictures):
        return tmp_path / f"{len(pictures)}.png"

    task = wait(shop.make("a", "x", config, wanted, tmp_path, lambda *one: saved.append(one), finish))
    assert task.sentence is None and not task.stopped and task.share == 1.0 and task.sheet == tmp_path / "4.png"
    assert [place for place, _ in saved] == [0, 2, 1, 3]  # those of one LoRA together
    texts = [Image.open(path).text for path in task.paths]
    assert [one["seed"] for one in texts] == ["42", "42", "7", "7"] and texts[3]["prompt"] == "a cat"
    assert texts[0]["weight"] == with_lora.weight and texts[0]["lora_scale"] == "0.5" and texts[1]["weight"] == options.weight
    first, second, *_ = (np.asarray(Image.open(path)).astype(int) for path in task.paths)
    assert np.abs(first - second).mean() > 1
    again = wait(shop.make("a", "x", config, [options], tmp_path))
    assert np.array_equal(np.asarray(Image.open(again.paths[0])), second)  # the LoRA is off again
    assert shop.task("a", "x") is again and shop.task("b", "x") is None


def test_a_task_is_stopped_and_others_wait(shop, config, options, tmp_path):
    long = shop.make("a", "x", config, [options, replace(options, sample_step=900)], tmp_path)
    with pytest.raises(UserError, match="already"):
        shop.make("a", "x", config, [options], tmp_path)
    other = shop.make("b", "x", config, [options], tmp_path)
    until = time.monotonic() + 300
    while long.paths[0] is None or long.seconds_left is None or "made first" not in other.words:
        assert time.monotonic() < until and not long.over, (long.words, long.sentence)
        time.sleep(0.05)
    assert 0 < long.share < 1 and long.seconds_left > 0
    long.stop()
    assert wait(long, 30).stopped and long.paths[0] and long.paths[1] is None and long.sentence is None
    assert wait(other).paths[0] and other.sentence is None


def test_what_goes_wrong_is_a_sentence(shop, config, options, lora, tmp_path, capfd):
    with pytest.raises(UserError, match="not a multiple of 32"):
        shop.make("c", "x", config, [replace(options, width=100)], tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        shop.make("c", "x", config, [replace(options, weight=f"{options.weight},nowhere.ckpt")], tmp_path)
    with pytest.raises(UserError, match="name of a file"):
        shop.make("c", "x", config, [replace(options, prompt="/etc/passwd.txt")], tmp_path)
    with pytest.raises(UserError, match="one base model"):
        shop.make("c", "x", config, [options, replace(options, clip_skip=1)], tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        shop.make("c", "x", config, [options], tmp_path / "file")

    def fail(*_):
        raise RuntimeError("/some/path/of/this/host.py")

    task = wait(shop.make("c", "x", config, [options], tmp_path / "more", fail))
    assert "the terminal" in task.sentence and "/some" not in task.sentence
    assert "/some/path/of/this/host.py" in capfd.readouterr().err
    assert wait(shop.make("c", "x", config, [options], tmp_path)).sentence is None


def test_a_lora_that_is_not_finite_gives_a_sentence_and_no_picture(shop, config, options, lora, tmp_path):
    with open_tensors(lora) as file:
        matrices = {name: file.read(name) * np.float32(np.nan) for name in file.names}
    save_lora(tmp_path / "nan.ckpt", matrices, {})
    task = wait(shop.make("d", "x", config, [replace(options, weight=f"{options.weight},{tmp_path / 'nan.ckpt'}")], tmp_path))
    assert (
        "give a file from before that happened" in task.sentence and task.paths == [None] and not list(tmp_path.glob("*.png"))
    )
    task = wait(shop.make("d", "x", config, [options], tmp_path))
    assert task.sentence is None and np.asarray(Image.open(task.paths[0])).std() > 1


def test_from_a_picture_and_in_two_passes(shop, config, options, tmp_path):
    """img2img, inpaint and hires fix on the same loaded model; where the mask is black, the picture stays."""
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    mask = np.zeros((64, 64), np.uint8)
    mask[:, 32:] = 255
    Image.fromarray(picture).save(tmp_path / "given.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    begun = replace(options, task="img2img", img=str(tmp_path / "given.png"), height=None, width=None, sample_step=4)
    inpaint = replace(begun, task="inpaint", mask=str(tmp_path / "mask.png"), mask_blur=0.0)
    hires = replace(options, hires_scale=2.0)
    task = wait(shop.make("e", "x", config, [begun, inpaint, hires], tmp_path / "out"))
    assert task.sentence is None and task.share == 1.0
    one, two, three = (np.asarray(Image.open(path)) for path in task.paths)
    assert one.shape == two.shape == (64, 64, 3) and three.shape == (128, 128, 3)
    assert np.array_equal(two[:, :32], picture[:, :32]) and not np.array_equal(two[:, 32:], picture[:, 32:])


def test_previews(shop, config, options, tmp_path):
    """While the steps are done there is a small picture, whose shape and colours are those of the one that comes."""
    preview, out = tmp_path / "preview.jpg", tmp_path / "out"
    wanted = replace(options, sample_step=150, width=96)
    task = shop.make("f", "x", config, [wanted], out, preview=preview)
    until = time.monotonic() + 300
    while not preview.exists():
        assert time.monotonic() < until and not task.over, task.sentence
        time.sleep(0.02)
    assert Image.open(preview).size == (252, 168)
    task.stop()
    wait(task)
    assert not preview.exists()


def test_map_of_previews():
    """The nearest linear map: exact where the image is linear in the latent."""
    from gm.sampling.previews import fitted_map, mapped

    rng = np.random.default_rng(0)
    latent, linear = rng.standard_normal((4, 6, 5)).astype(np.float32), rng.standard_normal((5, 3)) * 0.1
    small = (np.concatenate([latent.reshape(4, -1).T, np.ones((30, 1))], 1) @ linear).T.reshape(3, 6, 5)
    image = np.repeat(np.repeat(small, 8, 1), 8, 2)
    assert np.allclose(fitted_map(latent, image), linear)
    expected = np.clip(np.round((small.transpose(1, 2, 0) + 1) * 127.5), 0, 255)
    assert np.abs(mapped(latent, linear) - expected).max() <= 1
    assert fitted_map(latent, image * np.nan) is None


def test_pace():
    """Over two pictures of which one has a second pass; what is compiled in between is no step."""
    from studio.sampling.pace import Pace

    now = [0.0]
    pace = Pace([4, 6], lambda: now[0])

    def tell(seconds, words, share):
        now[0] += seconds
        pace.see(words, share)

    pace.see("loading", 0.5)
    assert pace.share is None and pace.seconds_left() is None
    pace.begin("picture 1 of 2", 0)
    tell(1, "picture 1 of 2, step 1 of 4", 0.0)
    tell(1, "compiling", None)
    tell(50, "picture 1 of 2, step 2 of 4", 0.25)
    assert pace.share == 0.1 and pace.seconds_left() is None
    tell(1, "picture 1 of 2, step 2 of 4, 1 s", 0.25)
    tell(1, "picture 1 of 2, step 3 of 4", 0.5)
    assert pace.share == 0.2 and pace.seconds_left() == 8 * 2
    tell(2, "picture 1 of 2, step 4 of 4", 0.75)
    now[0] += 5
    pace.end()
    assert pace.share == 0.4 and pace.seconds_left() == 6 * 2 + 5
    pace.begin("picture 2 of 2", 1)
    for step in range(4):
        tell(2, f"picture 2 of 2, step {step + 1} of 4", step / 4)
    tell(9, "picture 2 of 2, enlarged, step 1 of 2", 0.0)
    assert pace.share == 0.8
    pace.end()
    assert pace.share == 1.0
