"""--evaluate_every of whole commands on the small model: the same numbers as without it, the same judgement after a resume, an end
when it has learned; and what is refused before anything is computed."""

import json
import re
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from PIL import Image

import train_dreambooth as training
from gm.data.images import read_image
from gm.errors import UserError
from gm.evaluation.features import load_features
from gm.evaluation.fidelity import Figures
from gm.evaluation.measure import Measure, Photos
from gm.evaluation.samples import Pictures
from gm.options.evaluate import PLACES, SEEDS_OF_RUN
from gm.options.evaluating import JUDGE_FILE
from gm.options.train import parse_train
from gm.parallel.ranks import Ranks
from gm.training.inputs import check_inputs
from modes import in_mode
from small import records, trained

# Real photos are one direction, the base model's pictures another, and those of a trained network between them. Base pictures are
# those that are judged first, and are remembered beside this file
FEATURES = """
from pathlib import Path

import numpy as np

KNOWN = Path(__file__).with_suffix(".npz")


class Stub:
    threshold = None

    def image(self, pictures):
        if pictures[0].shape != (64, 64, 3):
            return np.ones((len(pictures), 1)) * [1.0, 0.0]
        known = dict(np.load(KNOWN)) if KNOWN.exists() else {}
        if len(known) < 4:
            known |= {str(len(known) + number): picture for number, picture in enumerate(pictures)}
            np.savez(KNOWN, **known)
        is_base = [any(np.array_equal(one, other) for other in known.values()) for one in pictures]
        return np.array([[0.6, 0.8] if one else [0.8, 0.6] for one in is_base])

    def prompt(self, pictures, prompts):
        return np.full(len(pictures), 0.5)

    def distance(self, pictures):
        return 1.0 - np.eye(len(pictures))


def features():
    return Stub()
"""
SIZE = ("--set", "data.dataset_config.params.target_size=64")
RATE = ("--set", "optim.base_learning_rate=0.02", "--set", "optim.ema_decay=0.9")


@pytest.mark.xdist_group("small")
def test_a_run_that_scores_itself(small, tmp_path, run, monkeypatch, kept_networks):
    from gm.encoding import photos

    monkeypatch.setattr(photos, "run_in_subprocess", lambda function, *arguments: function(*arguments))
    for plot in ("gm.evaluation.checkpoints.draw_curves", "gm.training.loop.plot_losses"):
        monkeypatch.setattr(plot, lambda *_: None)  # they take half a second each
    (tmp_path / "stub.py").write_text(FEATURES)
    (tmp_path / "prompts.txt").write_text("a {} at night\n")
    usual = (*small.rows, *SIZE, *RATE, "--sample_step", 1, "--cache_text_products", "False", "--ms_mode", 1)
    scored = ("--features", tmp_path / "stub.py", "--evaluate_prompts", tmp_path / "prompts.txt", "--evaluate_seeds", 2)
    scored += ("--evaluate_every", 1)

    def train(name: str, steps: int, *more) -> str:
        status, said = run(training, *small.arguments(tmp_path / name, *usual, *more, steps=steps))
        assert status == 0, said
        return said

    with in_mode(ms.PYNATIVE_MODE):
        said = train("scored", 20, *scored, "--stop_when_learned", "True", "--max_num_ckpt", 1)
        train("plain", 4)
        train("resumed", 2, *scored)
        again = train("resumed", 4, *scored, "--resume", tmp_path / "resumed" / "runs")
        train("elsewhere", 5, *scored, "--resume", tmp_path / "plain" / "runs")

    # it ends three checkpoints behind the knee, and names that
    assert "training ends after step 4 of 20, as --stop_when_learned True asks: after 1 the subject gains 0.00" in said
    last = said[said.index("done: ") :]
    chosen = tmp_path / "scored" / "runs" / "SDXL_base_1.0_1_lora.ckpt"
    assert f"the checkpoint to take is {chosen}, score " in last and f"{small.weights},{chosen} --prompt" in last
    assert {path.name for path in chosen.parent.glob("SDXL*")} == {f"SDXL_base_1.0_{step}_lora.ckpt" for step in (1, 4)}
    timings = json.loads((chosen.parent / "timings.json").read_text())
    assert timings["seconds"]["evaluation"] > 0 and timings["steps"] == 4
    assert re.search(
        r"evaluation every 1 updates: 2 pictures of 1 prompts such as 'a sks dog at night', and 2 of 'A photo", said
    )

    # the numbers are those of a run that is not scored, and of one that was broken off
    losses = {name: _numbers(records(tmp_path / name)) for name in ("scored", "plain", "resumed")}
    assert losses["scored"] == losses["plain"] == losses["resumed"] and len(losses["plain"]) == 4
    matrices = [trained(tmp_path / name, 4) for name in ("scored", "plain", "resumed")]
    assert all(np.array_equal(matrices[0][name], one[name]) for one in matrices for name in matrices[0])
    courses = {name: _course(tmp_path / name) for name in ("scored", "resumed", "elsewhere")}
    assert courses["scored"] == courses["resumed"] and "base model:" not in again and "step 2: " not in again
    assert [row["step"] for row in courses["elsewhere"]["steps"]] == [5]

    # what is written is what the pictures say; the base model's are without LoRA, whatever the run starts with
    base = _pictures(tmp_path / "scored", "base model")
    assert len(base) == 4 and all(np.array_equal(*pair) for pair in zip(base, _pictures(tmp_path / "elsewhere", "base model")))
    rows = [base, *(_pictures(tmp_path / "scored", f"step {step}") for step in (1, 4))]
    assert len({picture.tobytes() for row in rows for picture in row}) == 12, "each row has its own"
    real = [read_image(path) for path in sorted(small.photos.iterdir()) if path.suffix == ".jpeg" or path.suffix == ".jpg"]
    measure = Measure(load_features(str(tmp_path / "stub.py")), Photos(real, None), ["a sks dog at night"])
    course = courses["scored"]
    for row, found in zip(rows, (course["base"], course["steps"][0]["figures"], course["steps"][3]["figures"])):
        assert measure.model(Pictures({"a sks dog at night": row[:2]}, row[2:]))[0] == Figures(**found)


def _numbers(lines: list) -> list:
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def _course(folder: Path) -> dict:
    found = json.loads((folder / "runs" / "evaluation" / "checkpoints.json").read_text())
    return {**found, "steps": [{**row, "seconds": 0} for row in found["steps"]]}


def _pictures(folder: Path, row: str) -> list:
    return [np.asarray(Image.open(path)) for path in sorted((folder / "runs" / "evaluation" / row).glob("*.png"))]


# -- what is refused -------------------------------------------------------------------------------------------------

WITH_CLASS = [
    "--instance_data_path",
    "a",
    "--instance_prompt",
    "a sks dog",
    "--class_data_path",
    "b",
    "--class_prompt",
    "a dog",
]


@pytest.mark.parametrize(
    "argv, words",
    [
        (["--stop_when_learned", "True"], "--stop_when_learned True does nothing without --evaluate_every N"),
        (["--features", "a.py"], "--features a.py does nothing without --evaluate_every N"),
        (["--held_out", "c"], "--held_out c does nothing without"),
        (["--evaluate_prompts", "c.txt"], "--evaluate_prompts c.txt does nothing without"),
        (["--evaluate_seeds", "2"], "--evaluate_seeds 2 does nothing without"),
        (["--evaluate_every", "5"], "needs something that compares pictures: give --features FILE.py"),
        (["--evaluate_every", "0"], "0 is too small: at least 1"),
    ],
)
def test_flags_that_cannot_act(argv, words):
    with pytest.raises(UserError, match=re.escape(words)):
        parse_train([*WITH_CLASS, *argv])
    assert parse_train([*WITH_CLASS, "--evaluate_every", "5", "--features", "judge"]).features == str(JUDGE_FILE)


def _asked(small, tmp_path, *more, steps: int = 40):
    argv = small.arguments(tmp_path, "--features", "judge", "--evaluate_every", 5, *more, steps=steps)
    return check_inputs(argv, Ranks()).evaluation


@pytest.fixture
def one_photo(small, tmp_path) -> Path:
    (tmp_path / "one").mkdir()
    first = next(path for path in sorted(small.photos.iterdir()) if path.suffix in (".jpg", ".jpeg"))
    (tmp_path / "one" / first.name).write_bytes(first.read_bytes())
    return tmp_path / "one"


@pytest.mark.xdist_group("small")
@pytest.mark.parametrize(
    "more, words",
    [
        (("--instance_data_path", "ONE"), "has one photo to compare with"),
        (("--held_out", "NOWHERE"), "--held_out NOWHERE does not exist"),
        (("--prior_loss_weight", 0, "--class_prompt", "NONE"), "looks at what is left of the class: give --class_prompt"),
        (
            ("--instance_prompt", "here we see my best friend of all times"),
            "what the subject is called cannot be seen in its prompt",
        ),
        (("--evaluate_prompts", "EMPTY"), "holds no prompt"),
        (("--evaluate_every", 10, "--stop_when_learned", "True"), "give at most 9 there, or leave --stop_when_learned away"),
        (("--stop_when_learned", "True", "--set", "data.total_step=4"), "--stop_when_learned True cannot act in 4 updates"),
    ],
)
def test_what_there_is_nothing_to_score_with(small, tmp_path, one_photo, more, words):
    (tmp_path / "empty.txt").write_text("\n")
    places = {"ONE": str(one_photo), "EMPTY": str(tmp_path / "empty.txt")}
    argv = small.arguments(tmp_path, "--features", "judge", "--evaluate_every", 5, *(places.get(w, w) for w in more), steps=40)
    if "NONE" in argv:  # photos without a class
        at = argv.index("--class_data_path")
        argv = [word for i, word in enumerate(argv) if i not in range(at, at + 4) and word not in ("--class_prompt", "NONE")]
    with pytest.raises(UserError, match=re.escape(words)) as error:
        check_inputs(argv, Ranks())
    assert "\n" not in str(error.value) and not (tmp_path / "runs").exists()


@pytest.mark.xdist_group("small")
def test_what_is_asked_for(small, tmp_path, one_photo):
    asked = _asked(small, tmp_path)
    assert asked.prompts == tuple(f"a sks dog {place}" for place in PLACES) and asked.class_prompt == "A photo of a dog"
    assert len(asked.photos) == 5 and not asked.held_out and asked.seeds == SEEDS_OF_RUN
    (tmp_path / "prompts.txt").write_text("my friend at the sea\n{} again\n")
    more = ("--evaluate_prompts", tmp_path / "prompts.txt", "--instance_prompt", "A photo of one sks dog, asleep")
    asked = _asked(
        small, tmp_path, *more, "--held_out", one_photo, "--instance_data_path", one_photo, "--prior_loss_weight", 0
    )
    assert asked.prompts == ("my friend at the sea", "sks dog again") and len(asked.held_out) == len(asked.photos) == 1
    assert asked.class_prompt == "A photo of a dog"  # of the flag, though nothing is trained on it
    assert check_inputs(small.arguments(tmp_path), Ranks()).evaluation is None


@pytest.mark.xdist_group("small")
@pytest.mark.parametrize(
    "content, words",
    [
        (None, "there is no file"),
        ("import no_such_module", "cannot be run (ModuleNotFoundError"),
        ("def features():\n    return 3", "what it makes has no image, prompt, distance()"),
        (
            FEATURES.replace("return np.full(len(pictures), 0.5)", "return 1 / 0"),
            "its prompt() failed (ZeroDiv",
        ),
    ],
)
def test_features_that_are_of_no_use(small, tmp_path, run, content, words):
    if content:
        (tmp_path / "broken.py").write_text(content)
    more = ("--features", tmp_path / "broken.py", "--evaluate_every", 5)
    status, said = run(training, *small.arguments(tmp_path, *more, steps=40))
    (error,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert status == 2 and words in error and not (tmp_path / "runs").exists()


def test_the_judge_is_a_file_of_features():
    """Whose network MindSpore compiles, from a module that it has to find by its name."""
    with in_mode(ms.GRAPH_MODE):
        found = load_features(str(JUDGE_FILE)).prompt([np.full((64, 64, 3), 200, np.uint8)], ["a sks dog at night"])
    assert found.shape == (1,) and 0 <= found[0] <= 1
