"""A run that scores itself: when, what it writes, what it keeps, when it ends; and that its numbers stay what they are.

The loop and the evaluation on a toy trainer, whose pictures are as red as its step says. Whole commands: test_evaluating_commands.py.
"""

import json
from contextlib import contextmanager
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from PIL import Image

from gm import ending
from gm.config.types import SampleSettings
from gm.encoding.text import TextEmbedding
from gm.errors import UserError
from gm.evaluation import checkpoints, measure
from gm.evaluation.chooser import Point, choose, may_be_chosen
from gm.evaluation.fidelity import Figures
from gm.evaluation.measure import Measure, Photos
from gm.evaluation.samples import Plan
from gm.parallel.ranks import Ranks
from gm.training import evaluating
from gm.training.evaluating import Evaluation, Painter
from gm.training.loop import LoopSettings, fit
from gm.training.timings import Timings
from modes import in_mode
from toy_runs import Batch, equal, resumed, said, saves, steps_in, toy  # noqa: F401
from toy_trainer import SHAPES, gradients

PLAN = Plan(
    prompts=("a sks dog at night", "a sks dog in the snow"),
    class_prompt="a dog",
    seeds=(5, 6),
    class_seeds=(5, 6, 7),
    settings=SampleSettings.square(16, 2),
    batch=2,
)


@pytest.fixture
def drawn():
    ms.set_device("CPU")
    with in_mode(ms.PYNATIVE_MODE):
        yield


@pytest.fixture
def pynative(drawn, monkeypatch):
    """Without plots, each of which takes half a second."""
    monkeypatch.setattr(checkpoints, "draw_curves", lambda *_: None)
    monkeypatch.setattr("gm.training.loop.plot_losses", lambda *_: None)


# -- the evaluation, of pictures whose red is what was learned --------------------------------------------------------


class Red:
    """Features: the subject is red, its class green; a red pixel (r, g) is the direction (r, g)."""

    threshold = 0.5

    def __init__(self):
        self.judged = 0  # pictures of prompts
        self.fails = False

    def image(self, pictures):
        return np.stack([picture.reshape(-1, 3).astype(float).mean(0)[:2] for picture in pictures])

    def prompt(self, pictures, prompts):
        if self.fails:
            raise UserError("--features red.py: its prompt() failed (ValueError: no more)")
        self.judged += len(pictures)
        return np.full(len(pictures), 0.8)

    def distance(self, pictures):
        return 1.0 - np.eye(len(pictures))


class Toy:
    """A toy trainer in whose pictures there is as much red as `reds` says for its step, and what scores it."""

    def __init__(self, folder: Path, reds, total: int = 10, stops: bool = False, trainer=None, settings=None):
        self.trainer, self.folder, self.reds, self.asked = trainer or toy(total=total), folder, reds, []
        self.trainer.config.data.total_step = total
        self.is_base = self.is_saved = False
        self.features = Red()
        photos = [self.picture(1.0, number) for number in range(3)]
        measure = Measure(self.features, Photos(photos, None), PLAN.prompts)
        self.features.judged = 0
        self.evaluation = Evaluation(
            folder=folder / "evaluation",
            plan=PLAN,
            measure=measure,
            painter=Painter(self),
            as_base=self.without,
            as_saved=self.averaged,
            source={},
            settings=settings or {"size": 16, "seeds": (5, 6)},
            stops=stops,
        )
        self.evaluation.begin(self.trainer.step)

    @contextmanager
    def without(self):
        self.is_base = True
        yield
        self.is_base = False

    @contextmanager
    def averaged(self):
        self.is_saved = True
        yield
        self.is_saved = False

    def texts(self, prompts):
        return {one: TextEmbedding(np.full((1, 1), float("sks" in one)), np.zeros(1)) for one in prompts}

    def sampler(self, texts, negative, settings, seeds, what):
        of_subject, step = [bool(text.context[0, 0]) for text in texts], 0 if self.is_base else self.trainer.step
        assert self.is_saved == (not self.is_base)
        self.asked += [(step, is_subject, seed) for is_subject, seed in zip(of_subject, seeds)]
        return [self.picture(self.reds(step) if red else 0.1, seed) for red, seed in zip(of_subject, seeds)]

    @staticmethod
    def picture(red, number):
        """Of these shares of red and green; not of one colour, which would count as failed."""
        made = np.zeros((16, 16, 3), np.uint8)
        made[..., 0], made[..., 1] = round(200 * red), round(200 * (1 - red))
        made[0, 0, 2] = 100 + number
        return made

    def fit(self, every: int = 2, ranks: Ranks = Ranks(), **more):
        given = {"save_every": 1000, "keep": None, "log_every": 1000, "infer_every": None, **more}
        settings = LoopSettings(self.folder, evaluate_every=every, **given)

        def make(step: int, micro: int, rank: int) -> Batch:
            return Batch(gradients(step, SHAPES))

        judge = self.evaluation if ranks.is_main else None
        return fit(self.trainer, make, 1, settings, saves(self.trainer), Timings(), None, ranks, judge)

    @property
    def course(self) -> dict:
        return json.loads((self.folder / "evaluation" / "checkpoints.json").read_text())


def knee(step: int) -> float:
    """Learned after 4 updates."""
    return 0.1 + 0.2 * min(step, 4)


def test_a_run_is_scored_at_the_start_on_the_way_and_at_the_end(tmp_path, drawn, said):
    one = Toy(tmp_path, knee, total=7)
    one.fit(every=3)
    assert steps_in(tmp_path) == [3, 6, 7]  # each that was scored is there
    assert [step for step, _, _ in one.asked] == [0] * 8 + [3] * 8 + [6] * 8 + [7] * 8
    assert one.asked[:8] == [*((0, True, seed) for seed in (5, 6, 5, 6)), *((0, False, seed) for seed in (5, 6, 7, 7))]
    course = one.course
    assert [row["step"] for row in course["steps"]] == [3, 6, 7] and course["settings"] == {"size": 16, "seeds": [5, 6]}
    assert course["real"]["subject"] == pytest.approx(1.0) and course["base"]["subject"] == pytest.approx(0.11, abs=0.01)
    assert course["base"]["prompt"] == 0.8 and course["base"]["pres"] == course["steps"][2]["figures"]["pres"]
    assert course["choice"]["step"] == 6 and course["steps"][1]["score"] == course["choice"]["score"] > 0.95
    assert one.features.judged == 4 * 4, "the base model once"
    names = sorted(path.name for path in (tmp_path / "evaluation" / "step 3").iterdir())
    assert names[0] == "00_a_sks_dog_at_night_00005.png" and len(names) == 7
    with Image.open(tmp_path / "evaluation" / "checkpoints_sheet.png") as sheet:
        assert sheet.text["rows"].startswith("base model\nstep 3\nstep 6, chosen: ")
    assert (tmp_path / "evaluation" / "checkpoints.png").stat().st_size > 10_000
    lines = [line for line in said if line.startswith(("base model:", "step "))]
    assert lines[0].startswith("base model: subject 0.11, prompt 0.80, PRES 0.11, DIV 1.00, ")
    assert lines[0].endswith("s; real pictures: subject 1.00")
    score = course["steps"][0]["score"]
    assert lines[1].startswith(f"step 3: subject 0.92, prompt 0.80, PRES 0.11, DIV 1.00, score {score:.2f} (best so far), ")
    assert "(best so far: step 6)" in lines[3] and len(lines) == 4


def test_scoring_changes_nothing_in_the_run(tmp_path, pynative):
    plain = toy(total=7)
    one = Toy(tmp_path, knee, total=7)
    one.fit(every=2)
    for step in range(7):
        plain.update([Batch(gradients(step, SHAPES))])
    assert equal(one.trainer, plain)


def test_a_run_ends_when_it_has_learned_and_goes_on_when_asked_to(tmp_path, pynative, said):
    one = Toy(tmp_path, knee, total=40, stops=True)
    last = one.fit(every=2)
    assert one.trainer.step == 10, "4, and three behind it"
    assert last.name == "SDXL_base_1.0_10_lora.ckpt" and one.course["choice"]["step"] == 4
    (words,) = [line for line in said if "training ends" in line]
    assert words.startswith(
        "training ends after step 10 of 40, as --stop_when_learned True asks: after 4 the subject gains 0.00"
    )
    # with the flag there is nothing left to do, without it the run is what it would have been
    again = Toy(tmp_path, knee, total=40, stops=True, trainer=resumed(tmp_path))
    before = (tmp_path / "training_state.ckpt").stat().st_mtime_ns
    assert again.fit(every=2, continues=True) == last and again.trainer.step == 10 and not again.asked
    assert (tmp_path / "training_state.ckpt").stat().st_mtime_ns == before
    further = Toy(tmp_path, knee, total=14, trainer=resumed(tmp_path))
    further.fit(every=2, continues=True)
    whole = Toy(tmp_path / "whole", knee, total=14)
    whole.fit(every=2)
    assert equal(further.trainer, whole.trainer) and {step for step, _, _ in further.asked} == {12, 14}
    rows = [[{**row, "seconds": 0} for row in one.course["steps"]] for one in (further, whole)]
    assert rows[0] == rows[1] and further.course["choice"] == whole.course["choice"]
    sheets = [np.asarray(Image.open(one.folder / "evaluation" / "checkpoints_sheet.png")) for one in (further, whole)]
    assert np.array_equal(*sheets), "with the rows of what was not sampled again"


def test_a_run_still_learning_goes_on(tmp_path, pynative):
    one = Toy(tmp_path, lambda step: 0.1 + 0.03 * step, total=20, stops=True)
    one.fit(every=2)
    assert one.trainer.step == 20 and one.course["choice"]["step"] == 20


class Line(Ranks):
    """One of two ranks: what rank 0 has said is noted, and told to rank 1."""

    size = 2

    def __init__(self, rank: int, said: list):
        self.rank, self.said, self.told = rank, said, iter(list(said))

    def share(self, value):
        if self.rank == 0:
            self.said.append(value)
            return [value, value if isinstance(value, list) else None]
        return [next(self.told), value]


def test_all_ranks_end_at_the_same_update(tmp_path, pynative):
    words: list = []
    for rank in range(2):
        line, one = Line(rank, words), Toy(tmp_path / str(rank), knee, total=40, stops=True)
        one.fit(every=2, ranks=line)
        assert one.trainer.step == 10 and bool(one.asked) == (rank == 0)
    assert words.count(True) == 1 and next(line.told, None) is None, "rank 1 has asked as often as rank 0 has said"


def test_features_that_fail_end_no_run(tmp_path, pynative, said):
    one = Toy(tmp_path, knee, total=8)
    save = one.evaluation.gallery.fill

    def fill(row, *more):
        one.features.fails = row.name in ("step 2", "step 4")
        return save(row, *more)

    one.evaluation.gallery.fill = fill
    one.fit(every=2)
    (words,) = [line for line in said if "could not be made" in line]
    assert (
        words
        == "the evaluation could not be made (--features red.py: its prompt() failed (ValueError: no more)): training goes on"
    )
    assert one.trainer.step == 8 and [row["step"] for row in one.course["steps"]] == [6, 8]


def test_a_signal_leaves_an_evaluation_and_ends_the_run(tmp_path, pynative, monkeypatch):
    one = Toy(tmp_path, knee, total=8)
    asked = []
    monkeypatch.setattr("gm.training.loop.asked_to_stop", lambda: asked[0] if asked else None)
    sample = one.evaluation.painter.drawing.sampler

    def sampler(*given):
        from gm.console import bar

        if one.trainer.step == 4:
            asked.append(2)
        for _ in bar(range(1), "a step", unit="step"):
            pass
        return sample(*given)

    one.sampler = sampler
    with pytest.raises(ending.Interrupted, match="stopped after step 4 of 8"):
        one.fit(every=2)
    assert [row["step"] for row in one.course["steps"]] == [2] and steps_in(tmp_path) == [2, 4]
    # what goes on scores what is missing
    again = Toy(tmp_path, knee, total=8, trainer=resumed(tmp_path))
    asked.clear()
    again.fit(every=2, continues=True)
    assert [row["step"] for row in again.course["steps"]] == [2, 4, 6, 8]


# -- what is kept ----------------------------------------------------------------------------------------------------


def test_the_best_checkpoint_is_never_deleted(tmp_path, pynative):
    reds = {0: 0.1, 2: 0.5, 4: 0.9, 6: 0.6, 8: 0.5, 10: 0.4}
    one = Toy(tmp_path, reds.__getitem__)
    one.fit(every=2, keep=1)
    assert steps_in(tmp_path) == [4, 10] and one.course["choice"]["step"] == 4


def test_what_may_be_chosen_later_is_kept():
    """Whatever the scores, with one newest checkpoint kept the choice is always one that is there."""
    random = np.random.default_rng(3)
    base, real = Figures(0.2, 0.5, None, 0.2, None, None), Figures(1.0, None, None, None, None, None)
    largest = changed = 0
    for _ in range(60):
        points, there, level = [], set(), random.uniform(0.45, 0.6)  # from 0.6 on half of the subject is there
        pres, before = random.uniform(0.2, 0.5), 0
        for step in range(1, 25):
            level += random.uniform(-0.006, 0.008)
            there = {one for one in there if one in may_be_chosen(base, real, points)} | {step}
            points.append(Point(step, Figures(level, 0.5, None, pres + random.uniform(-0.01, 0.02) * step, None, None)))
            choice = choose(base, real, points).step
            assert choice in there
            changed, before = changed + (before not in (0, choice, step - 1)), choice
        largest = max(largest, len(there))
    assert 2 < largest < 12 and changed > 20


def test_what_was_made_otherwise_or_is_damaged_begins_anew(tmp_path, pynative, said):
    Toy(tmp_path, knee, total=4).fit(every=2)
    (tmp_path / "evaluation" / "step 6").mkdir()
    later = tmp_path / "evaluation" / "step 6" / "00_of_a_longer_run_00005.png"
    later.write_bytes(b"")
    for step, settings, content, words, known in (
        (4, None, None, None, {2, 4}),
        (2, None, None, None, {2}),
        (4, {"size": 32, "seeds": (5, 6)}, None, "was made otherwise (size)", set()),
        (4, None, "{", "is not what this suite has written", set()),
        (0, None, None, None, set()),
    ):
        said.clear()
        kept = (tmp_path / "evaluation" / "checkpoints.json").read_text()
        if content:
            (tmp_path / "evaluation" / "checkpoints.json").write_text(content)
        trainer = toy(total=8)
        trainer.step = step
        one = Toy(tmp_path, knee, total=8, trainer=trainer, settings=settings)
        assert set(one.evaluation.steps) == known and not later.exists()
        assert (one.evaluation.base is not None) == bool(known) == (set(one.evaluation.sheet.rows) == {0, *known})
        assert (tmp_path / "evaluation" / "checkpoints.json").exists() == bool(known)
        assert (words is None) == (not said) and (words is None or words in said[0])
        (tmp_path / "evaluation" / "checkpoints.json").write_text(kept)


def test_of_many_photos_some_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "read_image", lambda path: np.arange(12, dtype=np.uint8).reshape(2, 2, 3) + int(path.name))
    read = evaluating._read([Path(str(number)) for number in range(150)])
    assert len(read) == 100 and [int(one[0, 0, 0]) for one in read[:4]] == [0, 1, 3, 4] and read[-1][0, 0, 0] == 148
    monkeypatch.setattr(measure, "read_image", lambda path: np.full((2, 2, 3), 7, np.uint8))
    with pytest.raises(UserError, match="shows nobody: take it away"):
        evaluating._read([Path("a"), Path("b")])
