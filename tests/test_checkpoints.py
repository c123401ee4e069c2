"""Which files a run leaves, which folder is its own, and which state --resume means."""

import errno
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import tiny
from gm import files
from gm.errors import UserError
from gm.files import FolderLock
from gm.training.checkpoints import Checkpoints, SaveSettings
from gm.training.loop import LoopSettings
from gm.training.state_file import STATE_FILE, find_state

NAME = SaveSettings.name
# -- which files stay --------------------------------------------------------------------------------------------------


def test_old_checkpoints_of_earlier_parts_are_deleted(tmp_path):
    """Of a run that continues in its folder; not those of later steps, which another run has left, nor a fresh run's elders."""
    for step in (2, 4, 6, 40):
        (tmp_path / NAME.format(step=step)).write_text("")
        (tmp_path / NAME.format(step=step)).with_suffix(".safetensors").write_text("")
    (tmp_path / "SDXL_base_1.0_03x_lora.ckpt").write_text("")
    (tmp_path / "mine_2_lora.ckpt").write_text("")
    others = {"SDXL_base_1.0_03x_lora.ckpt", "mine_2_lora.ckpt", NAME.format(step=40)}

    def save(path: Path, step: int) -> None:
        path.write_text("")

    fresh = Checkpoints(SaveSettings(tmp_path, 1, keep=1), save, 0)
    assert [fresh.save(step) for step in (5, 7)] == [True, True]
    assert {path.name for path in tmp_path.glob("*.ckpt")} == others | {NAME.format(step=step) for step in (2, 4, 6, 7)}
    goes_on = Checkpoints(SaveSettings(tmp_path, 1, keep=2, continues=True), save, 7)
    assert goes_on.save(8)
    left = {path.name for path in tmp_path.glob("*.ckpt")}
    assert left == others | {NAME.format(step=step) for step in (7, 8)}
    assert [p.name for p in tmp_path.glob("*.safetensors")] == [NAME.format(step=40).replace(".ckpt", ".safetensors")]


def test_every_so_many_minutes():
    now = [0.0]
    kept = Checkpoints(SaveSettings(Path("/nowhere"), 1000, minutes=10), lambda path, step: None, 0, clock=lambda: now[0])
    assert not kept.due(7)
    now[0] = 601.0
    assert kept.due(7) and Checkpoints(SaveSettings(Path("/nowhere"), 1000), lambda *_: None, 0).due(7) is False


# -- one run to a folder -----------------------------------------------------------------------------------------------

HOLD = (
    "import sys, time; from pathlib import Path; from gm.files import FolderLock; lock = FolderLock('x', Path(sys.argv[1]));"
)
HOLD += "print('held', flush=True); time.sleep(60)"


def test_a_folder_is_one_process_own(tmp_path, monkeypatch):
    words = [sys.executable, "-c", HOLD, tmp_path]
    other = subprocess.Popen(words, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(tiny.ROOT)})
    assert other.stdout.readline() == b"held\n"
    with pytest.raises(
        UserError, match=f"--save_path {tmp_path} is in use by process {other.pid} on {os.uname().nodename}: wait"
    ):
        FolderLock("--save_path", tmp_path)
    other.kill()
    other.wait()
    lock = FolderLock("--save_path", tmp_path)  # it died with its process
    with pytest.raises(UserError, match=f"process {os.getpid()}"):
        FolderLock("--save_path", tmp_path)
    lock.release()
    lock.release()
    assert not list(tmp_path.iterdir())

    def without(*given) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files.fcntl, "flock", without)
    assert FolderLock("--save_path", tmp_path).problem == "No locks available"


# -- which state -------------------------------------------------------------------------------------------------------


def test_which_state_is_meant(tmp_path):
    runs, timed = tmp_path / "runs", tmp_path / "timed"
    for number, folder in enumerate((runs, timed / "b", timed / "a")):
        folder.mkdir(parents=True)
        (folder / STATE_FILE).write_text("")
        os.utime(folder / STATE_FILE, (number, number))
    (timed / "later").mkdir()  # a run that saved nothing
    found = {
        (None, runs, False): None,
        ("False", runs, False): None,
        ("True", runs, False): runs / STATE_FILE,
        ("True", timed, True): timed / "a" / STATE_FILE,
        (str(runs), timed, False): runs / STATE_FILE,
        (str(timed / "b" / STATE_FILE), runs, True): timed / "b" / STATE_FILE,
    }
    assert {given: find_state(given[0], str(given[1]), given[2]) for given in found} == found
    wrong = {
        ("True", timed, False): rf"in --save_path {timed} \(there is {timed}/a/{STATE_FILE}\): leave --resume away",
        ("True", runs, True): rf"in a sub-folder of --save_path {runs} \(there is {runs}/{STATE_FILE}\)",
        ("True", tmp_path / "no", True): "finds no training_state.ckpt",
        (str(tmp_path / "no"), runs, False): "does not exist: give the folder of a run",
        (str(timed), runs, False): rf"holds no {STATE_FILE} \(there is {timed}/a",
    }
    for (resume, folder, with_time), words in wrong.items():
        with pytest.raises(UserError, match=words):
            find_state(resume, str(folder), with_time)


def test_toy_settings_are_those_of_the_loop(tmp_path):
    """What the loop hands on."""
    settings = LoopSettings(tmp_path, 5, 2, 1, None, save_minutes=3.0, continues=True).saving
    assert settings == replace(SaveSettings(tmp_path, 5), keep=2, minutes=3.0, continues=True)
