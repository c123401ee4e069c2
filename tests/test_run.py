"""What a run decides before anything is loaded: its samples, the log's interval, the products of the text, the next command."""

import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest

import tiny
from gm.checkpoint.lora_files import save_lora
from gm.data.crops import plan_samples
from gm.data.dreambooth import CLASS, INSTANCE
from gm.errors import UserError
from gm.models.adapters import lora_facts
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


PARAMS = "model.params.network_config.params"
KINDS = ("--set", f"{PARAMS}.lora_targets=[input_blocks.1.0.*]", "--set", f"{PARAMS}.lora_kind=dora")
KINDS += ("--set", f"{PARAMS}.lora_conv_dim=2")  # with its own alpha / rank


def test_a_dora_starts_at_the_weights_and_goes_on_from_files(inputs, tmp_path):
    """Lengths are the base's rows'. A file and a state are taken as they are, with alphas that differ; others are refused."""
    fresh = prepare(inputs(*KINDS), Runtime("CPU", 0, "O0"), Ranks()).weights
    assert not networks.uses_text_products(inputs(*KINDS))
    values = {name: fresh.read(name) for name in fresh.lora_shapes}
    assert {name: value.shape for name, value in values.items()} == dict(fresh.lora_shapes) and len(values) == 9
    for name, value in values.items():
        if name.endswith("magnitude_vector.weight"):
            weight = fresh.read(name.replace(".lora_magnitude_vector", "")).astype(np.float64)
            assert np.allclose(value, np.linalg.norm(weight.reshape(len(weight), -1), axis=1), rtol=1e-6)
    alphas = inputs(*KINDS, "--set", f"{PARAMS}.lora_conv_alpha=1")
    found = prepare(alphas, Runtime("CPU", 0, "O0"), Ranks()).weights
    about, tensors = lora_facts(found.adapters)
    saved = {name: value + 1 for name, value in values.items()} | tensors
    size = sum(value.size for value in values.values())
    state = {"state.m": np.zeros(size, np.float32), "state.v": np.zeros(size, np.float32)}
    state |= {"state.counters": np.array([1, 1, 0, 0]), "state.loss_scale": np.ones(1, np.float32)}
    save_lora(tmp_path / "a.ckpt", saved, about)
    save_lora(tmp_path / "state.ckpt", saved | state, about)
    base = fresh.base.file.path
    for more in (("--weight", f"{base},{tmp_path / 'a.ckpt'}"), ("--resume", tmp_path / "state.ckpt")):
        alpha = ("--set", f"{PARAMS}.lora_conv_alpha=1")
        went_on = prepare(inputs(*KINDS, *alpha, *more), Runtime("CPU", 0, "O0"), Ranks()).weights
        assert all(np.array_equal(went_on.read(name), saved[name]) for name in values)
        with pytest.raises(UserError, match="alpha 1.* but --config gives (it )?3: make them equal"):
            prepare(inputs(*KINDS, "--set", f"{PARAMS}.lora_conv_alpha=3", *more), Runtime("CPU", 0, "O0"), Ranks())
        with pytest.raises(UserError, match="its lora_kind is dora, not lora|3 left over|unknown"):
            plain = ("--set", f"{PARAMS}.lora_kind=lora")
            prepare(inputs(*KINDS, *alpha, *more, *plain), Runtime("CPU", 0, "O0"), Ranks())
    with pytest.raises(UserError, match="--cache_text_products True leaves away weights that lora_kind: dora needs"):
        inputs(*KINDS, "--cache_text_products", "True")
    with pytest.raises(UserError, match="matches no module of the network"):
        inputs("--set", f"{PARAMS}.lora_targets=[nothing]")


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
