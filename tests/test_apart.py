"""Stages in a process of their own: results, errors and a killed process come back as they should."""

import os
import signal

import pytest

from gm.apart import run_apart
from gm.errors import UserError


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
