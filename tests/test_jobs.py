"""Jobs of the studio: a queue, processes that outlive who started them, and what is told of them; with a training that only
counts."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import tiny
from counting_jobs import phase, runs, training, until  # noqa: F401
from gm.errors import UserError
from gm.jobs import control, curves, turns
from gm.jobs.control import add, clone, delete, jobs, more, resume, sample_now, save_now, stop, with_total
from gm.jobs.job import is_alive, read_job
from gm.jobs.log import as_shown, last_lines, reason
from gm.jobs.processes import is_running
from gm.jobs.progress import progress
from gm.jobs.runner import command, environment, verdict
from gm.jobs.state import KILLED, STOP, read_state, state


def test_a_job_runs_to_its_end(runs, tmp_path):
    job = add(runs, "a sks dog", training(tmp_path, 5), "CPU")
    assert job.folder == runs / "a_sks_dog" and job.inputs == ("photos",)
    assert phase(job, "done").sentence == ""
    now = progress(job)
    assert (now.step, now.total, now.seconds, now.eta, now.lr, now.skipped) == (5, 5, 0.02, None, 1e-3, 0)
    assert [record["loss"] for record in now.records] == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4, 1 / 5])
    assert now.records[0]["class_loss"] is None and not now.memory
    assert last_lines(job.folder / "log.txt", 2) == ["a bar 100%", "done"]
    assert jobs(runs) == [job] and read_job(job.folder) == job
    assert not list((runs / ".queue").glob("*_a_sks_dog"))
    until(lambda: not is_alive(job.folder))


def test_stop_resume_more(runs, tmp_path):
    """Stopped in good order, gone on with from there, ended, and gone on with for more steps."""
    job = add(runs, "dog", training(tmp_path, 100_000), "CPU")
    phase(job, "running")
    until(lambda: progress(job).step > 3)
    assert progress(job).eta > 100 and progress(job).memory > 1e6
    with pytest.raises(UserError, match="stop it first"):
        more(job, 200_000)
    stop(job)
    ended = phase(job, "stopped")
    reached = progress(job).step
    assert ended.sentence == f"stopped after step {reached} of 100000: saved"
    with pytest.raises(UserError, match="over already"):
        stop(job)
    with pytest.raises(UserError, match=f"has {reached} steps behind it"):
        more(job, reached)

    more(job, reached + 5)
    phase(job, "done")
    job = read_job(job.folder)
    steps = [json.loads(line)["step"] for line in (job.folder / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, reached + 6)) and progress(job).total == reached + 5
    with pytest.raises(UserError, match="is done"):
        resume(job)


def test_requests_reach_the_training(runs, tmp_path):
    job = add(runs, "dog", training(tmp_path), "CPU")
    phase(job, "running")
    save_now(job)
    sample_now(job)
    until(lambda: {"asked for save", "asked for sample"} <= set(last_lines(job.folder / "log.txt", 9)))
    stop(job)
    phase(job, "stopped")
    with pytest.raises(UserError, match="trains nothing at the moment"):
        save_now(job)


def test_one_at_a_time_first_come_first_served(runs, tmp_path):
    first, second, third = (add(runs, "dog", training(tmp_path), "CPU") for _ in range(3))
    assert [job.folder.name for job in jobs(runs)] == ["dog_3", "dog_2", "dog"]
    phase(first, "running")
    until(lambda: (state(second).ahead, state(third).ahead) == (1, 2))
    assert state(second).phase == state(third).phase == "waiting"
    stop(second)  # leaves the queue
    assert phase(second, "stopped").why == "never began"
    assert state(third).ahead == 1
    resume(second)  # at its end
    stop(first)
    phase(third, "running")
    assert state(first).phase == "stopped" and state(second).phase == "waiting"
    assert not (second.folder / "metrics.jsonl").exists()


def test_several_at_once_have_devices_of_their_own(runs, tmp_path, monkeypatch):
    monkeypatch.delenv("ASCEND_RT_VISIBLE_DEVICES", raising=False)
    pair = [add(runs, "dog", training(tmp_path), "Ascend", at_once=2) for _ in range(3)]
    until(lambda: [state(job).phase for job in pair].count("running") == 2)
    assert sum(state(job).phase == "waiting" for job in pair) == 1
    seen = set()
    for job in pair:
        if state(job).phase == "running":
            seen |= {
                w for w in Path(f"/proc/{state(job).process}/environ").read_bytes().split(b"\0") if w.startswith(b"ASCEND_RT")
            }
    assert seen == {b"ASCEND_RT_VISIBLE_DEVICES=0", b"ASCEND_RT_VISIBLE_DEVICES=1"}
    monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", "4,6")
    assert environment(pair[0], 1)["ASCEND_RT_VISIBLE_DEVICES"] == "6"


def test_a_killed_training_says_why_and_resumes(runs, tmp_path):
    job = add(runs, "dog", training(tmp_path), "CPU")
    phase(job, "running")
    os.kill(state(job).process, signal.SIGKILL)
    assert phase(job, "failed").sentence == KILLED
    resume(job)  # nothing was saved: from the start
    phase(job, "running")
    assert command(job, resumed=True)[-2:] != ["--resume", "True"]
    stop(job)
    phase(job, "stopped")
    assert command(job, resumed=True)[-2:] == ["--resume", "True"]


def test_the_training_of_a_killed_runner_saves_and_ends(runs, tmp_path):
    job = add(runs, "dog", training(tmp_path), "CPU")
    phase(job, "running")
    process = state(job).process
    os.kill(state(job).runner, signal.SIGKILL)
    found = phase(job, "lost")
    assert found.why == "lost" and not is_running(process)
    assert (job.folder / "training_state.ckpt").exists()
    resume(job)
    phase(job, "running")


def test_a_killed_runner_that_waited_holds_nobody_up(runs, tmp_path):
    first, second, third = (add(runs, "dog", training(tmp_path), "CPU") for _ in range(3))
    phase(first, "running")
    until(lambda: state(second).runner)
    os.kill(state(second).runner, signal.SIGKILL)
    phase(second, "lost")
    until(lambda: state(third).ahead == 1)
    stop(first)
    phase(third, "running")
    assert turns.ahead(second.folder) == 1


def test_jobs_outlive_the_process_that_added_them(runs, tmp_path):
    """In a process group of its own, which a server's end does not reach."""
    words = (
        "import sys; from pathlib import Path; from gm.jobs.control import add; "
        "print(add(Path(sys.argv[1]), 'dog', lambda folder: "
        "[sys.argv[2], '--save_path', str(folder), '--set', 'data.total_step=9999'], 'CPU').folder)"
    )
    training(tmp_path)(tmp_path)
    script = tmp_path / "fake" / "train_dreambooth.py"
    subprocess.run([sys.executable, "-c", words, runs, script], cwd=tiny.ROOT, check=True, stdout=subprocess.DEVNULL)
    (job,) = jobs(runs)
    phase(job, "running")
    assert os.getsid(state(job).process) != os.getsid(0)
    assert os.getpriority(os.PRIO_PROCESS, state(job).process) > os.getpriority(os.PRIO_PROCESS, 0) or os.nice(0) > 9


def test_a_failed_job_says_its_error(runs, tmp_path):
    script = tmp_path / "train_dreambooth.py"
    script.write_text("import sys; print('error: no photos were given', file=sys.stderr); print('x'); sys.exit(2)")
    job = add(runs, "dog", lambda folder: [str(script)], "CPU")
    assert phase(job, "failed").sentence == "no photos were given"
    assert phase(add(runs, "dog", lambda folder: ["nowhere.py"], "CPU"), "failed").sentence  # Python's own words


def test_what_cannot_be_prepared_leaves_nothing(runs):
    def prepare(folder: Path) -> list[str]:
        (folder / "photos").mkdir()
        raise UserError("no photos")

    with pytest.raises(UserError, match="no photos"):
        add(runs, "dog", prepare, "CPU")
    assert not jobs(runs) and not [path for path in runs.iterdir() if path.name[0] != "."]


@pytest.mark.parametrize(
    "name, folder",
    [("../../etc", "etc"), ("", "job"), ("visits", "visits_1"), ("一只狗 1", "一只狗_1"), (".hid/den", "hid_den")],
)
def test_names_stay_in_the_folder(runs, tmp_path, name, folder):
    job = add(runs, name, training(tmp_path, 1), "CPU")
    assert job.folder == runs / folder
    phase(job, "done")


def test_a_clone_has_copies(runs, tmp_path):
    job = add(runs, "dog", training(tmp_path, 3), "CPU")
    phase(job, "done")
    other = clone(job, runs)
    assert other.folder.name == "dog_2" and other.name == "dog" and other.words[2] == str(other.folder)
    phase(other, "done")
    assert (other.folder / "photos" / "a.jpg").read_text() == "a photo" and progress(other).step == 3


def test_only_ended_jobs_are_deleted_and_no_link_is_followed(runs, tmp_path):
    outside = tmp_path / "precious"
    outside.mkdir()
    (outside / "job.json").write_text("{}")
    job = add(runs, "dog", training(tmp_path), "CPU")
    phase(job, "running")
    with pytest.raises(UserError, match="stop it first"):
        delete(job, runs)
    stop(job)
    phase(job, "stopped")
    (job.folder / "link").symlink_to(outside)
    with pytest.raises(UserError, match="is not the folder of a job"):
        delete(job, tmp_path)
    (runs / "linked").symlink_to(job.folder)
    with pytest.raises(UserError, match="is not the folder of a job"):
        delete(control.replace(job, folder=runs / "linked"), runs)
    assert [one.folder.name for one in jobs(runs)] == ["dog"]
    delete(job, runs)
    assert not jobs(runs) and not job.folder.exists() and (outside / "job.json").exists()
    assert [path.name for path in runs.iterdir()] in (["linked", ".queue"], [".queue", "linked"])


def test_damaged_files_are_no_jobs(runs):
    for name, content in (("a", "{"), ("b", "[]"), ("c", '{"name": 1}'), ("d", "\udcff")):
        (runs / name).mkdir(parents=True)
        (runs / name / "job.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    assert jobs(runs) == [] and jobs(runs / "nowhere") == []


# -- parts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "status, lines, found",
    [
        (0, ["done"], ("done", "", "")),
        (130, ["stopped after step 5 of 9: saved", "x"], ("stopped", "stopped after step 5 of 9: saved", "")),
        (
            143,
            ["", "told to end; what was saved so far is kept"],
            ("stopped", "told to end; what was saved so far is kept", ""),
        ),
        (2, ["error: a", "error: b", "c"], ("failed", "b", "")),
        (1, ["Traceback", "ValueError: x", ""], ("failed", "ValueError: x", "")),
        (1, [], ("failed", "ended with status 1 and without a word", "")),
        (-9, ["killed from outside"], ("failed", KILLED, "killed")),
        (-11, [], ("failed", "was killed (signal 11, SIGSEGV)", "")),
    ],
)
def test_verdict(status, lines, found):
    assert verdict(status, lines) == found


def test_total_in_the_words():
    words = ("train_dreambooth.py", "--set", "data.total_step=5", "--set=data.total_step=6", "--set", "a=1")
    assert with_total(words, 7) == ("train_dreambooth.py", "--set", "a=1", "--set", "data.total_step=7")


def test_bars_in_the_log(tmp_path):
    assert as_shown("a\rbb\r\nc\r") == "bb\nc"
    path = tmp_path / "log.txt"
    path.write_text("earlier\n" + "x" * 300_000 + "\nlast\n\n")
    assert last_lines(path, 9) == ["last"] and last_lines(path, 9, 300_009) == ["last"]
    assert last_lines(tmp_path / "nowhere", 9) == [] and reason(["a", ""]) == "a" and reason([]) == ""


def test_curves_are_read_on_and_thinned(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rng = np_rng()
    losses = rng.random(1000)
    text = "".join(
        json.dumps({"step": n + 1, "loss": loss, "lr": 0.1, "seconds": 1 + n % 2}) + "\n" for n, loss in enumerate(losses)
    )
    path.write_text(text[:50_000])  # a line is half there
    first = curves.curves_of(path).step
    with open(path, "a") as file:
        file.write(text[50_000:] + "no record\n")
    found = curves.curves_of(path)
    assert 0 < first < found.step == 1000 and found.seconds == 1.5
    assert len(found.records) == curves.POINTS and found.records[-1]["step"] == 1000
    assert found.records[0]["loss"] == pytest.approx(losses[:3].mean()) and found.records[0]["class_loss"] is None
    middle = found.records[150]
    at = int(middle["step"])
    assert middle["smooth_loss"] == pytest.approx(losses[at - 26 : at + 25].mean())
    path.unlink()
    path.write_text(text[:200])
    assert curves.curves_of(path).step < 10  # another file
    path.unlink()
    assert curves.curves_of(path).step == 0


def np_rng():
    import numpy as np

    return np.random.default_rng(0)


def test_names_of_progress_pictures():
    from gm.training.progress_files import NAME, NAMED

    assert NAMED.fullmatch(NAME.format(12, 3)).groups() == ("000012", "03")


def test_jobs_need_no_mindspore():
    words = "import gm.jobs.control, gm.jobs.progress, sys; sys.exit('mindspore' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", words], cwd=tiny.ROOT).returncode == 0


def test_a_stop_of_earlier_does_not_count(runs, tmp_path):
    job = add(runs, "dog", training(tmp_path), "CPU")
    phase(job, "running")
    stop(job)
    phase(job, "stopped")
    assert (job.folder / STOP).exists()
    resume(job)
    phase(job, "running")
    assert read_state(job.folder).began
