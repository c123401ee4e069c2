"""What a run goes through without losing anything: kills, full disks, folders that vanish, signals, and numbers of no use."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Iterator

import mindspore as ms
import numpy as np
import pytest

import killed_run
import tiny
from gm import ending, files
from gm.checkpoint.io import open_tensors, write_tensors
from gm.config.types import OptimConfig
from gm.console import log
from gm.ending import Interrupted
from gm.errors import UserError
from gm.files import FolderLock
from gm.training import records
from gm.training.checkpoints import Checkpoints, SaveSettings
from gm.training.health import BadUpdates, Explosion, SlowUpdates
from gm.training.loop import LoopSettings, fit
from gm.training.records import Metrics
from gm.training.state_file import STATE_FILE, find_state
from gm.training.step import LossScale, Update
from gm.training.timings import Timings
from modes import in_mode
from toy_trainer import SHAPES, ToyTrainer, gradients

NAME = SaveSettings.name


@pytest.fixture(autouse=True)
def pynative() -> Iterator[None]:
    ms.set_device("CPU")
    with in_mode(ms.PYNATIVE_MODE):
        yield


@pytest.fixture
def said(monkeypatch) -> list[str]:
    """What was logged."""
    lines: list[str] = []
    for kind in ("info", "warning"):
        monkeypatch.setattr(log, kind, lambda text, *values: lines.append(text % values))
    return lines


class Batch(tuple):
    """Gradients, as a micro-batch."""

    latent_shape = (1, 4, 1, 1)


def toy(scale: float = 1.0, dynamic: bool = False, total: int = 10, **more) -> ToyTrainer:
    trainer = ToyTrainer(OptimConfig(base_learning_rate=0.05), LossScale(scale, dynamic), **more)
    trainer.config.data.total_step = total
    trainer.compiled = {Batch.latent_shape}
    return trainer


def saves(trainer: ToyTrainer):
    """As results.save: the LoRA, then the state."""

    def save(path: Path, step: int) -> None:
        write_tensors(path, trainer.lora().items(), {"step": str(step)})
        state = trainer.matrices() | {f"state.{key}": value for key, value in trainer.state().items()}
        write_tensors(path.parent / STATE_FILE, state.items(), checksum=True)

    return save


def train(trainer: ToyTrainer, folder: Path, make=None, save=None, infer=None, accumulation: int = 1, **more) -> Path:
    """`more`: of LoopSettings."""
    given = {"save_every": 100, "keep": None, "log_every": 1000, "infer_every": 1 if infer else None, **more}

    def usual(step: int, micro: int, rank: int) -> Batch:
        return Batch(gradients(step * accumulation + micro, SHAPES))

    return fit(trainer, make or usual, accumulation, LoopSettings(folder, **given), save or saves(trainer), Timings(), infer)


def resumed(folder: Path, **more) -> ToyTrainer:
    trainer = toy(**more)
    with open_tensors(folder / STATE_FILE) as file:
        file.verify_checksum()
        values = {name: file.read(name) for name in file.names}
    for parameter in trainer.parameters:
        parameter.set_data(ms.Tensor(values[parameter.name]))
    trainer.set_state({name[6:]: value for name, value in values.items() if name.startswith("state.")})
    return trainer


def steps_in(folder: Path, ending_of_name: str = ".ckpt") -> list[int]:
    return sorted(int(path.name.split("_")[3]) for path in folder.glob(f"SDXL*{ending_of_name}"))


def equal(one: ToyTrainer, other: ToyTrainer) -> bool:
    mine, theirs = one.matrices() | one.state(), other.matrices() | other.state()
    return all(np.array_equal(mine[name], theirs[name]) for name in mine)


def update(loss: float = 1.0, norm: float = 1.0, skipped: bool = False) -> Update:
    return Update(loss=loss, instance_loss=loss, class_loss=None, grad_norm=norm, lr=1.0, loss_scale=1.0, skipped=skipped)


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
    assert len(warnings) == 1 and "No space left on device; training goes on" in warnings[0]
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

    monkeypatch.setattr(records.os, "write", until_full)
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


# -- signals -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_end_in_a_window(tmp_path, monkeypatch, number):
    """The window is finished and saved; what is resumed from there is the unbroken run."""
    whole, trainer = toy(), toy()
    train(whole, tmp_path / "whole", accumulation=2)
    monkeypatch.setattr(ending._State, "caught", False)
    before = {one: signal.getsignal(one) for one in ending.SIGNALS}
    ending.catch_signals()

    def make(step: int, micro: int, rank: int) -> Batch:
        if (step, micro) == (3, 0):
            os.kill(os.getpid(), number)
        return Batch(gradients(2 * step + micro, SHAPES))

    try:
        with pytest.raises(
            Interrupted, match="stopped after step 4 of 10: .*_4_lora.ckpt and the training state are saved"
        ) as told:
            train(trainer, tmp_path, make, accumulation=2, go_on="the same command with --resume True goes on")
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
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
                monkeypatch.setattr(ending._State, "asked", signal.SIGTERM)

    with pytest.raises(Interrupted, match="stopped after step 1 of 10"):
        train(toy(), tmp_path, infer=infer)
    assert drawn == [0, 1] and steps_in(tmp_path) == [1]


# -- numbers -----------------------------------------------------------------------------------------------------------


def bad(gradient) -> Batch:
    spoilt = [part.copy() for part in gradient]
    spoilt[0].reshape(-1)[0] = np.nan
    return Batch(spoilt)


@pytest.mark.parametrize("dynamic, first", [(False, 20), (True, 30)])
def test_many_bad_updates_in_a_row_end_it(tmp_path, said, dynamic, first):
    """A dynamic loss scale is halved as long as it can be; what is saved is what was before."""
    trainer, good = toy(2.0**30 if dynamic else 8.0, dynamic, total=100), toy(total=100)
    given = {step: gradients(step, SHAPES) for step in range(4)}
    for step in range(4):
        good.update([given[step]])
    words = (
        f"training stopped at step {4 + first}, because in {first} updates in a row .* of step 4, are in .*_{4 + first}_lora"
    )
    with pytest.raises(UserError, match=words):
        train(trainer, tmp_path, lambda step, *_: Batch(given[step]) if step < 4 else bad(given[0]))
    saved = resumed(tmp_path).matrices()
    assert all(np.array_equal(saved[name], value) for name, value in good.matrices().items())


def test_weights_that_are_nan_are_not_saved(tmp_path, said):
    trainer = toy(overflow_still_update=True)
    words = "training stopped at step 8, because p0 has become NaN .*_4_lora.ckpt is kept, and with --resume .* after step 4"
    with pytest.raises(UserError, match=words):
        train(
            trainer, tmp_path, lambda step, *_: bad(gradients(0, SHAPES)) if step == 5 else Batch(gradients(0)), save_every=4
        )
    assert steps_in(tmp_path) == [4] and resumed(tmp_path).step == 4


def test_a_run_that_skipped_most_does_not_say_done(tmp_path, said):
    def make(step: int, micro: int, rank: int) -> Batch:
        return bad(gradients(0)) if step % 10 else Batch(gradients(0))

    with pytest.raises(
        UserError, match="27 of 30 updates had a loss .* not finite: .*_30_lora.ckpt is saved, but hardly trained"
    ):
        train(toy(total=30), tmp_path, make)
    dynamic = toy(64.0, True)
    assert train(dynamic, tmp_path, lambda step, *_: bad(gradients(0)) if step < 6 else Batch(gradients(0)))
    assert any("6 of 10 updates" in line and "finding its value" in line for line in said)


def test_what_an_explosion_is():
    """Not the losses of healthy runs, which differ a hundredfold from update to update; what diverges is named once."""
    healthy = [
        json.loads(line)["loss"] for line in (tiny.ROOT / "checkpoints/small_sdxl/metrics.jsonl").read_text().splitlines()
    ]
    random_losses = np.random.default_rng(0).lognormal(-2, 1.5, 20_000).clip(1e-3, 1.5)
    for losses in (healthy, random_losses, [0.002, *([0.9] * 40)], [0.0] * 40 + [1.0] * 40):
        explosion = Explosion()
        assert [explosion.add(float(loss)) for loss in losses] == [None] * len(losses)
    for losses in ([0.1] * 100 + [0.1 * 1.3**n for n in range(40)], [0.1] + [1e6] * 12, [0.1] * 60 + [5.0, np.nan] * 10):
        explosion = Explosion()
        found = [sentence for sentence in (explosion.add(loss) for loss in losses) if sentence]
        assert len(found) == 1 and "the loss has risen from about 0.1 to about" in found[0]


def test_what_a_slow_update_is():
    now = [0.0]
    slow = SlowUpdates(lambda: now[0])
    assert [slow.add(seconds) for seconds in (9.0, *([0.2] * 20), 0.9, 1.9)][:-1] == [None] * 22
    found = []
    for seconds in (2.1, 0.2, 3.0, 5.0):
        found.append(slow.add(seconds))
        now[0] += 250.0
    assert [bool(one) for one in found] == [True, False, False, True] and "usually it is 0.2 s" in found[-1]


def test_bad_updates_are_counted():
    counted = BadUpdates(dynamic=False)
    for one in (update(), update(np.nan), update(norm=np.inf), update(skipped=True)):
        counted.add(one)
    assert (counted.updates, counted.bad, counted.in_a_row) == (4, 3, 3) and "3 of 4 updates" in counted.most()
    counted.add(update())
    assert counted.in_a_row == 0


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
