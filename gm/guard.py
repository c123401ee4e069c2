"""The process that a person, a shell or a launcher knows as the command. It hears signals, and ends the command by them.

The command itself is a fork of it, because Python's signal handlers run between two steps of Python's code, but MindSpore
compiles for minutes without one; what is raised in the Python code that it calls meanwhile ends in a dump of C++ lines; and
around every graph it makes a SIGTERM of SIGINT (seen with 2.7.2). So the guard, which does nothing else, passes a signal on
only where the command can act on it, and otherwise kills it and says why. It ends with the command's exit status, and leaves
no process and no unfinished file behind, also when the command was killed from outside. Killed itself, it takes the command
with it (PR_SET_PDEATHSIG). A debugger, or nvidia-smi, sees the command's number, one or a few above the guard's.

The command shows its state on a board in memory that both share:
  how     "raise": acts when Python's code runs next; "finish": finishes something first; "leave": cannot act
  what    it is doing, in words
  heard   whether it is ending by itself
  said    whether it has said why
  speaks  whether words are for this process to say (one rank of a job)
  litter  files and folders that are removed when the command is killed
"""

import ctypes
import json
import mmap
import os
import resource
import shutil
import signal
import time
from typing import Any, Mapping, NoReturn, Optional, Sequence

GRACE = 3.0  # seconds that a command in Python's code has to act, and that it has to end once it has said why
PATIENCE = 10.0  # seconds that it has to say why once it acts
ONE = 0.5  # signals that come so many seconds after the first are the same one: `timeout` and other wrappers send it twice
POLITE = (signal.SIGHUP, signal.SIGUSR1)  # however many of them, nothing is left at once
BEGUN = {"how": "raise", "what": "", "heard": False, "said": False, "speaks": True, "litter": []}
NAMES = {signal.SIGINT: "interrupted", signal.SIGTERM: "told to end"}
KEPT = "what was saved so far is kept"


def sentence(number: int, what: str = "") -> str:
    """What is said of a command that ends at once, while it does `what`."""
    return NAMES[signal.Signals(number)] + (f" while {what}" if what else "") + f"; {KEPT}"


class Board:
    """What command and guard let each other know, neither waiting for the other. A command that is killed while it writes
    leaves the state that was shown before."""

    PLACE = 1 << 19  # bytes of a state, of which there are two

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 2 + 2 * self.PLACE)
        self.show(BEGUN)

    def show(self, state: Mapping[str, Any]) -> None:
        place = 1 - self._memory[0]
        self._memory.seek(2 + place * self.PLACE)
        self._memory.write(json.dumps(state).encode()[: self.PLACE - 1] + b"\0")
        self._memory[0] = place

    def state(self) -> dict[str, Any]:
        start = 2 + self._memory[0] * self.PLACE
        return json.loads(self._memory[start : self._memory.find(b"\0", start)])

    @property
    def told(self) -> int:
        """The signal that the guard has passed on, or 0."""
        return self._memory[1]

    @told.setter
    def told(self, number: int) -> None:
        self._memory[1] = number


class Guard:
    """Over the process `command`. `signals`, all of them blocked, are those that it hears."""

    def __init__(self, command: int, board: Board, signals: Sequence[int]):
        self.command, self.board, self.signals = command, board, signals
        self.came = 0  # the first signal, SIGINT or SIGTERM
        self.counted: Optional[float] = None  # when the first signal came that a second one adds to
        self.passed_on: Optional[float] = None  # when the command was to act at once
        self.said_at: Optional[float] = None
        self.stopped = False
        libc = ctypes.CDLL(None)
        libc.prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: what the command leaves behind becomes this process's
        if waits_for_ranks(_read(f"/proc/{os.getppid()}/cmdline")):
            libc.prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: told to end, msrun dies without a word to its ranks

    @property
    def state(self) -> dict[str, Any]:
        return self.board.state()

    def run(self) -> NoReturn:
        """Until the command has ended."""
        while True:
            got = signal.sigtimedwait([*self.signals, signal.SIGCHLD], 0.1 if self.came else 3600)
            number = got.si_signo if got else 0
            if number in (signal.SIGTSTP, signal.SIGCONT):
                self.stop_or_go_on(number)
            elif number and number != signal.SIGCHLD:
                self.hear(number)
            if self.came and self.is_helpless():
                self.kill()
            self.reap()

    def is_helpless(self) -> bool:
        """Whether the command does not end by itself."""
        state, now = self.state, time.monotonic()
        if state["said"]:
            self.said_at = self.said_at or now
            return now > self.said_at + GRACE
        late = self.passed_on is not None and now > self.passed_on + (PATIENCE if state["heard"] else GRACE)
        return late or state["how"] == "leave" and not state["heard"]

    def hear(self, number: int) -> None:
        now, first = time.monotonic(), not self.came
        self.came = self.came or (signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)
        if number not in POLITE:
            if self.counted is not None and now > self.counted + ONE:
                self.kill()
            self.counted = self.counted or now
        if not first or self.state["how"] == "leave":
            return
        if self.state["how"] == "finish":
            self.say(f"finishing {self.state['what']}, then saving; again to leave at once")
        else:
            self.passed_on = now
        self.board.told = self.came
        os.kill(self.command, signal.SIGTERM)

    def stop_or_go_on(self, number: int) -> None:
        """mpirun passes Ctrl-Z and `fg` on, but SIGCONT is also its first word to the ranks that it ends."""
        if number == signal.SIGCONT and not self.stopped:
            self.hear(signal.SIGUSR1)
            return
        self.stopped = number == signal.SIGTSTP
        os.kill(self.command, signal.SIGSTOP if self.stopped else signal.SIGCONT)
        if self.stopped:
            os.kill(os.getpid(), signal.SIGSTOP)

    def reap(self) -> None:
        """Take the exit status of what has ended, and end with the command."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if pid == self.command:
                self.end(status)

    def kill(self) -> NoReturn:
        """End the command at once."""
        os.kill(self.command, signal.SIGKILL)
        os.waitpid(self.command, 0)
        self.leave()

    def leave(self) -> NoReturn:
        """End after a command that has been killed because of a signal that was heard here."""
        self.clean()
        if not self.state["said"]:
            self.say(sentence(self.came, self.state["what"] if self.state["how"] == "leave" else ""))
        os._exit(128 + self.came)

    def end(self, status: int) -> NoReturn:
        """End as the command has ended."""
        if self.came and os.WIFSIGNALED(status):  # by the signal passed on, when Python was at its own end
            self.leave()
        self.clean()
        if not os.WIFSIGNALED(status):
            os._exit(os.WEXITSTATUS(status))
        number = os.WTERMSIG(status)
        if number == signal.SIGKILL:
            self.say(f"killed from outside, most likely for want of memory; {KEPT}")
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
        os.kill(os.getpid(), number)
        os._exit(128 + number)

    def clean(self) -> None:
        """End what the command has started and not ended, and remove what it was writing."""
        for pid in descendants(os.getpid()):
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass
        for path in self.state["litter"]:
            try:
                os.unlink(path)
            except IsADirectoryError:
                shutil.rmtree(path, ignore_errors=True)
            except OSError:
                pass

    def say(self, words: str) -> None:
        if self.state["speaks"]:
            try:
                os.write(2, f"\n{words}\n".encode(errors="replace"))  # a progress bar may stand there
            except OSError:  # the terminal is gone
                pass


def waits_for_ranks(words: bytes) -> bool:
    """Whether the command line, of the process that started this one, is that of an msrun which stays."""
    name, *flags = words.replace(b"=", b"\0").split(b"\0")
    is_msrun = any(word.endswith(b"msrun") for word in [name, *flags[:1]])
    return is_msrun and (b"--join", b"True") in zip(flags, flags[1:])


def descendants(pid: int) -> set[int]:
    """The processes that `pid` has started, and they in turn; without the one that cleans up Python's semaphores and then
    ends."""
    parents = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        stat, words = _read(f"/proc/{name}/stat"), _read(f"/proc/{name}/cmdline")
        if stat and b"resource_tracker" not in words:
            parents[int(name)] = int(stat.rpartition(b")")[2].split()[1])
    found, new = set(), {pid}
    while new:
        new = {one for one, parent in parents.items() if parent in new}
        found |= new
    return found


def _read(path: str) -> bytes:
    """The file's content; nothing where it is gone."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""
