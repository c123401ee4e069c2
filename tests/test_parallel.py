"""Several real processes under mpirun and msrun: the same LoRA for any number of ranks, class images shared out, and how
a job ends when something goes wrong. On the small model, whose graph the jobs of two ranks compile once for all."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gm.parallel.ranks import Ranks
from jobs import TROUBLE, Job, check_job, check_records, mpirun, msrun, reductions
from small import TRAIN, largest_difference, records, trained

LARGEST = 0.001  # norm of the gradient, which clips it


def arguments(small, folder, *more, **given) -> list[str]:
    """Of a job of several ranks."""
    return small.arguments(folder, "--is_parallel", "True", *more, **given)


def folder_of(tmp_path, name) -> Path:
    (tmp_path / name).mkdir()
    return tmp_path / name


def test_a_job_of_one_process_fails_by_itself(capsys):
    with pytest.raises(SystemExit) as end:
        Ranks().fail("no room", 3)
    assert end.value.code == 3 and capsys.readouterr().err == "error: no room\n"


@pytest.mark.xdist_group("ranks")
def test_ranks_and_accumulation_give_the_same_lora(small, train_here, tmp_path):
    """2 ranks x accumulation 2 and 1 x 4, compiled, clipped; 5 photos and 3 class images divide by neither. More ranks and the text
    encoders, in PyNative mode: test_recipe.py."""
    clipped = ("--clip_grad", "True", "--max_grad_norm", LARGEST, "--gradient_accumulation_steps")
    train_here(folder_of(tmp_path, "1"), *clipped, 4)
    reference, expected = trained(tmp_path / "1", 10), records(tmp_path / "1")
    folder = folder_of(tmp_path, "2")
    job = Job(mpirun(2), TRAIN, arguments(small, folder, *clipped, 2, *small.caches), folder)
    check_job(job, 10)
    matrices, lines = trained(folder, 10), records(folder)
    assert reductions(matrices, 2, 10) in job.words
    assert any(record["grad_norm"] > LARGEST for record in expected), "clipping was not at work"
    assert largest_difference(reference, matrices) < 1e-5
    check_records(expected, lines)


@pytest.mark.xdist_group("ranks")
def test_class_images_are_shared_out(small, tmp_path):
    """Five are missing: three ranks sample them together, each once, the same ones as a single process does."""
    pictures = {}
    for ranks in (1, 3):
        folder = folder_of(tmp_path, str(ranks))
        (folder / "class").mkdir()
        (folder / "class" / "class_00002.jpg").write_bytes((small.class_images / "class_00002.jpg").read_bytes())
        more = ("--class_data_path", folder / "class", "--num_class_images", 6, "--stop_after_sampling", "True")
        more += ("--ms_mode", 1)  # nothing to compile in four processes
        job = Job(mpirun(ranks), TRAIN, arguments(small, folder, *more), folder)
        assert job.status == 0 and not job.left, job.words
        assert "5 class images are missing" in job.words and job.words.count("stopping after the class images") == 1
        assert sorted(path.name for path in (folder / "class").iterdir()) == [
            *("class_00000.png", "class_00001.png", "class_00002.jpg", "class_00003.png", "class_00004.png", "class_00005.png")
        ]
        pictures[ranks] = {path.name: np.asarray(Image.open(path)) for path in (folder / "class").glob("*.png")}
    alone, together = pictures.values()
    assert len({picture.tobytes() for picture in together.values()}) == 5
    for name, picture in alone.items():
        assert np.abs(picture.astype(int) - together[name]).max() <= 1, name


def check_kept(folder, steps):
    """Exactly the LoRA files of these steps are there, all whole; files that were being written have other names."""
    found = sorted(path.name for path in (folder / "runs").glob("*_lora.ckpt"))
    assert found in ([f"SDXL_base_1.0_{step}_lora.ckpt" for step in steps[:n]] for n in (1, len(steps)))
    for step in steps[: len(found)]:
        assert len(trained(folder, step)) > 50


TROUBLES = {
    "killed": (r"rank 1 .*(killed|signal 9)", (1, 2)),
    "raises": (r"rank 1 on \S+ failed: RuntimeError: something that nobody foresaw", (1, 2)),
    "disk": (r"error: .*step 3 could not be saved: No space left on device", (3,)),  # the state; the LoRA is there
}


@pytest.mark.xdist_group("ranks")
@pytest.mark.parametrize("launch, trouble", [(msrun, "killed"), *((mpirun, trouble) for trouble in TROUBLES)])
def test_trouble_on_one_rank_ends_the_job(small, tmp_path, launch, trouble):
    folder, (words, kept) = folder_of(tmp_path, "job"), TROUBLES[trouble]
    launcher = launch(2, *(("--join=True",) if launch == msrun else ()))
    flags = ("--save_ckpt_interval", 1, "--gradient_accumulation_steps", 2)  # the graph is that of two ranks above
    steps = 3 if trouble == "disk" else 500  # a full disk ends nothing before the end
    more = (trouble, "--", *arguments(small, folder, *small.caches, *flags, steps=steps))
    job = Job(launcher, TROUBLE, more, folder, until=f"step 2/{steps}")
    assert job.status != 0 and not job.left, job.words
    assert job.seconds < 60, "from the trouble to the end of the last process"
    said = [line for line in job.words.splitlines() if re.search(words, line)]
    assert said, job.words
    assert len(job.errors) == (0 if (launch, trouble) == (mpirun, "killed") else 1), job.errors
    check_kept(folder, kept)


@pytest.mark.xdist_group("ranks")
@pytest.mark.parametrize("launch", [mpirun, msrun])
def test_a_broken_image_on_one_rank(small, tmp_path, launch):
    """Rank 1 works on another host, so to speak, where a photo of the same size is broken."""
    folder = folder_of(tmp_path, "job")
    for host in (folder, folder_of(folder, "other")):
        shutil.copytree(small.photos, host / "photos")
    victim = sorted((folder / "other" / "photos").iterdir())[1]
    victim.write_bytes(b"x" * victim.stat().st_size)
    more = ("elsewhere", folder / "other", "--", *arguments(small, folder, photos="photos"))
    job = Job(launch(2, *(("--join=True",) if launch == msrun else ())), TROUBLE, more, folder)
    assert job.status != 0 and job.seconds < 60 and not job.left
    assert len(job.errors) == 1 and "rank 1 on" in job.errors[0] and victim.name in job.errors[0], job.words
    assert "Traceback" not in job.words.replace("msrun", "") or launch == msrun
    assert not (folder / "runs").exists()


@pytest.mark.xdist_group("ranks")
def test_a_host_that_never_joins(small, tmp_path):
    folder = folder_of(tmp_path, "job")
    job = Job(
        msrun(2, "--join=True", "--node_rank=0", here=1),
        TRAIN,
        arguments(small, folder, "--join_timeout", 5),
        folder,
    )
    assert job.status != 0 and job.seconds < 60 and not job.left
    assert len(job.errors) == 1 and "rank 1 did not join within 5 s (1 of 2 came)" in job.errors[0], job.words


@pytest.mark.xdist_group("ranks")
@pytest.mark.parametrize(
    "launch, more, words",
    [
        (mpirun, ("--is_parallel", "False"), "mpirun started 2 processes, but --is_parallel True is missing"),
        (msrun, ("--is_parallel", "False"), "msrun started 2 processes, but --is_parallel True is missing"),
        (mpirun, ("--wieght", "x"), "did you mean --weight?"),
        (mpirun, ("--master_addr", "192.0.2.1"), "192.0.2.1 is not an address of the host of rank 0"),
        (msrun, ("--master_addr", "192.0.2.1"), "--master_addr is a flag of msrun here"),
    ],
)
def test_bad_input_is_said_once(small, tmp_path, launch, more, words):
    folder = folder_of(tmp_path, "job")
    launcher = launch(2, *(("--join=True",) if launch == msrun else ()))
    job = Job(launcher, TRAIN, arguments(small, folder, *more), folder)
    assert job.status == (1 if launch == msrun else 2) and not job.left, job.words
    assert len(job.errors) == 1 and words in job.errors[0], job.words
    assert not (folder / "runs").exists()
