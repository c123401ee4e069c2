"""Captions, buckets and masks in one run: the same LoRA, of the text encoders as well, for any number of ranks, and when it is
resumed. In PyNative mode, where nothing is compiled, but for one run that keeps its graphs."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tiny
from gm.checkpoint.io import open_tensors
from jobs import TROUBLE, Job, check_job, check_records, mpirun, msrun, reductions
from small import TRAIN, largest_difference, records, trained

DATA = "data.dataset_config.params"
RECIPE = [
    *("--set", f"{DATA}.target_size=64", "--set", f"{DATA}.buckets.max_buckets=3"),
    *("--set", f"{DATA}.captions.shuffle=True", "--set", f"{DATA}.captions.keep_tokens=1"),
    *("--set", f"{DATA}.captions.tag_dropout=0.2", "--set", f"{DATA}.captions.dropout=0.2"),
    *("--set", f"{DATA}.captions.variants=2", "--set", f"{DATA}.masks.unmasked_weight=0.2"),
]
STEPS = 3


@pytest.fixture(scope="module")
def photos(small, tmp_path_factory) -> Path:
    """Five of three shapes, all but one with a mask, all but one with a caption."""
    folder = tmp_path_factory.mktemp("photos")
    for number, size in enumerate([(120, 80), (80, 120), (96, 96), (150, 90), (100, 140)]):
        with Image.open(sorted(small.photos.iterdir())[number]) as image:
            image.convert("RGB").resize(size).save(folder / f"{number}.png")
        if number != 2:
            mask = np.zeros(size[::-1], np.uint8)
            mask[size[1] // 4 :, size[0] // 3 :] = 255
            Image.fromarray(mask).save(folder / f"{number}-masklabel.png")
        if number != 4:
            (folder / f"{number}.txt").write_text(f"sks dog, on grass, sunny, number {number}")
    return folder


@pytest.mark.xdist_group("ranks")
def test_a_recipe_is_the_same_for_any_number_of_ranks_and_when_resumed(small, train_here, photos, tmp_path):
    """1 x 4, 2 x 2 and 4 x 1 (ranks x accumulation); one of the two ranks comes 6 s late to an update."""
    given = dict(steps=STEPS, photos=photos, config=tiny.TEXT_TRAINING)
    eager = (*RECIPE, "--ms_mode", 1, "--gradient_accumulation_steps")
    train_here(tmp_path, *eager, 4, **given)
    reference, expected = trained(tmp_path, STEPS), records(tmp_path)
    assert expected[0]["instance_loss"] != expected[1]["instance_loss"]
    broken = tmp_path / "broken"
    broken.mkdir()
    train_here(broken, *eager, 4, **{**given, "steps": 2})
    state = shutil.copytree(broken / "runs", tmp_path / "state")
    launchers = {2: (mpirun(2), TROUBLE, "late", "--"), 4: (msrun(4, "--join=True"), TRAIN)}
    for ranks, (launcher, script, *first) in launchers.items():
        folder = tmp_path / str(ranks)
        folder.mkdir()
        goes_on = ("--resume", state) if ranks == 4 else ()  # what one rank began
        # the job under mpirun fills the folder, that under msrun finds all in it
        more = (*eager, 4 // ranks, "--cache_dir", tmp_path / "cache", "--is_parallel", True, *goes_on)
        job = Job(launcher, script, (*first, *small.arguments(folder, *more, **given)), folder)
        check_job(job, STEPS)
        photos_found = re.search(r"(\d+) of (\d+) photos from the cache", job.words)
        assert photos_found and photos_found[1] == (photos_found[2] if ranks == 4 else "0")
        matrices, written = trained(folder, STEPS), records(folder)
        assert reductions(matrices, ranks, len(written)) in job.words and len(written) == (1 if goes_on else STEPS)
        assert largest_difference(reference, matrices) < 1e-5
        check_records(expected[-len(written) :], written)
        assert not goes_on or "result is that of an unbroken run within rounding" in job.words
    train_here(broken, *eager, 4, "--resume", broken / "runs", **given)
    resumed = trained(broken, STEPS)
    assert all(np.array_equal(resumed[name], reference[name]) for name in reference)
    with open_tensors(tmp_path / "runs" / f"SDXL_base_1.0_{STEPS}_lora.ckpt") as file:
        assert '"count"' in file.metadata["ss_bucket_info"] and "keep_tokens: 1" in file.metadata["recipe_yaml"]


@pytest.mark.xdist_group("ranks")
def test_graphs_of_two_buckets_are_compiled_ahead_and_kept(small, photos, tmp_path):
    """Both runs say what they do with the photos before they train, and draw it."""
    given = dict(steps=STEPS, photos=photos)
    caches = (*RECIPE, "--set", f"{DATA}.buckets.max_buckets=2", "--compile_cache_dir", tmp_path / "graphs")
    for name in ("cold", "warm"):
        folder = tmp_path / name
        folder.mkdir()
        said = small.train(folder, *caches, **given)
        assert said.index("compiling the training graph 2 of 2") < said.index("step 1/3")
        assert ("compiled graphs are in" in said) == (name == "warm")
        assert "2 buckets, of which a micro-batch holds one" in said and "photos are never drawn" in said  # 3 of 50
        rows = [line for line in said.splitlines() if line.startswith(tuple(f"{n}.png" for n in range(5)))]
        assert len(rows) == 5 and [row.rstrip().endswith("yes") for row in rows] == [True, True, False, True, True]
        with Image.open(folder / "runs" / "data.png") as sheet:
            assert sheet.height > 5 * 256 and "number 3" in sheet.text["captions"]
    cold, warm = (trained(tmp_path / name, STEPS) for name in ("cold", "warm"))
    assert all(np.array_equal(cold[name], warm[name]) for name in cold)
