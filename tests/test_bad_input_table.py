"""What a person can get wrong in flags, YAMLs, prompts, captions, photos and folders: each is one sentence, before MindSpore is
started, and nothing is written."""

import io
import os
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

import tiny
from commands import sampling, training
from gm import runtime
from gm.errors import UserError
from gm.files import make_writable

DATA, UNET = "data.dataset_config.params", "model.params.network_config.params"
NAME = "a" * 256
SURROGATE = "caf\udce9"  # what Python makes of a byte that is no UTF-8


def sets(*entries) -> tuple:
    return tuple(word for one in entries for word in ("--set", one))


FLAGS = {  # name -> (arguments that come last and win, words of the sentence)
    "seed above 64 bits": (("--seed", 2**64), "18446744073709551616 is too large: at most 18446744073709551615"),
    "negative seed": (("--seed", -1), "-1 is too small: at least 0"),
    "seed with underscores": (("--seed", "1_000"), "'1_000' is not a whole number"),
    "seed in full-width digits": (("--seed", "\uff17"), "is not a whole number"),
    "seed with a space": (("--seed", " 7"), "' 7' is not a whole number"),
    "seed of 5,000 digits": (("--seed", "9" * 5000), "has 5000 characters"),
    "seed as a float": (("--seed", "1e3"), "'1e3' is not a whole number"),
    "repeats": (("--train_data_repeat", 10**7), "too large: at most 100000"),
    "accumulation": (("--gradient_accumulation_steps", 10**9), "too large: at most 10000"),
    "class images": (("--num_class_images", 10**6), "too large: at most 100000"),
    "batch": (("--sample_batch_size", 5000), "too large: at most 1024"),
    "steps": (("--sample_step", 1001), "too large: at most 1000"),
    "interval": (("--save_ckpt_interval", 10**10), "too large: at most 1000000000"),
    "timeout": (("--join_timeout", 10**9), "too large: at most 86400"),
    "weight of the prior": (("--prior_loss_weight", "1e300"), "too large: at most 1000"),
    "infinite weight": (("--prior_loss_weight", "inf"), "'inf' is not a finite number"),
    "overflowing weight": (("--prior_loss_weight", "1e400"), "1e400 is not a finite number"),
    "loss scale": (("--loss_scale", "1e30"), "too large: at most 4294967296"),
    "memory": (("--max_device_memory", "\u00b2GB"), "is not a number"),
    "no memory": (("--max_device_memory", "0GB"), "0 is too small"),
    "boolean": (("--clip_grad", "maybe"), "'maybe' is neither True nor False"),
    "empty save path": (("--save_path", ""), "the path is empty"),
    "empty photos": (("--instance_data_path", " "), "the path is empty"),
    "empty part of the weights": (("--weight", "a.ckpt,"), "the path is empty"),
    "NUL in a path": (("--save_path", "a\0b"), "holds control characters"),
    "line break in a path": (("--save_path", "a\nb"), "holds a line break or tab"),
    "name of 256 bytes": (("--save_path", NAME), "is too long"),
    "path of 5,000 bytes": (("--cache_dir", "a/" * 2500), "is too long"),
    "prompt that is no UTF-8": (("--instance_prompt", SURROGATE), "is not UTF-8 text: set the terminal"),
    "path that is no UTF-8": (("--instance_data_path", SURROGATE), "is not UTF-8 text"),
    "control character in a prompt": (("--instance_prompt", "a \x07dog"), "holds control characters"),
    "endless prompt": (("--instance_prompt", "dog " * 5500), "the prompt has 22000 characters: give at most 8000"),
    "flag that is long": (("--" + "x" * 5000,), "unknown flag --xxx"),
    "stray word": (("stray",), "unexpected 'stray'"),
    "missing value": (("--seed",), "expected one argument"),
    "home that the shell did not fill in": (("--instance_data_path", "~/nowhere"), "~/nowhere does not exist"),
}
SETTINGS = {
    "no equals sign": ("data.total_step", "is not KEY=VALUE"),
    "no key": ("=1", "is not KEY=VALUE"),
    "dots": ("data..total_step=1", "is not KEY=VALUE"),
    "dot at the end": ("data.=1", "is not KEY=VALUE"),
    "open bracket": ("data[0=1", "is not KEY=VALUE"),
    "unbalanced value": (f"{UNET}.channel_mult=[1,2", "is not valid YAML"),
    "item that there is not": ("model.params.conditioner_config.params.emb_models.9.is_trainable=True", "is a list of 5"),
    "item by a name": ("model.params.conditioner_config.params.emb_models.first.x=1", "is a list of 5"),
    "inside a number": ("data.total_step.x=1", "data.total_step is 20, so nothing in it can be set"),
    "scalar for a tree": ("data=3", "data must be a mapping, not 3"),
    "scalar for a list": (f"{UNET}.channel_mult=3", "channel_mult must be a list of whole numbers, not 3"),
    "tree for a scalar": ("data.total_step={a: 1}", "must be a whole number, not {'a': 1}"),
    "list for text": (f"{DATA}.captions.trigger=[a]", "must be text, not ['a']"),
    "text for a tree": ("optim.optimizer_config=AdamW", "must be a mapping with 'target' and 'params', not 'AdamW'"),
    "empty list": (f"{UNET}.channel_mult=[]", "has 0 items"),
    "long list": (f"{UNET}.channel_mult=[{','.join('1' * 50)}]", "has 50 items"),
    "large level": (f"{UNET}.channel_mult=[1,100000]", "is 100000, but must be at most 64"),
    "rank": (f"{UNET}.lora_dim=1000000", "must be at most 2048"),
    "alpha": (f"{UNET}.lora_alpha=1e300", "must be at most 100000"),
    "alpha that is no number": (f"{UNET}.lora_alpha=.nan", "must be a finite number, not nan"),
    "infinite rate": ("optim.base_learning_rate=.inf", "must be a finite number, not inf"),
    "huge rate": ("optim.base_learning_rate=1e6", "must be at most 100"),
    "steps": ("data.total_step=1000000000000", "must be at most 10000000"),
    "huge whole number": (f"data.total_step={'9' * 5000}", "must be a whole number"),
    "octal": ("data.total_step=010", "must be a whole number, not '010'"),
    "underscore": ("data.total_step=1_000", "must be a whole number, not '1_000'"),
    "minutes": ("data.total_step=1:30", "must be a whole number, not '1:30'"),
    "boolean for a number": ("data.total_step=yes", "must be a whole number, not True"),
    "batch": ("data.per_batch_size=100000", "must be at most 1024"),
    "picture size": (f"{DATA}.target_size=65536", "must be at most 4096"),
    "tag": ("data.total_step=!!python/object/apply:os.getcwd []", "tags are not accepted"),
    "look-alike letters": ("data.t\u043etal_step=1", "did you mean 'total_step'?"),
    "full-width letters": ("data.\uff54\uff4f\uff54\uff41\uff4c_step=1", "did you mean 'total_step'?"),
    "function": ("data.total_step=${oc.env:HOME}", "is no reference"),
    "entry that there is not": ("data.total_step=${data.nothing}", "means an entry that there is not"),
    "itself": ("data.total_step=${data.total_step}", "leads back to itself"),
    "mapping within text": ("version=a${data}", "is a list or mapping"),
    "path with a line break": (f'{DATA}.masks.folder="a\\nb"', "holds a line break"),
    "escaped NUL": (f'{DATA}.captions.prefix="a\\0b"', "holds control characters"),
    "escaped half of a character": (f'{DATA}.captions.prefix="\\ud800"', "is not"),
    "extension": (f"{DATA}.captions.extensions=['.']", "an extension is like '.txt'"),
    "empty prompt of a concept": (f"{DATA}.concepts=[{{instance_data_path: a, instance_prompt: ' '}}]", "the prompt is empty"),
}
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
)
DOUBLING = "a0: xxxxxxxxxx\n" + "".join(f"a{i}: '{'${a' + str(i - 1) + '}'}{'${a' + str(i - 1) + '}'}'\n" for i in range(1, 8))
YAMLS = {
    "anchors that explode": (BOMB, "makes it more than 20000 values"),
    "references that explode": (
        DOUBLING.replace("xxxxxxxxxx", "x" * 8000),
        "its references make it larger than 100000 values",
    ),
    "references too deep": ("a0: x\n" + "".join(f"a{i}: '${{a{i - 1}}}'\n" for i in range(1, 20)), "more than 8 deep"),
    "anchor within itself": ("a: &a [*a]\n", "no &a is complete above it"),
    "nested too deep": ("a: " + "[" * 500 + "]" * 500, "is more than 40 lists and mappings deep"),
    "object": ("a: !!python/object:os.system {}\n", "tags are not accepted"),
    "binary tag": ("a: !!binary aGk=\n", "tags are not accepted"),
    "set": ("a: !!set {b, c}\n", "tags are not accepted"),
    "key twice": ("data: {}\nmodel: {}\ndata: {}\n", "line 3 has the key 'data' again, which line 1 gives"),
    "key that is a list": ("? [a, b]\n: 1\n", "keys are words"),
    "two documents": ("a: 1\n---\nb: 2\n", "begins a second document"),
    "list": ("- a\n- b\n", "is not a mapping with the sections"),
    "text": ("just words\n", "is not a mapping with the sections"),
    "nothing": ("", "is not a mapping with the sections"),
    "bytes": (b"\x00\x01\x02", "holds bytes of 0"),
    "no UTF-8": (b"a: \xe9\n", "is not UTF-8"),
    "UTF-16": ("a: 1\n".encode("utf-16"), "is UTF-16, save it as UTF-8"),
    "too large": (b"#" * 600_000, "has more than 500000 bytes"),
    "bases that explode": ("base: [base.yaml, base.yaml]\n", "leads back to itself"),
    "base that is no path": ('base: "a\\0b"\n', "has a base that is no path"),
    "date": (
        "version: 2001-01-01\nmodel: {}\n",
        "version is '2001-01-01', but only 'SDXL-base-1.0' or 'SDXL-refiner-1.0' is supported",
    ),
    "merge of a number": ("<<: 3\n", "only mappings can be merged"),
}
PROMPTS = {
    "prompts.txt": (b"a dog\n\xff", "cannot be read: it is not UTF-8"),
    "prompts16.txt": ("a dog\n".encode("utf-16"), "is UTF-16"),
    "binary.txt": (b"a\0b", "holds bytes of 0"),
    "long.txt": (b"x" * 2_000_000, "has more than 1000000 bytes"),
    "longline.txt": (b"x" * 9000, "line 1: the prompt has 9000 characters"),
    "many.txt": (b"a\n" * 1001, "holds 1001 prompts: give at most 1000"),
    "options.txt": (b"--w 64 --h 64\n", "line 1: the prompt is empty"),
    "twice.txt": (b"a --w 64 --w 96\n", "--w is given twice"),
    "nan.txt": (b"a --l nan\n", "'nan' is not a finite number"),
    "wide.txt": (b"a --w 100000\n", "too large: at most 4096"),
    "seed.txt": (b"a --d 99999999999999999999\n", "too large: at most 18446744073709551615"),
    "steps.txt": (b"a --s 5000\n", "too large: at most 1000"),
    "control.txt": (b"a \x07 dog\n", "holds control characters"),
    "tag.yaml": (b"- !!python/name:os.system\n", "tags are not accepted"),
    "bomb.yaml": (BOMB.encode(), "makes it more than 20000 values"),
    "types.yaml": (b"- prompt: {a: b}\n", "is not text: put it in quotes"),
    "list.yaml": (b"- [a, b]\n", "is not a mapping"),
    "key.yaml": (b"- prompt: a\n  prompt: b\n", "has the key 'prompt' again"),
    "number.yaml": (b"- {prompt: a, width: [64]}\n", "is not a whole number"),
    "large.yaml": (b"- {prompt: a, guidance_scale: 1e308}\n", "too large: at most 1000"),
}
SAMPLING = {
    "columns": (("--num_cols", 10**6), "too large: at most 1000"),
    "crop": (("--crop_coords_top", "1" + "0" * 400), "has 401 characters"),
    "crop by exponent": (("--crop_coords_left", "1e400"), "is not a whole number"),
    "size": (("--height", 65536), "too large: at most 4096"),
    "told size": (("--orig_width", 10**9), "too large: at most 100000"),
    "guidance": (("--guidance_scale", "1e308"), "too large: at most 1000"),
    "strength": (("--lora_scale", "1e30"), "too large: at most 1000"),
    "steps": (("--sample_step", 10**6), "too large: at most 1000"),
    "negative prompt": (("--negative_prompt", "x" * 9000), "the prompt has 9000 characters"),
    "prompt that is no UTF-8": (("--prompt", SURROGATE), "is not UTF-8 text"),
    "key": (sets("model.params.scale_factor=nan"), "must be a finite number"),
    "pipe": (("--prompt", "{inputs}/pipe.txt"), "it is no file but a pipe"),
    "device": (("--prompt", "{inputs}/zero.txt"), "it is no file but a device"),
    "folder": (("--prompt", "{inputs}/folder.txt"), "it is no file but a folder"),
    "loop": (("--prompt", "{inputs}/loop.txt"), "cannot be read"),
    "YAML that is a pipe": (("--config", "{inputs}/pipe.txt"), "it is no file but a pipe"),
    "YAML that is a device": (("--config", "/dev/zero"), "it is no file but a device"),
    "YAML that is a folder": (("--config", "/tmp"), "it is no file but a folder"),
    "YAML in a loop": (("--config", "{inputs}/loop.txt"), "cannot be read"),
}


def png_with(kind: bytes, data: bytes) -> bytes:
    """A PNG of 64 x 64 with a chunk of this kind."""
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(file, "PNG")
    chunk = struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return file.getvalue()[:33] + chunk + file.getvalue()[33:]


def picture(size, kind="PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, "red").save(file, kind)
    return file.getvalue()


ZEROS = zlib.compress(bytes(50_000_000), 9)
PHOTOS = {  # name -> (the files of a folder, words)
    "of one pixel": ({"a.png": picture((1, 1))}, "has 1 x 1 pixels and would be enlarged 128 times"),
    "panorama of ten lines": ({"a.jpg": picture((10000, 7), "JPEG")}, "10000 x 7 pixels and would be enlarged 18 times"),
    "text that explodes": ({"a.png": png_with(b"zTXt", b"a\0\0" + ZEROS)}, "a.png is broken"),
    "profile that explodes": ({"a.png": png_with(b"iCCP", b"a\0\0" + ZEROS)}, "a.png is broken"),
    "PostScript": ({"a.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n"}, "is not a picture that can be read"),
    "no files": ({}, "holds no image"),
    "caption of zeros": ({"a.png": picture((64, 64)), "a.txt": bytes(100)}, "holds bytes of 0"),
    "caption in UTF-16": ({"a.png": picture((64, 64)), "a.txt": "ein Hund".encode("utf-16")}, "is UTF-16"),
    "long caption": ({"a.png": picture((64, 64)), "a.txt": b"x" * 9000}, "a.txt: the prompt has 9000 characters"),
    "caption without end": ({"a.png": picture((64, 64)), "a.txt": b"x" * 2_000_000}, "has more than 1000000 bytes"),
    "name that needs care": ({"a\n\udcff.png": b""}, "a\\n\\udcff.png is empty"),
}


def odd_files(folder):
    """A pipe, a link to a device, a folder and a link to itself."""
    os.mkfifo(folder / "pipe.txt")
    os.symlink("/dev/zero", folder / "zero.txt")
    os.symlink(folder / "loop.txt", folder / "loop.txt")
    (folder / "folder.txt").mkdir()


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Folders of inputs and of work; the commands run in the second, and may not start MindSpore."""
    inputs, work = tmp_path / "inputs", tmp_path / "work"
    (inputs / "photos").mkdir(parents=True)
    work.mkdir()
    Image.new("RGB", (64, 64), "red").save(inputs / "photos" / "a.png")
    odd_files(inputs)
    monkeypatch.chdir(work)

    def never(*_, **__):
        raise AssertionError("MindSpore was started")

    monkeypatch.setattr(runtime, "start", never)
    return SimpleNamespace(inputs=inputs, work=work)


def train(place, *arguments) -> tuple:
    usual = ("--config", tiny.TRAINING, "--weight", place.inputs / "nowhere.ckpt", "--device_target", "CPU")
    photos = ("--instance_data_path", place.inputs / "photos", "--instance_prompt", "a sks dog", "--prior_loss_weight", 0)
    return (training, *usual, *photos, *arguments)


def require_refused(run, name, words, place, *command):
    status, errors = run(*command)
    lines = errors.splitlines()
    said = [line for line in lines if line.startswith("error: ")]
    assert status == 2 and len(said) == 1 and words in said[0], (name, status, errors[-500:])
    assert all(line.startswith(("error: ", "warning: ", "not counted", "checking images")) or not line for line in lines), (
        name,
        errors,
    )
    assert len(said[0]) < 5000 and not list(place.work.rglob("*")), name


def test_flags_of_training(run, place):
    for name, (arguments, words) in FLAGS.items():
        require_refused(run, name, words, place, *train(place, *arguments))


def test_entries_of_the_yaml(run, place):
    for name, (entry, words) in SETTINGS.items():
        require_refused(run, name, words, place, *train(place, "--set", entry))


def test_yamls(run, place):
    path = place.inputs / "base.yaml"
    for name, (content, words) in YAMLS.items():
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        require_refused(run, name, words, place, *train(place, "--config", path))


def test_prompt_files(run, place):
    for name, (content, words) in PROMPTS.items():
        (place.inputs / name).write_bytes(content)
        more = ("--infer_during_train", "True", "--infer_prompts", place.inputs / name)
        require_refused(run, name, words, place, *train(place, *more))
        require_refused(run, name, words, place, sampling, "--config", tiny.INFERENCE, "--prompt", place.inputs / name)


def test_sampling(run, place):
    for name, (arguments, words) in SAMPLING.items():
        given = [str(word).replace("{inputs}", str(place.inputs)) for word in arguments]
        require_refused(run, name, words, place, sampling, "--config", tiny.INFERENCE, *given)


def test_photos_and_captions(run, place):
    for number, (name, (files, words)) in enumerate(PHOTOS.items()):
        folder = place.inputs / str(number)
        folder.mkdir()
        for file, content in files.items():
            (folder / file).write_bytes(content)
        require_refused(run, name, words, place, *train(place, "--instance_data_path", folder))


def test_folders_that_are_none(run, place):
    folder = place.inputs / "10000000_sks dog"
    folder.mkdir()
    Image.new("RGB", (64, 64), "red").save(folder / "a.png")
    for path, words in (
        (place.inputs / "loop.txt", "does not exist"),
        (place.inputs / "pipe.txt", "is a file"),
        ("/proc/self/status", "is a file"),
        (place.inputs / "folder.txt", "holds no image"),
    ):
        require_refused(run, path, words, place, *train(place, "--instance_data_path", path))
    for path in (place.inputs / "photos").iterdir():
        path.unlink()
    (place.inputs / "photos").rmdir()
    words = "repeats its photos 10000000 times by its name"
    more = ("--set", f"{DATA}.concepts=[{{instance_data_path: '{place.inputs}'}}]")
    module, *usual = train(place)
    del usual[6:10]
    require_refused(run, folder, words, place, module, *usual, *more)


def test_folders_that_cannot_be_written_to(place):
    (place.inputs / "file").write_text("")
    below = [place.inputs / name for name in ("file", "pipe.txt", "loop.txt", "zero.txt")]
    for folder in (*below, *(path / "a" for path in below), "/dev/null", "/proc/a", "/sys/a"):
        with pytest.raises(UserError, match="--save_path .* cannot be written to"):
            make_writable(("--save_path", place.work / "new"), ("--save_path", Path(folder)))
        assert not list(place.work.iterdir())


def test_an_epoch_of_too_many_samples(run, place):
    for number in range(11):
        Image.new("RGB", (8, 8)).save(place.inputs / "photos" / f"{number}.png")
    words = "an epoch has 1200000 samples, photos times repeats"
    require_refused(run, "samples", words, place, *train(place, "--train_data_repeat", 100_000))


def test_of_a_flag_given_twice_the_last_counts_and_it_is_said(project_log):
    from gm.options.sample import parse_sample

    assert parse_sample(["--seed", "1", "--height", "64", "--seed=2", "--height", "64"]).seed == 2
    assert [record.getMessage() for record in project_log.records] == ["--seed was given 2 times, the last counts: '2'"]
    project_log.clear()
    parse_sample(["--set", "a=1", "--set", "b=2"])
    assert not project_log.records


def test_seeds_of_64_bits_are_taken():
    from gm.options.sample import parse_sample
    from gm.randomness import generator, picture_seed

    largest = 2**64 - 1
    assert parse_sample(["--seed", str(largest)]).seed == largest
    drawn = {generator(seed, 1).random() for seed in (0, 2**32, 2**33, largest - 1, largest, picture_seed(largest, 7))}
    assert len(drawn) == 6


BOMBS = """
import re, sys
from pathlib import Path
from gm.config.load import load_config
from gm.data.images import read_image
from gm.errors import UserError
from gm.options.prompts import read_prompt_lines
for what, path in zip(sys.argv[1::2], sys.argv[2::2]):
    try:
        {"yaml": load_config, "image": lambda p: read_image(Path(p)), "prompts": lambda p: read_prompt_lines(p, "--prompt", 32)}[what](path)
    except UserError as error:
        print(str(error)[:200])
    else:
        print("accepted", path)
print(int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024)  # getrusage's begins at the parent's
"""


def test_what_explodes_takes_no_memory(place):
    words = []
    for name, kind, content in (
        ("a.yaml", "yaml", BOMB.encode()),
        ("b.yaml", "yaml", YAMLS["references that explode"][0].encode()),
        ("c.yaml", "yaml", YAMLS["nested too deep"][0].encode()),
        ("d.png", "image", PHOTOS["text that explodes"][0]["a.png"]),
        ("e.png", "image", PHOTOS["profile that explodes"][0]["a.png"]),
    ):
        (place.inputs / name).write_bytes(content)
        words += [kind, str(place.inputs / name)]
    words += ["prompts", "/dev/zero", "prompts", str(place.inputs / "pipe.txt"), "yaml", "/dev/zero"]
    done = subprocess.run((sys.executable, "-c", BOMBS, *words), capture_output=True, text=True, cwd=tiny.ROOT, timeout=60)
    assert done.returncode == 0, done.stderr
    *sentences, peak = done.stdout.splitlines()
    assert len(sentences) == 8 and not re.search("accepted", done.stdout)
    assert int(peak) < 500, f"{peak} MB"
