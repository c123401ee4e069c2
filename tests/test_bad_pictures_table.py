"""Bad input to every command that makes or compares pictures: one sentence, status 2, nothing written, nothing built."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

import tiny
from bad_files import BAD_IMAGES
from commands import sampling
from gm import memory
from gm.checkpoint.io import write_tensors
from gm.pictures import save_png
from lora_samples import ATTENTION, make_lora
from tools import check_device, contact_sheet, draw_world, evaluate, make_random_checkpoint, pretrain, train_judge

NOISE = np.random.default_rng(0).integers(0, 255, (16, 16, 3)).astype(np.uint8)


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    """A picture of 1 x 1 with these chunks behind its header."""
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)),
        *chunks,
        (b"IDAT", zlib.compress(b"\0abc")),
        (b"IEND", b""),
    ]
    body = (struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


BOMB = png((b"zTXt", b"prompt\0\0" + zlib.compress(b"a" * 50_000_000, 9)))


@pytest.fixture(scope="module")
def given(tmp_path_factory, tiny_weights) -> Path:
    """What the cases point at."""
    folder = tmp_path_factory.mktemp("given")
    for name in ("photos", "black", "none", "one", "bomb", "wrong_kind", "full", "sheets"):
        (folder / name).mkdir()
    for number in range(2):
        save_png(folder / "photos" / f"{number}.png", NOISE, {})
    save_png(folder / "black" / "0.png", NOISE, {})
    save_png(folder / "black" / "1.png", NOISE * 0, {})
    save_png(folder / "one" / "0.png", NOISE, {})
    save_png(folder / "sheets" / "sheet_00000.png", NOISE, {})
    (folder / "bomb" / "0.png").write_bytes(BOMB)
    (folder / "wrong_kind" / "0.png").mkdir()
    (folder / "file").write_text("mine")
    (folder / "mine.png").write_text("mine")
    (folder / "full" / "captions.jsonl").write_text("mine")
    for name, (make, _) in BAD_IMAGES.items():
        (folder / name).mkdir()
        make(folder / name / name)
    make_lora(folder / "lora.ckpt", Shapes(tiny_weights), lambda module: 2 * module.endswith(ATTENTION))
    judges = {
        "text": '["a',
        "number": "3",
        "numbers": "[1, 2]",
        "none": "[]",
        "nested": "[" * 100_000,
        "many": str(["a"] * 2000),
    }
    for name, places in judges.items():
        write_tensors(
            folder / f"judge_{name}.safetensors", [("a", np.zeros(3, np.float32))], {"places": places.replace("'", '"')}
        )
    broken_judge(folder / "judge_nan.safetensors")
    return folder


class Shapes:
    def __init__(self, weights):
        from gm.checkpoint.weights import open_base

        self.shapes = open_base(weights).shapes


def broken_judge(path: Path) -> None:
    """The project's judge with a number that is none."""
    from gm.checkpoint.io import open_tensors
    from gm.options.evaluate import JUDGE

    with open_tensors(JUDGE) as file:
        arrays = [(name, file.read(name).copy()) for name in file.names]
        places = file.metadata["places"]
    arrays[0][1].reshape(-1)[0] = np.nan
    write_tensors(path, arrays, {"places": places})


def sampling_cases(given):
    return {
        "4096": (("--height", 4096, "--width", 4096), "pictures of 4096 x 4096 pixels, take at least"),
        "long side": (("--height", 64, "--width", 6400000), "6400000 is too large: at most 4096"),
        "ratio": (("--sd_xl_base_ratios", "9"), "--sd_xl_base_ratios"),
        "guidance nan": (("--guidance_scale", "nan"), "--guidance_scale"),
        "guidance inf": (("--guidance_scale", "-inf"), "--guidance_scale"),
        "scale nan": (("--weight", f"{given['weights']},{given['folder']}/lora.ckpt", "--lora_scale", "nan"), "--lora_scale"),
        "steps": (("--sample_step", 0), "too small: at least 1"),
        "columns": (("--num_cols", -3), "too small: at least 1"),
        "seed": (("--seed", -5), "--seed"),
        "folder is a file": (("--save_path", given["folder"] / "file"), "cannot be written to"),
        "folder in proc": (("--save_path", "/proc/pictures"), "cannot be written to"),
        "below a file": (("--save_path", given["folder"] / "file" / "a"), "cannot be written to"),
        "no weights": (("--weight", given["folder"] / "mine.png"), "neither"),
    }


def evaluate_cases(given):
    folder = given["folder"]
    cases = {
        "black photo": (("--subject_photos", folder / "black"), "1.png is black everywhere, which shows nobody"),
        "black held out": (("--held_out", folder / "black"), "1.png is black everywhere"),
        "one photo": (("--subject_photos", folder / "one"), "holds one photo to compare with itself"),
        "no photos": (("--subject_photos", folder / "none"), "holds no image"),
        "photos are a file": (("--subject_photos", folder / "file"), "is a file"),
        "bomb": (("--subject_photos", folder / "bomb"), "is broken"),
        "output is a file": (("--output", folder / "file"), "cannot be written to"),
        "size": (("--size", 100), "--size 100 is not a multiple of 32"),
        "huge": (("--size", 8192), "8192 is too large: at most 4096"),
        "batch": (("--size", 2048, "--sample_batch_size", 1024), "1024 at once, take at least"),
        "no judge": (("--judge", folder / "nowhere"), "does not exist"),
        "weights as judge": (("--judge", given["weights"]), "is not the judge"),
        "picture as judge": (("--judge", folder / "mine.png"), "neither"),
        "judge nan": (("--judge", folder / "judge_nan.safetensors"), "NaN or infinite among the"),
        "lora": (("--lora", f"b={folder / 'nowhere'}"), "does not exist"),
        "features": (("--features", folder / "nowhere.py"), "there is no file"),
        "guidance": (("--guidance_scale", "nan"), "--guidance_scale"),
    }
    for kind in ("text", "number", "numbers", "none", "nested", "many"):
        cases[f"judge {kind}"] = ("--judge", folder / f"judge_{kind}.safetensors"), "is not the judge"
    return cases


def sheet_cases(given):
    folder = given["folder"]
    return {
        "no name": (("--row", folder / "photos"), "is not NAME=FOLDER"),
        "nowhere": (("--row", "a=nowhere"), "does not exist"),
        "empty": (("--row", f"a={folder / 'none'}"), "holds no image"),
        "a folder as picture": (("--row", f"a={folder / 'wrong_kind'}"), "holds no image"),
        "sheets only": (("--row", f"a={folder / 'sheets'}"), "holds contact sheets only"),
        "bomb": (("--row", f"a={folder / 'bomb'}"), "0.png is broken"),
        "somebody's file": (("--output", folder / "mine.png"), "is not a picture that can be read"),
        "a photo": (("--output", folder / "photos" / "0.png"), "is no sheet that this command has made"),
        "no png": (("--output", "a.jpg"), "must end with .png"),
        "below a file": (("--output", folder / "file" / "a.png"), "could not be written"),
        "in proc": (("--output", "/proc/a.png"), "could not be written"),
        "size 0": (("--size", 0), "too small"),
        "size 5000": (("--size", 5000), "too large"),
        "sheet too large": (("--size", 4096, *("--row", f"b={folder / 'photos'}") * 9), "megapixels, at most 100"),
        **{name: (("--row", f"a={folder / name}"), words) for name, (_, words) in BAD_IMAGES.items()},
    }


def drawing_cases(given):
    folder = given["folder"]
    return {
        "number 0": (("--number", 0), "too small"),
        "number -1": (("--number", -1), "too small"),
        "number": (("--number", 10**9), "too large"),
        "size 15": (("--size", 15), "too small"),
        "size": (("--size", 10**6), "too large"),
        "seed": (("--seed", -1), "--seed"),
        "at once": (("--subject", "training", "--number", 1000, "--size", 2048), "are more than 300 megapixels"),
        "sheet": (("--sheet", "a.png", "--number", 1001), "at most 1000 pictures"),
        "sheet is mine": (("--sheet", folder / "mine.png"), "is not a picture"),
        "sheet is a photo": (("--sheet", folder / "photos" / "0.png"), "is no sheet"),
        "sheet suffix": (("--sheet", "a.gif"), "is no PNG"),
        "file": (("--output", folder / "file"), "is a file"),
        "below a file": (("--output", folder / "file" / "a"), "cannot be written to"),
        "captions": (("--output", folder / "full"), "holds captions.jsonl already"),
        "photos": (("--output", folder / "photos"), "holds images already"),
    }


def pretraining_cases(given):
    folder = given["folder"]
    return {
        "rate 0": (("--learning_rate", 0), "too small: more than 0"),
        "rate -1": (("--learning_rate", -1), "too small"),
        "rate nan": (("--learning_rate", "nan"), "not a finite number"),
        "rate 1e6": (("--learning_rate", "1e6"), "too large"),
        "steps 0": (("--steps", 0), "too small"),
        "first stage -1": (("--first_stage_steps", -1), "too small"),
        "batch 0": (("--batch", 0), "too small"),
        "batch": (("--batch", 10**9), "too large"),
        "pictures 0": (("--pictures", 0), "too small"),
        "size 50": (("--size", 50), "is not a multiple of"),
        "size": (("--size", 10**6), "too large"),
        "memory": (("--pictures", 10**6, "--size", 1024), "GB of memory, but this host has"),
        "output is a file": (("--output", folder / "file"), "cannot be written to"),
        "weight exists": (("--weight", given["weights"]), "must be a new .safetensors"),
        "weight below a file": (("--weight", folder / "file" / "a.safetensors"), "cannot be written to"),
        "init": (("--init", "nowhere.safetensors"), "does not exist"),
    }


def judging_cases(given):
    folder = given["folder"]
    return {
        "steps 0": (("--steps", 0), "too small"),
        "steps -1": (("--steps", -1), "too small"),
        "rate 0": (("--learning_rate", 0), "too small: more than 0"),
        "rate nan": (("--learning_rate", "nan"), "not a finite number"),
        "rate": (("--learning_rate", 1e9), "too large"),
        "seed": (("--seed", -1), "--seed"),
        "exists": (("--output", given["weights"]), "must be a new .safetensors"),
        "no folder": (("--output", "nowhere/a.safetensors"), "in a folder that is there"),
        "proc": (("--output", "/proc/a.safetensors"), "cannot be written to"),
        "below a file": (("--output", folder / "file" / "a.safetensors"), "in a folder that is there"),
    }


def device_cases(given):
    folder = given["folder"]
    return {
        "pixels": (("--pixels", "100"), "--pixels 100 is not a multiple of"),
        "pixels -8": (("--pixels", "512,-8"), "too small"),
        "pixels huge": (("--pixels", "99999"), "too large"),
        "pixels word": (("--pixels", "a"), "is not a whole number"),
        "steps": (("--steps", 0), "too small"),
        "config": (("--config", "nowhere.yaml"), "does not exist"),
        "full config": (("--full_config", "nowhere.yaml"), "does not exist"),
        "output": (("--output", "a.png"), "must be a file that ends in .json"),
        "folder": (("--output", folder), "must be a file that ends in .json"),
        "below a file": (("--output", folder / "file" / "a.json"), "cannot be written to"),
        "launcher": (("--is_parallel", "True"), "needs a launcher"),
        "mode": (("--ms_mode", 2), "--ms_mode"),
    }


def random_cases(given):
    folder = given["folder"]
    return {
        "suffix": (("--output", "a.ckpt"), "must end in .safetensors"),
        "exists": (("--output", given["weights"]), "exists already"),
        "below a file": (("--output", folder / "file" / "a.safetensors"), "cannot be written to"),
        "proc": (("--output", "/proc/a/b.safetensors"), "cannot be written to"),
        "dtype": (("--dtype", "int8"), "--dtype"),
        "config": (("--config", folder / "mine.png"), "mine.png"),
        "no room": ((), "but 0.0 are free there: give another folder"),
    }


COMMANDS = {
    "sampling": (sampling, sampling_cases),
    "evaluate": (evaluate, evaluate_cases),
    "contact_sheet": (contact_sheet, sheet_cases),
    "draw_world": (draw_world, drawing_cases),
    "pretrain": (pretrain, pretraining_cases),
    "train_judge": (train_judge, judging_cases),
    "check_device": (check_device, device_cases),
    "make_random_checkpoint": (make_random_checkpoint, random_cases),
}


def usual(command: str, folder: Path, weights: Path) -> tuple:
    model = ("--config", tiny.INFERENCE, "--weight", weights, "--device_target", "CPU")
    photos, out = folder / "photos", Path("out")
    return {
        "sampling": (*model, "--height", 64, "--width", 64, "--save_path", out),
        "evaluate": (*model, "--size", 64, "--subject_photos", photos, "--output", out, "--lora", f"a={folder / 'lora.ckpt'}"),
        "contact_sheet": ("--row", f"photos={photos}", "--output", "sheet.png"),
        "draw_world": ("--output", out),
        "pretrain": ("--config", tiny.INFERENCE, "--output", out, "--weight", "a.safetensors"),
        "train_judge": ("--output", "a.safetensors"),
        "check_device": ("--device_target", "CPU", "--output", "a.json"),
        "make_random_checkpoint": ("--config", tiny.INFERENCE, "--output", "a.safetensors"),
    }[command]


def state(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.mark.xdist_group("bad")
@pytest.mark.parametrize("command", COMMANDS)
def test_bad_input_is_one_sentence_and_writes_nothing(command, given, tiny_weights, tmp_path, run, monkeypatch):
    from gm.models import sdxl

    def never(*_, **__):
        raise AssertionError("something was built")

    for module, name in ((sdxl, "fill"), (pretrain, "drawn"), (train_judge, "train"), (check_device, "run_in_subprocess")):
        monkeypatch.setattr(module, name, never)
    monkeypatch.setattr(memory, "host_available", lambda: 20_000_000_000)
    if command == "make_random_checkpoint":
        monkeypatch.setattr(make_random_checkpoint.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    monkeypatch.chdir(tmp_path)
    module, cases = COMMANDS[command]
    before = state(given)
    for name, (arguments, words) in cases({"folder": given, "weights": tiny_weights}).items():
        status, errors = run(module, *usual(command, given, tiny_weights), *arguments)
        lines = [line for line in errors.splitlines() if line.startswith("error: ")]
        assert status == 2 and len(lines) == 1 and words in lines[0], (name, status, errors)
        assert "Traceback" not in errors, name
        assert not list(tmp_path.rglob("*")), (name, list(tmp_path.rglob("*")))
    assert state(given) == before


def test_the_table_is_large():
    given = {"folder": Path("a"), "weights": Path("b")}
    assert sum(len(cases(given)) for _, cases in COMMANDS.values()) >= 100
