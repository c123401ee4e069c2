"""Functions and objects in a process of their own: results, errors and a killed process come back as they should."""

import os
import signal
import subprocess
import sys
import time
from multiprocessing import resource_tracker
from pathlib import Path

import pytest

from gm import console
from gm.errors import UserError
from gm.process import Worker, run_in_subprocess

ROOT = Path(__file__).resolve().parent.parent


def pid(number: int) -> tuple[int, int]:
    return number, os.getpid()


def refuse() -> None:
    raise UserError("this cannot be, give something else")


def be_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_the_result_comes_back_from_another_process():
    number, other = run_in_subprocess(pid, 7)
    assert number == 7 and other != os.getpid()


def test_signals_are_blocked_as_before():
    """Python's own start of a process lets SIGINT through, which a command leaves to its guard."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        resource_tracker._resource_tracker._stop()
        run_in_subprocess(pid, 7)
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before | {signal.SIGINT}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_errors_come_back_as_they_are():
    with pytest.raises(UserError, match="^this cannot be, give something else$"):
        run_in_subprocess(refuse)


def test_a_killed_process_is_an_error_in_words():
    with pytest.raises(UserError, match="be_killed was killed"):
        run_in_subprocess(be_killed)


def wait_long(_: int) -> None:
    time.sleep(600)


def test_the_process_ends_with_the_one_that_started_it():
    """Even when that one is killed and cannot say anything."""
    program = "import test_process; from gm.process import run_in_subprocess; run_in_subprocess(test_process.wait_long, 0)"
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    parent = subprocess.Popen([sys.executable, "-c", program], env=environment)
    deadline, child = time.monotonic() + 60, []
    while not child and time.monotonic() < deadline:
        time.sleep(0.2)
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
        child = [pid for pid in children if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()]
    time.sleep(2)
    parent.kill()
    parent.wait()
    while Path(f"/proc/{child[0]}").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not Path(f"/proc/{child[0]}").exists()


def test_a_program_that_forgets_its_worker_ends():
    program = "import test_process; from gm.process import Worker; print(Worker(print, test_process.Counter, 3).call(print, 'add', 4))"
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120)
    number, child = eval(done.stdout.splitlines()[-1])
    assert (done.returncode, number) == (0, 7) and not Path(f"/proc/{child}").exists()


class Counter:
    """What is kept in the tests below."""

    def __init__(self, start: int):
        if start < 0:
            refuse()
        self.value = start

    def add(self, number: int) -> tuple[int, int]:
        self.value += number
        return self.value, os.getpid()

    def count_slowly(self, steps: int) -> None:
        for _ in console.bar(range(steps), "counting", unit="step"):
            self.value += 1
            time.sleep(0.01)

    def sleep(self) -> None:
        with console.waiting("sleeping"):
            time.sleep(1.2)

    def ask_another(self) -> int:
        return run_in_subprocess(pid, self.value)[1]

    def refuse(self) -> None:
        refuse()

    def fail(self) -> None:
        raise KeyError("a mistake of ours")

    def be_killed(self) -> None:
        be_killed()


def test_an_object_that_is_kept():
    """It keeps its state between calls; what goes on there is told here; an error leaves it as it was."""
    told = []
    kept = Worker(lambda *told_now: told.append(told_now), Counter, 3)
    number, pid_there = kept.call(print, "add", 4)
    assert number == 7 and pid_there != os.getpid()
    kept.call(lambda *told_now: told.append(told_now), "count_slowly", 4)
    assert told[-4:] == [(f"counting, step {n} of 4", (n - 1) / 4) for n in range(1, 5)]
    kept.call(lambda *told_now: told.append(told_now), "sleep")
    assert ("sleeping", None) in told and ("sleeping, 1 s", None) in told
    with pytest.raises(UserError, match="^this cannot be, give something else$"):
        kept.call(print, "refuse")
    with pytest.raises(RuntimeError, match="KeyError: 'a mistake of ours'"):
        kept.call(print, "fail")
    assert kept.call(print, "add", 1) == (12, pid_there) and kept.alive
    assert kept.call(print, "ask_another") not in (pid_there, os.getpid())  # it may start processes of its own
    kept.end()
    assert not kept.alive and not Path(f"/proc/{pid_there}").exists()


def test_a_call_that_is_given_up_ends_and_the_object_stays():
    class Enough(BaseException):
        pass

    def enough(words, share):
        if "step 3" in words:
            raise Enough

    kept = Worker(print, Counter, 0)
    for _ in range(2):  # the second time nothing is left of the first
        with pytest.raises(Enough):
            kept.call(enough, "count_slowly", 100_000)
    value, _ = kept.call(print, "add", 0)
    assert 6 <= value < 10_000
    kept.end()


def test_an_object_that_cannot_be_made_or_is_killed_is_an_error_in_words():
    with pytest.raises(UserError, match="^this cannot be, give something else$"):
        Worker(print, Counter, -1)
    kept = Worker(print, Counter, 0)
    for method in ("be_killed", "add"):
        with pytest.raises(UserError, match="the process with the model was killed"):
            kept.call(print, method, *([1] if method == "add" else []))
    assert not kept.alive
