"""What a person sees: exit statuses, one-line errors, and waiting in a log file."""

import errno

import pytest

from gm import console
from gm.errors import UserError


@pytest.mark.parametrize(
    "error, status, words",
    [
        (None, 0, ""),
        (UserError("give another"), 2, "error: give another\n"),
        (OSError(errno.ENOSPC, "no space"), 2, "error: the disk is full"),
        (KeyboardInterrupt(), 130, "interrupted; what was saved so far is kept\n"),
    ],
)
def test_exit_status_and_words(capfd, error, status, words):
    def command(argv):
        assert argv == ["--flag"]
        if error is not None:
            raise error

    assert console.run_command(command, ["--flag"]) == status
    assert capfd.readouterr().err.startswith(words)


def test_other_errors_are_not_hidden():
    def command(argv):
        raise OSError(errno.EIO, "broken")

    with pytest.raises(OSError):
        console.run_command(command, [])


def test_waiting_in_a_log_file_is_a_line_before_and_one_after(capfd):
    console.set_up()
    with console.waiting("compiling"):
        pass
    assert [line.split(":")[0] for line in capfd.readouterr().err.split("\n") if line] == ["compiling ...", "compiling"]


def test_a_viewer_is_told_of_bars_and_waits_and_can_end_them():
    told = []
    console.set_up(quiet=True)
    with console.viewed_by(lambda *now: told.append(now)):
        assert list(console.bar("abc", "reading", unit="letter")) == ["a", "b", "c"]
        assert list(console.bar(iter("ab"), "reading")) == ["a", "b"]
        with console.waiting("compiling"):
            pass
    assert told == [
        *((f"reading, letter {n} of 3", (n - 1) / 3) for n in (1, 2, 3)),
        *((f"reading, item {n}", None) for n in (1, 2)),
        ("compiling", None),
    ]
    assert list(console.bar("abc", "reading")) == ["a", "b", "c"] and len(told) == 6  # and no more afterwards

    def end(words, share):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), console.viewed_by(end):
        list(console.bar("abc", "reading"))


def test_a_quiet_process_prints_nothing(capfd):
    console.set_up(quiet=True)
    with console.waiting("compiling"):
        list(console.bar(range(3), "counting"))
    assert capfd.readouterr().err == ""
