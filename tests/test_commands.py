"""The two commands as a person runs them: end to end on the tiny golden model, and every kind of bad input."""

import io
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import tiny
from gm.checkpoint.io import open_tensors, write_tensors
from gm.checkpoint.lora_files import open_lora, save_lora

sys.path.insert(0, str(tiny.ROOT / "demo"))

import sampling_without_streamlit as sampling
import train_dreambooth as training
from test_images import BAD_IMAGES, halves
from test_weights import bad_file, change


def train_arguments(shared, folder, *more, config=tiny.TRAINING, steps=6):
    return (
        *("--config", config, "--weight", shared / "golden" / "tiny_sdxl.safetensors", "--device_target", "CPU"),
        *("--instance_data_path", shared / "data" / "dog", "--instance_prompt", "A photo of a sks dog"),
        *("--class_data_path", folder / "class", "--class_prompt", "A photo of a dog", "--num_class_images", 3),
        *("--sample_step", 4, "--save_path", folder / "runs", "--set", f"data.total_step={steps}", *more),
    )


def lora_of(path) -> dict[str, np.ndarray]:
    file = open_lora(path)
    return {name: file.read(name) for name in file.names()}


def largest_difference(first, second) -> float:
    """Over all matrices, relative to the largest weight."""
    assert set(first) == set(second)
    largest = max(np.abs(value).max() for value in first.values())
    return max(np.abs(first[name] - second[name]).max() for name in first) / largest


def pictures_in(folder) -> list[np.ndarray]:
    return [np.asarray(Image.open(path)) for path in sorted(folder.glob("[0-9]*.png"))]


def sample_apart(folder, weight, *more):
    """The same as a process of its own, whose output must hold nothing but the project's own words."""
    command = (sys.executable, tiny.ROOT / "demo" / "sampling_without_streamlit.py", "--config", tiny.INFERENCE)
    usual = ("--device_target", "CPU", "--height", 128, "--width", 128, "--sample_step", 4, "--save_path", folder)
    environment = {key: value for key, value in os.environ.items() if key != "GLOG_v"}
    words = [str(word) for word in (*command, "--weight", weight, *usual, *more)]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, cwd=folder.parent, timeout=500)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr and not done.stdout
    assert not {"rank_0", "kernel_meta"} & {path.name for path in folder.parent.iterdir()}
    return pictures_in(folder)


def sample(run, folder, weight, *more):
    status, errors = run(
        sampling,
        *("--config", tiny.INFERENCE, "--weight", weight, "--device_target", "CPU", "--height", 128, "--width", 128),
        *("--sample_step", 4, "--save_path", folder, *more),
    )
    assert status == 0, errors
    return pictures_in(folder)


@pytest.mark.xdist_group("end_to_end")
def test_class_images_training_and_sampling(shared, tmp_path, run, monkeypatch):
    """One command from five photos and an empty class folder to a LoRA; then pictures with and without it."""
    monkeypatch.chdir(tmp_path)
    base = shared / "golden" / "tiny_sdxl.safetensors"
    (tmp_path / "class").mkdir()
    (tmp_path / "class" / "notes.txt").write_text("no image")
    halves().save(tmp_path / "class" / "class_00001.png")
    taken = (tmp_path / "class" / "class_00001.png").read_bytes()
    status, errors = run(training, *train_arguments(shared, tmp_path, "--save_ckpt_interval", 7, "--max_num_ckpt", 2,
                                                    "--infer_during_train", "True", "--infer_interval", 20,
                                                    "--infer_prompt", "a sks dog on a beach",
                                                    "--sample_batch_size", 1, "--save_format", "kohya", steps=20))  # fmt: skip
    assert status == 0, errors
    assert "not counted as images" in errors and "notes.txt" in errors and "2 class images are missing" in errors
    assert sorted(p.name for p in (tmp_path / "class").glob("*.png")) == [f"class_0000{i}.png" for i in range(3)]
    assert (tmp_path / "class" / "class_00001.png").read_bytes() == taken
    assert "compiling the training graph" in errors and "Traceback" not in errors

    runs = tmp_path / "runs"
    found = sorted(path.name for path in runs.iterdir())
    steps = [f"SDXL_base_1.0_{n}_lora.ckpt" for n in (14, 20)]
    for_others = [step.replace(".ckpt", ".safetensors") for step in steps]
    assert found == sorted(
        [*steps, *for_others, "config.yaml", "loss.png", "metrics.jsonl", "progress", "timings.json", "training_state.ckpt"]
    )
    assert np.asarray(Image.open(runs / "progress" / "step_20.png")).std() > 10
    timings = json.loads((runs / "timings.json").read_text())
    stages = timings["seconds"]
    assert timings["steps"] == 20 and {"starting", "prompts", "class images", "further steps", "saving"} < set(stages)
    assert list(stages).index("loading the UNet") < list(stages).index("compilation") < list(stages).index("first step")
    assert set(timings["beside"]) == {"photos"} and min(stages.values()) >= 0
    records = [json.loads(line) for line in (runs / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == list(range(1, 21))
    for record in records:
        assert record["loss"] == pytest.approx(record["instance_loss"] + record["class_loss"])
        assert {"lr", "grad_norm", "seconds"} <= set(record)
    assert Image.open(runs / "loss.png").size[0] > 400
    assert "total_step: 20" in (runs / "config.yaml").read_text()
    assert not {"rank_0", "kernel_meta"} & {path.name for path in tmp_path.iterdir()}

    matrices = lora_of(runs / steps[1])
    assert len(matrices) == 272 and all(np.abs(m).max() > 0 for n, m in matrices.items() if "lora_B" in n)
    exported = open_lora(runs / for_others[1])
    assert exported.layout == "kohya" and exported.metadata["ss_steps"] == "20"
    assert all(np.array_equal(exported.read(name), matrix) for name, matrix in matrices.items())
    zero = {name: np.zeros_like(m) if "lora_B" in name else m for name, m in matrices.items()}
    save_lora(tmp_path / "zero.ckpt", zero, {})
    prompt = ("--prompt", "a sks dog swimming in a pool", "--num_cols", 2)
    plain = sample_apart(tmp_path / "plain", base, *prompt)
    assert len(plain) == 2 and plain[0].shape == (128, 128, 3) and not np.array_equal(*plain)
    start = sample(run, tmp_path / "start", f"{base},{tmp_path / 'zero.ckpt'}", *prompt)
    assert all(np.array_equal(a, b) for a, b in zip(plain, start))
    tuned = sample(run, tmp_path / "tuned", f"{base},{runs / steps[1]}", *prompt)
    assert all(np.abs(a.astype(int) - b).max() > 0 for a, b in zip(plain, tuned))
    # apart from the weights as in training, or added to them: the same pictures up to rounding
    tuned_by_yaml = ("--config", tiny.TRAINING, *prompt)
    both = f"{base},{runs / steps[1]},{runs / for_others[1]}"  # the same LoRA twice, of two layouts
    apart = sample(run, tmp_path / "apart", both, "--lora_scale", "0.25,0.75", *tuned_by_yaml)
    merge = ("--set", "model.params.network_config.params.lora_merge_weights=True")
    merged = sample(run, tmp_path / "merged", f"{base},{runs / for_others[1]}", *tuned_by_yaml, *merge)
    assert all(np.array_equal(a, b) for a, b in zip(tuned, merged))
    assert all(np.abs(a.astype(int) - b).max() <= 2 for a, b in zip(tuned, apart))
    assert Image.open(tmp_path / "apart" / "00001.png").text["lora_scale"] == "0.25,0.75"
    about = Image.open(tmp_path / "tuned" / "00001.png").text
    assert about["prompt"] == "a sks dog swimming in a pool" and about["seed"] == "43" and about["steps"] == "4"
    assert len(list((tmp_path / "tuned").glob("sheet_*.png"))) == 1


@pytest.fixture(scope="module")
def class_folder(tmp_path_factory, shared):
    """Three class images that need no sampling."""
    folder = tmp_path_factory.mktemp("given") / "class"
    folder.mkdir()
    for number, path in enumerate(sorted((shared / "data" / "dog6").iterdir())[:3]):
        shutil.copy(path, folder / f"class_{number:05d}{path.suffix}")
    return folder


@pytest.mark.xdist_group("same_lora")
def test_modes_batches_and_loss_scales_give_the_same_lora(shared, tmp_path, run, class_folder):
    def train(name, *more):
        arguments = train_arguments(shared, tmp_path, "--class_data_path", class_folder, *more)
        status, errors = run(training, *arguments, "--save_path", tmp_path / name)
        assert status == 0, errors
        return lora_of(tmp_path / name / "SDXL_base_1.0_6_lora.ckpt")

    reference = train("batch2", "--set", "data.per_batch_size=2")
    accumulated = train("accumulated", "--gradient_accumulation_steps", 2, "--save_ckpt_interval", 3, "--loss_scale", 512,
                        "--set", "model.params.network_config.params.use_recompute=True")  # fmt: skip
    # Adam divides a gradient by its own size, so that rounding shows in matrices whose gradient is small (golden: 1e-3)
    assert largest_difference(reference, accumulated) < 3e-4
    pynative = train("pynative", "--ms_mode", 1, "--cache_text_products", "False", "--set", "data.per_batch_size=2")
    assert largest_difference(reference, pynative) < 3e-4
    # an interrupted run, resumed, is the unbroken one
    (tmp_path / "stopped").mkdir()
    stopped = train_arguments(shared, tmp_path, "--class_data_path", class_folder, "--gradient_accumulation_steps", 2, steps=3)
    assert run(training, *stopped, "--save_path", tmp_path / "stopped")[0] == 0
    resumed = train("stopped", "--gradient_accumulation_steps", 2, "--resume", tmp_path / "stopped")
    assert largest_difference(accumulated, resumed) < 1e-5
    other_alpha = ("--resume", tmp_path / "stopped", "--set", "model.params.network_config.params.lora_alpha=8")
    status, errors = run(training, *stopped, *other_alpha)
    assert status == 2 and "was trained with lora_alpha 4.0, but --config says 8" in errors
    records = [json.loads(line)["step"] for line in (tmp_path / "stopped" / "metrics.jsonl").read_text().splitlines()]
    assert records == [1, 2, 3, 4, 5, 6]


@pytest.mark.xdist_group("text_encoders")
def test_text_encoder_lora_whole_checkpoints_and_progress_pictures(shared, tmp_path, run, class_folder):
    arguments = train_arguments(
        *(shared, tmp_path, "--class_data_path", class_folder, "--clip_grad", "True", "--loss_scale_type", "dynamic"),
        *("--infer_during_train", "True", "--infer_interval", 2, "--sample_batch_size", 1, "--save_path_with_time", "True"),
        *[word for part in ("network_config", "conditioner_config.params.emb_models.0", "conditioner_config.params.emb_models.1")
          for word in ("--set", f"model.params.{part}.params.only_save_lora=False")],
        *("--set", "model.params.network_config.params.lora_dropout=0.1", "--save_format", "peft"),
        config=tiny.TEXT_TRAINING,
        steps=4,
    )  # fmt: skip
    status, errors = run(training, *arguments)
    assert status == 0, errors
    (folder,) = (tmp_path / "runs").iterdir()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", folder.name)
    assert sorted(p.name for p in (folder / "progress").iterdir()) == ["step_2.png", "step_4.png"]
    whole = folder / "SDXL_base_1.0_4_lora.ckpt"
    with open_tensors(whole) as file:
        trained = [n for n in file.names if n.startswith("conditioner.") and n.endswith("lora_B.weight")]
        assert len(trained) == 2 * 4 * 4
        moved = [name for name in trained if np.abs(file.read(name)).max() > 0]
        still = {name for name in trained if name not in moved}
        assert all(name.startswith("conditioner.embedders.0.transformer.text_model.encoder.layers.3.") for name in still)
    base = shared / "golden" / "tiny_sdxl.safetensors"
    plain = sample(run, tmp_path / "plain", base, "--prompt", "a sks dog")
    tuned = sample(run, tmp_path / "tuned", whole, "--prompt", "a sks dog")
    assert np.abs(plain[0].astype(int) - tuned[0]).max() > 0
    peft = whole.with_suffix(".safetensors")
    assert open_lora(peft).layout == "peft" and len(open_lora(peft).modules) == 136 + 2 * 4 * 4
    both = sample(run, tmp_path / "both", base, "--prompt", "a sks dog", "--weight", f"{base},{peft}")
    assert np.array_equal(tuned, both)
    continued = train_arguments(shared, tmp_path, "--class_data_path", class_folder, "--weight", f"{base},{peft}",
                                "--save_path", tmp_path / "continued", "--set", "optim.base_learning_rate=1e-30",
                                config=tiny.TEXT_TRAINING, steps=1)  # fmt: skip
    status, errors = run(training, *continued)
    assert status == 0, errors
    moved = largest_difference(lora_of(peft), lora_of(tmp_path / "continued" / "SDXL_base_1.0_1_lora.ckpt"))
    assert moved < 1e-6  # it started there


@pytest.mark.xdist_group("sampling")
def test_sampling_options(shared, tmp_path, run):
    base = shared / "golden" / "tiny_sdxl.safetensors"
    (tmp_path / "prompts.txt").write_text("a dog\n\na cat in the snow\n")
    first = sample(run, tmp_path / "a", base, "--prompt", tmp_path / "prompts.txt", "--num_cols", 2, "--seed", 7)
    assert len(first) == 4
    again = sample(run, tmp_path / "a", base, "--prompt", "a dog", "--seed", 8)  # into the same folder: nothing is lost
    assert len(again) == 5 and np.array_equal(again[4], first[1])
    others = {
        "negative": ("--negative_prompt", "grass"),
        "guidance": ("--guidance_scale", "9"),
        "none": ("--guider", "IdentityGuider"),
        "heun": ("--sampler", "HeunEDMSampler"),
        "dpm": ("--sampler", "DPMPP2MSampler"),
        "ancestral": ("--sampler", "EulerAncestralSampler"),
        "edm": ("--discretization", "EDMDiscretization"),
        "sizes": ("--orig_width", "64", "--crop_coords_top", "32"),
    }
    pictures = [again[4]]
    for name, more in others.items():
        pictures += sample(run, tmp_path / name, base, "--prompt", "a dog", "--seed", 8, *more)
    assert len({picture.tobytes() for picture in pictures}) == len(pictures) == 9
    (wide,) = sample(run, tmp_path / "wide", base, "--prompt", "a dog", "--width", 192)
    assert wide.shape == (128, 192, 3)


@pytest.mark.xdist_group("prior")
def test_stopping_after_the_class_images_and_continuing(shared, tmp_path, run):
    stop = ("--stop_after_sampling", "True", "--sample_step", 2)
    status, errors = run(training, *train_arguments(shared, tmp_path, *stop, "--num_class_images", 5))
    assert status == 0 and "stopping after the class images" in errors
    first = {path.name: path.read_bytes() for path in (tmp_path / "class").iterdir()}
    assert sorted(first) == [f"class_{n:05d}.png" for n in range(5)]
    assert len(set(first.values())) == 5 and not list((tmp_path / "runs").glob("*.ckpt"))
    for number in (1, 4):
        (tmp_path / "class" / f"class_{number:05d}.png").unlink()
    assert run(training, *train_arguments(shared, tmp_path, *stop, "--num_class_images", 5))[0] == 0
    check_again(first, tmp_path / "class", {"class_00001.png", "class_00004.png"})
    (tmp_path / "class" / "class_00002.png").unlink()
    other = ("--generate_class_image_config", tiny.INFERENCE)
    assert run(training, *train_arguments(shared, tmp_path, *stop, *other, "--num_class_images", 5))[0] == 0
    check_again(first, tmp_path / "class", {f"class_0000{n}.png" for n in (1, 2, 4)})  # LoRA's start is the base


def check_again(first, folder, sampled_again):
    """The files are as they were. Those that were sampled again, in another batch, may differ by a grey level in a few places:
    the CPU's kernels do with the number of rows, on some machines."""
    again = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert sorted(again) == sorted(first)
    for name, content in first.items():
        before, after = (Image.open(io.BytesIO(file)) for file in (content, again[name]))
        difference = np.abs(np.asarray(before, np.int32) - np.asarray(after, np.int32))
        assert before.info == after.info and difference.max() <= 1 and (difference > 0).mean() < 0.001, name
        same = content == again[name]  # pytest would take minutes to tell how bytes differ
        assert same or name in sampled_again, name


def bad_inputs(shared, folder):
    """name -> (arguments that come last and win, words of the message)."""
    weights = shared / "golden" / "tiny_sdxl.safetensors"
    cases = {
        "flag": (("--wieght", "x"), "did you mean --weight?"),
        "yaml": (("--config", "nowhere.yaml"), "does not exist"),
        "key": (("--set", "data.total_stop=1"), "did you mean 'total_step'?"),
        "type": (("--set", "data.total_step=x"), "must be a whole number"),
        "target": (("--set", "optim.optimizer_config.target=os.system"), "optim.optimizer_config.target"),
        "resolution": (("--set", "data.dataset_config.params.target_size=100"), "multiple of 32"),
        "prompt": (("--instance_prompt", " "), "the prompt is empty"),
        "photos": (("--instance_data_path", folder / "nowhere"), "does not exist"),
        "ascend": (("--device_target", "Ascend"), "finds no Ascend device"),
        "launcher": (("--is_parallel", "True"), "needs a launcher"),
        "vae": (("--vae", folder / "nowhere"), "does not exist"),
        "vae without one": (("--vae", lora(folder / "no_vae.ckpt", 4)), "holds no VAE"),
        "resume": (("--resume", folder / "nowhere.ckpt"), "does not exist"),
        "lora as base": (("--weight", lora(folder / "lora.ckpt", 4)), "base weights come first"),
        "rank": (("--weight", f"{weights},{lora(folder / 'rank2.ckpt', 2)}"), "has rank 2, but lora_dim in --config is 4"),
        "other targets": (("--weight", f"{weights},{kohya(folder / 'other.safetensors')}"), "was made for another model"),
        "two LoRA": (("--weight", f"{weights},a,b"), "names 2 LoRA files, but training continues one"),
        "save format": (("--save_format", "comfy"), "--save_format"),
        "class is a file": (("--class_data_path", folder / "file"), "is a file"),
        "class folder": (("--class_data_path", "/proc/class"), "cannot be written to"),
        "save path is a file": (("--save_path", folder / "file"), "cannot be written to"),
    }
    (folder / "file").write_text("")
    for how in ("missing", "extra", "shape"):
        path = folder / f"{how}.safetensors"
        change(weights, path, how)
        cases[f"tensor {how}"] = (("--weight", path), "does not fit the model")
    for kind, words in (("missing", "does not exist"), ("text", "neither kind"), ("cut safetensors", "cut off")):
        (folder / kind).mkdir()
        cases[f"file {kind}"] = (("--weight", bad_file(kind, weights, folder / kind)), words)
    for name, (make, words) in BAD_IMAGES.items():
        photos = folder / f"photos_{name}"
        photos.mkdir()
        make(photos / name)
        cases[f"image {name}"] = (("--instance_data_path", photos), words)
    return cases


def lora(path, rank):
    shapes = tiny_lora_shapes()
    save_lora(path, {n: np.zeros([rank if d == 4 else d for d in s], np.float32) for n, s in shapes.items()}, {})
    return path


def kohya(path):
    """One module that training does not target."""
    start = "lora_te1_text_model_encoder_layers_0_mlp_fc1"
    write_tensors(path, [(f"{start}.lora_down.weight", np.ones((4, 16), np.float32)),
                         (f"{start}.lora_up.weight", np.ones((64, 4), np.float32))])  # fmt: skip
    return path


def tiny_lora_shapes():
    from gm.models.sdxl import expected_shapes

    return expected_shapes(tiny.model(), tiny.adapters())[1]


@pytest.mark.xdist_group("bad")
def test_bad_input_is_one_sentence_and_writes_nothing(shared, tmp_path, run, monkeypatch):
    inputs, work = tmp_path / "inputs", tmp_path / "work"
    inputs.mkdir()
    work.mkdir()
    monkeypatch.chdir(work)

    def never(*_, **__):
        raise AssertionError("a network was filled")

    from gm.models import sdxl

    monkeypatch.setattr(sdxl, "fill", never)
    for name, (arguments, words) in bad_inputs(shared, inputs).items():
        status, errors = run(training, *train_arguments(shared, work), *arguments)
        lines = [line for line in errors.splitlines() if line.startswith("error: ")]
        assert status == 2 and len(lines) == 1 and words in lines[0], (name, status, errors)
        assert "Traceback" not in errors, name
        assert not list(work.rglob("*")), (name, list(work.rglob("*")))


@pytest.mark.xdist_group("bad")
@pytest.mark.parametrize(
    "arguments, words",
    [
        (("--height", "100"), "height 100 is not a multiple of 32: take 96 or 128"),
        (("--prompt", ""), "the prompt is empty"),
        (("--prompt", "nowhere.txt"), "cannot be read"),
        (("--sampler", "Euler"), "--sampler"),
        (("--weight", "nowhere.ckpt"), "does not exist"),
        (("--vae", "nowhere.safetensors"), "does not exist"),
        (("--samplr", "x"), "did you mean --sampler?"),
        (("--lora_scale", "0.8"), "--lora_scale gives 1 numbers, but"),
        (("--lora_scale", "0.8,x"), "'x' is not a number"),
    ],
)
def test_bad_input_of_sampling(shared, tmp_path, run, arguments, words):
    weights = shared / "golden" / "tiny_sdxl.safetensors"
    usual = ("--config", tiny.INFERENCE, "--weight", weights, "--device_target", "CPU", "--save_path", tmp_path / "out")
    status, errors = run(sampling, *usual, *arguments)
    assert status == 2 and words in errors and "Traceback" not in errors
    assert not (tmp_path / "out").exists()
