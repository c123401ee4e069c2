"""What a PNG says of its picture: A1111's text both ways, what ComfyUI reads, and --like."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gm.diffusion.samplers import SAMPLERS
from gm.diffusion.schedule import DISCRETIZATIONS
from gm.errors import UserError
from gm.options.sample import SampleOptions, parse_sample, sample_settings
from gm.pictures import save_png, text_of
from gm.sampling.a1111_names import from_a1111, to_a1111
from gm.sampling.a1111_text import from_parameters, to_parameters
from gm.sampling.like import with_like
from gm.sampling.output import about

NOISE = np.random.default_rng(0).integers(0, 255, (8, 8, 3)).astype(np.uint8)


# -- A1111's text ------------------------------------------------------------------------------------------------------

TEXTS = {  # text -> prompt, negative prompt, some of the values
    "a dog\nNegative prompt: blurry\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 512x768": (
        "a dog",
        "blurry",
        {"Steps": "20", "Sampler": "Euler a", "CFG scale": "7", "Seed": "1", "Size": "512x768"},
    ),
    "a dog,\nin two lines\nNegative prompt: blurry,\ngrey\nSteps: 20, Sampler: DPM++ 2M Karras, Seed: 1": (
        "a dog,\nin two lines",
        "blurry,\ngrey",
        {"Sampler": "DPM++ 2M Karras"},
    ),
    "a dog\nSteps: 4, Sampler: LCM, Seed: 7": ("a dog", "", {"Steps": "4"}),
    'a dog\nSteps: 4, Lora hashes: "one: 1234, two: 5678", Note: "a \\"b\\"\\nc", Version: v1.10.1, Seed: 3': (
        "a dog",
        "",
        {"Lora hashes": "one: 1234, two: 5678", "Note": 'a "b"\nc', "Version": "v1.10.1", "Seed": "3"},
    ),
    "a dog: a cat, a bird": ("a dog: a cat, a bird", "", {}),
    "Steps: 1, Seed: 2": ("Steps: 1, Seed: 2", "", {}),
    "Negative prompt: grey\nSteps: 1, Seed: 2, Size: 8x8": ("", "grey", {"Seed": "2"}),
    "a\nSteps: 1, Seed: , Size: 8x8, junk, Model: x": ("a", "", {"Seed": "", "Size": "8x8", "Model": "x"}),
    'a\nSteps: 1, Seed: 2, Size: "half': ("a", "", {"Size": '"half'}),
    "": ("", "", {}),
}


@pytest.mark.parametrize("text", TEXTS)
def test_reading_a_text(text):
    prompt, negative, values = TEXTS[text]
    found = from_parameters(text)
    assert found[:2] == (prompt, negative) and values.items() <= found.values.items()
    assert bool(values) == bool(found.values)


LINE = st.text(st.characters(blacklist_categories=("Cs", "Cc", "Zl", "Zp")), max_size=60).map(str.strip)
VALUE = st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=30).map(str.strip)


@settings(max_examples=200, deadline=None)
@given(LINE, LINE, st.lists(VALUE, min_size=3, max_size=6))
def test_what_is_written_is_read(prompt, negative, values):
    named = {f"Name {number}": value for number, value in enumerate(values)}
    found = from_parameters(to_parameters(prompt, negative, named))
    if not prompt.startswith("Negative prompt:"):  # which has no other form there
        assert found == (prompt, negative, named)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=300) | st.lists(st.sampled_from(['"', "\\", ",", ":", "\n", "a", "Steps: 1, "])).map("".join))
def test_any_text_is_read(text):
    found = from_parameters(text)
    assert all(isinstance(value, str) for value in (*found[:2], *found.values, *found.values.values()))


def test_samplers_have_their_names_there_and_back():
    for sampler in SAMPLERS:
        for discretization in DISCRETIZATIONS:
            name, schedule = to_a1111(sampler, discretization)
            found, levels = from_a1111(name, schedule)
            assert found == sampler
            if schedule is not None:
                assert to_a1111(found, levels) == (name, schedule)
    assert to_a1111("DPMPP2MSampler", "EDMDiscretization") == ("DPM++ 2M Karras", "Karras")
    assert from_a1111("DPM++ 2M Karras", None) == from_a1111("DPM++ 2M", "Karras") == ("DPMPP2MSampler", "Karras")
    assert from_a1111("DPM++ 2M", "Automatic") == ("DPMPP2MSampler", "Karras")
    assert from_a1111("DPM++ 2M", None) == from_a1111("DPM++ 2M", "Uniform") == ("DPMPP2MSampler", "Normal")
    assert from_a1111("Euler a", "SGM Uniform") == ("EulerAncestralSampler", "SGMUniform")
    with pytest.raises(ValueError, match="is no sampler"):
        from_a1111("DPM fast", None)


# -- in a PNG ----------------------------------------------------------------------------------------------------------


def made(folder: Path, *flags, seed: int = 5, **more) -> Path:
    """A PNG as the command writes it, with `more` texts."""
    options = parse_sample([str(flag) for flag in flags])
    text = about(options, sample_settings(options, 8), options.prompt, seed)
    save_png(folder / "made.png", NOISE, {**text, **more})
    return folder / "made.png"


def comfyui_texts(path: Path) -> dict[str, str]:
    """The chunks as its page reads them: tEXt, iTXt and its own kind, the last of a name counts."""
    found, data, place = {}, path.read_bytes(), 8
    while place < len(data):
        size, kind = int.from_bytes(data[place : place + 4], "big"), data[place + 4 : place + 8]
        name, _, rest = data[place + 8 : place + 8 + size].partition(b"\0")
        if kind in (b"tEXt", b"iTXt", b"comf"):
            found[name.decode("latin-1")] = (rest[2:].split(b"\0", 2)[2] if kind == b"iTXt" else rest).decode()
        place += size + 12
    return found


@pytest.mark.parametrize("prompt", ["a dog: red, blue", "ein Hündchen, 日本"])
def test_other_tools_find_their_text(tmp_path, prompt):
    path = made(tmp_path, "--prompt", prompt, "--sample_step", 9, "--weight", "x/my, base.safetensors", "--width", 96)
    found = from_parameters(text_of(path)["parameters"])
    assert found.prompt.startswith(prompt) and found.negative_prompt == ""
    assert {
        "Steps": "9",
        "Sampler": "Euler",
        "CFG scale": "5",
        "Seed": "5",
        "Size": "96x1024",
        "Clip skip": "2",
    }.items() <= found.values.items()
    seen = comfyui_texts(path)
    assert seen["prompt"] == "", "which it would take for its own graph"
    head, _, last = seen["parameters"].rpartition("\nSteps:")
    assert "\nNegative prompt: " in head and not re.search(r'["{\n]', last), "as src/scripts/pnginfo.ts wants them"
    assert text_of(path)["prompt"] == prompt


def test_lora_stand_in_the_prompt(tmp_path):
    path = made(tmp_path, "--weight", "base.ckpt,runs/my dog.ckpt,two.safetensors", "--lora_scale", "0.5,1")
    assert from_parameters(text_of(path)["parameters"]).prompt.endswith("beach <lora:my dog:0.5> <lora:two:1>")
    assert from_parameters(text_of(made(tmp_path, "--guider", "IdentityGuider"))["parameters"]).values["CFG scale"] == "1"


# -- --like ------------------------------------------------------------------------------------------------------------

FLAGS = [
    *(
        "--prompt",
        "-- a dog, red",
        "--negative_prompt",
        "-grey",
        "--width",
        64,
        "--height",
        128,
        "--sampler",
        "HeunEDMSampler",
    ),
    *("--sample_step", 7, "--guidance_scale", 0.1, "--discretization", "Karras", "--orig_width", 640, "--crop_coords_top", 3),
    *("--set", "a.b=[1,2]", "--set", "c=d", "--max_tokens", 150, "--noise", "torch", "--guider", "IdentityGuider"),
]


def like(path: Path, *more) -> SampleOptions:
    return parse_sample(with_like(["--like", str(path), *map(str, more)]))


@pytest.fixture
def weight(tmp_path):
    path = tmp_path / "base.ckpt"
    path.write_bytes(b"weights" * 100)
    return path


def without(options: SampleOptions, *names: str) -> dict:
    return {name: value for name, value in vars(options).items() if name not in ("like", *names)}


def test_a_picture_of_ours_gives_its_flags(tmp_path, weight):
    asked = [str(word).replace("-- a", "a") for word in (*FLAGS, "--weight", weight)]
    asked[asked.index("--negative_prompt") : asked.index("--negative_prompt") + 2] = ["--negative_prompt=-grey"]
    path = made(tmp_path, *asked, "--num_cols", 3, "--save_path", tmp_path / "x", "--ms_mode", 1)
    assert without(like(path)) == without(parse_sample([*asked, "--seed", "5"]))
    other = like(path, "--prompt", "a cat", "--seed", 9, "--sample_step", 3, "--num_cols", 2, "--sd_xl_base_ratios", "0.5")
    expected = {"prompt": "a cat", "seed": 9, "sample_step": 3, "num_cols": 2, "sd_xl_base_ratios": "0.5"}
    assert without(other, *expected, "height", "width") == without(like(path), *expected, "height", "width")
    assert {name: vars(other)[name] for name in expected} == expected and other.size() == (1408, 704)


def test_every_flag_of_a_picture_comes_back(tmp_path):
    """A flag that somebody adds is recorded by itself: by its default's type there is another value for each."""
    from gm.options.parser import as_text, fields_of
    from gm.sampling.output import RECORDED

    for name in RECORDED:
        flag = fields_of(SampleOptions)[name]
        words = {"set": ["a=1"], "max_device_memory": ["1GB"]}.get(name)
        if words is None:
            if not flag.choices:
                continue
            words = [str(choice) for choice in flag.choices if choice != flag.default][:1]
        try:
            options = parse_sample([f"--{name}={word}" for word in words])
        except UserError:  # it does not act alone
            continue
        text = as_text(options, name)
        assert text in (None, *words, json.dumps(words)), name


def test_files_are_said_and_must_be_there(tmp_path, weight, project_log):
    lora = tmp_path / "lora.ckpt"
    lora.write_bytes(b"1")
    path = made(tmp_path, "--weight", f"{weight},{lora}", "--lora_scale", 0.5)
    assert like(path).weight == f"{weight},{lora}" and f"--weight {weight},{lora}" in project_log.text
    assert "changed" not in project_log.text
    lora.write_bytes(b"2")
    from gm.sampling.output import file_digest

    file_digest.cache_clear()
    like(path)
    assert f"{lora} has changed since {path} was made" in project_log.text
    lora.unlink()
    with pytest.raises(UserError, match="was made with .*lora.ckpt.*, which is not there: give --weight"):
        like(path)
    assert like(path, "--weight", weight).lora_scale is None, "it was for other LoRA"
    path = made(tmp_path, "--weight", weight, "--embedding", f"my={weight}")
    assert like(path).embedding == (f"my={weight}",) and file_digest(str(weight)) in text_of(path)["files"]


BAD = {  # a chunk instead -> words
    "steps": ("100000000", "says what this version does not take: .*sample_step: 100000000 is too large"),
    "seed": ("x", "--seed: 'x' is not a whole number"),
    "prompt": ("/etc/passwd.txt", "would be read as a file of prompts: give --prompt"),
    "sampler": ("Oiler", "--sampler"),
    "size": ("64", "has the size '64', which is no NxN"),
    "sizes": ("1,2", "has the size '1,2'"),
    "set": ("[1]", "where a list is written"),
    "weight": ("/etc/no\x07thing", "control characters"),
    "vae": ("/dev/zero", "was made with '/dev/zero', which is not there: give --vae"),
    "config": ("/proc/self/mem.yaml", "was made with '/proc/self/mem.yaml', which is not there"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_a_picture_must_not_say(tmp_path, weight, name):
    value, words = BAD[name]
    with pytest.raises(UserError, match=words) as error:
        like(made(tmp_path, "--weight", weight, **{name: value}))
    assert "\n" not in str(error.value) and "--like" in str(error.value)


def test_flags_of_the_machine_are_not_a_picture_s(tmp_path, weight):
    path = made(
        tmp_path, "--weight", weight, save_path="/etc", device_target="GPU", like="x.png", num_cols="9", batch_size="9"
    )
    found = like(path)
    assert (found.save_path, found.num_cols, found.batch_size, found.like) == ("outputs/demo/", 1, None, str(path))


def test_pictures_that_say_nothing(tmp_path):
    save_png(tmp_path / "plain.png", NOISE, {"prompt": "a dog"})
    for path, words in (
        (tmp_path / "plain.png", "does not say how it was made"),
        (tmp_path, "is no file"),
        ("no.png", "is no file"),
    ):
        with pytest.raises(UserError, match=words):
            like(path)
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(UserError, match="is not a picture"):
        like(tmp_path / "text.png")
    assert with_like(["--prompt", "a"]) == ["--prompt", "a"]


def test_a_picture_of_a1111(tmp_path, project_log):
    text = (
        "a dog,\nrunning\nNegative prompt: grey\nSteps: 12, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 6.5, Seed: 77, "
        "Size: 64x128, Model hash: 31e35c80fc, Model: sd_xl_base_1.0, RNG: CPU, ADetailer model: face, Version: v1.10.1"
    )
    save_png(tmp_path / "a.png", NOISE, {"parameters": text})
    found = like(tmp_path / "a.png", "--seed", 1)
    assert (found.prompt, found.negative_prompt, found.sample_step, found.seed) == ("a dog, running", "grey", 12, 1)
    assert (found.sampler, found.discretization, found.guidance_scale, found.noise) == (
        *("DPMPP2MSampler", "Karras"),
        *(6.5, "a1111-cpu"),
    )
    assert found.size() == (128, 64) and found.weight == parse_sample([]).weight
    assert "not taken over: ADetailer model: face" in project_log.text and "the model 'sd_xl_base_1.0'" in project_log.text
    save_png(tmp_path / "b.png", NOISE, {"parameters": text.replace("DPM++ 2M", "DPM fast").replace(", RNG: CPU", "")})
    assert like(tmp_path / "b.png").sampler == "EulerEDMSampler"
    assert "Sampler: DPM fast" in project_log.text and "RNG: GPU" in project_log.text


def test_hires_and_strength_of_a1111(tmp_path, project_log):
    text = (
        "a dog <lora:style:0.8>\nSteps: 12, Sampler: Euler, Seed: 7, Size: 64x64, Denoising strength: 0.4, Hires upscale: 2, "
        "Hires steps: 5, Hires upscaler: Latent (bicubic), RNG: CPU"
    )
    path = tmp_path / "a.png"
    save_png(path, NOISE, {"parameters": text})
    found = like(path)
    assert (found.prompt, found.hires_scale, found.hires_steps, found.hires_strength) == ("a dog", 2, 5, 0.4)
    assert found.hires_upscaler == "latent-bicubic" and project_log.text.count("not taken over: <lora:style:0.8>\n") == 1
    save_png(path, NOISE, {"parameters": text.replace("Latent (bicubic)", "R-ESRGAN 4x+")})
    assert like(path, "--lora_dir", tmp_path).prompt == "a dog <lora:style:0.8>" and found.prompt_style == "a1111"
    assert like(path).hires_scale is None and "Hires upscaler: R-ESRGAN 4x+" in project_log.text
    save_png(path, NOISE, {"parameters": text.partition(", Hires")[0]})
    assert like(path).strength is None and "Denoising strength: 0.4" in project_log.text
    assert (like(path, "--img", "x.png").task, like(path, "--img", "x.png").strength) == ("img2img", 0.4)
    ours = made(tmp_path, "--hires_scale", 1.5, "--hires_steps", 9, "--hires_upscaler", "lanczos")
    values = from_parameters(text_of(ours)["parameters"]).values
    assert {"Hires upscale": "1.5", "Hires steps": "9", "Hires upscaler": "Lanczos", "Denoising strength": "0.5"}.items() <= (
        values.items()
    )


@pytest.mark.parametrize(
    "flags, wanted",
    [
        ((), ("DPMPP2MSampler", "Karras")),
        (("--schedule", "Exponential"), ("DPMPP2MSampler", "Exponential")),
        (("--sampler", "Heun"), ("HeunEDMSampler", "Karras")),
        (("--sampler", "Heun SGM Uniform"), ("HeunEDMSampler", "SGMUniform")),
    ],
)
def test_another_sampler_or_schedule_than_the_picture_s(tmp_path, weight, flags, wanted):
    path = made(tmp_path, "--sampler", "DPM++ 2M Karras", "--weight", weight)
    assert like(path, *flags).sampler_and_schedule() == wanted


# -- a seed at random --------------------------------------------------------------------------------------------------


def test_a_seed_at_random():
    drawn = {parse_sample(["--seed", "-1"]).with_seed.seed for _ in range(8)}
    assert len(drawn) > 1 and all(0 <= seed < 2**32 for seed in drawn)
    assert parse_sample(["--seed", "7"]).with_seed.seed == 7
    with pytest.raises(UserError, match="too small: at least -1"):
        parse_sample(["--seed", "-2"])
