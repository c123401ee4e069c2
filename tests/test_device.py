"""Devices that are not there: what is found out about each, what is set for it, and every message."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import mindspore as ms
import numpy as np
import pytest

import tiny
from gm import device, runtime
from gm.device import Chip
from gm.errors import UserError
from gm.models.vae import require_sound
from gm.options.train import parse_train
from gm.runtime import Runtime

ASCEND = Runtime("Ascend", 0, "O2")
WORDS = ["--instance_data_path", "photos", "--instance_prompt", "a sks dog", "--prior_loss_weight", "0"]


class FakeMindSpore:
    """What device.py and runtime.py call of MindSpore, with what was called."""

    def __init__(self, monkeypatch, target="Ascend", soc="ascend910b", count=8, plugin_error=""):
        self.called = []
        precision = SimpleNamespace(
            conv_allow_hf32=self._call("conv_allow_hf32"), conv_allow_tf32=self._call("conv_allow_tf32")
        )

        def device_count():
            if not count:
                raise RuntimeError("Device Ascend not exist.")
            return count

        there = SimpleNamespace(device_count=device_count, op_precision=precision)
        for name, value in {
            "device_context": SimpleNamespace(ascend=there, gpu=there),
            "get_context": lambda key: {"device_target": target}[key],
            "set_device": self._call("set_device"),
            "set_context": self._call("set_context"),
            "runtime": SimpleNamespace(
                set_memory=self._call("set_memory"),
                memory_reserved=lambda: 20 * 2**30,
                max_memory_allocated=lambda: 18e9,
                launch_blocking=self._call("launch_blocking"),
            ),
        }.items():
            monkeypatch.setattr(ms, name, value)
        context = SimpleNamespace(get_ascend_soc_version=lambda: soc, load_plugin_error=lambda: plugin_error)
        monkeypatch.setattr(device, "_context", lambda: context)

    def _call(self, name):
        return lambda *words, **more: self.called.append((name, *words, *more.values()))


@pytest.mark.parametrize(
    "soc, fuses, only_float16, saturates",
    [("ascend910", False, True, True), ("ascend910b", True, False, False), ("ascend910_93", True, False, False)],
)
def test_what_a_chip_can(monkeypatch, soc, fuses, only_float16, saturates):
    FakeMindSpore(monkeypatch, soc=soc)
    found = device.chip()
    assert (found.fuses_attention, found.only_float16, found.saturates) == (fuses, only_float16, saturates)
    assert not found.compiles_on_host
    monkeypatch.setenv("MS_ASCEND_CHECK_OVERFLOW_MODE", "SATURATION_MODE")
    assert found.saturates
    for name in ("CPU", "GPU"):
        assert Chip(name).compiles_on_host and not Chip(name).saturates and not Chip(name).fuses_attention


@pytest.mark.parametrize(
    "target, soc, switched",
    [
        ("Ascend", "ascend910b", [("conv_allow_hf32", False)]),
        ("Ascend", "ascend910", []),
        ("GPU", "", [("conv_allow_tf32", False)]),
        ("CPU", "", []),
    ],
)
def test_entering_sets_the_device_precision_memory_and_level(monkeypatch, target, soc, switched):
    fake = FakeMindSpore(monkeypatch, target, soc)
    Runtime(target, 0, "O2", device_id=3, jit_level="O1", max_memory="58GB").enter()
    number = 0 if target == "CPU" else 3
    assert fake.called == [
        *[("set_device", target, number), ("set_context", 0), ("set_context", {"jit_level": "O1"}), ("set_memory", "58GB")],
        *switched,
    ]
    fake.called.clear()
    Runtime(target, 0, "O2").enter()
    assert [call[0] for call in fake.called] == ["set_device", "set_context", *(name for name, _ in switched)]


def test_a_process_beside_this_one_has_the_rest_of_the_memory(monkeypatch):
    FakeMindSpore(monkeypatch)
    assert replace(ASCEND, max_memory="58GB").beside().max_memory == "38.0GB"
    assert replace(ASCEND, max_memory="20GB").beside().max_memory == "1.0GB"
    assert ASCEND.beside() == ASCEND
    assert device.peak_memory_gb() == 18.0


LIBRARY = "libge_runner.so: cannot open shared object file:\n No such file or directory"


@pytest.mark.parametrize(
    "target, count, number, error, words",
    [
        ("Ascend", 0, 0, LIBRARY, r"no Ascend device here \(libge_runner.so: cannot open shared object file: No such"),
        (
            "Ascend",
            0,
            0,
            "",
            r"CANN 8.5.0 and source its set_env.sh; of CANN's Python packages te and hccl cannot be imported",
        ),
        ("Ascend", 2, 2, "", "there are 2 Ascend devices here, but more processes than that: start at most 2"),
        ("GPU", 0, 0, "libcudnn.so.8", r"\(libcudnn.so.8\): it needs .*CUDA_HOME is not set"),
    ],
)
def test_a_device_that_is_not_there(monkeypatch, target, count, number, error, words):
    FakeMindSpore(monkeypatch, target, count=count, plugin_error=error)
    monkeypatch.setattr(ms, "__version__", "2.7.2")
    monkeypatch.delenv("CUDA_HOME", raising=False)
    with pytest.raises(UserError, match=words):
        device.require(target, number)


def test_cann_packages_that_are_there_are_not_missed(monkeypatch):
    FakeMindSpore(monkeypatch, count=0)
    for name in device.CANN_PYTHON:
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(__spec__=SimpleNamespace(name=name)))
    with pytest.raises(UserError) as said:
        device.require("Ascend", 0)
    assert "cannot be imported" not in str(said.value)


@pytest.mark.parametrize("files, cuda, expected", [((), "", "CPU"), (("davinci_manager", "nvidiactl"), "/cuda", "Ascend"),
                                                   (("nvidiactl",), "/cuda", "GPU"), (("nvidiactl",), "", "CPU")])  # fmt: skip
def test_the_device_here(monkeypatch, files, cuda, expected):
    monkeypatch.setattr(device.os.path, "exists", lambda path: path.removeprefix("/dev/") in files)
    monkeypatch.setenv("CUDA_HOME", cuda)
    assert device.device_here() == expected


@pytest.mark.parametrize(
    "chip, level, words",
    [("CPU", "O0", "none on CPU"), ("GPU", "O2", "none on GPU"), ("ascend910", "O2", "none on ascend910: give --set .*=vanilla"),
     ("ascend910b", "O0", "computes in float16, but --ms_amp_level O0"), ("ascend910b", "O2", None)],
)  # fmt: skip
def test_flash_attention_where_it_cannot_run(chip, level, words):
    model = tiny.model()
    flash = replace(model, unet=replace(model.unet, attention="flash-attention"))
    machine = Runtime("Ascend", 0, level)
    runtime.check_attention(machine, Chip(chip), model)
    if words is None:
        runtime.check_attention(machine, Chip(chip), flash)
    else:
        with pytest.raises(UserError, match=words):
            runtime.check_attention(machine, Chip(chip), flash)


def test_what_is_computed_in_what_is_said():
    assert "VAE's too: give --vae" in runtime.precision_in_words(ASCEND, Chip("ascend910"))
    assert runtime.precision_in_words(ASCEND, Chip("ascend910b")).endswith("in float16, VAE in float32")


def test_flags_that_would_do_nothing_are_refused():
    given = parse_train([*WORDS, "--device_target", "Ascend", "--jit_level", "O1", "--max_device_memory", "30GB"]).machine
    assert given == Runtime("Ascend", 0, "O2", jit_level="O1", max_memory="30GB")
    assert parse_train([*WORDS, "--device_target", "CPU"]).machine == runtime.CPU
    for device_target, flag, value in (("CPU", "--jit_level", "O1"), ("GPU", "--jit_level", "O2"),
                                       ("CPU", "--max_device_memory", "8GB")):  # fmt: skip
        with pytest.raises(UserError, match=f"{flag} {value}"):
            parse_train([*WORDS, "--device_target", device_target, flag, value])


@pytest.mark.parametrize("version, limited", [("2.7.2", False), ("2.8.0", False), ("2.9.0", True), ("2.10.0", True)])
def test_where_convolutions_need_it_the_instructions_are_limited(monkeypatch, version, limited):
    monkeypatch.setattr(runtime, "version", lambda _: version)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    runtime.quiet_environment()
    assert runtime.os.environ.pop("ONEDNN_MAX_CPU_ISA", None) == ("AVX2" if limited else None)


@pytest.mark.parametrize("value", [np.inf, np.nan, -65504.0])
def test_a_vae_that_float16_is_too_small_for_is_said(value):
    sound = np.array([[0.0, -60.0]], np.float32)
    assert require_sound(sound, "a picture") is sound
    with pytest.raises(UserError, match="^photo dog.jpg went beyond the numbers of float16 in the VAE: give --vae"):
        require_sound(np.array([[0.0, value]]), "photo dog.jpg")
