"""The page of demo/sampling.py: its sentences for bad input, LoRA that come and go, and a real browser on it."""

import io
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import browser
import tiny
from gm import runtime
from gm.checkpoint.io import open_tensors
from gm.checkpoint.lora_files import save_lora
from gm.checkpoint.lora_strength import Strengths
from gm.checkpoint.weights import open_base
from gm.config.load import load_config
from gm.errors import UserError
from lora_samples import ATTENTION, make_lora

PAGE = tiny.ROOT / "demo" / "sampling.py"
pytestmark = pytest.mark.xdist_group("page")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_weights) -> Path:
    """Where the page is started: with a LoRA of all attention among the runs."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "runs").mkdir()
    make_lora(folder / "runs" / "big_lora.ckpt", open_base(tiny_weights), lambda module: 4 * module.endswith(ATTENTION))
    return folder


def flags(weight, *more) -> list[str]:
    tiny_model = ("--config", tiny.INFERENCE, "--weight", weight, "--device_target", "CPU")
    return [str(word) for word in (*tiny_model, "--height", 128, "--width", 128, "--sample_step", 3, *more)]


# -- sentences ----------------------------------------------------------------------------------------------


@pytest.fixture
def page(folder, tiny_weights, monkeypatch):
    """Opens the page with flags, changes one setting, and presses the button: (its errors, the page)."""
    # after MindSpore, which brings its own protobuf code (gm/sampling/shared_model.py)
    from streamlit.testing.v1 import AppTest

    monkeypatch.syspath_prepend(PAGE.parent)
    monkeypatch.chdir(folder)

    def run(*argv, label=None, value=None):
        monkeypatch.setattr(sys, "argv", [str(PAGE), *map(str, argv)])
        page = AppTest.from_file(str(PAGE), default_timeout=300).run()
        if label:
            kinds = (page.text_area, page.toggle, page.number_input)
            (widget,) = [widget for kind in kinds for widget in kind if widget.label == label]
            widget.set_value(value)
        if page.button:
            page.button[0].click().run()
        assert not page.exception and not page.warning
        return [error.value.replace("\\", "") for error in page.error], page

    yield run
    page_module = sys.modules.get("page")
    if page_module:
        page_module.shared_model().close()


@pytest.mark.parametrize(
    "argv, words",
    [
        (("--wieght", "x"), "unknown flag --wieght, did you mean --weight?"),
        (("--weight", "nowhere.safetensors"), "the weights nowhere.safetensors are not there: checkpoints/README.md says"),
        (("--prompt", "prompts.txt"), "give the words"),
        (("--lora_scale", "2"), "give one from 0 to 1.5"),
        (("--lora_scale", "0.5,1"), "one strength for all LoRA"),
        (("--weight", PAGE), "neither"),
    ],
)
def test_bad_flags_are_one_sentence(page, argv, words):
    errors, _ = page("--config", tiny.INFERENCE, *argv, "--device_target", "CPU")
    assert len(errors) == 1 and words in errors[0], errors


@pytest.mark.parametrize(
    "more, label, value, words",
    [
        ((), "Prompt", "  ", "the prompt is empty"),
        ((), "Width", 100, "width 100 is not a multiple of 32: take 96 or 128"),
        ((), "Prompt", "x" * 10_001, "the prompt is too long"),
        ((), "Seed", -5, "Seed -5 is too small: at least -1"),
        ((), "Pictures", 100, "Pictures 100 is too large: at most 16"),
        ((), "Pictures", 0, "Pictures 0 is too small: at least 1"),
        ((), "Steps", 0, "Steps 0 is too small: at least 1"),
        ((), "Height", -128, "Height -128 is too small: at least 1"),
        (("--batch_size", 2), None, None, "--batch_size 2: the page makes pictures from words, one by one"),
        (("--like", "a.png"), None, None, "--like a.png: the page makes pictures from words, one by one"),
        (("--add_pipeline", "True"), None, None, "--add_pipeline True: the page makes pictures from words, one by one"),
        (("--seed", 2**53), None, None, "--seed 9007199254740992 is more than a browser can count"),
        (("--save_path", "runs/big_lora.ckpt"), None, None, "cannot be written to (File exists)"),
    ],
)
def test_bad_settings_are_one_sentence(page, tiny_weights, more, label, value, words):
    errors, _ = page(*flags(tiny_weights, *more), label=label, value=value)
    assert len(errors) == 1 and words in errors[0], errors


def test_what_cannot_be_computed_is_one_sentence(page, folder, tiny_weights):
    """A picture that is too large for this host, and a LoRA that is far too strong: nothing is written."""
    now = flags(tiny_weights, "--ms_mode", 1, "--save_path", "too_much")
    errors, _ = page(*now, label="Width", value=2**20)
    assert len(errors) == 1 and errors[0] == "Width 1048576 is too large: at most 4096", errors
    strong = folder / "strong.ckpt"
    make_lora(strong, open_base(tiny_weights), lambda module: 4 * module.endswith(("to_q", "to_k")))
    with open_tensors(strong) as file:
        matrices = {name: file.read(name) * np.float32(1e18) for name in file.names}
    save_lora(strong, matrices, {})
    errors, shown = page(*flags(f"{tiny_weights},{strong}", "--ms_mode", 1, "--save_path", "too_much"))
    assert len(errors) == 1 and "step 1 of 3 of the sampler gave numbers that are not finite" in errors[0], errors
    assert not shown.image and not list((folder / "too_much").iterdir())


def test_what_should_not_happen_is_one_sentence_without_paths(page, tiny_weights, monkeypatch, capfd):
    page("--weight", "nowhere.safetensors", "--config", tiny.INFERENCE)  # imports it

    def fail(*_):
        raise RuntimeError("/some/path/of/this/host.py")

    monkeypatch.setattr(sys.modules["page"], "make", fail)
    errors, _ = page(*flags(tiny_weights))
    assert len(errors) == 1 and "the terminal that the page was started in says more" in errors[0] and "/" not in errors[0]
    assert "/some/path/of/this/host.py" in capfd.readouterr().err


def test_files_that_cannot_be_shown_are_no_lora_to_choose(page, tmp_path):
    page("--weight", "nowhere.safetensors", "--config", tiny.INFERENCE)
    (tmp_path / "a_lora.ckpt").write_bytes(b"")
    (tmp_path / "gone_lora.ckpt").symlink_to(tmp_path / "nowhere")
    os.mkdir(tmp_path / "folder_lora.ckpt")
    open(os.fsencode(tmp_path) + b"/\xff_lora.ckpt", "wb").close()
    assert sys.modules["page"].lora_files(tmp_path) == [str(tmp_path / "a_lora.ckpt")]


def test_a_lora_that_cannot_be_put_on_is_one_sentence(page, folder, tiny_weights, tmp_path, monkeypatch):
    errors, shown = page(*flags(f"{tiny_weights},nowhere.ckpt"))
    assert len(errors) == 1 and "the weight file nowhere.ckpt does not exist" in errors[0]
    assert shown.selectbox[1].options == ["nowhere.ckpt", "runs/big_lora.ckpt"] and shown.toggle[0].value
    errors, _ = page(*flags(f"{tiny_weights},{tiny_weights}"))
    assert len(errors) == 1 and "is not a LoRA file" in errors[0]
    other = tmp_path / "other.ckpt"
    make_lora(other, Wider(open_base(tiny_weights).shapes), lambda module: 4 * module.endswith("attn1.to_q"))
    errors, shown = page(*flags(f"{tiny_weights},{other}"))
    assert len(errors) == 1 and "was made for another model" in errors[0] and not shown.image
    monkeypatch.chdir(tmp_path)  # where there are no runs
    errors, _ = page(*flags(tiny_weights), label="LoRA", value=True)
    assert len(errors) == 1 and "no file is chosen" in errors[0]


class Wider:
    """The shapes of a model with twice the channels."""

    def __init__(self, shapes):
        self.shapes = {name: tuple(2 * size for size in shape) for name, shape in shapes.items()}


def test_the_models_to_choose_from(page, tmp_path, monkeypatch):
    """Each is described by flags that fit together; where the weights are missing, the page says so."""
    from page import options_of

    from gm.options.sample import sample_settings
    from sampling import VERSION2SPECS

    assert list(VERSION2SPECS)[0].startswith("Small")
    (tmp_path / "configs").symlink_to(tiny.ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    for spec in VERSION2SPECS.values():
        options = options_of(spec, [])
        model = load_config(options.config, training=False).model
        assert sample_settings(options, model.unet.downsampling).steps == spec["sample_step"]
    errors, shown = page("--device_target", "CPU")
    weights = "checkpoints/small_sdxl.safetensors"
    assert errors == [f"the weights {weights} are not there: checkpoints/README.md says where to get them"]
    assert shown.text_area and len(shown.number_input) == 6  # the settings are there all the same
    shown.selectbox[0].select("SDXL-base-1.0").run()
    assert ["sd_xl_base_1.0_ms.ckpt" in error.value.replace("\\", "") for error in shown.error] == [True]


# -- LoRA of a loaded pipeline---------------------------------------------------------------------------------------------


def test_lora_that_come_and_go(folder, tiny_weights):
    """After any change the loaded weights are those that a fresh start would have."""
    from gm.encoding.source import Source
    from gm.sampling.pipeline import Pipeline

    machine = runtime.start(runtime.CPU, 0)
    lora, second = str(folder / "runs" / "big_lora.ckpt"), str(folder / "second.ckpt")
    make_lora(Path(second), open_base(tiny_weights), lambda module: 2 * ("attn2.to_k" in module or ".ff." in module), seed=3)

    def loaded(weight, scales=()) -> Pipeline:
        pipeline = Pipeline(Source(tiny.model(), str(weight), machine, Strengths(scales)))
        pipeline.load(keep_text_encoders=True)
        return pipeline

    def weights(pipeline) -> dict[str, np.ndarray]:
        cells = (pipeline.embedder.call.cell, pipeline.pictures.sampler.denoiser.cell)
        return {parameter.name: parameter.asnumpy() for cell in cells for parameter in cell.get_parameters()}

    def same(pipeline, expected) -> bool:
        found = weights(pipeline)
        return set(found) == set(expected) and all(np.array_equal(found[name], expected[name]) for name in found)

    plain, big = weights(loaded(tiny_weights)), weights(loaded(f"{tiny_weights},{lora}", (0.5,)))
    both = weights(loaded(f"{tiny_weights},{lora},{second}", (0.5, 0.5)))
    changed = {name for name in plain if not np.array_equal(plain[name], big[name])}
    assert len(changed) == 136 + 2 * 4 * 4  # the UNet's attention and both text encoders'

    pipeline = loaded(tiny_weights)
    for paths, expected in (([lora], big), ([second], None), ([lora], big), ([lora, second], both), ([], plain)):
        pipeline.texts = {"a dog": None}
        pipeline.change_lora(paths, 0.5)
        assert not pipeline.texts  # embedded with the weights before
        assert expected is None or same(pipeline, expected)

    # what does not fit changes nothing
    pipeline.change_lora([lora], 0.5)
    with pytest.raises(UserError):
        pipeline.change_lora([str(tiny_weights)], 0.5)
    assert same(pipeline, big)

    # interrupted on the way, it is made good by the next change
    read, calls = pipeline.read, []

    def interrupted(name):
        calls.append(name)
        if len(calls) == 20:
            raise KeyboardInterrupt
        return read(name)

    pipeline.read = interrupted
    with pytest.raises(KeyboardInterrupt):
        pipeline.change_lora([second], 0.5)
    pipeline.read = read
    assert not same(pipeline, big)
    pipeline.change_lora([lora], 0.5)
    assert same(pipeline, big)

    # the same again reads nothing; a file that was written anew is read again
    pipeline.read = None
    pipeline.change_lora([lora], 0.5)
    pipeline.read = read
    os.utime(lora, ns=(1, 1))
    pipeline.texts = {"a dog": None}
    pipeline.change_lora([lora], 0.5)
    assert not pipeline.texts and same(pipeline, big)


# -- a real browser -----------------------------------------------------------------------------------------


def listening(port: int) -> list[str]:
    """The addresses that are listened on at this port, as the kernel writes them."""
    found = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            address, state = line.split()[1], line.split()[3]
            if state == "0A" and int(address.split(":")[1], 16) == port:
                found.append(address.split(":")[0])
    return found


def downloaded(page) -> Image.Image:
    """The first picture, as its button gives it."""
    with page.expect_download() as download:
        page.get_by_role("button", name=re.compile("PNG, seed")).first.click()
    return Image.open(io.BytesIO(Path(download.value.path()).read_bytes()))


def test_in_a_browser(folder, tiny_weights, tmp_path):
    """Sampling, live progress, the LoRA on and off, stopping, and two people at once, on one loaded model."""
    if not browser.chromium():
        if os.environ.get("CI"):
            pytest.fail("Chromium must be installed in CI: apt-get install chromium")
        pytest.skip("needs Chromium: apt-get install chromium")
    log = tmp_path / "log"
    with browser.served(folder, log, *flags(tiny_weights)) as port, browser.opened(port, tmp_path / "profile") as page:
        assert listening(port) == ["0100007F"]  # 127.0.0.1 alone
        page.get_by_role("button", name="Sample", exact=True).click()
        page.get_by_text("compiling the sampling graph").wait_for()
        browser.finished(page)
        page.get_by_text("Contact sheet").wait_for()
        plain = downloaded(page)
        assert plain.size == (128, 128) and plain.text["weight"] == str(tiny_weights) and plain.text["seed"] == "42"
        assert plain.text == Image.open(folder / "outputs" / "demo" / "00000.png").text
        assert page.get_by_text("8 tokens · no LoRA").count() == 1
        page.screenshot(path=tmp_path / "off.png")

        page.get_by_text("LoRA", exact=True).click()
        assert page.get_by_text("no LoRA").count() == 1  # the last pictures stay
        browser.sample(page)
        page.get_by_text("LoRA big_lora.ckpt x 1").wait_for()
        tuned = downloaded(page)
        assert tuned.text["weight"] == f"{tiny_weights},runs/big_lora.ckpt" and tuned.text["lora_scale"] == "1"
        assert np.abs(np.asarray(tuned).astype(int) - np.asarray(plain)).mean() > 2
        page.screenshot(path=tmp_path / "on.png")

        # somebody else comes while a long sampling runs here, which is then stopped
        page.get_by_label("Steps").fill("900")
        page.get_by_role("button", name="Sample", exact=True).click()
        page.get_by_text(re.compile(r"picture 1 of 1, step \d+ of 900")).wait_for()
        other = page.context.new_page()
        other.goto(page.url)
        other.get_by_role("button", name="Sample", exact=True).click()
        other.get_by_text("somebody else's pictures are being made").wait_for()
        page.get_by_role("button", name="Stop", exact=True).click()
        browser.finished(page)
        assert page.get_by_text("LoRA big_lora.ckpt x 1").count() == 1
        browser.finished(other)
        again = downloaded(other)
        assert np.array_equal(np.asarray(again), np.asarray(plain)) and again.text == plain.text  # without the LoRA again

    assert sorted(path.name for path in (folder / "outputs" / "demo").iterdir()) == [
        *(f"{number:05d}.png" for number in range(3)),
        *(f"sheet_{number:05d}.png" for number in range(3)),
    ]
    said = log.read_text()
    graphs = ("text encoders", "sampling graph", "decoder")
    for once in ("starting MindSpore", *(f"compiling the {graph}" for graph in graphs)):
        assert len(re.findall(f"{once}: ", said)) == 1, said
    assert not re.search("Traceback|[Ww]arning|WARNING|[Dd]eprecat", said), said
    assert not {"rank_0", "kernel_meta"} & {path.name for path in folder.iterdir()}
