"""What a run goes through without losing anything: kills, signals, full disks and folders that vanish."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from itertools import count
from pathlib import Path

import numpy as np
import pytest

import killed_run
import tiny
from gm import ending
from gm.checkpoint.io import open_tensors
from gm.ending import Interrupted
from gm.errors import UserError
from gm.training import records as records_module
from gm.training.checkpoints import Checkpoints, SaveSettings
from gm.training.records import Metrics
from gm.training.state_file import STATE_FILE
from small import TRAIN, environment, records, trained
from toy_runs import Batch, equal, pynative, resumed, said, saves, steps_in, toy, train  # noqa: F401
from toy_trainer import SHAPES, gradients

NAME = SaveSettings.name


# -- kills -------------------------------------------------------------------------------------------------------------


def test_killed_at_any_moment(tmp_path):
    """What is there is always whole and belongs together, and the end is that of an unbroken run."""
    steps, killed, moments = 600, 0, random.Random(1)
    words = [sys.executable, killed_run.__file__, tmp_path, str(steps)]
    environment = {**os.environ, "PYTHONPATH": f"{tiny.ROOT}{os.pathsep}{tiny.ROOT / 'tests'}"}
    states = [killed_run.start()]
    for step in range(steps):
        states.append(killed_run.updated(states[-1], step))
    while True:
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
        assert process.stdout.readline() == b"begins\n", process.stderr.read()
        if killed < 12:
            time.sleep(moments.uniform(0.0, 0.12))
            process.kill()
        done = process.wait()
        killed += done == -signal.SIGKILL
        if (tmp_path / STATE_FILE).exists():
            with open_tensors(tmp_path / STATE_FILE) as file:
                file.verify_checksum()
                step, weights = int(file.read("step")[0]), file.read("weights")
            assert np.array_equal(weights, states[step])
            with open_tensors(tmp_path / NAME.format(step=step)) as file:
                assert np.array_equal(file.read("weights"), weights)
            assert len(steps_in(tmp_path)) <= 4 and step in steps_in(tmp_path)[-2:]  # two more than are kept, for a moment
        if done == 0:
            break
    assert killed >= 5 and step == steps
    lines = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == list(range(1, steps + 1)) and steps_in(tmp_path) == [steps - 1, steps]


def test_a_line_that_was_cut_off_is_written_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n[3]\n{"step": 2, "d": NaN}\n\xff\xfe\n{"step": 7}\n{"ste')
    metrics = Metrics(path, 2)
    metrics.add({"step": 3, "loss": np.nan, "rates": {"unet": np.inf}, "losses": [1.0, np.nan]})
    last = json.loads(path.read_text().splitlines()[-1])
    assert last == {"step": 3, "loss": None, "rates": {"unet": None}, "losses": [1.0, None]}
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3]


# -- what cannot be written --------------------------------------------------------------------------------------------


def test_a_full_disk_ends_nothing(tmp_path, said, monkeypatch):
    """A save that fails is tried again after a minute, from what the weights are then; the state before stays."""
    trainer, clock, full = toy(), count(0, 20), [False]
    write = saves(trainer)

    def save(path: Path, step: int) -> None:
        if full[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, step)

    def make(step: int, micro: int, rank: int) -> Batch:
        full[0] = 3 <= step < 7
        return Batch(gradients(step, SHAPES))

    retried = Checkpoints(SaveSettings(tmp_path, 2), save, 0, clock=lambda: next(clock))
    whole = toy()
    train(whole, tmp_path / "whole")
    monkeypatch.setattr("gm.training.loop.Checkpoints", lambda *given: retried)
    train(trainer, tmp_path, make, save, save_every=2)
    assert equal(trainer, whole) and equal(resumed(tmp_path), whole)
    warnings = [line for line in said if "was not saved" in line]
    assert len(warnings) == 1 and "No space left on device (" in warnings[0]
    assert steps_in(tmp_path)[0] == 2 and 4 not in steps_in(tmp_path) and 10 in steps_in(tmp_path)


@pytest.mark.parametrize("recovers", [True, False])
def test_the_end_is_tried_for_a_minute(tmp_path, said, recovers):
    waits: list[float] = []

    def save(path: Path, step: int) -> None:
        if step == 10 and not (recovers and len(waits) == 2):
            raise UserError(f"no space left for {path}")
        path.write_text("")

    kept = Checkpoints(SaveSettings(tmp_path, 5), save, 0, clock=lambda: 0.0, sleep=waits.append)
    assert kept.due(5) and not kept.due(7) and kept.save(5)
    if recovers:
        assert kept.save_last(10) == tmp_path / NAME.format(step=10) and waits == [10.0, 20.0]
        return
    with pytest.raises(
        UserError, match=r"step 10 could not be saved: no space left for .*_5_lora.ckpt is kept, and with --resume"
    ):
        kept.save_last(10)
    assert waits == [10.0, 20.0, 30.0]
    with pytest.raises(UserError, match="could not be saved"):
        kept.save_last(10, patient=False)  # told to end: nothing is waited for
    assert len(waits) == 3


def test_half_a_checkpoint_does_not_pile_up(tmp_path, said):
    """Where there is room for the LoRA but none for the state, one of them stays."""

    def save(path: Path, step: int) -> None:
        path.write_text("")
        if step < 5:
            raise UserError("no room for the state")

    kept = Checkpoints(SaveSettings(tmp_path, 1, keep=2), save, 0)
    assert [kept.save(step) for step in range(1, 5)] == [False] * 4 and steps_in(tmp_path) == [4]
    assert (
        not kept.save(4)
        and steps_in(tmp_path) == [4]
        and kept.in_words().endswith("4_lora.ckpt is there, but no training state")
    )
    assert kept.save(5) and kept.saved_step == 5 and steps_in(tmp_path) == [4, 5]
    assert kept.save(6) and steps_in(tmp_path) == [5, 6]


def test_a_folder_that_vanishes(tmp_path, said):
    folder, trainer = tmp_path / "runs", toy()
    folder.mkdir()

    def make(step: int, micro: int, rank: int) -> Batch:
        if step == 5:
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()
        return Batch(gradients(step, SHAPES))

    train(trainer, folder, make, save_every=4)
    assert steps_in(folder) == [8, 10] and equal(resumed(folder), trainer)
    assert sum("metrics.jsonl cannot be written (No such file or directory)" in line for line in said) == 1
    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert steps == [6, 7, 8, 9, 10]  # those that could not be written were kept


def test_half_a_line_is_taken_back(tmp_path, said, monkeypatch):
    """A disk that is full in the middle of a line."""
    metrics, write, room = Metrics(tmp_path / "metrics.jsonl", 0), os.write, [10**6]

    def until_full(file: int, content: bytes) -> int:
        if room[0] == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        done = write(file, content[: room[0]])
        room[0] -= done
        return done

    monkeypatch.setattr(records_module.os, "write", until_full)
    metrics.add({"step": 1})
    room[0] = 5
    metrics.add({"step": 2})
    assert metrics.path.read_text() == '{"step": 1}\n'
    room[0] = 10**6
    metrics.add({"step": 3})
    assert metrics.path.read_text() == '{"step": 1}\n{"step": 2}\n{"step": 3}\n' and len(said) == 1


def test_curves_and_pictures_may_fail(tmp_path, said, monkeypatch):
    def infer(step: int) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("gm.training.loop.plot_losses", lambda *given: infer(0))
    train(toy(), tmp_path, infer=infer, save_every=2)
    assert sorted(line.split(" ")[0] for line in said if "could not be made" in line) == ["loss.png", "progress"]


# -- signals -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_end_in_a_window(tmp_path, monkeypatch, number):
    """The window is finished and saved; what is resumed from there is the unbroken run."""
    whole, trainer = toy(), toy()
    train(whole, tmp_path / "whole", accumulation=2)
    monkeypatch.setattr(ending._command, "process", os.getpid())

    def make(step: int, micro: int, rank: int) -> Batch:
        if (step, micro) == (3, 0):
            ending._on_signal(number, None)
        return Batch(gradients(2 * step + micro, SHAPES))

    with pytest.raises(
        Interrupted, match="stopped after step 4 of 10: .*_4_lora.ckpt and the training state are saved"
    ) as told:
        train(trainer, tmp_path, make, accumulation=2, go_on="the same command with --resume True goes on")
    assert told.value.status == 128 + number and told.value.sentence.endswith("with --resume True goes on")
    assert steps_in(tmp_path) == [4]
    again = resumed(tmp_path)
    train(again, tmp_path, accumulation=2)
    assert equal(again, whole)


def test_pictures_are_left_off_when_told_to_end(tmp_path, monkeypatch):
    drawn: list[int] = []

    def infer(step: int) -> None:
        from gm.console import bar

        for number in bar(range(5), "drawing", disable=True):
            drawn.append(number)
            if number == 1:
                monkeypatch.setattr(ending._command, "asked", signal.SIGTERM)

    with pytest.raises(Interrupted, match="stopped after step 1 of 10"):
        train(toy(), tmp_path, infer=infer)
    assert drawn == [0, 1] and steps_in(tmp_path) == [1]


@pytest.mark.xdist_group("small")
def test_a_command_that_is_told_to_end(small, twice, tmp_path):
    """It says how to go on, and that ends with the LoRA of an unbroken run."""
    unbroken = twice.cold.lora
    given = (*twice.caches, "--save_ckpt_interval", 100)
    words = [sys.executable, TRAIN, *small.arguments(tmp_path, *given, steps=4)]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment(), cwd=small.folder)
    metrics = tmp_path / "runs" / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and metrics.stat().st_size):
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    told = process.communicate()[1]
    assert process.returncode == 128 + signal.SIGTERM, told
    (step,) = steps_in(tmp_path / "runs")
    assert step < 4 and f"stopped after step {step} of 4: " in told and "with --resume True goes on" in told
    assert "Traceback" not in told and not (tmp_path / "runs" / ".lock").exists()
    small.train(tmp_path, *given, "--resume", "True", steps=4)
    resumed_lora = trained(tmp_path, 4)
    assert all(np.array_equal(resumed_lora[name], value) for name, value in unbroken.items())
    assert [line["step"] for line in records(tmp_path)] == [1, 2, 3, 4]
