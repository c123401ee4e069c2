"""What a run decides before anything is loaded: its samples, the log's interval, the products of the text, the next command."""

import shlex
import shutil
import subprocess
import sys

import pytest

import tiny
from gm.data.crops import plan_samples
from gm.data.dreambooth import CLASS, INSTANCE
from gm.options.sample import parse_sample
from gm.parallel.ranks import Ranks
from gm.runtime import Runtime
from gm.training import networks
from gm.training.inputs import check_inputs
from gm.training.results import next_command
from gm.training.run import loop_settings, photo_sets, prepare


@pytest.fixture
def inputs(shared, tmp_path):
    """The checked inputs of a command line."""

    def check(*more, config=tiny.TRAINING):
        words = ("--config", config, "--weight", shared / "golden" / "tiny_sdxl.safetensors", "--device_target", "CPU")
        words += ("--instance_data_path", shared / "data" / "dog", "--instance_prompt", "a 'sks' dog")
        words += ("--class_data_path", tmp_path / "class", "--class_prompt", "a dog", "--save_path", tmp_path / "my runs")
        return check_inputs([str(word) for word in (*words, *more)], Ranks())

    return check


def test_a_sample_has_its_own_caption_and_weight(inputs, shared, tmp_path):
    shutil.copytree(shared / "data" / "dog6", tmp_path / "class")
    given = inputs("--prior_loss_weight", 0.5)
    sets = photo_sets(given, sorted((tmp_path / "class").iterdir()))
    samples = plan_samples(sets, [(INSTANCE, 0, 0), (CLASS, 1, 0)])
    assert [s.loss_weight for s in samples.values()] == [1.0, 0.5]
    assert [s.photos[1].caption.text for s in sets] == ["a 'sks' dog", "a dog"]


def test_the_log_has_about_thirty_lines(inputs):
    lines = {600: 20, 20: 1, 1000: 33}
    for steps, interval in lines.items():
        assert loop_settings(inputs("--set", f"data.total_step={steps}")).log_every == interval
    assert loop_settings(inputs("--log_interval", 7)).log_every == 7


def test_when_the_products_of_the_text_are_used(inputs, monkeypatch):
    uses = networks.uses_text_products
    assert uses(inputs()) and uses(inputs("--cache_text_products", "True"))
    assert not uses(inputs("--cache_text_products", "False"))
    assert not uses(inputs("--cache_text_products", "True", config=tiny.TEXT_TRAINING))
    monkeypatch.setattr(networks, "FEW_PROMPTS", 1)
    assert not uses(inputs()) and uses(inputs("--cache_text_products", "True"))


def test_the_next_command_is_one(inputs, shared):
    """It is accepted as it is shown, whatever stands in the prompt and the names."""
    base = shared / "golden" / "tiny_sdxl.safetensors"
    whole = ("--set", "model.params.network_config.params.only_save_lora=False")
    for more, weight in (((), f"{base},runs/a lora.ckpt"), (whole, "runs/a lora.ckpt")):
        setting = prepare(inputs(*more), Runtime("CPU", 0, "O0"), Ranks())
        python, script, *words = shlex.split(next_command(setting, "runs/a lora.ckpt"))
        options = parse_sample(words)
        assert python == "python" and (tiny.ROOT / script).exists()
        assert (options.weight, options.prompt, options.size()) == (weight, "a 'sks' dog", (128, 128))
        assert options.config == str(setting.inputs.folder / "config.yaml") and options.device_target == "CPU"


@pytest.mark.parametrize("version, accepted", [((3, 8), False), ((3, 9), True), ((3, 12), True), ((3, 13), False)])
def test_a_python_without_mindspore_is_said(tmp_path, version, accepted):
    python = tmp_path / "python"
    pretend = f"import sys; sys.version_info = {(*version, 0)}; exec(sys.stdin.read())"
    python.write_text(f"#!/bin/sh\nexec {shlex.quote(sys.executable)} -c {shlex.quote(pretend)}\n")
    python.chmod(0o755)
    done = subprocess.run(["bash", tiny.ROOT / "tools" / "check_python.sh", python], capture_output=True, text=True)
    assert (done.returncode == 0) == accepted
    if not accepted:
        assert done.returncode == 2 and f"no package for Python {version[0]}.{version[1]}" in done.stderr
