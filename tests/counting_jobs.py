"""Jobs of the studio with a training that only counts, for the tests of the queue and of the page."""

import os
import signal
import time
from pathlib import Path

import pytest

from gm.jobs.control import jobs, stop
from gm.jobs.state import state

# as the real one: it resumes, writes a line an update, and at SIGINT finishes the update, saves and ends with 130
TRAINING = """
import json, os, signal, sys, time
folder = sys.argv[sys.argv.index("--save_path") + 1]
total = max([int(word.split("=")[1]) for word in sys.argv if word.startswith("data.total_step=")])
def place(name): return os.path.join(folder, name)
told = []
signal.signal(signal.SIGINT, lambda *_: told.append(1))
step = int(open(place("training_state.ckpt")).read()) if "--resume" in sys.argv else 0
with open(place("metrics.jsonl"), "a" if step else "w") as metrics:
    while step < total:
        time.sleep(0.02)
        step += 1
        record = {"step": step, "loss": 1 / step, "instance_loss": 2 / step, "class_loss": None, "lr": 1e-3, "seconds": 0.02, "skipped": 0}
        print(json.dumps(record), file=metrics, flush=True)
        for name in os.listdir(place("requests")) if os.path.isdir(place("requests")) else []:
            os.unlink(os.path.join(place("requests"), name))
            print("asked for", name, flush=True)
        if told or step == total:
            open(place("training_state.ckpt"), "w").write(str(step))
        if told:
            print(f"stopped after step {step} of {total}: saved", file=sys.stderr)
            sys.exit(130)
print("\\ra bar 10%\\ra bar 100%\\ndone")
"""


@pytest.fixture
def runs(tmp_path):
    """A folder of jobs; those that are left are ended."""
    folder = tmp_path / "runs"
    yield folder
    for job in jobs(folder):
        now = state(job)
        if not now.is_over:
            stop(job, at_once=True)
        for pid in (now.process, now.runner):
            if pid and not now.is_over:
                until(lambda: state(job).is_over, 3, fails=False)
                end(pid)


def end(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def until(holds, seconds: float = 20, fails: bool = True):
    """What `holds()` returns once it is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = holds()
        if found:
            return found
        time.sleep(0.02)
    assert not fails, "this took too long"


def training(tmp_path: Path, total: int = 10_000):
    """`prepare` of a job with the training that only counts."""
    script = tmp_path / "fake" / "train_dreambooth.py"
    script.parent.mkdir(exist_ok=True)
    script.write_text(TRAINING)

    def prepare(folder: Path) -> list[str]:
        (folder / "photos").mkdir()
        (folder / "photos" / "a.jpg").write_text("a photo")
        return [str(script), "--save_path", str(folder), "--set", f"data.total_step={total}"]

    return prepare


def phase(job, *wanted):
    return until(lambda: state(job).phase in wanted and state(job))
