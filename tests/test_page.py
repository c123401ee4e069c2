"""The part Pictures of the page: its sentences for bad input, what stays, LoRA, grids, the gallery, and a real browser on it."""

import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tiny
from gm.checkpoint.io import open_tensors
from gm.checkpoint.lora_files import save_lora
from gm.checkpoint.weights import open_base
from gm.errors import UserError
from lora_samples import ATTENTION, make_lora
from opened_page import Opened

PAGE = tiny.ROOT / "demo" / "sampling.py"
STEP_400 = "runs/puppy/SDXL_base_1.0_400_lora.ckpt"
pytestmark = pytest.mark.xdist_group("page")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_weights) -> Path:
    """Where the page is started: with two LoRA among the runs."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "runs" / "puppy").mkdir(parents=True)
    base = open_base(tiny_weights)
    make_lora(folder / "runs" / "big_lora.ckpt", base, lambda module: 4 * module.endswith(ATTENTION))
    about = {"instance_prompt": "a photo of a sks dog"}
    make_lora(folder / STEP_400, base, lambda module: 2 * module.endswith(".to_q"), about)
    os.utime(folder / STEP_400, (1, 1))
    return folder


def flags(weight, *more) -> list[str]:
    """Of the tiny model, which computes without compiling."""
    tiny_model = ("--config", tiny.INFERENCE, "--weight", weight, "--device_target", "CPU", "--ms_mode", 1)
    return [str(word) for word in (*tiny_model, "--height", 64, "--width", 64, "--sample_step", 2, *more)]


# -- a page without a browser -----------------------------------------------------------------------------------------


@pytest.fixture
def page(folder, monkeypatch):
    """Opens the page with flags, as a new visitor or one who comes again."""
    # after MindSpore, which brings its own protobuf code (gm/sampling/shared_model.py)
    from streamlit import config
    from streamlit.testing.v1 import AppTest

    monkeypatch.syspath_prepend(PAGE.parent)
    monkeypatch.chdir(folder)
    import studio.sampling.page  # noqa: F401 - so that it can be patched

    monkeypatch.setattr("studio.sampling.page.running_training", lambda runs: None)
    before = config.get_option("server.address")
    config.set_option("server.address", "127.0.0.1")

    def run(*argv, visit=None) -> Opened:
        monkeypatch.setattr(sys, "argv", [str(PAGE), *map(str, argv)])
        page = AppTest.from_file(str(PAGE), default_timeout=300)
        if visit:
            page.query_params["visit"] = visit
        return Opened(page).run()

    yield run
    config.set_option("server.address", before)


@pytest.fixture(scope="module", autouse=True)
def _model_is_closed():
    yield
    module = sys.modules.get("studio.sampling.workshop")
    if module:
        module.workshop().model.close()


def visit_of(page) -> str:
    return (
        page.page.query_params["visit"][0]
        if isinstance(page.page.query_params["visit"], list)
        else page.page.query_params["visit"]
    )


# -- sentences --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "argv, words",
    [
        (("--wieght", "x"), "unknown flag --wieght, did you mean --weight?"),
        (("--weight", "nowhere.safetensors"), "looked for nowhere.safetensors: checkpoints/README.md says"),
        (("--prompt", "prompts.txt"), "give the words"),
        (("--lora_scale", "3"), "strengths from -1 to 2"),
        (("--batch_size", 2), "--batch_size 2: the page has nothing of this kind"),
        (("--like", "a.png"), "--like a.png: the page has nothing of this kind"),
        (("--add_pipeline", "True"), "--add_pipeline True: the page has nothing of this kind"),
        (("--seed", 2**53), "--seed 9007199254740992 is more than a browser can count"),
    ],
)
def test_bad_flags_are_one_sentence(page, argv, words):
    opened = page("--config", tiny.INFERENCE, *argv, "--device_target", "CPU")
    assert len(opened.errors) == 1 and words in opened.errors[0], opened.errors


@pytest.mark.parametrize(
    "label, value, words",
    [
        ("Prompt", "  ", "the prompt is empty"),
        ("Prompt", "x" * 22_000, "the prompt has 22000 characters: give at most 8000"),
        ("Prompt", "/etc/passwd.txt", "the prompt ends like the name of a file"),
        ("Negative prompt", "a.yaml", "the prompt ends like the name of a file"),
        ("Width", 100, "width 100 is not a multiple of 32: take 96 or 128"),
        ("Width", 2**20, "Width 1048576 is too large: at most 4096"),
        ("Height", -128, "Height -128 is too small: at least 1"),
        ("Seed", -5, "Seed -5 is too small: at least -1"),
        ("Seed", None, "Seed is empty: give a number"),
        ("Number of pictures", 100, "Number of pictures 100 is too large: at most 16"),
        ("Number of pictures", 0, "Number of pictures 0 is too small: at least 1"),
        ("Sampling steps", 0, "Sampling steps 0 is too small: at least 1"),
        ("Enlarge by", 1.0, "Enlarge by 1.0 is too small: more than 1"),
        ("Fresh noise", 0.5, "--eta 0.5 has no effect on the sampler"),
        ("Other VAE", "/etc/passwd", "'/etc/passwd' is outside of the folders of this page"),
        ("Textual inversions", "word=/etc/passwd", "'/etc/passwd' is outside of the folders of this page"),
        ("Noise from a file", "../secret.npy", "is outside of the folders of this page"),
        ("What to make", "img2img", "there is no picture to begin with"),
        ("Across", "seed", "the grid has no values for Seed: give some, as 1, 2, 3"),
        ("Across", "strength", "the grid has no values for Strength of the LoRA"),
    ],
)
def test_bad_settings_are_one_sentence_that_names_the_field(page, tiny_weights, label, value, words):
    opened = page(*flags(tiny_weights)).set(label, value).click("Sample")
    assert len(opened.errors) == 1 and words in opened.errors[0], opened.errors
    assert not opened.has("Stop") and opened.images == 0


def test_a_folder_that_cannot_be_written_to_is_one_sentence(page, tiny_weights):
    opened = page(*flags(tiny_weights, "--save_path", "runs/big_lora.ckpt")).click("Sample")
    assert len(opened.errors) == 1 and "cannot be written to (File exists)" in opened.errors[0], opened.errors


def test_what_cannot_be_computed_is_one_sentence_and_the_bar_goes(page, folder, tiny_weights):
    """A LoRA that is far too strong: nothing is written, nothing stands there as if it were at work."""
    strong = folder / "runs" / "strong_lora.ckpt"
    make_lora(strong, open_base(tiny_weights), lambda module: 4 * module.endswith(("to_q", "to_k")))
    with open_tensors(strong) as file:
        matrices = {name: file.read(name) * np.float32(1e18) for name in file.names}
    save_lora(strong, matrices, {})
    opened = page(*flags(f"{tiny_weights},{strong}", "--save_path", "too_much")).click("Sample").finished()
    strong.unlink()
    assert len(opened.errors) == 1 and "of the sampler gave numbers that are not finite" in opened.errors[0], opened.errors
    assert opened.images == 0 and not list((folder / "too_much").iterdir()) and not opened.page.get("progress")


def test_what_should_not_happen_is_one_sentence_without_paths(page, tiny_weights, monkeypatch, capfd):
    opened = page(*flags(tiny_weights))

    def fail(*_, **__):
        raise RuntimeError("/some/path/of/this/host.py")

    monkeypatch.setattr("studio.sampling.page.begin", fail)
    opened.click("Sample")
    (error,) = opened.errors
    assert "the terminal that the page was started in says more" in error and "/" not in error
    assert "/some/path/of/this/host.py" in capfd.readouterr().err


def test_the_models_to_choose_from(page, tmp_path, monkeypatch):
    """Each is described by flags that fit together. Where the weights are missing, the page says where it looked, and what was
    set stays, also when another model is chosen."""
    from gm.config.load import load_config
    from gm.options.sample import sample_settings

    (tmp_path / "configs").symlink_to(tiny.ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    opened = page("--device_target", "CPU")
    from sampling import MODELS
    from studio.choice import start_of

    assert MODELS[0].name.startswith("Small")
    for model in MODELS:
        options = start_of(model, [])
        config = load_config(options.config, training=False).model
        assert sample_settings(options, config.unet.downsampling).steps == model.flags["sample_step"]
    (error,) = opened.errors
    assert "looked for checkpoints/small_sdxl.safetensors: checkpoints/README.md says where to get them" in error
    opened.set("Prompt", "a cat").set("Sampling steps", 7).set("Model", "SDXL-base-1.0")
    (error,) = opened.errors
    assert all(place in error for place in MODELS[1].weights)
    assert opened.widget("Prompt").value == "a cat" and opened.widget("Sampling steps").value == 7
    assert opened.widget("Width").value == 1024  # which nobody had set
    opened.click("Sample")
    assert len(opened.errors) == 2 and set(opened.errors) == {error} and not opened.has("Stop")


def test_a_model_without_weights_does_not_end_what_is_made(page, folder, tiny_weights, monkeypatch):
    from studio.sampling import page as part

    class Making:
        over, stopped, sentence, sheet, share, seconds_left, words = False, False, None, None, 0.5, 3.0, "picture 1 of 1"
        preview, wanted, paths, labels, columns, stop = None, [], [None], ["seed 1"], 1, lambda self: None

    task = Making()
    task.wanted = [type("Options", (), {"prompt": "a dog"})]
    (folder / "configs").symlink_to(tiny.ROOT / "configs")
    monkeypatch.setattr(part.workshop(), "task", lambda visit, key: task)
    opened = page("--device_target", "CPU").set("Model", "SDXL-base-1.0")
    (folder / "configs").unlink()
    assert opened.errors and opened.has("Stop")
    (bar,) = opened.page.get("progress")
    assert bar.proto.value == 50 and "about 3 s left" in bar.proto.text


# -- pictures ---------------------------------------------------------------------------------------------------------


def test_pictures_and_what_stays(page, tiny_weights):
    """Two pictures, then one: the two are in the gallery, not under the new heading. All stays over a reload; another visitor
    has none of it."""
    opened = page(*flags(tiny_weights)).set("Number of pictures", 2).set("Prompt", "a *dog*").click("Sample").finished()
    assert not opened.errors and opened.images == 2 and opened.page.markdown[0].value == r"**a \*dog\***"
    assert opened.says("2 of 2 pictures") and opened.says("seed 42 · 64 × 64 · 2 steps · Euler · guidance 5 · no LoRA")
    names = [one.proto.label for one in opened.page.get("download_button")]
    assert names == ["PNG, seed 42", "PNG, seed 43", "Contact sheet"]
    opened.set("Number of pictures", 1).set("Prompt", "a cat").click("Sample").finished()
    assert [one.value for one in opened.page.markdown] == ["**a cat**"] and [one.value for one in opened.page.subheader] == [
        "Your pictures"
    ]
    assert opened.images == 3 and opened.says("1 of 1 pictures")
    assert opened.says("a *dog* · seed 43")

    again = page(*flags(tiny_weights), visit=visit_of(opened))
    assert again.widget("Prompt").value == "a cat" and again.images == 3
    assert again.widget("Earlier prompts").options == ["a cat", "a *dog*"]
    assert again.set("Earlier prompts", "a *dog*").widget("Prompt").value == "a *dog*"
    other = page(*flags(tiny_weights))
    assert other.images == 0 and other.widget("Prompt").value != "a cat"


def test_use_a_picture_again(page, folder, tiny_weights):
    opened = page(*flags(tiny_weights)).set("Seed", -1).set("Guidance", 3.0).click("Sample").finished()
    (seed,) = re.findall(r"seed (\d+) · 64", " ".join(opened.captions))
    opened.set("Prompt", "another").set("Guidance", 7.0).click("Use it ...").click("Again with this seed")
    assert opened.widget("Seed").value == int(seed) and opened.widget("Prompt").value == "another"
    opened.click("Again with these settings")
    assert opened.widget("Guidance").value == 3.0 and opened.widget("Prompt").value == "a photo of a dog on a beach"
    opened.click("Begin with it")
    assert [one.value for one in opened.page.success] == [r"it is below, under **What to make\: From a picture**"]
    assert opened.widget("What to make").value == "img2img" and opened.widget("Change of the picture").value is None
    opened.click("Sample").finished()
    assert not opened.errors and opened.says("from a picture")
    assert opened.images == 3  # the one that was begun with, the new one, and the gallery's
    [one for one in opened.page.button if one.label == "Use it ..."][-1].click()
    assert opened.run().click("Take it off the list").images == 2 and (folder / "outputs" / "demo").is_dir()


def test_what_is_seldom_set_is_there_when_asked_for_and_stays(page, tiny_weights):
    opened = page(*flags(tiny_weights))
    labels = [one.label for one in opened.page.number_input]
    assert "CLIP skip" not in labels and "Width" in labels
    opened.set("CLIP skip", 1).set("All settings", False)
    again = page(*flags(tiny_weights), visit=visit_of(opened))
    assert again.widget("All settings").value and again.widget("CLIP skip").value == 1


def test_tokens_are_counted_before(page, tiny_weights):
    opened = page(*flags(tiny_weights))
    assert opened.says("8 tokens")
    opened.set("Prompt", "dog " * 80).set("Negative prompt", "two cats")
    assert opened.says("75 tokens, **75 is the most: cut off is** dog dog dog dog dog · negative: 2 tokens")
    assert not opened.set("Prompts are read", "a1111").says("cut off")


def test_shapes_are_those_of_the_model(page, tiny_weights):
    opened = page(*flags(tiny_weights))
    shapes = opened.widget("Shape")
    assert shapes.value == "64 × 64" and "96 × 32" in shapes.options
    opened.set("Shape", "96 × 32")
    assert (opened.widget("Width").value, opened.widget("Height").value) == (96, 32)


def test_a_hint_while_something_trains(page, tiny_weights, monkeypatch):
    monkeypatch.setattr("studio.sampling.page.running_training", lambda runs: "my *puppy*")
    opened = page(*flags(tiny_weights))
    assert [one.value for one in opened.page.info] == [
        r"my \*puppy\* is being trained on this machine: pictures take longer meanwhile"
    ]


# -- LoRA ---------------------------------------------------------------------------------------------------------------


def test_lora_are_added_switched_off_and_asked_for_by_their_words(page, tiny_weights):
    opened = page(*flags(tiny_weights))
    assert opened.page.button[1].disabled  # with and without LoRA
    assert opened.widget("Add a LoRA").options == ["big_lora.ckpt · runs", "step 400 · puppy"]
    opened.set("Add a LoRA", STEP_400)
    assert opened.widget("step 400 · puppy").value and opened.widget("Strength of step 400 · puppy").value == 1.0
    assert opened.says("It was trained with the prompt **a photo of a sks dog**") and opened.says(STEP_400)
    opened.set("Prompt", "in the snow").click("Put this into the prompt")
    assert opened.widget("Prompt").value == "a photo of a sks dog, in the snow" and not opened.has("Put this into the prompt")
    opened.set("step 400 · puppy", False)
    assert opened.says("switched off") and opened.widget("Strength of step 400 · puppy").disabled
    opened.click("Remove")
    assert not opened.page.slider and not opened.says("It was trained")


@pytest.mark.parametrize(
    "path, words",
    [
        ("/etc/passwd", "is outside of the folders of this page"),
        ("runs/nowhere.ckpt", "there is no LoRA file runs/nowhere.ckpt"),
    ],
)
def test_typed_paths_stay_inside(page, tiny_weights, path, words):
    opened = page(*flags(tiny_weights))
    opened.page.session_state["sampling:lora:add"] = path
    from studio.sampling import loras

    class Here:
        roots = (Path("runs"), Path("outputs"))

    with pytest.raises(UserError, match=re.escape(words)):
        loras.add(Here(), None, path)


def test_a_lora_that_cannot_be_put_on_is_one_sentence(page, folder, tiny_weights, tmp_path):
    opened = page(*flags(f"{tiny_weights},nowhere.ckpt")).click("Sample")
    assert len(opened.errors) == 1 and "the weight file nowhere.ckpt does not exist" in opened.errors[0]
    opened = page(*flags(f"{tiny_weights},{tiny_weights}")).click("Sample")
    assert len(opened.errors) == 1 and "is not a LoRA file" in opened.errors[0]
    other = tmp_path / "other.ckpt"
    make_lora(other, Wider(open_base(tiny_weights).shapes), lambda module: 4 * module.endswith("attn1.to_q"))
    opened = page(*flags(f"{tiny_weights},{other}")).click("Sample").finished()
    assert len(opened.errors) == 1 and "was made for another model" in opened.errors[0] and opened.images == 0


class Wider:
    """The shapes of a model with twice the channels."""

    def __init__(self, shapes):
        self.shapes = {name: tuple(2 * size for size in shape) for name, shape in shapes.items()}


def test_with_and_without_lora(page, tiny_weights):
    opened = page(*flags(f"{tiny_weights},runs/big_lora.ckpt", "--lora_scale", 0.5)).click("With and without LoRA").finished()
    assert not opened.errors and opened.images == 2
    assert opened.says("seed 42 · base model · seed 42") and opened.says("big_lora.ckpt · runs × 0.5")


def test_a_grid(page, folder, tiny_weights):
    before = set((folder / "outputs" / "demo").glob("*.png"))
    opened = page(*flags(f"{tiny_weights},runs/big_lora.ckpt")).set("Across", "strength").set("Down", "seed")
    opened.set("Values, Strength of the LoRA", "0, 3").set("Values, Seed", "1,2").click("Sample")
    assert opened.errors == ["Strength of the LoRA of the grid: 3 is not from -1 to 2"]
    opened.set("Values, Strength of the LoRA", "0, 1").click("Sample").finished()
    assert not opened.errors and opened.images == 4 and opened.says("Seed 2 · Strength of the LoRA 0.0")
    made = sorted(set((folder / "outputs" / "demo").glob("*.png")) - before)
    assert len(made) == 5 and Image.open(made[-1]).text["columns"] == "Strength of the LoRA 0.0, Strength of the LoRA 1.0"
    assert [Image.open(path).text["lora_scale"] for path in made[:4]].count("0") == 2


def test_files_that_cannot_be_shown_are_no_lora_to_choose(page, tmp_path):
    from studio.sampling.loras import lora_files

    (tmp_path / "a_lora.ckpt").write_bytes(b"")
    (tmp_path / "a_lora.safetensors").write_bytes(b"")
    (tmp_path / "gone_lora.ckpt").symlink_to(tmp_path / "nowhere")
    (tmp_path / "visits").mkdir()
    (tmp_path / "visits" / "of_others_lora.ckpt").write_bytes(b"")
    os.mkdir(tmp_path / "folder_lora.ckpt")
    open(os.fsencode(tmp_path) + b"/\xff_lora.ckpt", "wb").close()
    assert lora_files((str(tmp_path),)) == [str(tmp_path / "a_lora.ckpt")]
