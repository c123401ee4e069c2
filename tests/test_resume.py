"""What is asked of a training state: that it is whole and fits, with the difference named; and what makes a resumed run another."""

import json
import re
import shutil
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tiny
from gm.checkpoint.io import write_tensors
from gm.config.load import load_config
from gm.data.buckets import Buckets
from gm.data.concepts import ClassFolder, Subject
from gm.errors import UserError
from gm.files import FolderLock
from gm.models import sdxl
from gm.models.adapters import adapters_of, is_used, lora_facts
from gm.optimizers.table import state_sizes
from gm.parallel.ranks import Ranks
from gm.runtime import Runtime
from gm.training import results
from gm.training.class_images import ClassImage, filling, sample_images
from gm.training.folders import check_folders
from gm.training.identity import differences, identity, read_identity, rounds_otherwise
from gm.training.inputs import check_inputs
from gm.training.photos import of_one_colour
from gm.training.resume import STATE, read_state
from gm.training.run import compare, loop_settings, photo_sets, prepare, run
from gm.training.state_file import STATE_FILE
from small import SMALL

U, OPTIMIZER = "model.params.network_config.params.", "optim.optimizer_config."
CONV, DORA = U + "lora_conv_dim=2", U + "lora_kind=dora"
RESNET = U + "lora_targets=[input_blocks.1.0.*]"


@lru_cache
def expected(overrides: tuple = (), config: Path = tiny.TRAINING):
    """The YAML of the small model, its adapters and the shapes of its matrices."""
    loaded = load_config(str(config), [*SMALL[1::2], *overrides], training=True)
    adapters = adapters_of(loaded.model, loaded.lora)
    return loaded, adapters, sdxl.expected_shapes(loaded.model, adapters)[1]


def state_of(*given) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The tensors and metadata of a state of this YAML."""
    loaded, adapters, shapes = expected(*given)
    about, alphas = lora_facts(adapters)
    arrays = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()} | alphas
    sizes = state_sizes(loaded.optim, [tuple(shape) for name, shape in shapes.items() if is_used(loaded.model, name)])
    arrays |= {STATE + name: np.ones(size, np.float32) for name, size in sizes.items()}
    arrays |= {STATE + "counters": np.array([5, 4, 1, 0]), STATE + "loss_scale": np.ones(1, np.float32)}
    return arrays, about


def write(folder: Path, *given) -> None:
    arrays, about = state_of(*given)
    write_tensors(folder / STATE_FILE, arrays.items(), about, checksum=True)


def read(path: Path, *given):
    return read_state(str(path), *expected(*given))


# of the state, of the run that resumes, words of the sentence
DIFFERENT = [
    ((), (U + "lora_dim=8",), "its lora_dim is 4, not 8: resume with the YAML of the first run"),
    ((), (U + "lora_alpha=8",), "was trained with lora_alpha 4.0, but --config says 8: make them equal"),
    ((RESNET,), (), "its lora_targets in the UNet are others (3 more, e.g. model.diffusion_model.input_blocks.1.0."),
    ((RESNET,), (RESNET, DORA), "its lora_kind is lora, not dora"),
    ((RESNET,), (RESNET, CONV), "its lora_dim in model.diffusion_model.input_blocks.1.0.in_layers.2 is 4, not 2"),
    ((), (U + "model_channels=64",), "it is of another model (model.diffusion_model."),
    ((), (OPTIMIZER + "target=gm.training.optim.Lion",), "is the state of AdamW, but --config trains with Lion"),
    (("optim.ema_decay=0.9",), (), "has a moving average, but --config has no ema_decay"),
]


@pytest.mark.parametrize("was, now, words", DIFFERENT)
def test_a_state_that_does_not_fit(tmp_path, was, now, words):
    write(tmp_path, was)
    assert set(read(tmp_path, was)[0]) == set(state_of(was)[0])
    with pytest.raises(UserError, match=re.escape(words)) as error:
        read(tmp_path, now)
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


def test_text_encoders_of_one_side(tmp_path):
    (tmp_path / "config.yaml").write_text("")
    write(tmp_path)
    with pytest.raises(
        UserError, match="it does not train text encoder 1, which --config does; it does not train text encoder 2"
    ):
        read(tmp_path, (), tiny.TEXT_TRAINING)
    write(tmp_path, (), tiny.TEXT_TRAINING)
    with pytest.raises(
        UserError, match=f"it trains text encoder 2, which --config does not: resume .* run, {tmp_path}/config.yaml"
    ):
        read(tmp_path)
    with pytest.raises(UserError, match=r"has m of shape \(.*\), but this run needs \(.*\): other networks train now"):
        read(tmp_path, ("optim.rates.unet=0",), tiny.TEXT_TRAINING)


def nan(arrays, name):
    arrays[name] = arrays[name].copy()
    arrays[name].reshape(-1)[-1] = np.nan


# what is done to the tensors, words of the sentence
DAMAGED = {
    "moments": (lambda a: nan(a, STATE + "m"), "numbers that are NaN or infinite among"),
    "a matrix": (lambda a: nan(a, sorted(a)[0]), "numbers that are NaN or infinite among"),
    "squares": (lambda a: a.update({STATE + "v": -a[STATE + "v"]}), "v holds negative numbers"),
    "shape": (lambda a: a.update({STATE + "m": a[STATE + "m"][1:]}), "has m of shape"),
    "order": (lambda a: a.update({STATE + "v": a[STATE + "v"].reshape(1, -1)}), "has v of shape (1,"),
    "negative": (
        lambda a: a.update({STATE + "counters": np.array([5, 6, -1, 0])}),
        "counts 5 updates, 6 of them applied and -1",
    ),
    "sum": (lambda a: a.update({STATE + "counters": np.array([5, 2, 1, 0])}), "counts 5 updates, 2 of them applied and 1"),
    "few": (lambda a: a.update({STATE + "counters": np.array([5, 5])}), "has counters of shape (2,), but this run needs (4,)"),
    "floats": (lambda a: a.update({STATE + "counters": np.ones(4, np.float32)}), "counters has the type float32"),
    "whole": (lambda a: a.update({STATE + "m": a[STATE + "m"].astype(np.int64)}), "m has the type int64"),
    "scale 0": (lambda a: a.update({STATE + "loss_scale": np.zeros(1, np.float32)}), "its loss scale is 0"),
    "scale nan": (lambda a: nan(a, STATE + "loss_scale"), "infinite among the 1 of state.loss_scale"),
    "no scale": (lambda a: a.pop(STATE + "loss_scale"), "(1 tensors missing, 0 unknown: loss_scale)"),
    "no state": (lambda a: [a.pop(name) for name in list(a) if name.startswith(STATE)], "is no training state: give the"),
    "alpha": (lambda a: a.update({"x.alpha": np.ones((), np.float32)}), "has x.alpha, but no such module has a LoRA"),
}


@pytest.mark.parametrize("change, words", DAMAGED.values(), ids=DAMAGED)
def test_numbers_that_no_run_has_written(tmp_path, change, words):
    arrays, about = state_of()
    change(arrays)
    write_tensors(tmp_path / STATE_FILE, arrays.items(), about)
    with pytest.raises(UserError, match=re.escape(words)) as error:
        read(tmp_path)
    assert "\n" not in str(error.value)


def test_a_bit_that_has_changed_and_odd_metadata(tmp_path):
    arrays, about = state_of()
    write_tensors(tmp_path / STATE_FILE, arrays.items(), about, checksum=True)
    content = bytearray((tmp_path / STATE_FILE).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / STATE_FILE).write_bytes(content)
    with pytest.raises(UserError, match="is damaged: its checksum differs"):
        read(tmp_path)
    write_tensors(tmp_path / STATE_FILE, arrays.items(), {**about, "lora_alpha": "four"})
    with pytest.raises(UserError, match="says lora_alpha 'four', which is no number"):
        read(tmp_path)
    for text in (None, "", "[1]", "{", "[" * 50_000):
        assert read_identity(text) is None


# -- another run -------------------------------------------------------------------------------------------------------


@pytest.fixture
def inputs(shared, tmp_path):
    """The checked inputs of a command line."""
    shutil.copytree(shared / "data" / "dog", tmp_path / "photos")

    def check(*more):
        words = ("--config", tiny.TRAINING, "--weight", shared / "golden" / "tiny_sdxl.safetensors", "--device_target", "CPU")
        words += ("--instance_data_path", tmp_path / "photos", "--instance_prompt", "a dog", "--class_prompt", "dogs")
        words += ("--class_data_path", tmp_path / "class", "--save_path", tmp_path / "runs")
        return check_inputs([str(word) for word in (*words, *more)], Ranks())

    return check


def own(given, ranks: int = 1):
    return identity(given, photo_sets(given, []), ranks, "O0")


def test_what_makes_a_resumed_run_another(inputs, tmp_path):
    before = json.loads(json.dumps(own(inputs())))
    assert differences(before, own(inputs())) == [] and rounds_otherwise(before, own(inputs())) is None
    longer = own(inputs("--set", "data.total_step=77"))
    assert differences(before, longer) == []
    told = {
        ("--seed", 7): ["--seed was 42 and is 7"],
        ("--set", "optim.base_learning_rate=0.5"): [
            f"optim.base_learning_rate was {before['optim.base_learning_rate']} and is 0.5"
        ],
        ("--train_data_repeat", 3): ["5 of 5 repeats of photos are others"],
        ("--instance_prompt", "a cat"): ["5 of 5 captions are others"],
        ("--set", "data.per_batch_size=2"): [
            "an update had 1 x 1 x 1 samples (ranks x accumulation x batch) and has 1 x 1 x 2"
        ],
        ("--clip_grad", "True"): ["--max_grad_norm was null and is 1.0"],
        ("--set", U + "lora_dropout=0.5"): ["lora.unet.dropout was 0.0 and is 0.5"],
    }
    for more, words in told.items():
        assert differences(before, own(inputs(*more))) == words
    cosine = before | {"optim.schedule": "cosine"}
    assert differences(cosine, cosine | {"data.total_step": 77}) == [
        f"the rate follows data.total_step, which was {before['data.total_step']} and is 77"
    ]
    windows = own(inputs("--gradient_accumulation_steps", 4))
    for more, ranks, ways in (((), 4, "4 x 1 x 1"), (("--set", "data.per_batch_size=2"), 2, "2 x 1 x 2")):
        now = own(inputs(*more), ranks)
        assert differences(windows, now) == [] and ways in rounds_otherwise(windows, now)
    assert differences(windows | {"number of buckets": 3}, own(inputs("--set", "data.per_batch_size=2"), 2))
    assert differences({"later": 3}, before) == []  # of another version: what it does not know is not compared
    photos = sorted((tmp_path / "photos").iterdir())
    photos[0].write_bytes(photos[1].read_bytes())
    assert differences(before, own(inputs())) == ["1 of 5 photos are others"]
    photos[1].unlink()
    assert "there were 5 photos and are 4" in differences(before, own(inputs()))


def test_a_run_that_goes_on(inputs, tmp_path, monkeypatch):
    """True is the newest; a state says itself what it was made with; nothing left is said with the file that is there."""
    with pytest.raises(UserError, match="--resume True finds no training_state.ckpt"):
        inputs("--resume", "True")
    assert not (tmp_path / "runs").exists()
    monkeypatch.setattr(f"{__name__}.SMALL", [])  # the weights are those of the golden model
    arrays, about = state_of(("data.total_step=5",))
    (tmp_path / "runs").mkdir()
    given = {**about, "run": json.dumps({**own(inputs()), "--seed": 1})}
    write_tensors(tmp_path / "runs" / STATE_FILE, arrays.items(), given, checksum=True)
    checked = inputs("--resume", "True")
    assert checked.options.resume == str(tmp_path / "runs" / STATE_FILE)
    assert loop_settings(checked).continues and not loop_settings(inputs()).continues
    setting = prepare(checked, Runtime("CPU", 0, "O0"), Ranks())
    assert setting.weights.step == 5
    lines: list[str] = []
    monkeypatch.setattr("gm.training.run.log.warning", lambda text, *values: lines.append(text % values))
    compare(setting, own(checked))
    assert lines == [f"--resume {tmp_path}/runs/{STATE_FILE} goes on as another run: --seed was 1 and is 42"]
    said = results.nothing_left(setting)
    assert "has 5 updates behind it" in said and "SDXL_base_1.0_5_lora.ckpt is not beside it any more" in said
    (tmp_path / "runs" / "SDXL_base_1.0_5_lora.ckpt").write_text("")
    assert f"its LoRA is {tmp_path}/runs/SDXL_base_1.0_5_lora.ckpt, and --set data.total_step=N" in results.nothing_left(
        setting
    )
    monkeypatch.setattr("gm.training.run.log.info", lambda text, *values: lines.append(text % values))
    assert run(inputs("--resume", "True", "--set", "data.total_step=5"), Runtime("CPU", 0, "O0"), Ranks()) is None
    assert "nothing is left to train" in lines[-1]
    timed = tmp_path / "runs" / "earlier"
    timed.mkdir()
    shutil.copy(tmp_path / "runs" / STATE_FILE, timed)
    in_place = inputs("--resume", "True", "--save_path_with_time", "True")
    assert in_place.folder == timed and loop_settings(in_place).continues
    assert inputs("--resume", timed, "--save_path_with_time", "True").folder != timed
    assert inputs("--resume", "False").options.resume is None


def test_what_files_say_can_be_written():
    said = results.writable({"name": "d\udcc3g", "prompt": "ein Hündchen"})
    assert said == {"name": "d\\udcc3g", "prompt": "ein Hündchen"} and all(text.encode() for text in said.values())


# -- folders -----------------------------------------------------------------------------------------------------------


def test_nothing_is_written_among_photos(tmp_path):
    photos, of_class, numbered = tmp_path / "photos", tmp_path / "class", tmp_path / "img" / "10_sks dog"
    for folder in (photos, of_class, numbered, photos / "a" / "b", tmp_path / "runs"):
        folder.mkdir(parents=True)
    (tmp_path / "link").symlink_to(photos)

    def check(save, subjects=(photos, numbered), classes=(of_class,)) -> None:
        check_folders(
            str(save),
            [Subject(folder, (), "a dog", 1) for folder in subjects],
            [ClassFolder(folder, "a dog") for folder in classes],
            "--instance_data_path",
            "--class_data_path",
        )

    for save in (tmp_path, tmp_path / "runs", tmp_path / "photos2", tmp_path / "no" / "where"):
        check(save)
    refused = {
        (photos,): "is --instance_data_path .*photos: loss.png would become a photo",
        (photos / ".." / "photos",): "loss.png would become a photo",
        (tmp_path / "link",): "loss.png would become a photo",
        (tmp_path / "link" / "a" / "new",): "is inside --instance_data_path",
        (of_class,): "is --class_data_path",
        (of_class / "runs",): "is inside --class_data_path",
        (tmp_path / "img",): "whose name says its repeats",
        (tmp_path, (photos,), (tmp_path / "link",)): "are the same folder: the class images need one of their own",
        (tmp_path, (photos,), (photos / "a",)): "--class_data_path .* is inside --instance_data_path",
    }
    for given, words in refused.items():
        with pytest.raises(UserError, match=words):
            check(*given)


# -- class images ------------------------------------------------------------------------------------------------------


def test_black_class_images_are_not_written_and_others_not_replaced(tmp_path, monkeypatch):
    lines: list[str] = []
    monkeypatch.setattr("gm.training.class_images.log.warning", lambda text, *values: lines.append(text % values))
    image = ClassImage(tmp_path, "a dog", 0, (8, 8))
    grey, black = np.full((8, 8, 3), 9, np.uint8), np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(UserError, match="class_00000.png came out wholly black and is not written"):
        sample_images([[image]], 1, lambda images, what: [black], {})
    assert not list(tmp_path.iterdir())

    def meanwhile(images, what):
        (tmp_path / "class_00000.png").write_text("another's")
        return [grey]

    sample_images([[image]], 1, meanwhile, {})
    assert (tmp_path / "class_00000.png").read_text() == "another's" and "stays as it is" in lines[0]


def test_class_images_of_one_colour_are_named(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    dots = np.zeros((64, 64, 3), np.uint8)
    dots[3, 3] = 1
    pictures = {"black.png": dots * 0, "grey.jpg": dots * 0 + 90, "b.bmp": dots * 0, "dot.png": dots, "noise.png": noise}
    for name, picture in pictures.items():
        Image.fromarray(picture).save(tmp_path / name)
    paths = [tmp_path / name for name in pictures]
    assert [path.name for path in of_one_colour(paths)] == ["black.png", "grey.jpg", "b.bmp"]


def test_two_runs_do_not_fill_one_folder(inputs, tmp_path):
    given = inputs("--num_class_images", 2)
    (tmp_path / "class").mkdir()
    lock = FolderLock("another run", tmp_path / "class")
    with pytest.raises(UserError, match="--class_data_path .*class is in use by process"):
        with filling(given, Ranks()):
            raise AssertionError("filled by two")
    lock.release()
    with filling(given, Ranks()) as missing:
        assert [(one.number, one.size, one.folder) for one in missing] == [
            (n, (128, 128), tmp_path / "class") for n in range(2)
        ]
        assert isinstance(given.buckets, Buckets) and (tmp_path / "class" / ".lock").exists()
    assert not list((tmp_path / "class").iterdir())
