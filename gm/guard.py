"""The small process that ends a command when the command cannot do it itself. Started by gm/ending.py; imports nothing of gm.

Python's signal handlers run between two steps of Python's code, but MindSpore compiles for minutes without one, and what is
raised in the Python code that it calls meanwhile ends in a dump of C++ lines. But the kernel's part of the handler runs at
once: it writes the signal's number into this process's pipe (signal.set_wakeup_fd), and where the command has said that it
cannot react, it also sets the signal's effect back to ending the process (SA_RESETHAND). So this process knows which signal
came, and ends the command by it: it sends the signal again. Elsewhere it gives the command some seconds first.

In the pipe are numbers of signals and lines of JSON, the command's state:
  how     "raise": reacts when Python's code runs next; "finish": finishes something first; "leave": cannot react
  what    it is doing, in words
  speaks  whether words are for this process to say (one rank of a job)
  said    whether the command has said why it ends
  litter  files and folders that are removed when the command has died
The token is one byte in a second pipe: whoever reads it, command or guard, ends the command and says so.

With the command end the processes that it had started when the signal came.
"""

import json
import os
import select
import shutil
import signal
import sys
import time

GRACE = 3.0  # seconds that a command in Python's code has to react
ONE = 0.5  # signals that come so many seconds after the first are the same one, as `timeout` and some wrappers send it
POLITE = (signal.SIGHUP, signal.SIGUSR1)  # however many of them, nothing is left at once
END = b"\xff"  # of a line; "\n" is SIGUSR1
BEGUN = {"how": "raise", "what": "", "speaks": True, "said": False, "litter": []}
NAMES = {signal.SIGINT: "interrupted", signal.SIGTERM: "told to end"}
KEPT = "what was saved so far is kept"


def sentence(number: int, what: str = "") -> str:
    """What is said of a command that ends at once, while it does `what`."""
    return NAMES.get(number, NAMES[signal.SIGTERM]) + (f" while {what}" if what else "") + f"; {KEPT}"


def read_file(path: str) -> bytes:
    """The file's content; nothing where it is gone."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def families() -> dict:
    """Every process, as (number, start time) -> number of its parent; without the one that cleans up Python's semaphores."""
    found = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        fields = read_file(f"/proc/{name}/stat").rpartition(b")")[2].split()
        if fields and b"resource_tracker" not in read_file(f"/proc/{name}/cmdline"):
            found[int(name), int(fields[19])] = int(fields[1])
    return found


def descendants(pid: int) -> set:
    """The processes that `pid` has started, and they in turn, but this one."""
    everyone, found, parents = families(), set(), {pid}
    while parents:
        new = {key for key, parent in everyone.items() if parent in parents and key[0] != os.getpid()} - found
        found |= new
        parents = {key[0] for key in new}
    return found


class Guard:
    def __init__(self, command: int, pipe: int, token: int):
        self.command, self.pipe, self.token = command, pipe, token
        self.state, self.line = dict(BEGUN), b""
        self.came, self.counted = 0, 0.0  # the first signal; when the first one came that a second one adds to
        self.family = set()  # the command's processes then
        self.deadline, self.forced, self.stopped = None, False, False

    def run(self) -> None:
        """Until the command is gone."""
        while True:
            wait = 1.0 if self.deadline is None else max(0.0, self.deadline - time.monotonic())
            if select.select([self.pipe], [], [], wait)[0]:
                data = os.read(self.pipe, 65536)
                if not data:
                    break
                for byte in data:
                    self.read(bytes([byte]))
            elif os.getppid() != self.command:  # a process that it has forked keeps the pipe
                break
            else:
                self.stopped = b") T" in read_file(f"/proc/{self.command}/stat")
            if self.deadline is not None and time.monotonic() >= self.deadline:
                self.deadline = None
                self.leave()
        if self.came:
            self.explain()
        self.clean()

    def read(self, byte: bytes) -> None:
        if byte == END:
            self.state, self.line = json.loads(self.line), b""
            if self.came and self.state["how"] == "leave":
                self.deadline = time.monotonic()
        elif byte >= b" ":  # a signal may have come in the middle of a line
            self.line += byte
        elif ord(byte) == signal.SIGCONT:  # mpirun's first word to the ranks that it ends, a second before SIGTERM
            if not self.stopped:
                self.send(self.command, signal.SIGUSR1)
        elif ord(byte) in (*NAMES, *POLITE):
            self.hear(ord(byte))

    def hear(self, number: int) -> None:
        open("/tmp/h/B/x/dbg","a").write(f"{time.time():.2f} hear {number} {self.state}\n")
        now, first = time.monotonic(), not self.came
        again = self.counted and now > self.counted + ONE and number not in POLITE
        if number not in POLITE:
            self.counted = self.counted or now
        self.came = self.came or number
        self.family |= descendants(self.command)
        if again or self.state["how"] == "leave":
            self.forced, self.deadline = True, now + (0.0 if self.state["how"] == "leave" else GRACE)
        elif first and self.state["how"] == "finish":
            self.say(f"finishing {self.state['what']}, then saving; again to leave at once")
        elif first:
            self.deadline = now + GRACE

    def leave(self) -> None:
        """End the command, unless it is at that itself."""
        if self.state["how"] == "raise" and not self.forced and not self.take():
            return
        self.explain()
        for number in [signal.SIGINT if self.came == signal.SIGINT else signal.SIGTERM] * 2 + [signal.SIGKILL]:
            self.send(self.command, number)
            if self.is_gone(0.3):
                return

    def is_gone(self, seconds: float) -> bool:
        until = time.monotonic() + seconds
        while select.select([self.pipe], [], [], max(0.0, until - time.monotonic()))[0]:
            if not os.read(self.pipe, 65536):
                return True
        return False

    def explain(self) -> None:
        if not self.state["said"]:
            self.say(sentence(self.came, self.state["what"] if self.state["how"] == "leave" else ""))
        self.state["said"] = True

    def take(self) -> bool:
        try:
            return bool(os.read(self.token, 1))
        except BlockingIOError:
            return False

    def say(self, words: str) -> None:
        if self.state["speaks"]:
            try:
                os.write(2, f"\n{words}\n".encode(errors="replace"))  # a progress bar may stand there
            except OSError:  # the terminal is gone
                pass

    def clean(self) -> None:
        for pid, _ in self.family & set(families()):
            self.send(pid, signal.SIGKILL)
        for path in self.state["litter"]:
            try:
                os.unlink(path)
            except IsADirectoryError:
                shutil.rmtree(path, ignore_errors=True)
            except OSError:
                pass

    def send(self, pid: int, number: int) -> None:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass


if __name__ == "__main__":
    for ignored in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
        signal.signal(ignored, signal.SIG_IGN)
    Guard(*(int(word) for word in sys.argv[1:])).run()
