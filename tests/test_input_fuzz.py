"""Damaged YAMLs, command lines, prompts, captions and pictures: they are taken, or refused in one sentence; nothing else comes of
them. FUZZ_SECONDS=300 looks for so long instead of about ten seconds."""

import copy
import io
import os
import time
from dataclasses import fields

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

import tiny
from gm.config.load import load_config
from gm.config.overrides import override
from gm.config.yaml_text import read_yaml
from gm.data.captions import read_caption
from gm.data.images import image_size, read_image
from gm.data.masks import read_mask
from gm.errors import UserError
from gm.models.adapters import adapters_of
from gm.options.evaluate import EvaluateOptions, parse_evaluate
from gm.options.prompts import read_prompt_lines, read_prompts
from gm.options.sample import SampleOptions, parse_sample
from gm.options.train import TrainOptions, parse_train

SECONDS = float(os.environ.get("FUZZ_SECONDS", 0))
TESTS = 6  # that share the seconds
fuzzed = settings(
    deadline=None,
    max_examples=150,
    suppress_health_check=list(HealthCheck),
    derandomize=False,
    database=None,
)


def for_long(check) -> None:
    """Run a hypothesis test once, or again and again with other examples for this test's share of FUZZ_SECONDS."""
    end = time.monotonic() + SECONDS / TESTS
    check()
    while time.monotonic() < end:
        check()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


def taken_or_refused(function, *arguments):
    """What the function gives, or None when it refuses with a sentence of one line."""
    try:
        return function(*arguments)
    except UserError as error:
        assert str(error).isprintable() and 10 < len(str(error)) <= 4000
        return None


# -- YAMLs --------------------------------------------------------------------------------------------------------

CONFIGS = [tiny.TRAINING, tiny.TEXT_TRAINING, tiny.ROOT / "configs" / "dreambooth_lora.yaml", tiny.INFERENCE]
WHOLE = yaml.safe_load(load_config(str(tiny.TEXT_TRAINING)).raw)
MORE = {
    "captions": {"extensions": [".txt"], "dropout": 0.1, "tag_dropout": 0.1, "trigger": "sks", "keep_tokens": 1},
    "buckets": {"max_buckets": 2, "min_bucket_reso": 64, "max_bucket_reso": 256},
    "masks": {"unmasked_weight": 0.1, "folder": "masks"},
    "concepts": [
        {"instance_data_path": "a", "instance_prompt": "b", "class_data_path": "c", "class_prompt": "d", "repeats": 2}
    ],
}
WHOLE["data"]["dataset_config"]["params"] |= MORE
ODD = [
    *(None, True, False, 0, -1, 1, 2, 7, 2**31, 2**64, -(2**70), 10**39, 1e-300, 0.5, 1e300, float("nan"), float("inf")),
    *(
        "",
        " ",
        "a",
        "1",
        "1e400",
        "٣",
        "\0",
        "\ud800",
        "x" * 9000,
        "${data}",
        "${data.total_step}",
        "${",
        "gm.training.optim.Lion",
    ),
    *([], {}, [[]], [1], ["a"], [None], [True], [-1, 2**70], {"a": 1}, {0: {}}, {"target": "a"}, {None: 1}, {True: []}),
]
values = st.sampled_from(ODD) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3),
    max_leaves=6,
)


def paths(tree, at=()) -> list[tuple]:
    """The places of all values of a tree."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [at] * bool(at) + [path for key, value in items for path in paths(value, (*at, key))]


PATHS = paths(WHOLE)


def change(tree, path, value):
    """The tree with another value there; unless a change before has taken the place away."""
    *above, last = path
    for key in above:
        try:
            tree = tree[key]
        except (KeyError, IndexError, TypeError):
            return
    if isinstance(tree, dict) or isinstance(tree, list) and isinstance(last, int) and last < len(tree):
        tree[last] = value


def whole_check(path):
    config = load_config(str(path))
    adapters_of(config.model, config.lora)


def test_a_tree_with_other_values(folder):
    @fuzzed
    @example([(("model", "params", "network_config", "params", "channel_mult"), 3)])
    @example([(("model", "params", "network_config", "params", "channel_mult"), [])])
    @example([(("model", "params", "network_config", "params", "channel_mult"), [1] * 100)])
    @given(st.lists(st.tuples(st.sampled_from(PATHS), values), min_size=1, max_size=3))
    def check(changes):
        tree = copy.deepcopy(WHOLE)
        for path, value in changes:
            change(tree, path, copy.deepcopy(value))
        text = yaml.dump(tree, Dumper=PlainDumper, allow_unicode=True)
        (folder / "tree.yaml").write_text(text, encoding="utf-8", errors="replace")
        taken_or_refused(whole_check, folder / "tree.yaml")

    for_long(check)


class PlainDumper(yaml.SafeDumper):
    def ignore_aliases(self, data):
        return True


def damaged(*contents: bytes):
    """One of these, with some of its bytes changed, taken out, doubled or added."""
    change = st.tuples(st.sampled_from("sidcx"), st.integers(0, 10_000), st.integers(1, 40), st.binary(min_size=1, max_size=8))
    return st.tuples(st.sampled_from(contents), st.lists(change, min_size=1, max_size=8)).map(lambda one: _damage(*one))


def _damage(content: bytes, changes) -> bytes:
    for how, place, length, new in changes:
        place %= max(1, len(content))
        before, there, after = content[:place], content[place : place + length], content[place + length :]
        middle = {"s": new[: len(there)], "i": new + there, "d": b"", "c": there + there, "x": bytes(255 - b for b in there)}[
            how
        ]
        content = before + middle + after
    return content


def test_a_text_with_other_bytes(folder):
    @fuzzed
    @example(b"a: &a [*a]")
    @example(b"<<: *b\na: &b {}")
    @example(b"? {a: b}\n: c")
    @example(b"base: [a, b]")
    @example(b"- 1\n...\n- 2")
    @given(damaged(*(path.read_bytes() for path in CONFIGS), yaml.dump(WHOLE).encode()) | st.binary(max_size=60))
    def check(content):
        (folder / "text.yaml").write_bytes(content)
        taken_or_refused(load_config, str(folder / "text.yaml"))
        taken_or_refused(lambda: read_yaml(content.decode("utf-8", "replace"), "it"))

    for_long(check)


keys = st.sampled_from([".".join(map(str, path)) for path in PATHS]) | st.text("ab.[]0 =-9", max_size=12)
entries = st.builds(
    lambda key, equals, value: key + equals + value,
    keys,
    st.sampled_from(["=", "=", "=", "", "==", " = "]),
    st.sampled_from(["", "1", "[1", "{a: 1}", "*a", "&a 1", "!!int 1", "!!python/name:os", "${a}", "1e-4", "yes", "- a"])
    | st.text(max_size=12)
    | values.map(repr),
)


def test_entries_on_the_command_line():
    @fuzzed
    @example(["data[0]=1"])
    @example(["model.params.conditioner_config.params.emb_models.-1.target=a"])
    @given(st.lists(entries, min_size=1, max_size=4))
    def check(given_entries):
        taken_or_refused(override, copy.deepcopy(WHOLE), given_entries)
        taken_or_refused(load_config, str(tiny.TRAINING), given_entries)

    for_long(check)


# -- command lines ------------------------------------------------------------------------------------------------

FLAGS = [
    "--nothing",
    *sorted({f"--{one.name}" for kind in (TrainOptions, SampleOptions, EvaluateOptions) for one in fields(kind)}),
]
words = st.sampled_from(FLAGS) | st.sampled_from(
    ["", " ", "-1", "0", "1", "2**3", "1_0", "9" * 50, "1e400", "nan", "True", "auto", "58GB", "٣GB", "a,b", "0.5,", "a=b", "=", "--", "-"]
    + ["caf\udce9", "a\0", "a\n", "x" * 300, "x" * 9000, "txt2img", "CPU", "O0", "--seed=1", "--seed=", "%s", "a b.txt", "/dev/null"]
)  # fmt: skip


def test_command_lines():
    @fuzzed
    @given(st.lists(words | st.text(max_size=6), max_size=8))
    def check(argv):
        if {"-h", "--help"} & {word.split("=")[0][:6] for word in argv} or any(word.startswith("-h") for word in argv):
            return
        photos = ["--instance_data_path", "a", "--instance_prompt", "b", "--prior_loss_weight", "0"]
        for parse in (parse_train, parse_sample, parse_evaluate):
            taken_or_refused(parse, argv)
            taken_or_refused(parse, [*photos, *argv] if parse is parse_train else argv)

    for_long(check)


# -- text files ---------------------------------------------------------------------------------------------------

LINES = "# pictures\na sks dog --w 64 --h 96 --d 1 --s 30 --l 7 --n blurry --ss HeunEDMSampler\n\n  a cat\n".encode()
AS_YAML = b"- {prompt: a sks dog, width: 64, height: 96, seed: 1, steps: 30, guidance_scale: 7, sampler: HeunEDMSampler}\n- prompt: b\n"


def test_prompts_and_captions(folder):
    @fuzzed
    @example(b"a --w \xd9\xa3\n")
    @example(b"a" + b" " * 100_000 + b"b\n")
    @given(damaged(LINES, AS_YAML, b"a dog, on a beach, red\n", "ein Hündchen".encode()) | st.binary(max_size=60))
    def check(content):
        for name in ("a.txt", "a.yaml"):
            (folder / name).write_bytes(content)
            taken_or_refused(read_prompt_lines, str(folder / name), "--prompt", 32)
        taken_or_refused(read_prompts, str(folder / "a.txt"), "--prompts")
        taken_or_refused(read_caption, folder / "a.txt")

    for_long(check)


# -- pictures -----------------------------------------------------------------------------------------------------


def encoded(kind: str, mode: str = "RGB", **more) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, kind, **more)
    return file.getvalue()


def exif(orientation: int) -> Image.Exif:
    found = Image.Exif()
    found[0x0112] = orientation
    found[0x010E] = "a description"
    return found


PICTURES = [
    *(encoded(kind) for kind in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")),
    *(encoded("JPEG", exif=exif(6)), encoded("PNG", exif=exif(5)), encoded("WEBP", exif=exif(8))),
    *(encoded("JPEG", "CMYK"), encoded("JPEG", progressive=True), encoded("PNG", "I;16"), encoded("PNG", "LA")),
    *(encoded("PNG", "P", transparency=0), encoded("TIFF", "F"), encoded("TIFF", compression="tiff_lzw")),
    *(encoded("PNG", icc_profile=b"x" * 200), encoded("GIF", save_all=True, append_images=[Image.new("RGB", (32, 24))])),
    encoded("MPO", save_all=True, append_images=[Image.new("RGB", (32, 24))]),
]


def test_pictures(folder):
    @fuzzed
    @given(damaged(*PICTURES) | st.binary(max_size=60))
    def check(content):
        path = folder / "a.jpg"
        path.write_bytes(content)
        size, pixels = taken_or_refused(image_size, path), taken_or_refused(read_image, path)
        if pixels is not None:
            assert pixels.dtype == np.uint8 and pixels.shape == (*size, 3)
            taken_or_refused(read_mask, path, path)

    for_long(check)


def test_the_pictures_are_good(folder):
    for number, content in enumerate(PICTURES[:-3]):
        (folder / f"{number}.png").write_bytes(content)
        assert taken_or_refused(read_image, folder / f"{number}.png") is not None or b"II*" in content[:4], number
