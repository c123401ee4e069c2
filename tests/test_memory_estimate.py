"""What computing takes at least: against measured figures, against what this host has, and refused before anything is built."""

import re
from dataclasses import replace

import pytest

import tiny
from gm import device, memory
from gm.config.load import load_config
from gm.config.types import SampleSettings
from gm.errors import UserError
from gm.runtime import CPU, Runtime

SDXL_UNET, SDXL_VAE = 2_567_463_684, 83_653_863  # numbers
# pixels -> GB of the sampling command on the tiny golden model beyond what it takes at 64 (0.73), one step with guidance
MEASURED = {512: 0.32, 1024: 3.11, 1280: 9.16}


@pytest.fixture(scope="module")
def sdxl():
    return load_config(str(tiny.ROOT / "configs" / "inference" / "sd_xl_base.yaml"), training=False).model


@pytest.mark.parametrize("pixels", MEASURED)
def test_sampling_the_tiny_model_takes_at_least_this_and_not_much_more(pixels):
    model = tiny.model()
    least = max(memory.unet_call(model.unet, pixels, pixels, 2, 4), memory.decoding(model.vae, pixels, pixels)) / 1e9
    assert 0.5 * MEASURED[pixels] < least < MEASURED[pixels]


def test_sampling_sdxl_against_an_h100(sdxl):
    """1024 px with guidance in float16: 15,611 MiB were measured, 8,673 of them counted as alive (bench/memory.md)."""
    least = 2 * SDXL_UNET + 4 * SDXL_VAE
    least += max(memory.unet_call(sdxl.unet, 1024, 1024, 2, 2), memory.decoding(sdxl.vae, 1024, 1024))
    assert 0.9 * 8673 < least / 2**20 < 15611


def test_training_is_between_what_is_sure_and_what_was_counted(sdxl):
    """All 48 counted settings of bench/memory.md; nearest where most is taken, without recompute."""
    page = (tiny.ROOT / "bench" / "memory.md").read_text()
    kinds = (("vanilla", False), ("vanilla", True), ("flash-attention", False), ("flash-attention", True))
    for row in re.findall(r"^\| \d+ \| \d \|.*", page, re.M):
        pixels, rows, rank, *cells = (cell.strip() for cell in row.split("|")[1:-1])
        for cell, (attention, recompute) in zip(cells, kinds):
            unet = replace(sdxl.unet, attention=attention, use_recompute=recompute)
            least = 2 * SDXL_UNET + memory.training_call(unet, int(pixels), int(pixels), int(rows), 2)
            share = least / 2**30 / float(cell.split("/")[0])
            assert (0.5 if recompute and rank == "4" else 0.35 if recompute else 0.65) - 0.1 < share < 0.95, (row, attention)


@pytest.mark.parametrize(
    "settings, rows, fits",
    [
        (SampleSettings.square(1024, 40), 1, True),
        (SampleSettings.square(4096, 40), 1, False),
        (SampleSettings.square(1024, 40), 64, False),
        (SampleSettings.of(64, 32768, 40), 1, True),
        (SampleSettings.of(2048, 8192, 40), 1, False),
        (SampleSettings.of(2**40, 2**40, 40), 10**9, False),
    ],
)
def test_what_cannot_fit_is_refused_with_the_numbers(sdxl, monkeypatch, settings, rows, fits):
    monkeypatch.setattr(memory, "host_available", lambda: 24_000_000_000)
    if fits:
        return memory.require_for_sampling(sdxl, settings, rows, CPU, 10**10)
    with pytest.raises(
        UserError, match=r"pixels.* take at least [\d,.]+ GB of memory, but this host has 24.0 GB: give smaller"
    ):
        memory.require_for_sampling(sdxl, settings, rows, CPU, 10**10)


def test_training_that_cannot_fit(sdxl, monkeypatch):
    monkeypatch.setattr(memory, "host_available", lambda: 24_000_000_000)
    memory.require_for_training(sdxl, 256, 256, 2, CPU, 10**10)
    with pytest.raises(UserError, match="training on 2 samples of 4096 x 2048 pixels at once take at least"):
        memory.require_for_training(sdxl, 2048, 4096, 2, CPU, 10**10)


def test_a_device_is_asked_where_its_memory_is_known(sdxl, monkeypatch):
    machine, settings = Runtime("Ascend", 0, "O2"), SampleSettings.square(2048, 40)
    monkeypatch.setattr(device, "total_memory", lambda: None)
    memory.require_for_sampling(sdxl, settings, 1, machine, 0)
    monkeypatch.setattr(device, "total_memory", lambda: 32 * 2**30)
    with pytest.raises(UserError, match="but the Ascend has 34.4 GB"):
        memory.require_for_sampling(sdxl, settings, 1, machine, 0)
    with pytest.raises(UserError, match="but the Ascend has 10.7 GB"):
        memory.require_for_sampling(sdxl, settings, 1, replace(machine, max_memory="10GB"), 0)


def test_what_the_host_has(tmp_path):
    """The least of what is free and what each control group leaves, in both versions of them."""
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    assert memory.host_available(proc, groups) is None
    (proc / "meminfo").write_text("MemTotal: 900 kB\nMemAvailable:  500 kB\nSwapFree: 12 kB\nbroken\n")
    assert memory.host_available(proc, groups) == 512 * 1024
    job = groups / "user" / "job"
    job.mkdir(parents=True)
    (proc / "self" / "cgroup").write_text("0::/user/job\n4:memory,cpu:/old\nbroken\n")
    for folder, limit, used in ((groups / "user", "300000", "100000"), (job, "max", "5")):
        (folder / "memory.max").write_text(limit + "\n")
        (folder / "memory.current").write_text(used)
    (groups / "user" / "memory.stat").write_text("anon 1\ninactive_file 50000\n")
    assert memory.host_available(proc, groups) == 250_000
    old = groups / "memory" / "old"
    old.mkdir(parents=True)
    (old / "memory.limit_in_bytes").write_text("7000")
    (old / "memory.usage_in_bytes").write_text("9000")
    assert memory.host_available(proc, groups) == 0
    (proc / "self" / "cgroup").write_text("0::/../../elsewhere\n")
    assert memory.host_available(proc, groups) == 512 * 1024


def test_this_host_has_some():
    there = memory.host_available()
    assert there is None or 0 <= there < 2**50
