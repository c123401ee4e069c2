"""How a command ends when it is told to: SIGINT (Ctrl-C), SIGTERM, and SIGHUP of a closed terminal, which counts as SIGTERM.

Everywhere one sentence and status 130 or 143, and nothing is left behind. Where Python's code runs, a signal raises
`Interrupted`, which run_command turns into the sentence. In the body of `finishing` the first one is only noted, and the body
asks `asked_to_stop()`. In the body of `leaving`, and wherever MindSpore is at work, nothing could be raised: there, and at
every second signal, the guard ends the command at once; guard.py says how. No MindSpore import.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Iterator, Optional

from gm import guard

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
OF_MPIRUN = (signal.SIGUSR1, signal.SIGCONT)  # it passes the first on, and sends the second before it ends its ranks
RESET = 0x80000000  # SA_RESETHAND of <signal.h>


class Interrupted(KeyboardInterrupt):
    """The command has been told to end. The exit status is 128 + `signal`."""

    def __init__(self, number: int, sentence: Optional[str] = None):
        """`number`: signal.SIGINT or SIGTERM. `sentence`: what is said; None: that what was saved is kept."""
        self.signal = int(number)
        self.alone = sentence is None  # other ranks of a job need not know
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
        self.raised = False  # `Interrupted`
        self.counted: Optional[float] = None  # when the first signal came that a second one adds to
        self.pipe, self.token = -1, -1

    def tell(self, **changes) -> None:
        """Change the state."""
        self.state.update(changes)
        if self.pipe >= 0 and os.getpid() == self.process:
            try:
                os.write(self.pipe, json.dumps(self.state).encode() + guard.END)
            except OSError:  # the guard has been killed
                pass

    @contextmanager
    def doing(self, how: str, what: str) -> Iterator[None]:
        before = {key: self.state[key] for key in ("how", "what")}
        try:
            self.change(how=how, what=what)
            yield
        finally:
            self.change(**before)

    def change(self, how: str, what: str) -> None:
        if self.pipe >= 0:
            act_once(how == "leave" or self.counted is not None)
        self.tell(how=how, what=what)


_command = _Command()


def catch_signals() -> None:
    """Put the handlers in place and start the guard, in the main thread of a command; called again it does nothing. A signal
    that is ignored (nohup) stays so."""
    if _command.process or not _in_main_thread():
        return
    _command.process = os.getpid()
    of_mpirun = "OMPI_COMM_WORLD_SIZE" in os.environ
    _command.state["speaks"] = os.environ.get("OMPI_COMM_WORLD_RANK", os.environ.get("MS_NODE_ID", "0")) in ("", "0")
    _start_guard()
    _command.tell()
    for number in (*SIGNALS, *(OF_MPIRUN if of_mpirun and _command.pipe >= 0 else ())):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _on_signal)


def _start_guard() -> None:
    ours, token = os.pipe(), os.pipe()
    os.write(token[1], b"t")
    for end in (ours[1], token[0]):
        os.set_blocking(end, False)
    words = [sys.executable, "-S", "-E", guard.__file__, str(os.getpid()), str(ours[0]), str(token[0])]
    try:
        subprocess.Popen(
            words, pass_fds=(ours[0], token[0]), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
        ).returncode = 0  # it ends after this process, which does not wait for it
    except OSError:  # no process to be had: signals act when Python's code runs next
        return
    os.close(ours[0])
    _command.pipe, _command.token = ours[1], token[0]
    signal.set_wakeup_fd(_command.pipe, warn_on_full_buffer=False)


def act_once(once: bool) -> None:
    """Whether SIGINT and SIGTERM have their handlers for one time only, and then end the process at once: SA_RESETHAND, which
    Python has no call for, set in the handlers that Python has installed."""
    for number in (signal.SIGINT, signal.SIGTERM):
        action = _Action()
        if _libc.sigaction(number, None, ctypes.byref(action)) == 0 and (action.handler or 0) > 1:  # not SIG_DFL or SIG_IGN
            action.flags = action.flags | RESET if once else action.flags & ~RESET
            _libc.sigaction(number, ctypes.byref(action), None)


class _Action(ctypes.Structure):
    """struct sigaction of glibc and musl, on x86-64 and aarch64."""

    _fields_ = [
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_ulong * 16),
        ("flags", ctypes.c_uint),
        ("rest", ctypes.c_void_p),
    ]


_libc = ctypes.CDLL(None)


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
    if not _in_main_thread():
        yield
        return
    with _command.doing("leave", what):
        yield


@contextmanager
def removed_at_the_end(path: Path) -> Iterator[None]:
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
    _libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG of <linux/prctl.h>
    if os.getppid() != parent:
        os._exit(1)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _on_signal(number: int, frame: Optional[FrameType]) -> None:
    if os.getpid() != _command.process:  # forked, for a moment
        os._exit(128 + number)
    if number == signal.SIGCONT:  # the guard knows what it means, and sends another
        return
    told = int(signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)
    polite, now = number in guard.POLITE, time.monotonic()
    again = not polite and _command.counted is not None and now > _command.counted + guard.ONE
    if not polite and _command.counted is None:
        _command.counted = now
        threading.Thread(target=_act_once_soon, daemon=True).start()
    if not again:
        if _command.asked or _command.raised:
            return
        if _command.state["how"] == "finish":
            _command.asked = told
            return
        if _command.running and _command.state["how"] == "raise" and not _at_work_in_mindspore(frame) and _take():
            _command.raised = True
            raise Interrupted(told)
    if _command.pipe >= 0:
        _command.change("leave", _command.state["what"] if _command.state["how"] == "leave" else "")
        time.sleep(5)  # the guard ends this process
    os._exit(128 + told)


def _act_once_soon() -> None:
    """A second signal, which is not the first one sent twice, is to act without this process."""
    time.sleep(guard.ONE)
    if _command.pipe >= 0:
        act_once(True)


def _take() -> bool:
    """Whether it is this process that ends the command, not the guard."""
    try:
        return _command.token < 0 or bool(os.read(_command.token, 1))
    except BlockingIOError:
        return False


def _at_work_in_mindspore(frame: Optional[FrameType]) -> bool:
    while frame is not None:
        if frame.f_globals.get("__name__", "").partition(".")[0] == "mindspore":
            return True
        frame = frame.f_back
    return False
