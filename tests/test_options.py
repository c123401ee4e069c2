"""Command lines: what is accepted, what is refused in which words, and that every option is in --help."""

import importlib
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Optional

import pytest

import tiny
from gm import device
from gm.diffusion.guidance import GUIDERS
from gm.diffusion.samplers import SAMPLERS
from gm.diffusion.schedule import DISCRETIZATIONS
from gm.errors import UserError
from gm.options.evaluate import EvaluateOptions
from gm.options.parser import REQUIRED, option, parse, parser_of
from gm.options.sample import SD_XL_BASE_RATIOS, SampleOptions, parse_sample
from gm.options.train import TrainOptions, parse_train

TRAIN = ["--instance_data_path", "photos", "--instance_prompt", "a sks dog"]
WITH_CLASS = TRAIN + ["--class_data_path", "class", "--class_prompt", "a dog"]


def test_the_commands_of_the_mission_parse():
    options = parse_train(
        "--config configs/training/sd_xl_base_finetune_dreambooth_lora_910b.yaml --weight checkpoints/sd_xl_base_1.0_ms.ckpt "
        "--instance_data_path a --class_data_path b --gradient_accumulation_steps 4 --ms_mode 0 --save_ckpt_interval 500 "
        "--device_target Ascend --is_parallel True".split()
        + ["--instance_prompt", "A photo of a sks dog", "--class_prompt", "A photo of a dog"]
    )
    assert options.gradient_accumulation_steps == 4 and options.is_parallel and options.ms_mode == 0
    sample = parse_sample(
        ["--task", "txt2img", "--weight", "a.ckpt,b.ckpt", "--prompt", "a sks dog", "--device_target", "Ascend"]
    )
    assert sample.weight == "a.ckpt,b.ckpt" and sample.sample_step == 40 and sample.guidance_scale == 5.0
    assert sample.sampler == "EulerEDMSampler" and sample.size() == (1024, 1024)


def test_the_aspect_ratios_are_sdxls():
    for name, (width, height) in SD_XL_BASE_RATIOS.items():
        assert width % 64 == 0 and height % 64 == 0
        assert abs(width / height - float(name.split("_")[0])) < 0.02
    assert parse_sample(["--sd_xl_base_ratios", "1.75"]).size() == (768, 1344)
    assert parse_sample(["--sd_xl_base_ratios", "1.75", "--height", "256"]).size() == (256, 1344)


BAD_COMMANDS = [
    (WITH_CLASS + ["--wieght", "a"], "unknown flag --wieght, did you mean --weight?"),
    (WITH_CLASS + ["--xyzzy"], "unknown flag --xyzzy"),
    (WITH_CLASS + ["--noise_offset=0.1"], "--set model.params.loss_fn_config.params.offset_noise_level=VALUE"),
    (WITH_CLASS + ["stray"], "unexpected 'stray'"),
    (["--instance_prompt", "a sks dog"], "--instance_prompt was given without --instance_data_path"),
    (["--instance_data_path", "a", "--instance_prompt", "  "], "the prompt is empty"),
    (TRAIN, "--prior_loss_weight 0"),
    (["--infer_prompts", "a.txt", "--infer_prompt", "b"], "were both given"),
    (["--infer_prompts", "a.txt"], "draws nothing without --infer_during_train True"),
    (["--prior_loss_weight", "0", "--stop_after_sampling", "True"], "samples nothing"),
    (TRAIN + ["--class_data_path", "b", "--class_prompt", ""], "the prompt is empty"),
    (TRAIN + ["--prior_loss_weight", "0", "--stop_after_sampling", "True"], "samples nothing"),
    (WITH_CLASS + ["--ms_mode", "2"], "--ms_mode"),
    (WITH_CLASS + ["--device_target", "TPU"], "--device_target"),
    (WITH_CLASS + ["--clip_grad", "yes"], "'yes' is neither True nor False"),
    (WITH_CLASS + ["--gradient_accumulation_steps", "0"], "0 is too small: at least 1"),
    (WITH_CLASS + ["--gradient_accumulation_steps", "1.5"], "'1.5' is not a whole number"),
    (WITH_CLASS + ["--prior_loss_weight", "nan"], "not a finite number"),
    (WITH_CLASS + ["--max_grad_norm", "0"], "more than 0"),
    (WITH_CLASS + ["--max_device_memory", "58"], "not a size such as 58GB"),
    (WITH_CLASS + ["--weight"], "expected one argument"),
]


@pytest.mark.parametrize("argv, words", BAD_COMMANDS)
def test_bad_command_lines(argv, words):
    with pytest.raises(UserError, match=re.escape(words)) as error:
        parse_train(argv)
    assert "\n" not in str(error.value)


# -- one field is one flag ------------------------------------------------------------------------------------


def commands() -> dict[str, type]:
    """name -> dataclass of every command's options."""
    found = {"train_dreambooth": TrainOptions, "sampling_without_streamlit": SampleOptions, "evaluate": EvaluateOptions}
    for path in sorted((tiny.ROOT / "tools").glob("*.py")):
        module = importlib.import_module(f"tools.{path.stem}")
        if hasattr(module, "Options"):
            found[path.stem] = module.Options
    return found


@pytest.mark.parametrize("name, options", commands().items(), ids=commands())
def test_every_option_is_in_help(name, options):
    text = parser_of(options, name, "").format_help()
    for field in fields(options):
        flag = field.metadata["flag"]
        assert flag.help
        assert (flag.metavar if flag.positional else f"--{field.name} ") in text, field.name
    assert "None" not in text and "()" not in text
    assert len(commands()) >= 15


def test_every_flag_of_the_readmes_tables_exists():
    known = {f"--{field.name}" for options in commands().values() for field in fields(options)}
    for readme in ("README.md", "README_CN.md"):
        rows = [line for line in (tiny.ROOT / readme).read_text(encoding="utf-8").splitlines() if line.startswith("|")]
        flags = {flag for row in rows for flag in re.findall(r"--\w+", row)}
        assert flags and flags <= known, flags - known


def test_help_is_in_groups_with_defaults(capsys):
    with pytest.raises(SystemExit):
        parse_train(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "--clip_grad True|False clip the gradient's norm (default: False)" in text
    assert "where to compute (default: Ascend or a GPU where there is one, else CPU)" in text
    assert "class images: --class_data_path FOLDER" in text and "--task" not in text


def test_what_nobody_says():
    options = parse_train(WITH_CLASS)
    assert options.device_target == device.device_here() and options.set == () and options.version is None
    assert options.cache_text_products is None and options.log_interval == 0
    assert parse_train([*WITH_CLASS, "--cache_text_products", "False"]).cache_text_products is False
    assert parse_train([*WITH_CLASS, "--task", "txt2img", "--version", "SDXL-base-1.0"]).version == "SDXL-base-1.0"
    assert parse_sample(["--lora_scale", "0.8,0.5", "--set", "a=1", "--set", "b=2"]).lora_scale == (0.8, 0.5)
    assert parse_sample(["--set", "a=1", "--set", "b=2"]).set == ("a=1", "b=2")
    with pytest.raises(UserError, match="--task: invalid choice"):
        parse_train([*WITH_CLASS, "--task", "img2img"])
    with pytest.raises(TypeError):
        SampleOptions(no_such=1)


def test_names_are_listed_where_the_formulas_are():
    for sampler in SAMPLERS:
        assert parse_sample(["--sampler", sampler]).sampler == sampler
    for guider in GUIDERS:
        assert parse_sample(["--guider", guider]).guider == guider
    for discretization in DISCRETIZATIONS:
        assert parse_sample(["--discretization", discretization]).discretization == discretization


@dataclass(frozen=True)
class Everything:
    path: Path = option(REQUIRED, "a path")
    share: Optional[float] = option(None, "a share, 100 % at most", above=0, most=1)
    sizes: tuple[int, ...] = option((1, 2), "sizes", least=1, metavar="N[,N]")
    names: tuple[str, ...] = option((), "names", repeated=True)


def test_the_annotation_says_how_a_value_is_read():
    read = lambda *argv: parse(Everything, ["--path", "a/b", *argv], "a.py", "A command.")  # noqa: E731
    assert read() == Everything(Path("a/b"))
    given = read("--share", "0.5", "--sizes", "3,4,5", "--names", "x,y", "--names", "z")
    assert given == Everything(Path("a/b"), 0.5, (3, 4, 5), ("x,y", "z"))
    for argv, words in (
        (("--share", "0"), "0 is too small: more than 0"),
        (("--share", "2"), "2 is too large: at most 1"),
        (("--sizes", "3,0"), "0 is too small: at least 1"),
        (("--sizes", "3,"), "'' is not a whole number"),
    ):
        with pytest.raises(UserError, match=re.escape(words)):
            read(*argv)
    with pytest.raises(UserError, match="required: --path"):
        parse(Everything, [], "a.py", "A command.")
    with pytest.raises(TypeError, match="was not given"):
        Everything()
    assert "100 % at most" in parser_of(Everything, "a.py", "").format_help()
