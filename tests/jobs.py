"""Jobs of several processes under mpirun and msrun, which leave nothing behind whatever a test does."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

BIN = Path(sys.executable).parent


class Job:
    """A launched job: its exit status, everything it printed, and the seconds it took after it had printed `until`."""

    def __init__(self, launcher, script, arguments, folder, until=""):
        words = [str(word) for word in (*launcher, script, *arguments)]
        self.folder = folder
        clean = {key: value for key, value in os.environ.items() if key not in ("GLOG_v", "OMP_NUM_THREADS")}
        clean |= {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
        with open(folder / "out.txt", "wb") as out:
            process = subprocess.Popen(words, stdout=out, stderr=out, cwd=folder, env=clean, start_new_session=True)
            try:
                while until not in (folder / "out.txt").read_text() and process.poll() is None:
                    time.sleep(0.1)
                start = time.monotonic()
                self.status = process.wait(300)
            finally:
                self.kill()
        self.seconds = time.monotonic() - start
        self.words = (folder / "out.txt").read_text().replace("\r", "\n")
        self.errors = [line for line in self.words.splitlines() if line.lower().startswith("error: ")]

    def kill(self) -> None:
        """Leave nothing behind, whatever a test did."""
        self.left = end_all(self.folder)


def processes(folder: Path) -> list[int]:
    """Every process of a job, the launcher's and the scheduler's among them: they work in its folder."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and os.readlink(entry / "cwd") == str(folder):
                found.append(int(entry.name))
        except OSError:
            pass
    return found


def end_all(folder: Path, seconds: float = 10) -> list[int]:
    """Kill what works in the folder after so many seconds; what that was."""
    deadline = time.monotonic() + seconds
    while processes(folder) and time.monotonic() < deadline:
        time.sleep(0.2)
    left = processes(folder)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    return left


def mpirun(ranks, *more):
    return (BIN / "mpirun", "--allow-run-as-root", "--oversubscribe", *more, "-n", ranks, sys.executable)


def msrun(ranks, *more, here=None):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return (BIN / "msrun", f"--worker_num={ranks}", f"--local_worker_num={here or ranks}", f"--master_port={port}",
            "--log_dir=log", *more)  # fmt: skip
