"""tools/check_device.py on the CPU, in PyNative mode: every row, what is off or fails, the report."""

import json
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest

import small as small_model
import tiny
from gm.config.load import load_config
from gm.device import Chip
from gm.errors import UserError
from gm.runtime import Runtime
from modes import in_mode
from small import SMALL
from tools import check_device
from tools.device_check import facts, numbers, timing

pytestmark = pytest.mark.xdist_group("golden")


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    monkeypatch.setattr(check_device, "run_in_subprocess", lambda function, *arguments: function(*arguments))
    ms.set_device("CPU")
    with in_mode(ms.PYNATIVE_MODE):
        yield


@pytest.fixture(scope="module")
def config():
    return load_config(str(tiny.TRAINING), SMALL[1::2], training=True)


def test_the_table_and_the_report(run, tmp_path, capfd):
    report = tmp_path / "report.json"
    words = ("--device_target", "CPU", "--ms_mode", 1, "--pixels", 64, "--steps", 1, "--output", report)
    status, errors = run(check_device, *words, *SMALL, "--full_config", tiny_yaml(tmp_path))
    assert status == 0, errors
    rows = {row["name"]: row for row in json.loads(report.read_text())["rows"]}
    for level, limits in numbers.LIMITS.items():
        for name in limits:
            assert rows[f"{name}, {level}"]["state"] == "ok"
            assert ("error 0.0e+00" in rows[f"{name}, {level}"]["what"]) == (level == "O0" or name.startswith("VAE"))
    assert rows["overflow"]["state"] == rows["convolution"]["state"] == "ok"
    assert "computed in float32" in rows["convolution"]["what"]
    step, _, update = rows["step, 64 px, vanilla"]["what"].partition(" s, of it ")
    assert float(step) > 0 and float(update.partition(" the update; compilation ")[0]) >= 0
    assert rows["device"]["what"].startswith("CPU; MindSpore ")


def tiny_yaml(folder: Path) -> Path:
    """The small model as a file."""
    path = folder / "full.yaml"
    path.write_text(load_config(str(tiny.TRAINING), SMALL[1::2], training=True).raw)
    return path


def test_numbers_that_differ_are_off_or_failed(monkeypatch, config):
    def wrong(machine, _):
        device = machine.amp_level == "O2"
        return {name: np.array([1.0, 2.0 + (error if device else 0.0)]) for name, error in errors.items()}

    errors = {"text": 0.02, "VAE encoder": 0.0, "VAE decoder": 1e-3, "UNet": 0.5, "gradient": np.nan, "five updates": 0.2}
    monkeypatch.setattr(numbers, "compute", wrong)
    rows = {row.name: row.state for row in check_device.numbers(Runtime("CPU", 1, "O0"), config)}
    assert [rows[f"{name}, O2"] for name in errors] == ["ok", "ok", "off", "off", "failed", "ok"]
    assert {rows[f"{name}, O0"] for name in errors} == {"ok"}


def test_what_a_device_cannot_do_is_a_row(config, monkeypatch):
    """Flash attention on a CPU ends in an error of MindSpore's; an overflow that nobody sees is a failure."""
    row = check_device.attention(Runtime("CPU", 1, "O2"), config)
    assert (row.name, row.state) == ("flash attention", "failed") and "FlashAttentionScore" in row.what
    monkeypatch.setattr(numbers, "skips_overflow", lambda *_: False)
    assert check_device.overflow(Runtime("CPU", 1, "O2"), config).state == "failed"
    monkeypatch.setattr(numbers, "convolution_error", lambda _: 1e-3)
    states = [check_device.convolution(Runtime("CPU", 1, "O0"), Chip(name)).state for name in ("ascend910b", "ascend910")]
    assert states == ["off", "ok"]


def test_a_device_that_is_not_there_is_said(tmp_path):
    with pytest.raises(UserError, match="finds no Ascend device here"):
        check_device.main(["--device_target", "Ascend", "--output", str(tmp_path / "report.json")])


@pytest.mark.parametrize(
    "chip, pixels, attention, recompute",
    [
        ("ascend910b", 1024, "flash-attention", False),
        ("ascend910", 1024, "vanilla", True),
        ("ascend910", 512, "vanilla", False),
    ],
)
def test_what_is_timed_on_which_chip(config, chip, pixels, attention, recompute):
    unet = timing.for_chip(config, Chip(chip), pixels).model.unet
    assert (unet.attention, unet.use_recompute) == (attention, recompute)
    assert small_model.model().unet.attention == "vanilla"


def test_what_was_counted_is_what_the_page_says(root):
    """Of the rows that are timed: two rows, rank 4."""
    lines = [line.split("|")[1:-1] for line in (root / "bench" / "memory.md").read_text().splitlines() if " / " in line]
    column = {("vanilla", False): 3, ("vanilla", True): 4, ("flash-attention", False): 5}
    pools = {int(cells[0]): cells for cells in lines if len(cells) == 7 and cells[1:3] == [" 2 ", " 4 "]}
    for (pixels, attention, recompute), counted in timing.COUNTED.items():
        assert int(pools[pixels][column[attention, recompute]].split("/")[1].split()[0]) == counted


def test_versions_are_found_and_paired(tmp_path, monkeypatch):
    for name in ("ASCEND_TOOLKIT_HOME", "ASCEND_HOME_PATH"):
        monkeypatch.delenv(name, raising=False)
    assert facts.cann_version(tmp_path) is None and facts.driver_version(tmp_path) is None
    info = tmp_path / "ascend-toolkit" / "latest" / "aarch64-linux" / "ascend_toolkit_install.info"
    info.parent.mkdir(parents=True)
    info.write_text("package_name=Ascend-cann-toolkit\nversion=8.5.0\ninnerversion=V100R001\n")
    (tmp_path / "driver").mkdir()
    (tmp_path / "driver" / "version.info").write_text("Version=25.3.rc1\nascendhal_version=7\n")
    assert (facts.cann_version(tmp_path), facts.driver_version(tmp_path)) == ("8.5.0", "25.3.rc1")
    monkeypatch.setattr(ms, "__version__", "2.7.2")
    for cann, state in (("8.5.0", "ok"), ("8.3.RC1", "off"), (None, "-")):
        monkeypatch.setattr(facts, "cann_version", lambda: cann)  # noqa: B023
        row = check_device.versions(Chip("ascend910b"), Runtime("Ascend", 0, "O0"))[-1]
        assert (row.name, row.state) == ("CANN", state) and "pairs with CANN 8.5.0" in row.what
