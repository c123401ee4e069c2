"""Commands that are told to end, in every phase: the status, one sentence, and nothing left behind.

ending_phase.py stays in a phase as long as a test wants; one run is the real command, where MindSpore compiles.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import tiny
from gm import ending, guard
from jobs import BIN, end_all, mpirun, msrun
from small import TRAIN

PHASE = tiny.ROOT / "tests" / "ending_phase.py"
INT, TERM, HUP = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
BY_HAND, TOLD = "interrupted; what was saved so far is kept", "told to end; what was saved so far is kept"
FINISHING = "finishing the update, then saving; again to leave at once"
SAVED = "stopped after step 2: saved"


class Ended:
    """A command that was told to end once it had said `until`: its status, its lines, what is left of it."""

    def __init__(self, folder: Path, words, until: str, signals, group: bool = False):
        """`signals`: what is sent, and seconds between; to all processes of its group, as a terminal does, or to it."""
        clean = {key: value for key, value in os.environ.items() if key != "GLOG_v"}
        clean |= {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
        with open(folder / "said", "wb") as said:
            given = [str(word) for word in words]
            process = subprocess.Popen(given, cwd=folder, stdout=said, stderr=said, env=clean, start_new_session=True)
        until_at = time.monotonic() + 100
        while until not in (folder / "said").read_text() and process.poll() is None and time.monotonic() < until_at:
            time.sleep(0.02)
        time.sleep(0.1)
        for one in signals:
            if isinstance(one, float):
                time.sleep(one)
            else:
                (os.killpg if group else os.kill)(process.pid, one)
        try:
            self.status = process.wait(30)
        finally:
            self.left = end_all(folder)
        self.text = (folder / "said").read_text().replace("\r", "\n")
        self.lines = [line.strip() for line in self.text.splitlines() if line.strip()]
        self.files = sorted(path.name for path in folder.iterdir() if path.name != "said")

    def check(self, status: int, *sentences: str) -> None:
        assert self.status == status, self.text
        assert not self.left, self.text
        assert [line for line in self.lines if line in (*sentences, BY_HAND, TOLD)] == list(sentences), self.text
        for word in ("Traceback", "leaked", "Error", "[ERROR]", "C++"):
            assert word not in self.text, self.text


@pytest.mark.parametrize(
    "phase, until, group, signals, status, sentences, files",
    [
        ("importing", "importing", False, [INT], 130, [BY_HAND], []),
        ("python", "python", True, [INT], 130, [BY_HAND], []),
        ("python", "python", True, [HUP, HUP], 143, [TOLD], []),
        ("compiling", "compiling", False, [TERM], 143, ["told to end while compiling; what was saved so far is kept"], []),
        ("writing", "writing", False, [INT], 130, [BY_HAND], []),
        ("encoding", "encoding\n", True, [TERM], 143, [TOLD], []),
        ("encoding", "encoding\n", True, [INT], 130, [BY_HAND], []),
        ("updates", "step 2", True, [TERM, TERM], 143, [FINISHING, SAVED], ["saved"]),
        ("updates", "step 2", False, [HUP, 0.6, HUP], 143, [FINISHING, SAVED], ["saved"]),
        ("slow", "step 1", True, [INT, 0.7, INT], 130, [FINISHING, BY_HAND], []),
    ],
)
def test_a_phase(tmp_path, phase, until, group, signals, status, sentences, files):
    ended = Ended(tmp_path, (sys.executable, PHASE, phase), until, signals, group)
    ended.check(status, *sentences)
    assert ended.files == files


@pytest.mark.xdist_group("small")
def test_while_mindspore_compiles(small, tmp_path):
    """After one of its first calls; beside it another process encodes, which a terminal's Ctrl-C reaches as well."""
    ended = Ended(
        tmp_path, (sys.executable, TRAIN, *small.arguments(tmp_path)), "compiling the training graph", [1.0, INT], True
    )
    ended.check(130, "interrupted while compiling the training graph; what was saved so far is kept")
    assert ended.files == ["runs"]


@pytest.mark.xdist_group("ranks")
@pytest.mark.parametrize(
    "launcher, phase, number, status, sentences",
    [
        (mpirun, "updates", TERM, 1, [FINISHING, SAVED]),
        (mpirun, "python", signal.SIGUSR1, 143, [TOLD]),
        (lambda ranks: msrun(ranks, "--join=True"), "updates", TERM, -TERM, [FINISHING, SAVED]),
    ],
    ids=["mpirun", "mpirun and SIGUSR1", "msrun"],
)
def test_the_launcher_is_told(tmp_path, launcher, phase, number, status, sentences):
    """All ranks end together; msrun itself ends at once, and its ranks after their update."""
    ended = Ended(tmp_path, (*launcher(2), PHASE, phase), "step 2" if phase == "updates" else "python\n", [number])
    saved = "saved" in ended.files or status >= 0
    assert saved and (ended.status, ended.left) == (status, []), ended.text
    told = [line for line in ended.lines if line in (FINISHING, SAVED, TOLD, BY_HAND)]
    assert told == sentences and "Traceback" not in ended.text, ended.text


def test_a_command_killed_from_outside(tmp_path):
    """Its guard, which a person sees, takes it along, with its children."""
    ended = Ended(tmp_path, (sys.executable, PHASE, "encoding"), "encoding\n", [signal.SIGKILL])
    assert ended.status == -signal.SIGKILL and not ended.left


def test_a_reader_that_goes_ends_nothing(tmp_path):
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} {PHASE} quiet 2>&1 | head -2; exit ${{PIPESTATUS[0]}}"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "") and len(done.stdout.splitlines()) == 2
    assert (tmp_path / "saved").read_text() == "all"


def test_outside_of_a_command_nothing_is_caught():
    before = signal.getsignal(TERM), signal.getsignal(INT)
    with ending.finishing("the update"), ending.leaving("compiling"):
        assert ending.asked_to_stop() is None
    assert (signal.getsignal(TERM), signal.getsignal(INT)) == before


@pytest.mark.parametrize(
    "words, stays",
    [
        (["python", "/bin/msrun", "--join=True", "x.py"], True),
        (["/bin/msrun", "--worker_num=2", "--join", "True", "x.py"], True),
        (["/bin/msrun", "--join=False", "x.py"], False),
        (["/bin/msrun", "x.py"], False),
        (["bash", "run.sh", "--join=True"], False),
        ([""], False),
    ],
)
def test_the_ranks_of_an_msrun_that_stays_end_with_it(words, stays):
    assert guard.waits_for_ranks("\0".join(words).encode()) == stays


def test_the_newest_state_is_read():
    board = guard.Board()
    for number in range(3):
        board.show(dict(guard.BEGUN, what=str(number)))
        assert board.state()["what"] == str(number)
    assert (board.told, board.state()["litter"]) == (0, [])
