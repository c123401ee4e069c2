"""Several real processes under mpirun and msrun: the same LoRA for any number of ranks, class images shared out, and how
a job ends when something goes wrong. On the small model, whose graphs the jobs of two ranks compile once for all."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tiny
from gm.parallel.ranks import Ranks
from jobs import Job, mpirun, msrun
from small import TRAIN, largest_difference, records, trained

LARGEST = 0.001  # norm of the gradient, which clips it
TROUBLE = tiny.ROOT / "tests" / "rank_in_trouble.py"


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
@pytest.mark.parametrize("config, step", [(tiny.TRAINING, 10), (tiny.TEXT_TRAINING, 10)], ids=["unet", "text encoders"])
def test_any_number_of_ranks_gives_the_same_lora(small, tmp_path, config, step):
    """4 x 1, 2 x 2 and, for the UNet, 1 x 4 (accumulation x ranks), clipped; 5 photos and 3 class
    images divide by neither, and for the UNet one rank comes 20 s late to an update."""
    results = {}
    launchers = {"1": (mpirun(1), TRAIN), "2": (mpirun(2), TRAIN)}
    whole = config == tiny.TRAINING  # the text encoders need not show all of it again
    if whole:
        launchers |= {"2": (mpirun(2), TROUBLE, "late", "--"), "msrun": (msrun(4, "--join=True"), TRAIN)}
    for name, (launcher, script, *first) in launchers.items():
        folder, ranks = folder_of(tmp_path, name), 4 if name == "msrun" else int(name)
        more = ("--gradient_accumulation_steps", 4 // ranks, "--clip_grad", "True", "--max_grad_norm", LARGEST)
        # the job under mpirun fills the folder, that under msrun finds all in it
        more += ("--cache_dir", tmp_path / "cache") if whole and ranks > 1 else small.rows
        if ranks == 2:
            more += small.graphs
        job = Job(launcher, script, (*first, *arguments(small, folder, *more, config=config)), folder)
        assert job.status == 0 and not job.left, job.words
        assert "Traceback" not in job.words and "[ERROR]" not in job.words and "[WARNING] DIST" not in job.words
        assert job.words.count("step 10/10") == 1, "only rank 0 speaks"
        assert len([path for path in (folder / "runs").iterdir() if path.suffix == ".ckpt"]) == 2
        if whole and ranks > 1:
            found = 8 if name == "msrun" else 0
            assert f"{found} of 8 photos from the cache in {tmp_path / 'cache'}" in job.words
        matrices = trained(folder, step)
        if ranks > 1:  # the gradient of all matrices, and the sums of the update, in float32
            size = 4 * (sum(matrix.size for matrix in matrices.values()) + 4) / 1e6
            assert f"10 all-reduces of {size:.1f} MB over {ranks} ranks" in job.words
        results[name] = matrices, records(folder)
    reference, expected = results.pop("1")
    assert any(record["grad_norm"] > LARGEST for record in expected), "clipping was not at work"
    for name, (matrices, lines) in results.items():
        assert largest_difference(reference, matrices) < 1e-5, name
        for line, other in zip(expected, lines):
            for key in ("loss", "instance_loss", "class_loss", "grad_norm"):
                assert line[key] == pytest.approx(other[key], rel=1e-4), (name, key)


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
    "disk": (
        r"rank 0 on \S+: step 3 could not be saved: No space left on device",
        (3,),
    ),  # the state; there is room for the LoRA
}


@pytest.mark.xdist_group("ranks")
@pytest.mark.parametrize("launch, trouble", [(msrun, "killed"), *((mpirun, trouble) for trouble in TROUBLES)])
def test_trouble_on_one_rank_ends_the_job(small, tmp_path, launch, trouble):
    folder, (words, kept) = folder_of(tmp_path, "job"), TROUBLES[trouble]
    launcher = launch(2, *(("--join=True",) if launch == msrun else ()))
    flags = ("--save_ckpt_interval", 1, "--gradient_accumulation_steps", 2)  # the graphs are those of two ranks above
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
