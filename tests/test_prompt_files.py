"""Files of prompts: what their lines mean, by the names of sd-scripts, and what is refused in which words."""

import re

import pytest

import tiny
from gm.config.types import SampleSettings
from gm.diffusion.samplers import SAMPLERS
from gm.errors import UserError
from gm.options.prompts import PromptLine, read_prompt_lines
from gm.options.sample import parse_sample, sample_settings
from gm.options.train import parse_train
from gm.parallel.ranks import Ranks
from gm.sampling.jobs import requests_of
from gm.training.inputs import check_inputs
from gm.training.validation import asked_pictures

EVERYTHING = PromptLine("a sks dog", "blurry, low quality", 128, 64, 7, 12, 3.5, "HeunEDMSampler")
AS_TEXT = "a sks dog --w 128 --h 64 --d 7 --s 12 --l 3.5 --n blurry, low quality --ss HeunEDMSampler"
AS_YAML = """
# the same
- prompt: a sks dog
  negative_prompt: blurry, low quality
  width: 128
  height: 64
  seed: 7
  steps: 12
  guidance_scale: 3.5
  sampler: HeunEDMSampler
- {prompt: 'a cat: in the snow', seed: null}
"""


def read(folder, content, name="prompts.txt"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_prompt_lines(str(path), "--infer_prompts", 32)


def test_lines_with_their_options(tmp_path):
    text = f"# pictures\n\n{AS_TEXT}\n  a cat -- in --N  the dark --W 96\n#a dog\r\nein Hündchen"
    given = read(tmp_path, "\ufeff" + text)
    assert given == [EVERYTHING, PromptLine("a cat -- in", "the dark", width=96), PromptLine("ein Hündchen")]


def test_a_yaml_says_the_same(tmp_path):
    for name in ("prompts.yaml", "prompts.yml"):
        assert read(tmp_path, AS_YAML, name) == [EVERYTHING, PromptLine("a cat: in the snow")]


BAD_TEXT = [
    (b"a dog\n\xff\xfe", "cannot be read: it is not UTF-8 (byte 6)"),
    ("", "holds no prompt: write one prompt a line"),
    ("# nothing\n\n", "holds no prompt"),
    ("a dog\na cat --x 3", ", line 2: unknown option --x, known are --w --h --d --s --l --n --ss"),
    ("a dog --width 64", ", line 1: unknown option --width, did you mean --w?"),
    ("a dog --g 3", ", line 1: unknown option --g, known are"),
    ("a dog --w 64 --w 96", ", line 1: --w is given twice"),
    ("a dog --w big", ", line 1: --w 'big' is not a whole number"),
    ("a dog --h", ", line 1: --h '' is not a whole number"),
    ("a dog --s 0", ", line 1: --s 0 is too small: at least 1"),
    ("a dog --d -1", ", line 1: --d -1 is too small: at least 0"),
    ("a dog --l high", ", line 1: --l 'high' is not a number"),
    ("a dog --l nan", ", line 1: --l 'nan' is not a finite number"),
    ("a dog --ss Oiler", ", line 1: --ss 'Oiler' is no sampler, did you mean 'Euler'?"),
    ("\n\na dog --w 100", ", line 3: width 100 is not a multiple of 32: take 96 or 128"),
    ("a dog --h 20", ", line 1: height 20 is not a multiple of 32: take 32 or 64"),
    ("a dog\n--w 64", ", line 2: the prompt is empty"),
]
BAD_YAML = [
    ("- prompt: [a", "is not valid YAML: "),
    ("prompt: a dog", "must be a list of prompts"),
    ("# nothing", "holds no prompt"),
    ("[]", "holds no prompt"),
    ("- prompt: a dog\n- a cat", ", line 2: 'a cat' is not a mapping, write '- prompt: a cat'"),
    ("- prompt: a dog\n\n- prompt: a cat\n  w: 64", ", line 3: unknown key 'w', known are prompt, negative_prompt, width,"),
    ("- width: 64", ", line 1: the prompt is empty"),
    ("- prompt: 3", ", line 1: prompt 3 is not text: put it in quotes"),
    ("- prompt: a\n  width: True", ", line 1: width 'True' is not a whole number"),
    ("- prompt: a\n  sampler: [x]", ", line 1: sampler ['x'] is not text"),
    ("- prompt: a\n  width: 100", ", line 1: width 100 is not a multiple of 32"),
]


@pytest.mark.parametrize("name, content, words", [("a.txt", *c) for c in BAD_TEXT] + [("a.yaml", *c) for c in BAD_YAML])
def test_what_is_wrong_is_one_sentence_with_its_place(tmp_path, name, content, words):
    with pytest.raises(UserError, match=re.escape(words)) as error:
        read(tmp_path, content, name)
    assert str(error.value).startswith(f"--infer_prompts {tmp_path / name}") and "\n" not in str(error.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"^--infer_prompts .*nowhere.txt cannot be read"):
        read_prompt_lines(str(tmp_path / "nowhere.txt"), "--infer_prompts", 32)


# -- what becomes of it -------------------------------------------------------------------------------------


def test_training_and_sampling_mean_the_same_by_a_line(tmp_path):
    for line in (EVERYTHING, PromptLine("a dog"), PromptLine("a dog", width=64), PromptLine("a dog", guidance_scale=0.0)):
        options = parse_sample(["--height", "96", "--width", "96", "--sample_step", "9", "--negative_prompt", "grey"]).of(line)
        assert sample_settings(options, 32) == line.settings(SampleSettings.square(96, 9))
        assert options.seed == (42 if line.seed is None else line.seed)
        assert options.negative_prompt == (line.negative_prompt or "grey")
    assert EVERYTHING.settings(SampleSettings.square(96, 9)) == SampleSettings(
        64, 128, (64, 128, 0, 0, 64, 128), "HeunEDMSampler", 12, "VanillaCFG", 3.5
    )
    wide = parse_sample(["--height", "96", "--width", "96", "--orig_width", "500"]).of(PromptLine("a", width=64))
    assert sample_settings(wide, 32).sizes == (96, 500, 0, 0, 96, 64)  # a flag counts for every line
    assert parse_sample([]).of(PromptLine("a", "")).negative_prompt == ""


@pytest.fixture
def inputs(shared, tmp_path):
    def check(*more):
        words = ("--config", tiny.TRAINING, "--weight", shared / "golden" / "tiny_sdxl.safetensors", "--device_target", "CPU")
        words += ("--instance_data_path", shared / "data" / "dog", "--instance_prompt", "a sks dog")
        words += ("--class_data_path", tmp_path / "class", "--class_prompt", "a dog", "--seed", 5)
        return check_inputs([str(word) for word in (*words, *more)], Ranks())

    return check


def test_the_pictures_of_a_run(inputs, tmp_path):
    usual = asked_pictures(inputs("--sample_batch_size", 3, "--sample_step", 9))
    assert [(one.prompt, one.negative_prompt, one.seed) for one in usual] == [("a sks dog", "", seed) for seed in (5, 6, 7)]
    assert {one.settings for one in usual} == {SampleSettings.square(128, 9)}
    assert {one.prompt for one in asked_pictures(inputs("--infer_prompt", "a sks cat"))} == {"a sks cat"}

    path = tmp_path / "prompts.txt"
    path.write_text("a sks dog in a pool\n\n# seeds\na cat --d 100 --n red --w 64\na bird\n")
    given = inputs("--infer_during_train", "True", "--infer_prompts", path)
    assert [(one.prompt, one.negative_prompt, one.seed) for one in asked_pictures(given)] == [
        ("a sks dog in a pool", "", 5),
        ("a cat", "red", 100),
        ("a bird", "", 7),
    ]
    assert asked_pictures(given)[1].settings.width == 64
    assert given.prompts == ["a sks dog", "a dog", "a sks dog in a pool", "a cat", "red", "a bird"]
    assert list(given.texts) == ["a sks dog", "a dog"]


def test_flags_that_do_not_go_together(inputs, tmp_path):
    train = [
        "--instance_data_path",
        "photos",
        "--instance_prompt",
        "a",
        "--prior_loss_weight",
        "0",
        "--infer_prompts",
        "a.txt",
    ]
    with pytest.raises(UserError, match="--infer_prompts a.txt and --infer_prompt were both given"):
        parse_train([*train, "--infer_prompt", "a cat", "--infer_during_train", "True"])
    with pytest.raises(UserError, match="--infer_prompts a.txt draws nothing without --infer_during_train True"):
        parse_train(train)
    (tmp_path / "a.txt").write_text("a dog --w 100")
    with pytest.raises(UserError, match="line 1: width 100 is not a multiple of 32"):
        inputs("--infer_during_train", "True", "--infer_prompts", tmp_path / "a.txt")


FULL_YAML = """
- {prompt: a dog, schedule: Karras, noise: torch, guidance_rescale: 0.5, orig_width: 640, negative_orig_height: 9, seed: 3}
- {prompt: a cat, sampler: DPM++ 2M Karras, hires_scale: 1.5, hires_upscaler: lanczos, guidance_stop: 0.5}
"""


def asked(folder, content, name, *flags):
    path = folder / name
    path.write_text(content)
    usual = ("--height", "64", "--width", "64", "--discretization", "EDMDiscretization")
    return requests_of(parse_sample([*usual, "--prompt", str(path), *flags]), 32)


def test_a_picture_of_a_file_may_have_all_flags_of_a_picture(tmp_path):
    dog, cat = asked(tmp_path, FULL_YAML, "p.yaml")
    assert (dog.settings.discretization, dog.settings.noise, dog.settings.guidance_rescale) == ("Karras", "torch", 0.5)
    assert dog.settings.sizes == (64, 640, 0, 0, 64, 64) and dog.settings.negative_sizes == (9, 640, 0, 0, 64, 64)
    assert (cat.settings.sampler, cat.settings.discretization) == ("DPMPP2MSampler", "Karras")
    assert (cat.options.hires_scale, cat.options.hires_upscaler, cat.settings.guided_steps) == (1.5, "lanczos", (0, 0.5))
    line = asked(tmp_path, "a dog --ow 640 --oh 320 --nw 8 --nh 9 --ct 1 --cl 2 --ss Heun Karras", "p.txt")[0].settings
    assert line.sizes == (320, 640, 1, 2, 64, 64) and line.negative_sizes == (9, 8, 1, 2, 64, 64)
    assert (line.sampler, line.discretization) == ("HeunEDMSampler", "Karras")


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("p.txt", "a\na dog --t 0.5", ", line 2: --strength 0.5 does nothing without --task img2img"),
        ("p.txt", "a dog --t 2", ", line 1: --t 2 is too large: at most 1"),
        ("p.txt", "a dog --ow x", ", line 1: --ow 'x' is not a whole number"),
        ("p.txt", "a dog --q 2", "known are --w --h --d --s --l --n --ss --t --ow --oh --nw --nh --ct --cl"),
        ("p.yaml", "- {prompt: a, noise: loud}", ", line 1: noise 'loud' is not one of native, torch,"),
        ("p.yaml", "- {prompt: a, schedule: [a]}", ", line 1: schedule "),
        ("p.yaml", "- {prompt: a, guidance_rescale: 2}", ", line 1: guidance_rescale 2 is too large"),
        ("p.yaml", "- {prompt: a, hires_steps: 5}", ", line 1: --hires_steps 5 does nothing without --hires_scale"),
        ("p.yaml", "- {prompt: a, weight: x.ckpt}", ", line 1: unknown key 'weight', known are prompt,"),
        ("p.yaml", "- {prompt: a, img: x.png}", ", line 1: unknown key 'img'"),
        ("p.yaml", "- {prompt: a, further: 1}", ", line 1: unknown key 'further'"),
    ],
)
def test_flags_of_a_file_are_read_as_strictly(tmp_path, name, content, words):
    with pytest.raises(UserError, match=re.escape(words)):
        asked(tmp_path, content, name)


def test_every_sampler_has_its_name(tmp_path):
    for name in SAMPLERS:
        assert read(tmp_path, f"a dog --ss {name}")[0].sampler == name
