"""Every kind of bad input to the two commands is one sentence, and nothing is written."""

import io

import numpy as np
import pytest
from PIL import Image

import tiny
from bad_files import BAD_IMAGES, bad_file, change
from commands import sampling, train_arguments, training
from gm.checkpoint.io import write_tensors
from gm.checkpoint.lora_files import save_lora

SDXL = tiny.ROOT / "configs" / "inference" / "sd_xl_base.yaml"


V = "model.params.denoiser_config.params.scaling_config.target=gm.modules.diffusionmodules.denoiser_scaling.VScaling"


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
        "class config": (("--generate_class_image_config", SDXL), "has another UNet and another pair of text encoders and"),
        "class prediction": (("--set", V, "--generate_class_image_config", tiny.INFERENCE), "has another kind of prediction"),
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
    data = "data.dataset_config.params"
    denoiser, prodigy = "model.params.denoiser_config.params", "optim.optimizer_config.target=gm.training.optim.Prodigy"
    cases |= {
        "caption": (photo_with(folder / "caption", "a.txt", "Hündchen".encode("latin-1")), "is not UTF-8"),
        "empty caption": (photo_with(folder / "empty", "a.txt", b"\n"), "a.txt is empty"),
        "mask": (
            photo_with(folder / "mask", "a-masklabel.png", png(8, 8, 255)) + entry(f"{data}.masks={{}}"),
            "but its photo 64 x 64",
        ),
        "black mask": (
            photo_with(folder / "black", "a-masklabel.png", png(64, 64, 0)) + entry(f"{data}.masks={{}}"),
            "is black everywhere",
        ),
        "no mask": (entry(f"{data}.masks={{}}"), "none of the 5 photos has one"),
        "bucket": (entry(f"{data}.buckets.bucket_reso_steps=20"), "bucket_reso_steps 20 is not a multiple of 32"),
        "buckets": (entry(f"{data}.buckets.min_bucket_reso=256"), "target_size 128 must lie between them"),
        "dropout": (entry(f"{data}.captions.dropout=1.5"), "a probability is at most 1"),
        "two subjects": (entry(f"{data}.concepts=[{{instance_data_path: a}}]"), "give one of the two"),
        "rates": (entry(prodigy, "optim.base_learning_rate=1", "optim.rates.unet=0.5") + text_encoders(), "Prodigy"),
        "zero SNR": (entry(f"{denoiser}.discretization_config.params.zero_terminal_snr=True"), "zero_terminal_snr"),
        "pattern": (entry("model.params.network_config.params.lora_targets=['*attn3*']"), "attn"),
        "loss": (entry("model.params.loss_fn_config.params.loss_type=hubber"), "hubber"),
        "tokens": (entry(f"{data}.max_tokens=100"), "only 75 or 150 or 225"),
        "prompts": (("--infer_prompts", folder / "nowhere.txt", "--infer_during_train", "True"), "nowhere.txt"),
    }
    for name, (make, words) in BAD_IMAGES.items():
        photos = folder / f"photos_{name}"
        photos.mkdir()
        make(photos / name)
        cases[f"image {name}"] = (("--instance_data_path", photos), words)
    return cases


def entry(*entries) -> tuple[str, ...]:
    """The flags that override entries of the YAML."""
    return tuple(word for one in entries for word in ("--set", one))


def text_encoders() -> tuple:
    return ("--config", tiny.TEXT_TRAINING)


def photo_with(folder, name, content: bytes) -> tuple:
    """The flag for a folder with a photo and this file beside it."""
    folder.mkdir()
    Image.new("RGB", (64, 64), "red").save(folder / "a.png")
    (folder / name).write_bytes(content)
    return "--instance_data_path", folder


def png(width: int, height: int, grey: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (width, height), grey).save(file, "PNG")
    return file.getvalue()


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
        (("--sampler", "Oiler"), "--sampler"),
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
