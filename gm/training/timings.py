"""What a run spends its time on: every second from the launch of the process belongs to one part of the main thread."""

import json
import os
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

from gm import device, runtime
from gm.console import log


class Timings:
    """`with timings("loading"):` counts the seconds of a part of the run. A part inside another stops the clock of the outer.

    Parts that run in another thread are counted in `beside`, apart from those of the main thread.
    """

    def __init__(self) -> None:
        self.seconds, self.beside = {"starting": _since_launch()}, {}
        self._name, self._since = "other", time.perf_counter()
        self._thread = threading.get_ident()

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        if threading.get_ident() != self._thread:
            start = time.perf_counter()
            yield
            self.beside[name] = self.beside.get(name, 0.0) + time.perf_counter() - start
            return
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
        rounded, beside = ({name: round(s, 2) for name, s in clock.items()} for clock in (self.seconds, self.beside))
        about = {"seconds": rounded, "beside": beside, "steps": steps, "peak_memory_gb": round(runtime.peak_memory_gb(), 2)}
        on_device = device.peak_memory_gb()
        if on_device is not None:
            about["peak_device_memory_gb"] = round(on_device, 2)
        path.write_text(json.dumps(about, indent=1) + "\n")
        for what, clock in (("seconds", self.seconds), ("beside them", self.beside)):
            if clock:
                log.info("%s: %s", what, ", ".join(f"{name} {seconds:.1f}" for name, seconds in clock.items()))


def peak_memory_in_words() -> str:
    """Of this process on the host, and on the device where that has its own."""
    host, on_device = runtime.peak_memory_gb(), device.peak_memory_gb()
    return f"{host:.1f} GB" if on_device is None else f"{on_device:.1f} GB on the device, {host:.1f} GB on the host"


def _since_launch() -> float:
    """Seconds since this process was started, by the kernel's clock (proc(5), field 22 of stat)."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
