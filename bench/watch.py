"""Running one command and watching the memory of its whole process tree."""

import re
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Mapping, Sequence


@dataclass(frozen=True)
class Finished:
    """What a command was."""

    output: str  # standard output and error
    seconds: float  # from launch to end
    largest_gb: float  # peak resident memory of its largest process
    tree_gb: float  # peak of the sum over its processes, sampled; pages that they share count more than once


def run(words: Sequence[object], log: Path, environment: Mapping[str, str]) -> Finished:
    """Run to the end; SystemExit with the end of its output when it fails. Its output goes into `log`."""
    start, largest, tree, over = time.perf_counter(), [0], [0], threading.Event()
    with open(log, "wb") as file:
        process = subprocess.Popen([str(word) for word in words], stdout=file, stderr=subprocess.STDOUT, env=dict(environment))

        def sample() -> None:
            while not over.wait(0.2):
                found = [memory_of(pid) for pid in tree_of(process.pid)]
                largest[0] = max([largest[0], *(peak for _, peak in found)])
                tree[0] = max(tree[0], sum(now for now, _ in found))

        thread = threading.Thread(target=sample, daemon=True)
        thread.start()
        status = process.wait()
        over.set()
        thread.join()
    seconds, output = time.perf_counter() - start, log.read_text(errors="replace").replace("\r", "\n")
    if status:
        raise SystemExit(f"{output[-2000:]}\nthe command ended with status {status}: {' '.join(map(str, words))}")
    return Finished(output, seconds, largest[0] / 1e9, max(tree[0], largest[0]) / 1e9)


def tree_of(pid: int) -> list[int]:
    """The process and all below it."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                found += map(int, task.read_text().split())
            except OSError:  # it has ended
                pass
    return found


def memory_of(pid: int) -> tuple[int, int]:
    """Resident bytes of a process, now and at its peak. (getrusage's peak starts at that of the process it forked from.)"""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0, 0
    found = dict(re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB", status, re.M))
    return int(found.get("VmRSS", 0)) * 1024, int(found.get("VmHWM", 0)) * 1024
