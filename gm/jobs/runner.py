"""The process that stays with a job: python -m gm.jobs.runner FOLDER [--resume]

It waits for the job's turn, runs the command with its words in log.txt, tells it to end when that is asked for, and writes down
how it has ended. It has a session of its own, so that page, browser and server may go. Killed, it leaves a command that is told
to end in good order. No MindSpore import.
"""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Optional, Sequence

from gm.jobs import turns
from gm.jobs.job import LOCK, LOG, Job, read_job, take
from gm.jobs.log import last_lines, reason
from gm.jobs.processes import NICER, ending_with, memory_of
from gm.jobs.state import KILLED, NEVER_BEGAN, STOP, State, read_state, write_state
from gm.training.requests import forget_requests
from gm.training.state_file import STATE_FILE

ROOT = Path(__file__).resolve().parents[2]
TICK, LOOK = 0.1, 2.0  # seconds between looks at the command, and at its memory
VISIBLE = {"Ascend": "ASCEND_RT_VISIBLE_DEVICES", "GPU": "CUDA_VISIBLE_DEVICES"}


def main(argv: Sequence[str]) -> int:
    """The runner of the job in this folder. `--lock N`: the open file with the lock on it."""
    folder, resumed = Path(argv[0]), "--resume" in argv
    lock = int(argv[argv.index("--lock") + 1]) if "--lock" in argv else take(folder / LOCK, 1.0)
    job = read_job(folder)
    if job is None or lock is None:
        print(f"error: {folder} holds no job, or one that runs", file=sys.stderr)
        return 2
    if job.device == "CPU":
        os.nice(NICER)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: (folder / STOP).touch())
    now = write_state(folder, replace(read_state(folder) or State("waiting"), phase="waiting", runner=os.getpid()))
    write_state(folder, _work(job, now, resumed, lock))
    os.close(lock)  # here and now: the job can be resumed
    return 0


def _work(job: Job, now: State, resumed: bool, lock: int) -> State:
    """Wait for the turn and run the command: how the job stands in the end."""
    slot = _turn(job)
    if slot is None:
        return replace(now, phase="stopped", sentence=NEVER_BEGAN, why="never began", ended=time.time())
    try:
        return _run(job, now, slot, resumed, lock)
    except OSError as error:
        what = f"{error.strerror or error} ({error.filename or job.folder})"
        return replace(now, phase="failed", sentence=what, ended=time.time())


def _turn(job: Job) -> Optional[turns.Slot]:
    """Wait for it; None when the job is stopped before."""
    while not (job.folder / STOP).exists():
        slot = turns.next_slot(job.folder, job.at_once)
        if slot is not None:
            return slot
        time.sleep(2 * TICK)
    turns.leave(job.folder)
    return None


def _run(job: Job, now: State, slot: turns.Slot, resumed: bool, lock: int) -> State:
    """Run the command to its end: how it stands then."""
    with open(job.folder / LOG, "ab") as log:
        now = replace(now, began=time.time(), log_start=log.tell())
        forget_requests(job.folder)
        process = subprocess.Popen(
            command(job, resumed),
            cwd=job.cwd,
            env=environment(job, slot.number),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(lock, slot.file),  # held until the command has ended, also where it outlives this process
            preexec_fn=ending_with(os.getpid()),
        )
    now = write_state(job.folder, replace(now, phase="starting", process=process.pid))
    told, looked = 0, 0.0
    while process.poll() is None:
        wanted = _wanted(job.folder)
        if wanted > told:
            process.send_signal(signal.SIGINT)
            told = wanted
        if time.monotonic() > looked + LOOK:
            looked, memory = time.monotonic(), memory_of(process.pid)
            if memory > 1.02 * now.peak:
                now = write_state(job.folder, replace(now, peak=memory))
        time.sleep(TICK)
    phase, sentence, why = verdict(process.returncode, last_lines(job.folder / LOG, 400, now.log_start))
    return replace(now, phase=phase, sentence=sentence, why=why, ended=time.time(), process=0)


def _wanted(folder: Path) -> int:
    """How many signals the command is to have heard."""
    try:
        return 2 if (folder / STOP).read_text(encoding="utf-8").strip() == "now" else 1
    except OSError:
        return 0


def command(job: Job, resumed: bool) -> list[str]:
    """The words of the command; a training goes on where it has saved something, and begins anew otherwise."""
    script, *words = job.words
    if resumed and job.is_training and (job.folder / STATE_FILE).exists():
        words += ["--resume", "True"]
    return [sys.executable, str(ROOT / script), *words]


def environment(job: Job, slot: int) -> dict[str, str]:
    """This process's own, in which the command sees the device of its slot."""
    given = dict(os.environ)
    name = VISIBLE.get(job.device)
    if name and job.at_once > 1:
        seen = [one for one in given.get(name, "").split(",") if one.strip()]
        given[name] = seen[slot] if slot < len(seen) else str(slot)
    return given


def verdict(status: int, lines: list[str]) -> tuple[str, str, str]:
    """Phase, sentence and reason of a command that has ended with this status, negative: by a signal, after these lines."""
    if status == 0:
        return "done", "", ""
    if status in (130, 143):
        return "stopped", reason(lines, "stopped after"), ""
    if status == -signal.SIGKILL:
        return "failed", KILLED, "killed"
    if status < 0:
        return "failed", f"was killed (signal {-status}, {signal.Signals(-status).name})", ""
    return "failed", reason(lines) or f"ended with status {status} and without a word", ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
