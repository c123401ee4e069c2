"""How a command ends when it is told to: SIGINT (Ctrl-C), SIGTERM, and SIGHUP of a closed terminal, which counts as SIGTERM.

Everywhere one sentence and status 130 or 143, and nothing is left behind. Where Python's code runs, a signal raises
`Interrupted`, which run_command turns into the sentence. In the body of `finishing` the first one is only noted, and the body
asks `asked_to_stop()`. In the body of `leaving`, and wherever MindSpore is at work, nothing could be raised: there, and at
every second signal, the guard ends the command at once; guard.py says why and how. No MindSpore import.
"""

import ctypes
import os
import signal
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Iterator, Optional

from gm import guard

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# mpirun passes SIGUSR1 on, which counts as SIGTERM, and Ctrl-Z; SIGCONT is its first word to the ranks that it ends
OF_MPIRUN = (signal.SIGUSR1, signal.SIGTSTP, signal.SIGCONT)


class Interrupted(KeyboardInterrupt):
    """The command has been told to end. The exit status is 128 + `signal`."""

    def __init__(self, number: int, sentence: Optional[str] = None):
        """`number`: signal.SIGINT or SIGTERM. `sentence`: what is said, where all ranks of a job have agreed to end; None:
        that what was saved is kept."""
        self.signal = int(number)
        self.agreed = sentence is not None
        self.sentence = sentence or guard.sentence(self.signal)
        super().__init__(self.sentence)

    @property
    def status(self) -> int:
        return 128 + self.signal


class _Command:
    """What this process is doing, as the guard is told it."""

    def __init__(self) -> None:
        self.process = 0  # where signals are caught: not in what it forks
        self.state = dict(guard.BEGUN, litter=[])
        self.running = False  # run_command's body: outside of it nobody catches what is raised
        self.asked: Optional[int] = None  # the signal that has come in `finishing`
        self.board: Optional[guard.Board] = None

    def tell(self, **changes) -> None:
        """Change the state."""
        self.state.update(changes)
        if self.board and os.getpid() == self.process:
            self.board.show(self.state)

    @contextmanager
    def doing(self, how: str, what: str) -> Iterator[None]:
        before = {key: self.state[key] for key in ("how", "what")}
        try:
            self.tell(how=how, what=what)
            yield
        finally:
            self.tell(**before)


_command = _Command()


def catch_signals() -> None:
    """Go on as a fork of this process, which becomes its guard; called again it does nothing. For the main thread of a
    command, before anything is imported that has threads. A signal that is ignored (nohup) stays so."""
    if _command.process or "mindspore" in sys.modules or threading.current_thread() is not threading.main_thread():
        return
    if os.environ.get("MS_ROLE") == "MS_SCHED":  # msrun's scheduler stays until the ranks have ended
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        return
    of_mpirun = OF_MPIRUN if "OMPI_COMM_WORLD_SIZE" in os.environ else ()
    signals = [number for number in (*SIGNALS, *of_mpirun) if signal.getsignal(number) != signal.SIG_IGN]
    _command.state["speaks"] = os.environ.get("OMPI_COMM_WORLD_RANK", os.environ.get("MS_NODE_ID", "0")) in ("", "0")
    board, parent = guard.Board(), os.getpid()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [*signals, signal.SIGCHLD])
    child = os.fork()
    if child:
        guard.Guard(child, board, signals).run()
    _command.process, _command.board = os.getpid(), board
    _command.tell()
    end_with_parent(parent)
    signal.signal(signal.SIGTERM, _on_signal)
    # what a terminal or mpirun sends to both is for the guard
    signal.pthread_sigmask(signal.SIG_SETMASK, before | {signal.SIGINT, signal.SIGHUP, signal.SIGUSR1})


@contextmanager
def running() -> Iterator[None]:
    """Around a command's main function, whose caller reports what is raised."""
    before, _command.running = _command.running, True
    try:
        yield
    finally:
        _command.running = before


@contextmanager
def finishing(what: str) -> Iterator[None]:
    """In the body the first signal interrupts nothing: it makes `asked_to_stop()` true, and it is said once that `what` is
    being finished. The second one ends the command at once."""
    _command.asked = None
    try:
        with _command.doing("finish", what):
            yield
    finally:
        _command.asked = None


def asked_to_stop() -> Optional[int]:
    """The signal that has come in the body of `finishing`, SIGINT or SIGTERM, or None."""
    return _command.asked


@contextmanager
def leaving(what: str) -> Iterator[None]:
    """In the body a signal ends the command at once: `what` takes long, nothing of it would be kept, and MindSpore does it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with _command.doing("leave", what):
        yield


@contextmanager
def removed_if_killed(path: Path) -> Iterator[None]:
    """A file or folder that must not stay when this process is killed in the body, by whatever signal."""
    _command.state["litter"].append(str(path.absolute()))
    _command.tell()
    try:
        yield
    finally:
        _command.state["litter"].remove(str(path.absolute()))
        _command.tell()


def is_said() -> None:
    """Why the command ends has been said, or is for another rank to say."""
    _command.tell(said=True)


def end_with_parent(parent: int) -> None:
    """This process is killed when the thread of the process `parent` that started it ends, in whatever way."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG of <linux/prctl.h>
    if os.getppid() != parent:
        os._exit(1)


def _on_signal(number: int, frame: Optional[FrameType]) -> None:
    if os.getpid() != _command.process:  # forked, for a moment
        os._exit(128 + number)
    told = _command.board.told if _command.board else number
    if not told:  # it is not the guard that has sent it
        os.kill(os.getppid(), signal.SIGTERM)
    elif _command.state["heard"]:
        pass
    elif _command.state["how"] == "finish":
        _command.asked = told
    elif _command.running and _command.state["how"] == "raise" and not _at_work_in_mindspore(frame):
        _command.tell(heard=True)
        raise Interrupted(told)
    else:
        _command.tell(how="leave")
        time.sleep(60)  # the guard ends this process


def _at_work_in_mindspore(frame: Optional[FrameType]) -> bool:
    while frame is not None:
        if frame.f_globals.get("__name__", "").partition(".")[0] == "mindspore":
            return True
        frame = frame.f_back
    return False
