"""Stages in a process of their own: results, errors and a killed process come back as they should."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gm.apart import run_apart
from gm.errors import UserError

ROOT = Path(__file__).resolve().parent.parent


def pid(number: int) -> tuple[int, int]:
    return number, os.getpid()


def refuse() -> None:
    raise UserError("this cannot be, give something else")


def be_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_the_result_comes_back_from_another_process():
    number, other = run_apart(pid, 7)
    assert number == 7 and other != os.getpid()


def test_errors_come_back_as_they_are():
    with pytest.raises(UserError, match="^this cannot be, give something else$"):
        run_apart(refuse)


def test_a_killed_process_is_an_error_in_words():
    with pytest.raises(UserError, match="be_killed was killed"):
        run_apart(be_killed)


def wait_long(_: int) -> None:
    time.sleep(600)


def test_the_process_ends_with_the_one_that_started_it():
    """Even when that one is killed and cannot say anything."""
    program = "import test_apart; from gm.apart import run_apart; run_apart(test_apart.wait_long, 0)"
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
