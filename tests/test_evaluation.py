"""The evaluation: figures with known answers, the judge that comes with the project, the hook, and the command."""

import json

import mindspore as ms
import numpy as np
import pytest
from PIL import Image

import tiny
from bench import subject as bench
from gm import console
from gm.checkpoint.io import open_tensors, write_tensors
from gm.checkpoint.lora_files import save_lora
from gm.errors import UserError
from gm.evaluation import fidelity, report
from gm.evaluation.features import load_features
from gm.evaluation.fidelity import Figures
from gm.models.adapters import adapters_of
from gm.models.sdxl import expected_shapes
from gm.options.evaluate import JUDGE, PLACES, parse_evaluate
from small import SMALL
from small import model as small_model
from tools import evaluate, train_judge
from tools.toy import judge_training, scenes
from tools.toy.drawing import draw
from tools.toy.judge import Judge
from tools.toy.subject import subject_pictures

TOY = """
import numpy as np

class Toy:
    threshold = 0.3

    def image(self, pictures):
        return np.stack([picture.reshape(-1, 3).mean(0) for picture in pictures])

    def prompt(self, pictures, prompts):
        return np.array([len(prompt) / 100 for prompt in prompts])

    def distance(self, pictures):
        rows = np.stack([picture.reshape(-1) for picture in pictures]).astype(float)
        return np.abs(rows[:, None] - rows).mean(-1)

def features():
    return Toy()
"""


@pytest.fixture(scope="module", autouse=True)
def graph_mode():
    ms.set_device("CPU")
    ms.set_context(mode=ms.GRAPH_MODE)


# -- figures ---------------------------------------------------------------------------------------------------------


def test_figures_with_known_answers():
    real = np.array([[2.0, 0.0], [3.0, 0.0]])
    generated = np.array([[5.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [1.0, 1.0]])
    assert fidelity.similarity(generated, real) == pytest.approx((1 + 0 - 1 + 0.5**0.5) / 4)
    assert fidelity.similarity_among(generated[:2]) == pytest.approx(0.0)
    assert fidelity.similarity_among(real) == pytest.approx(1.0)
    # a picture's distance from itself is not counted
    distances = np.array([[9.0, 1.0, 2.0], [1.0, 9.0, 6.0], [2.0, 6.0, 9.0]])
    assert fidelity.diversity(distances) == pytest.approx(3.0) and fidelity.diversity(distances[:1, :1]) is None
    assert fidelity.share(np.array([0.2, 0.5, 0.9, 0.49]), 0.5) == 0.5
    assert fidelity.way(0.2, 0.5, 0.8) == pytest.approx(0.5) and fidelity.way(0.2, 0.5, 0.2) is None
    assert fidelity.mean([1.0, None, 3.0]) == 2.0 and fidelity.mean([None]) is None


def test_table_says_what_there_is():
    rows = {
        report.REAL: Figures(0.9, None, None, None, None, None),
        report.BASE: Figures(0.3, 0.5, None, 0.3, 0.2, 0.1),
        "mine": Figures(0.6, 0.45, None, 0.4, 0.15, 0.1),
    }
    lines = report.table(rows).splitlines()
    assert "recognised" not in lines[0] and lines[2] == "| real pictures | 0.900 | - | - | - | - |"
    assert lines[4] == "| mine | 0.600 | 0.450 | 0.400 | 0.150 | 0.100 |"
    assert report.sentences(rows) == (
        "mine: subject fidelity 50% of the way from base to real, prompt fidelity 0.90 of the base model's"
    )


def test_means_over_seeds_and_what_they_show():
    def row(subject, pres, div, recognised=0.9):
        return Figures(subject, recognised, recognised, pres, div, 0.1)

    rows = {report.REAL: Figures(1.0, None, None, None, None, None), report.BASE: row(0.2, 0.2, 0.5)}
    for seed, shift in ((1, -0.1), (2, 0.0), (3, 0.1)):
        rows[f"{bench.WITH}, seed {seed}"] = row(0.7 + shift, 0.3 + shift, 0.4 + shift)
        rows[f"{bench.WITHOUT}, seed {seed}"] = row(0.8 + shift, 0.6 + shift, 0.2 + shift)
    rows[f"{bench.WITH_TEXT}, seed 1"] = row(0.9, 0.3, 0.4, 0.5)
    means, spread = bench.over_seeds(rows)
    assert list(means) == [report.REAL, report.BASE, bench.WITH, bench.WITHOUT, bench.WITH_TEXT]
    assert means[bench.WITH].pres == pytest.approx(0.3) and spread[bench.WITH]["pres"] == pytest.approx((0.2, 0.4))
    shown = [seen for _, _, seen in bench.claims(means)]
    assert shown == [True, True, True, True, False, False, True, True]  # places were lost with the text encoders
    swapped = means | {bench.WITH: means[bench.WITHOUT], bench.WITHOUT: means[bench.WITH]}
    assert [seen for _, _, seen in bench.claims(swapped)][-2:] == [False, False]


# -- the judge -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def judge():
    return Judge.load(JUDGE)


@pytest.fixture(scope="module")
def random_scenes():
    random = np.random.default_rng(20)
    return [scenes.random_scene(random, place=place) for place in scenes.PLACES * 6]


def arrays(images) -> list[np.ndarray]:
    return [np.asarray(image) for image in images]


@pytest.mark.xdist_group("judge")
def test_judge_knows_the_subject(judge):
    """Its pictures in places it was not trained in, at another size, beside spaniels with one of its rare traits and dogs with none."""
    random = np.random.default_rng(21)
    training, held_out = (judge.image(arrays(subject_pictures(n, 144, 5, held))) for n, held in ((5, False), (10, True)))
    dogs = [scenes.random_scene(random) for _ in range(120)]
    dogs = [dog for dog in dogs if dog.look.kind == "dog" and not dog.look.rare_traits()][:40]
    near = [scenes.Look("dog", "spaniel", coat="purple", marking="plain", accessory="nothing")] * 20
    same = fidelity.similarity(training, held_out)
    others = fidelity.similarity(judge.image(arrays(draw(dog, 64) for dog in dogs)), held_out)
    purple = fidelity.similarity(judge.image(arrays(draw(scenes.random_scene(random, x), 64) for x in near)), held_out)
    assert same > 0.87 and others < 0.45 and others + 0.05 < purple < same - 0.2


@pytest.mark.xdist_group("judge")
def test_judge_recognises_places(judge, random_scenes):
    pictures = arrays(draw(scene, 64) for scene in random_scenes)
    prompts = [f"A photo of a {scene.look.kind} {scene.place}" for scene in random_scenes]
    assert fidelity.share(judge.prompt(pictures, prompts), judge.threshold) > 0.95
    shifted = prompts[1:] + prompts[:1]  # the next place is always another
    assert fidelity.share(judge.prompt(pictures, shifted), judge.threshold) < 0.05


@pytest.mark.xdist_group("judge")
def test_judge_sees_diversity(judge, random_scenes):
    """None among equal pictures, some among pictures of one individual in one place, more among different ones."""
    random, look = np.random.default_rng(22), random_scenes[0].look
    alike = [scenes.random_scene(random, look, "on the grass") for _ in range(8)]
    same, near, far = (
        judge.distance(arrays(draw(scene, 64) for scene in chosen)) for chosen in ([alike[0]] * 3, alike, random_scenes[:8])
    )
    assert np.abs(same).max() < 1e-6 and np.allclose(far, far.T) and np.abs(np.diag(far)).max() < 1e-6
    assert 0.01 < fidelity.diversity(near) < 0.8 * fidelity.diversity(far)


@pytest.mark.xdist_group("judge")
@pytest.mark.parametrize("prompt", ["a sks dog", "a dog in the snow at night"])
def test_judge_asks_for_one_place(judge, prompt):
    with pytest.raises(UserError, match="needs one of its places"):
        judge.prompt([np.zeros((64, 64, 3), np.uint8)], [prompt])


def test_judge_was_not_trained_on_the_subject():
    """Nobody it is trained on has two of the subject's rare traits, and each of them does occur."""
    random = np.random.default_rng(0)
    looks = [scenes.even_look(random) for _ in range(3000)]
    looks += [judge_training.relative_of(look, random) for look in looks]
    rare = [set(look.rare_traits()) & set(scenes.SUBJECT.rare_traits()) for look in looks]
    assert len(scenes.SUBJECT.rare_traits()) == 3 and max(map(len, rare)) == 1
    assert all(sum(trait in found for found in rare) > 100 for trait in scenes.SUBJECT.rare_traits())


def test_traits_in_common():
    a = scenes.Look("dog", "husky", "brown", "plain", "nothing")
    assert judge_training.shared_traits(a, a) == 1 and judge_training.shared_traits(a, scenes.Look("ball")) == 0
    assert judge_training.shared_traits(a, scenes.Look("dog", "poodle", "brown", "plain", "red hat")) == pytest.approx(0.6)


@pytest.mark.xdist_group("judge")
def test_training_the_judge(tmp_path, capsys, monkeypatch):
    """Three steps: a file that loads and says how it was made, and a report on every trait."""
    monkeypatch.setattr(judge_training, "GROUPS", 2)
    monkeypatch.setattr(judge_training, "POOL", 4)
    monkeypatch.setattr(judge_training, "CHECKED", 2)
    path = tmp_path / "judge.safetensors"
    train_judge.main(["--output", str(path), "--steps", "3", "--seed", "1"])
    with open_tensors(path) as file:
        assert "--steps 3" in file.metadata["made_with"] and json.loads(file.metadata["places"]) == list(scenes.PLACES)
        assert sum(int(np.prod(file.shape(name))) for name in file.names) < 500_000
    report_lines = capsys.readouterr().out.splitlines()
    assert all(any(line.startswith(head) for line in report_lines) for head in (*judge_training.HEADS, "place", "subject, "))
    with pytest.raises(UserError, match="must be a new"):
        train_judge.main(["--output", str(path)])


def test_another_file_is_not_the_judge(tmp_path, tiny_weights):
    with pytest.raises(UserError, match="is not the judge"):
        Judge.load(tiny_weights)
    path = tmp_path / "a.safetensors"
    write_tensors(path, [("a", np.zeros(3, np.float32))], {"places": '["on a beach"]'})
    with pytest.raises(UserError, match="does not fit the judge's network"):
        Judge.load(path)


# -- features of one's own -------------------------------------------------------------------------------------------


def written(tmp_path, text: str) -> str:
    (tmp_path / "own.py").write_text(text)
    return str(tmp_path / "own.py")


def test_own_features(tmp_path):
    path = written(tmp_path, TOY + "\ndef others():\n    toy = Toy()\n    toy.threshold = 0.7\n    return toy\n")
    pictures = [np.full((4, 4, 3), value, np.uint8) for value in (10, 30)]
    features = load_features(path)
    assert features.threshold == 0.3 and load_features(f"{path}:others").threshold == 0.7
    assert np.array_equal(features.distance(pictures), [[0, 20], [20, 0]])
    assert np.array_equal(features.image(pictures), [[10] * 3, [30] * 3])
    assert features.prompt(pictures, ["a" * 10, "b" * 20]) == pytest.approx([0.1, 0.2])


@pytest.mark.parametrize(
    "text, words",
    [
        ("x = 1", "has no function features"),
        ("import no_such_module_at_all", "cannot be run .ModuleNotFoundError"),
        ("def features():\n    return 1 / 0", "features.. failed .ZeroDivisionError"),
        ("def features():\n    return 3", "has no image, prompt, distance"),
        (TOY.replace("mean(0)", "mean()"), r"image.. gave shape .2,., but .2, d. is needed"),
        (TOY.replace("mean(0)", "mean(0) * np.nan"), "image.. gave numbers that are not finite"),
        (TOY.replace("reshape(-1, 3)", "reshape(-1, 7)"), "image.. failed .ValueError"),
    ],
)
def test_bad_features(tmp_path, text, words):
    with pytest.raises(UserError, match=words):
        load_features(written(tmp_path, text)).image([np.zeros((4, 4, 3), np.uint8)] * 2)


@pytest.mark.parametrize("name, words", [("clip", "neither judge nor a Python file"), ("no/such.py", "there is no file")])
def test_features_that_are_not_there(name, words):
    with pytest.raises(UserError, match=words):
        load_features(name)


# -- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny_weights(small):
    """Of the small model, which is compiled sooner than the tiny golden one."""
    return small.weights


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Photos, and two LoRA for the small model: one that changes nothing, and one that changes much, texts included."""
    folder = tmp_path_factory.mktemp("evaluation")
    for name, number, held_out in (("photos", 5, False), ("others", 3, True)):
        (folder / name).mkdir()
        for i, image in enumerate(subject_pictures(number, 64, 0, held_out)):
            image.save(folder / name / f"{i}.png")
    random = np.random.default_rng(0)
    shapes = expected_shapes(small_model(), adapters_of(small_model(), tiny.lora(text_lora=True)))[1]
    much = {name: 0.3 * random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    save_lora(folder / "much.ckpt", much, {})
    save_lora(folder / "none.ckpt", {n: m * ("lora_A" in n) for n, m in much.items()}, {})
    (folder / "toy.py").write_text(TOY)
    return folder


def arguments(world, tiny_weights, output, *more):
    return [
        *("--config", str(tiny.INFERENCE), "--weight", str(tiny_weights), "--device_target", "CPU", "--size", "64"),
        *("--subject_photos", str(world / "photos"), "--held_out", str(world / "others"), "--num_seeds", "2"),
        *(
            "--sample_step",
            "2",
            "--sample_batch_size",
            "2",
            "--num_class_pictures",
            "3",
            "--output",
            str(output),
            *SMALL,
            *more,
        ),
    ]


@pytest.mark.xdist_group("end_to_end")
def test_evaluation_of_two_lora(world, tiny_weights, capsys, monkeypatch, kept_networks):
    """Table, JSON, plot, sheets and pictures; a LoRA without effect has the base model's figures. Then once more: nothing
    is sampled, and with one more seed only what is new."""
    from gm.sampling.pipeline import Pipeline

    out = world / "out"
    lora = ("--lora", f"none={world / 'none.ckpt'}", "--lora", f"much, 1={world / 'much.ckpt'}")
    assert console.run_command(evaluate.main, arguments(world, tiny_weights, out, *lora)) == 0
    table = capsys.readouterr().out
    models = ["base model", "none", "much, 1"]
    assert [line.split(" | ")[0] for line in table.splitlines()[2:6]] == [f"| {name}" for name in ("real pictures", *models)]
    assert table.startswith(report.table({name: Figures(**row) for name, row in rows_of(out).items()}))
    assert (out / "evaluation.md").read_text() in table
    assert Image.open(out / "evaluation.png").width > 600
    for name in models:
        pictures = sorted(path.name for path in (out / name).iterdir())
        assert len(pictures) == 2 * len(PLACES) + 3 and pictures[0] == "00_a_sks_dog_swimming_in_a_pool_00042.png"
        assert Image.open(out / f"{name}.png").height > 6 * 64
    rows = rows_of(out)
    assert rows["none"] == pytest.approx(rows["base model"], abs=1e-3)
    assert abs(rows["much, 1"]["div"] - rows["base model"]["div"]) > 0.01
    by_prompt = json.loads((out / "evaluation.json").read_text())["by prompt"]["much, 1"]
    assert np.mean([row["subject"] for row in by_prompt.values()]) == pytest.approx(rows["much, 1"]["subject"])
    assert Image.open(out / "none" / pictures[0]).text["prompt"] == f"a sks dog {PLACES[0]}"

    before = {path: path.stat().st_mtime_ns for path in out.glob("*/*.png")}
    with monkeypatch.context() as patch:
        patch.setattr(Pipeline, "load", lambda *_, **__: pytest.fail("nothing is missing, but the model was loaded"))
        again = arguments(world, tiny_weights, out, *lora, "--features", str(world / "toy.py"))
        assert console.run_command(evaluate.main, again) == 0
    assert before == {path: path.stat().st_mtime_ns for path in out.glob("*/*.png")}
    assert rows_of(out)["base model"]["prompt"] == pytest.approx(np.mean([len(f"a sks dog {p}") for p in PLACES]) / 100)

    gone = out / "much, 1" / pictures[1]
    pixels = np.asarray(Image.open(gone))
    gone.unlink()
    assert console.run_command(evaluate.main, again) == 0
    changed = {path for path in out.glob("*/*.png") if path.stat().st_mtime_ns != before[path]}
    assert changed == {gone} and np.abs(np.asarray(Image.open(gone)).astype(int) - pixels).max() <= 1

    Image.fromarray(pixels).save(gone)  # somebody else's picture under that name
    kept = gone.read_bytes()
    assert console.run_command(evaluate.main, again) == 2
    assert "is not a picture that this command has made" in capsys.readouterr().err and gone.read_bytes() == kept


def rows_of(folder) -> dict[str, dict]:
    return json.loads((folder / "evaluation.json").read_text())["rows"]


@pytest.mark.parametrize(
    "change, words",
    [
        (["--lora", "none"], "is not NAME=FILE"),
        (["--lora", "base model=a.ckpt"], "is not NAME=FILE"),
        (["--lora", "../up=a.ckpt"], "is not NAME=FILE"),
        (["--lora", "a=x.ckpt", "--lora", "a=y.ckpt"], "--lora a was given twice"),
        (["--lora", "a=no_such.ckpt"], "no_such.ckpt does not exist"),
        (["--weight", "a,b"], "names a LoRA"),
        (["--size", "100"], "--size 100 is not a multiple of"),
        (["--num_seeds", "0"], "too small"),
        (["--prompts", "no_such.txt"], "--prompts no_such.txt cannot be read"),
        (["--prompts", "PROMPTS"], "needs one of its places"),
        (["--held_out", "no_such"], "--held_out no_such does not exist"),
        (["--judge", "no_such.safetensors"], "no_such.safetensors does not exist"),
        (["--guidance_scal", "3"], "did you mean --guidance_scale"),
    ],
)
def test_bad_input(world, tiny_weights, tmp_path, capsys, change, words):
    (tmp_path / "prompts.txt").write_text("a {} in Paris\n")
    change = [str(tmp_path / "prompts.txt") if word == "PROMPTS" else word for word in change]
    given = [] if "--lora" in change else ["--lora", f"none={world / 'none.ckpt'}"]
    assert console.run_command(evaluate.main, arguments(world, tiny_weights, tmp_path / "out", *given, *change)) == 2
    errors = capsys.readouterr().err
    assert words in errors and "Traceback" not in errors and not (tmp_path / "out").exists()


def test_prompts_and_numbers(tmp_path):
    (tmp_path / "p.txt").write_text("a {} in the snow\n\na red {} at night\n")
    usual = ["--lora", "a=b", "--subject_photos", "p", "--output", "o"]
    options = parse_evaluate([*usual, "--prompts", str(tmp_path / "p.txt"), "--subject", "sks cat", "--num_seeds", "3"])
    assert options.prompts == ("a sks cat in the snow", "a red sks cat at night") and options.num_class_pictures == 6
    plain = parse_evaluate(usual)
    assert plain.prompts[1] == "a sks dog in the snow" and plain.num_seeds == 8 and plain.num_class_pictures == 40
    assert set(PLACES) == set(scenes.HELD_OUT_PLACES)


def test_one_photo_cannot_be_compared_with_itself(world, tiny_weights, tmp_path, capsys):
    (tmp_path / "one").mkdir()
    subject_pictures(1, 64, 0, False)[0].save(tmp_path / "one" / "a.png")
    words = arguments(world, tiny_weights, tmp_path / "out", "--lora", f"none={world / 'none.ckpt'}")
    at = words.index("--held_out")
    del words[at : at + 2]
    words[words.index("--subject_photos") + 1] = str(tmp_path / "one")
    assert console.run_command(evaluate.main, words) == 2
    assert "holds one photo to compare with itself" in capsys.readouterr().err
