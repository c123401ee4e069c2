"""What is done with jobs: add one, stop it, go on with it, ask it to save, copy it, delete it. No MindSpore import.

All of RUNS/*/job.json are the jobs; whatever process looks there sees the same.
"""

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Callable, Optional, Sequence

from gm.errors import UserError
from gm.jobs import turns
from gm.jobs.job import LOG, Job, hold, read_job, write_job
from gm.jobs.progress import step_of
from gm.jobs.runner import ROOT
from gm.jobs.state import STOP, State, read_state, state, write_state
from gm.training.requests import SAMPLE, SAVE, ask

TOTAL = "data.total_step"
KEPT = ("visits", "class_images", "caches")  # other folders among the runs
LONGEST = 60  # characters of a folder's name


def add(runs: Path, name: str, prepare: Callable[[Path], Sequence[str]], device: str, at_once: int = 1) -> Job:
    """A new job at the end of the queue. `prepare` fills the folder, RUNS/NAME made unique, and returns the words of the command
    after python; when it raises, the folder is removed. `device`: CPU, Ascend or GPU; `at_once`: jobs that may run beside each
    other, each on a device of its own."""
    folder = _new_folder(runs, name)
    try:
        words = tuple(str(word) for word in prepare(folder))
        inputs = tuple(sorted(path.name for path in folder.iterdir()))
        job = Job(folder, name.strip() or folder.name, words, time.time(), Path.cwd(), device, at_once, inputs)
        lock = hold(job)
        write_job(job)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    _start(job, lock)
    return job


def jobs(runs: Path) -> list[Job]:
    """All of them, the newest first."""
    try:
        with os.scandir(runs) as entries:
            folders = [runs / one.name for one in entries if one.name[0] != "." and one.is_dir(follow_symlinks=False)]
    except OSError:
        return []
    found = [job for job in map(read_job, folders) if job is not None]
    return sorted(found, key=lambda job: job.created, reverse=True)


def stop(job: Job, at_once: bool = False) -> None:
    """Tell it to end: a training finishes the update and saves, what waits leaves the queue. `at_once`: without that. UserError
    when it is over."""
    if state(job).is_over:
        raise UserError(f"the job {job.name} is over already: there is nothing to stop")
    try:
        (job.folder / STOP).write_text("now" if at_once else "", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{job.folder / STOP} cannot be written ({error.strerror or error}): it goes on") from None


def resume(job: Job) -> None:
    """Go on with a job that was stopped or has failed: from what it has saved, or from the start. UserError where it is not
    over, or is done."""
    if state(job).phase == "done":
        raise UserError(f"the job {job.name} is done: let it go on for more steps instead")
    _start(job, hold(job), resumed=True)


def more(job: Job, total_step: int) -> None:
    """Go on until `total_step` updates. UserError where it has as many, or is not over."""
    if not job.is_training:
        raise UserError(f"the job {job.name} is no training: it has no steps to go on with")
    done = step_of(job)
    if total_step <= done:
        raise UserError(
            f"the job {job.name} has {done} steps behind it, so {total_step} in all are no more: give a larger number"
        )
    lock = hold(job)
    try:
        longer = replace(job, words=with_total(job.words, total_step))
        write_job(longer)
    except BaseException:
        os.close(lock)
        raise
    _start(longer, lock, resumed=True)


def save_now(job: Job) -> None:
    """Have a checkpoint saved after the update that is at work. UserError where none is."""
    _ask(job, SAVE)


def sample_now(job: Job) -> None:
    """Have the progress pictures drawn after the update that is at work. UserError where none is."""
    _ask(job, SAMPLE)


def clone(job: Job, runs: Path) -> Job:
    """A new job that does the same from the start, with copies of what the first was given."""

    def copy(folder: Path) -> Sequence[str]:
        for name in job.inputs:
            path = job.folder / name
            if path.is_dir() and not path.is_symlink():
                shutil.copytree(path, folder / name, symlinks=True)
            elif path.exists():
                shutil.copy2(path, folder / name, follow_symlinks=False)
        return [_elsewhere(word, job.folder, folder) for word in job.words]

    return add(runs, job.name, copy, job.device, job.at_once)


def delete(job: Job, runs: Path) -> None:
    """Remove a job that is over, with all that its folder holds; what links there lead to stays. UserError otherwise."""
    folder = job.folder
    if folder.is_symlink() or os.path.realpath(folder.parent) != os.path.realpath(runs) or read_job(folder) is None:
        raise UserError(f"{folder} is not the folder of a job in {runs}: only those are deleted")
    lock = hold(job)
    try:
        gone = folder.with_name(f".deleted_{time.time_ns()}")
        turns.leave(folder)
        os.rename(folder, gone)  # at once no job any more
        shutil.rmtree(gone)
    except OSError as error:
        raise UserError(f"{error.filename or folder} cannot be deleted ({error.strerror or error})") from None
    finally:
        os.close(lock)


def with_total(words: Sequence[str], total_step: int) -> tuple[str, ...]:
    """The words of a training that ends after so many updates."""
    kept, rest = [], list(words)
    while rest:
        word = rest.pop(0)
        if word == "--set" and rest and rest[0].startswith(f"{TOTAL}="):
            rest.pop(0)
        elif not word.startswith(f"--set={TOTAL}="):
            kept.append(word)
    return *kept, "--set", f"{TOTAL}={total_step}"


def _ask(job: Job, what: str) -> None:
    if not job.is_training or state(job).phase != "running":
        raise UserError(f"the job {job.name} trains nothing at the moment: wait until its first step, or resume it")
    ask(job.folder, what)


def _new_folder(runs: Path, name: str) -> Path:
    """Make RUNS/NAME, or NAME_2 and so on where that is there."""
    plain = re.sub(r"[^\w.-]+", "_", name).strip("._-")[:LONGEST] or "job"
    runs.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        folder = runs / (plain if number == 1 and plain not in KEPT else f"{plain}_{number}")
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            number += 1


def _elsewhere(word: str, before: Path, now: Path) -> str:
    """The word, where it names a place in the folder `before`, for the folder `now`."""
    for old, new in ((str(before), str(now)), (str(before.absolute()), str(now.absolute()))):
        if word == old or word.startswith(old + os.sep):
            return new + word[len(old) :]
    return word


def _start(job: Job, lock: int, resumed: bool = False) -> None:
    """Start the runner, which keeps the lock that is held here."""
    try:
        (job.folder / STOP).unlink(missing_ok=True)
        before: Optional[State] = read_state(job.folder) if resumed else None
        write_state(job.folder, State("waiting", peak=before.peak if before else 0))
        turns.queue_up(job.folder)
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        words = [sys.executable, "-m", "gm.jobs.runner", str(job.folder.absolute()), "--lock", str(lock)]
        with open(job.folder / LOG, "ab") as log:
            runner = subprocess.Popen(
                words + ["--resume"] * resumed,
                cwd=job.cwd,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(lock,),
                start_new_session=True,
            )
    except OSError as error:
        turns.leave(job.folder)
        what = f"{error.strerror or error} ({error.filename or job.folder})"
        raise UserError(f"the job {job.name} cannot be started: {what}") from None
    finally:
        os.close(lock)
    threading.Thread(target=runner.wait, daemon=True).start()  # so that no dead process stays
