"""All pictures of a command: what is one batch, their names and sheet, an end on the way, too little memory, and graphs from a
folder; the same pictures in a batch and alone, and by --like."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tiny
from commands import sample
from gm import memory
from gm.config.load import load_config
from gm.config.types import SampleSettings
from gm.console import bar
from gm.ending import Interrupted
from gm.errors import UserError
from gm.options.sample import parse_sample
from gm.runtime import Runtime
from gm.sampling import jobs
from gm.sampling.jobs import Job, evenly, groups_of, requests_of
from small import SMALL, environment

PROMPTS = "a dog\na cat --w 96\na red dog\na bird --s 3\n"


def asked(folder: Path, *flags, prompts: str = PROMPTS):
    (folder / "prompts.txt").write_text(prompts)
    usual = ("--prompt", folder / "prompts.txt", "--height", 64, "--width", 64, "--sample_step", 2)
    return requests_of(parse_sample([str(word) for word in (*usual, *flags)]), 8)


class Maker:
    """Makes pictures that show their seed; `most` at once, and every batch is noted."""

    def __init__(self, most: int = 100, error: Exception = MemoryError()):
        self.most, self.error, self.batches = most, error, []

    def __call__(self, batch, what):
        self.batches.append([one.options.seed for one in batch])
        for _ in bar(range(batch[0].settings.steps), what, unit="step", leave=False):
            pass
        if len(batch) > self.most:
            raise self.error
        sides = [(one.settings.height, one.settings.width, 3) for one in batch]
        return [np.random.default_rng(one.options.seed).integers(0, 255, side, np.uint8) for one, side in zip(batch, sides)]


def run_all(requests, folder: Path, make, size: int) -> Job:
    job, groups = Job(requests, folder), groups_of(requests)
    job.run(groups, [min(size, len(group)) for group in groups], make)
    return job


# -- what is one batch -------------------------------------------------------------------------------------------------


def test_pictures_of_one_kind_are_a_batch_whatever_their_prompts_and_seeds(tmp_path):
    requests = asked(tmp_path, "--num_cols", 2, "--seed", 7)
    assert [one.options.seed for one in requests] == [7, 8] * 4 and [one.row for one in requests] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert groups_of(requests) == [[0, 1, 4, 5], [2, 3], [6, 7]]
    assert {requests[place].options.prompt for place in (0, 1, 4, 5)} == {"a dog", "a red dog"}
    assert len(requests_of(parse_sample(["--num_cols", "3"]), 8)) == 3


@pytest.mark.parametrize("count, most, size", [(9, 8, 5), (8, 8, 8), (1, 8, 1), (5, 4, 3), (7, 1, 1), (17, 8, 6), (16, 8, 8)])
def test_batches_are_equal(count, most, size):
    assert evenly(count, most) == size


def test_how_many_fit():
    model = load_config(str(tiny.ROOT / "configs" / "inference" / "sd_xl_base.yaml"), training=False).model
    settings, weights = SampleSettings.square(1024, 40), 5_500_000_000

    def fit(gigabytes, settings=settings, most=100):
        return memory.rows_that_fit(model, settings, Runtime("GPU", 0, "O2", max_memory=f"{gigabytes}GB"), weights, most)

    assert fit(80) in range(5, 13) and fit(80, most=3) == 3
    assert fit(4) == 1 and fit(20) == 1
    plain = SampleSettings(1024, 1024, settings.sizes, guider="IdentityGuider")
    assert fit(80, plain) in (2 * fit(80), 2 * fit(80) + 1)
    assert fit(80, SampleSettings.square(512, 40)) > 4 * fit(80)


# -- their files -------------------------------------------------------------------------------------------------------


def test_names_follow_the_requests_and_the_last_batch_is_filled(tmp_path):
    requests, make = asked(tmp_path, "--num_cols", 3, "--seed", 1), Maker()
    out = tmp_path / "out"
    out.mkdir()
    (out / "00004.png").write_bytes(b"")
    job = run_all(requests, out, make, 4)
    assert make.batches == [[1, 2, 3, 1], [2, 3, 3, 3], [1, 2, 3], [1, 2, 3]]  # the last again, which nobody sees
    assert sorted(path.name for path in out.iterdir()) == [f"{n:05d}.png" for n in range(4, 17)] + ["sheet_00005.png"]
    texts = [Image.open(job.paths[place]).text for place in range(12)]
    assert [text["prompt"] for text in texts] == [one.options.prompt for one in requests]
    assert [text["seed"] for text in texts] == ["1", "2", "3"] * 4 and texts[9]["steps"] == "3"
    assert [job.paths[place].name for place in range(12)] == [f"{n:05d}.png" for n in range(5, 17)]
    sheet = Image.open(out / "sheet_00005.png")
    assert sheet.text["prompts"] == "a dog\na cat\na red dog\na bird" and sheet.text["seeds"] == "[1, 2, 3]"
    assert sheet.size == (3 * 260 + 4, 4 * 280 + 4)


def test_a_name_that_another_process_has_taken(tmp_path):
    requests = asked(tmp_path, prompts="a dog\na cat\n")
    job = Job(requests, tmp_path)
    (tmp_path / "00001.png").write_bytes(b"theirs")
    job.run(groups_of(requests), [1], Maker())
    assert [path.name for path in job.paths.values()] == ["00000.png", "00002.png"]
    assert (tmp_path / "00001.png").read_bytes() == b"theirs"


def test_one_bar_moves_by_step_over_all_pictures(tmp_path, monkeypatch):
    seen = []

    class Line:
        n = 0

        def update(self, steps):
            self.n += steps
            seen.append(self.n)

        def set_description(self, words, refresh):
            seen.append(words)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    def bar_of_all(items, what, total, unit):
        seen.append((what, total, unit))
        return Line()

    monkeypatch.setattr(jobs, "bar", bar_of_all)
    run_all(asked(tmp_path, prompts="a dog\na cat --s 4\na red dog\n"), tmp_path, Maker(), 2)
    assert seen == [("sampling", 8, "step"), "sampling 1, ... 3/3", 2, 4, 4, "sampling 2/3", 5, 6, 7, 8, 8]


# -- an end on the way -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [0, 3, 5])
def test_what_is_finished_is_kept_with_its_sheet(tmp_path, monkeypatch, after):
    """Told to end after so many steps of two a picture."""
    steps = iter([None] * after + [signal.SIGINT] * 9)
    monkeypatch.setattr(jobs, "asked_to_stop", lambda: next(steps))
    kept = (after) // 2
    sheet = f", and {tmp_path / 'sheet_00000.png'}" if kept else ""
    with pytest.raises(Interrupted) as told:
        run_all(asked(tmp_path, prompts="a dog\na cat\na bird\n"), tmp_path, Maker(), 1)
    assert told.value.status == 130 and str(told.value) == f"stopped after {kept} of 3 pictures: they are kept{sheet}"
    assert len(list(tmp_path.glob("0*.png"))) == kept and len(list(tmp_path.glob("sheet*.png"))) == bool(kept)


# -- too little memory -------------------------------------------------------------------------------------------------

ERRORS = [
    MemoryError("Unable to allocate 9 GiB"),
    RuntimeError("Device(id:0) memory isn't enough and alloc failed, kernel name: MatMul, alloc size: 123B."),
    RuntimeError("CUDA error: Out of memory"),
    RuntimeError("Malloc for kernel output failed, Memory isn't enough"),
]


@pytest.mark.parametrize("error", ERRORS, ids=str)
def test_a_batch_that_does_not_fit_is_made_in_halves(tmp_path, project_log, error):
    make = Maker(2, error)
    job = run_all(asked(tmp_path, "--num_cols", 7, prompts="a dog\na cat --w 96\n"), tmp_path, make, 6)
    assert [len(batch) for batch in make.batches] == [6, 3, *[2] * 4, *[2] * 4]
    assert len(job.pictures) == 14 and project_log.text.count("the memory is too small for") == 2
    assert "for 6 pictures at once: 3 from here on" in project_log.text


def test_one_picture_that_does_not_fit_is_a_sentence(tmp_path):
    with pytest.raises(UserError, match="the memory is too small for one picture: give a smaller --width"):
        run_all(asked(tmp_path), tmp_path, Maker(0), 2)
    with pytest.raises(RuntimeError, match="another"):
        run_all(asked(tmp_path), tmp_path, Maker(0, RuntimeError("another reason")), 2)


# -- with networks -----------------------------------------------------------------------------------------------------


@pytest.mark.xdist_group("end_to_end")
def test_pictures_of_a_batch_are_those_made_alone(small, tmp_path, run, kept_networks):
    """Up to rounding, with other prompts beside them; and --like gives the same bytes again."""

    def made(name, *more):
        flags = ("--prompt", tmp_path / "prompts.txt", "--num_cols", 2, "--seed", 7, "--sampler", "EulerAncestralSampler")
        return sample(run, tmp_path / name, small.weights, *SMALL, *flags, *more)

    (tmp_path / "prompts.txt").write_text("a dog --n grass\na cat in the snow\n")
    alone, both = made("alone"), made("both", "--batch_size", 3)
    assert len({picture.tobytes() for picture in alone}) == 4
    for one, other in zip(alone, both):
        difference = np.abs(one.astype(int) - other)
        assert difference.max() <= 1 and (difference > 0).mean() < 0.001
    for number, flags in ((0, ()), (3, ("--num_cols", 1))):
        like = ("--like", tmp_path / "alone" / f"0000{number}.png", "--save_path", tmp_path / f"like{number}")
        status, errors = run(sys.modules["sampling_without_streamlit"], "--device_target", "CPU", *like, *flags)
        assert status == 0 and f"--weight {small.weights}" in errors, errors
        (again,) = (np.asarray(Image.open(path)) for path in (tmp_path / f"like{number}").glob("0*.png"))
        assert np.array_equal(again, alone[number])
    texts = [Image.open(tmp_path / folder / "00000.png").text for folder in ("alone", "like0")]
    assert texts[0] == texts[1]


@pytest.mark.xdist_group("small")
def test_graphs_come_from_the_folder(small, tmp_path):
    """Of both processes of a command; the pictures are the same."""

    def made(name):
        words = ("--config", tiny.INFERENCE, "--weight", small.weights, "--device_target", "CPU", "--height", 64, *SMALL)
        words += (
            "--width",
            64,
            "--sample_step",
            2,
            "--save_path",
            tmp_path / name,
            "--compile_cache_dir",
            tmp_path / "graphs",
        )
        command = [sys.executable, tiny.ROOT / "demo" / "sampling_without_streamlit.py", *words]
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True, env=environment(), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stderr, [np.asarray(Image.open(path)) for path in sorted((tmp_path / name).glob("0*.png"))]

    cold, first = made("cold")
    warm, second = made("warm")
    assert cold.count("compiled graphs are in") == 0 and warm.count("compiled graphs are in") == 2
    assert np.array_equal(first, second)


def test_what_is_made_decides_the_folder(tmp_path, monkeypatch):
    """Sizes, numbers at once and their order do, steps and strengths do not."""
    from types import SimpleNamespace

    from gm.sampling import pipeline

    found = []
    monkeypatch.setattr(pipeline, "keeping_graphs", lambda root, decides: found.append(decides["batches"]))
    source = SimpleNamespace(source=SimpleNamespace(graphs="x"), embedder=None, weights=SimpleNamespace(decides=lambda *_: {}))
    small, wide, quick = SampleSettings.square(64, 9), SampleSettings.of(64, 96, 9), SampleSettings.square(64, 3)
    for batches in ([(small, 1)], [(small, 2)], [(wide, 1)], [(small, 1), (wide, 1)], [(wide, 1), (small, 1)]):
        pipeline.Pipeline.keeping_graphs(source, batches)
    assert len({str(one) for one in found}) == 5
    pipeline.Pipeline.keeping_graphs(source, [(quick, 1), (small, 1)])
    assert found[-1] == found[0]


def test_another_order_of_graphs_goes_on_without(tmp_path, monkeypatch, project_log):
    import mindspore as ms

    from gm.graph_cache import GraphCache

    uses = []
    monkeypatch.setattr(ms, "set_context", lambda **given: uses.append(given["enable_compile_cache"]))

    def compiled(*graphs) -> list[bool]:
        """Which of them MindSpore was to take from the folder or keep there."""
        cache, found = GraphCache(tmp_path / "graphs"), []
        for place, graph in enumerate(graphs):
            uses.clear()
            with cache(graph):
                found.append(uses == [True])
                if found[-1]:
                    path = tmp_path / "graphs" / "rank_0" / f"{place}.mindir"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(graph.encode())
        return found

    assert compiled("a", "b") == compiled("a", "b") == [True, True]
    assert compiled("a", "c", "b") == [True, False, False] and "are others" in project_log.text
    assert compiled("b") == [False] and compiled("a") == [True]
    assert compiled("a", "b", "c") == compiled("a", "b", "c") == [True, True, True]
    (path,) = (tmp_path / "graphs").glob("checksums*")
    path.write_text(path.read_text().replace('"a"', '"c"'))
    assert compiled("a") == [False]
    (tmp_path / "graphs" / "rank_0" / "0.mindir").write_bytes(b"other")
    assert compiled("b") == [True], "none of them is left"
