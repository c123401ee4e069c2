"""What a run spends its time on: every second from the launch of the process belongs to one stage."""

import json
import os
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

from gm.console import log
from gm.runtime import peak_memory_gb


class Stages:
    """`with stages("loading"):` around a part of the run; a stage inside another one stops the clock of the outer."""

    def __init__(self) -> None:
        self.seconds = {"starting": _since_launch()}
        self._name, self._since = "other", time.perf_counter()

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        outer = self._switch(name)
        try:
            yield
        finally:
            self._switch(outer)

    def _switch(self, name: str) -> str:
        now, before = time.perf_counter(), self._name
        self.seconds[before] = self.seconds.get(before, 0.0) + now - self._since
        self._name, self._since = name, now
        return before

    def report(self, path: Path, steps: int) -> None:
        """Say what was before the training loop's further steps, and write all of it as JSON."""
        self._switch(self._name)
        rounded = {name: round(seconds, 2) for name, seconds in self.seconds.items()}
        path.write_text(
            json.dumps({"seconds": rounded, "steps": steps, "peak_memory_gb": round(peak_memory_gb(), 2)}, indent=1) + "\n"
        )
        log.info("seconds: %s", ", ".join(f"{name} {seconds:.1f}" for name, seconds in self.seconds.items()))


def _since_launch() -> float:
    """Seconds since this process was started, by the kernel's clock (proc(5), field 22 of stat)."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
