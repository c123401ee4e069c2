"""The processes of a job: what they are started as, and how much memory they have. No MindSpore import."""

import ctypes
import os
import signal
from typing import Callable

from gm.guard import descendants

PAGE = os.sysconf("SC_PAGE_SIZE")
NICER = 10  # steps of niceness of what computes on the CPU: the page stays quick


def memory_of(pid: int) -> int:
    """Bytes of the process and all that it has started; 0 where it is gone."""
    total = 0
    for one in {pid, *descendants(pid)} if pid else ():
        try:
            with open(f"/proc/{one}/statm", encoding="ascii") as file:
                _, resident, common = file.read().split()[:3]
        except OSError:
            continue
        total += (int(resident) - (int(common) if one != pid else 0)) * PAGE  # libraries are counted once
    return total


def is_running(pid: int) -> bool:
    """Whether the process is there; one that has ended and that nobody has asked after (a zombie) is not."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except (OSError, IndexError):
        return False


def ending_with(parent: int) -> Callable[[], None]:
    """What a new process does before its command: it hears signals, and is told to end in good order when `parent` has died."""
    libc = ctypes.CDLL(None)  # before the fork

    def begin() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):  # a server in the background may ignore them
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        libc.prctl(1, signal.SIGINT)  # PR_SET_PDEATHSIG of <linux/prctl.h>
        if os.getppid() != parent:
            os._exit(1)

    return begin
