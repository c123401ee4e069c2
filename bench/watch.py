"""Running one command and watching the memory of its whole process tree."""

import os
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Mapping, Sequence

PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Finished:
    """What a command was."""

    output: str  # standard output and error
    seconds: float  # from launch to end
    largest_gb: float  # peak resident memory of its largest process
    tree_gb: float  # peak of the sum over its processes, sampled; pages that they share count more than once


def run(words: Sequence[object], log: Path, environment: Mapping[str, str]) -> Finished:
    """Run to the end; SystemExit with the end of its output when it fails. Its output goes into `log`."""
    start, peak, over = time.perf_counter(), [0], threading.Event()
    with open(log, "wb") as file:
        process = subprocess.Popen(
            [str(word) for word in words], stdout=file, stderr=subprocess.STDOUT, env=dict(environment)
        )

        def sample() -> None:
            while not over.wait(0.3):
                peak[0] = max(peak[0], sum(map(_resident, _tree(process.pid))))

        thread = threading.Thread(target=sample, daemon=True)
        thread.start()
        _, status, usage = os.wait4(process.pid, 0)
        over.set()
        thread.join()
    seconds, output = time.perf_counter() - start, log.read_text(errors="replace").replace("\r", "\n")
    if status:
        raise SystemExit(f"{output[-2000:]}\nthe command ended with status {status}: {' '.join(map(str, words))}")
    largest = usage.ru_maxrss * 1024
    return Finished(output, seconds, largest / 1e9, max(peak[0], largest) / 1e9)


def _tree(pid: int) -> list[int]:
    """The process and all below it."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                found += map(int, task.read_text().split())
            except OSError:  # it has ended
                pass
    return found


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
    except OSError:
        return 0
