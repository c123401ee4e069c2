"""tools/evaluate.py --checkpoints: what a run's folder says, the figures of its LoRA as JSON, curves and sheet, the choice."""

import json
import shlex

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

import tiny
from gm import console
from gm.checkpoint.io import open_tensors
from gm.checkpoint.lora_files import save_lora
from gm.checkpoint.weights import open_base
from gm.config.load import load_config
from gm.config.types import ConceptConfig, DataConfig
from gm.errors import UserError
from gm.evaluation.checkpoints import Course, Evaluated, Sheet, read_course, row_name, write_course
from gm.evaluation.chooser import Choice
from gm.evaluation.fidelity import Figures
from gm.evaluation.samples import Pictures
from gm.evaluation.saved_run import SavedRun, open_run, words_of
from gm.options.evaluate import parse_evaluate
from gm.options.sample import parse_sample
from small import SMALL
from test_evaluation import TOY
from tools import evaluate
from tools.toy.subject import subject_pictures

REAL = Figures(0.98, None, None, None, None, None)
BASE = Figures(0.28, 1.0, 1.0, 0.30, 1.04, 0.4)


def course(*rows: tuple[float, float]) -> Course:
    """Steps 100, 200, ... with these figures of subject and class."""
    steps = [Evaluated(100 * (i + 1), Figures(s, 0.9, None, p, 1.0 - p, None), 2.5) for i, (s, p) in enumerate(rows)]
    return Course(REAL, BASE, steps)


# -- what a folder says --------------------------------------------------------------------------------------------------


def lora(path, **metadata: str) -> None:
    save_file({"a.lora_A.weight": np.zeros((1, 2), np.float32)}, path, metadata)


def test_each_step_once_whoever_named_it(tmp_path):
    """This suite's names, both forms of one step, and files of other names that say their steps; nothing else is one."""
    for name in ("SDXL_base_1.0_400_lora.ckpt", "SDXL_base_1.0_50_lora.safetensors", "SDXL_base_1.0_400_lora.safetensors"):
        lora(tmp_path / name, instance_prompt="a photo of sks dog", step="7")
    lora(tmp_path / "last.safetensors", ss_steps="1200")
    lora(tmp_path / "mine.safetensors", step="100")
    lora(tmp_path / "other.safetensors", note="no steps")
    lora(tmp_path / "odd.safetensors", step="many")
    for name in ("training_state.ckpt", "config.yaml"):
        (tmp_path / name).write_bytes(b"x")
    run = open_run(tmp_path, "--checkpoints")
    names = {50: "SDXL_base_1.0_50_lora.safetensors", 100: "mine.safetensors", 400: "SDXL_base_1.0_400_lora.ckpt"}
    assert {step: path.name for step, path in run.loras.items()} == names | {1200: "last.safetensors"}
    assert list(run.loras) == sorted(run.loras) and run.prompt is None  # the newest does not say it
    (tmp_path / "last.safetensors").unlink()
    assert open_run(tmp_path, "--checkpoints").prompt == "a photo of sks dog"


def run_of(prompt) -> SavedRun:
    return SavedRun(tiny.ROOT, {}, prompt)


@pytest.mark.parametrize(
    "prompt, subject, of_class",
    [
        ("A photo of a sks dog", "sks dog", "A photo of a dog"),
        ("a close-up photo of sks dog", "sks dog", "a close-up photo of dog"),
        ("sks dog", "sks dog", "dog"),
        ("a portrait of the ohwx red panda, best quality", "ohwx red panda", "a portrait of the panda, best quality"),
        ("An image of an sks owl.", "sks owl", "An image of an owl."),
    ],
)
def test_words_of_a_run(prompt, subject, of_class):
    assert words_of(run_of(prompt), None, None, None) == (subject, of_class)


def test_words_that_are_given_count():
    """Those of a flag before those of the YAML's concepts, those before the prompt's."""
    data = DataConfig(concepts=(ConceptConfig("a", None, "b", None, None), ConceptConfig("a", None, "b", "a toy", None)))
    assert words_of(run_of("A photo of a sks dog"), data, None, None) == ("sks dog", "a toy")
    assert words_of(run_of("A photo of a sks dog"), data, "sks cat", "cats") == ("sks cat", "cats")
    assert words_of(run_of("A photo of a sks dog"), None, "sks cat", None) == ("sks cat", "A photo of a cat")
    assert words_of(run_of(None), None, "sks cat", None) == ("sks cat", "A photo of a cat")


@pytest.mark.parametrize("prompt", [None, "", "a very small dog is sitting on a chair in a garden"])
def test_a_run_that_does_not_name_its_subject(prompt):
    with pytest.raises(UserError, match="does not say what its subject is called .*: give --subject"):
        words_of(run_of(prompt), None, None, "a dog")
    with pytest.raises(UserError, match="the class of the subject 'sks' is not told by its name: give --class_prompt"):
        words_of(run_of(prompt), None, "sks", None)


# -- files ---------------------------------------------------------------------------------------------------------------


def test_figures_come_back_from_the_file(tmp_path):
    """The contract that other tools read by."""
    written = course((0.5, 0.32), (0.8, 0.4), (0.8, 0.5))
    write_course(tmp_path, written, {"num_seeds": 3})
    content = json.loads((tmp_path / "checkpoints.json").read_text())
    assert list(content) == ["real", "base", "steps", "choice", "settings"] and content["settings"] == {"num_seeds": 3}
    assert [one["step"] for one in content["steps"]] == [100, 200, 300] and content["steps"][0]["seconds"] == 2.5
    assert [one["score"] for one in content["steps"]] == [written.score(one.figures) for one in written.steps]
    assert content["choice"] == {"step": 200, "score": content["steps"][1]["score"], "reason": written.choice.reason}
    assert read_course(tmp_path) == written
    write_course(tmp_path, course(), {})
    assert json.loads((tmp_path / "checkpoints.json").read_text())["choice"] is None and read_course(tmp_path) == course()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"steps": [{"step": 1}], "real": {}, "base": {}}', "\x00"])
def test_a_damaged_file_is_said(tmp_path, text):
    assert read_course(tmp_path) is None
    (tmp_path / "checkpoints.json").write_text(text)
    with pytest.raises(UserError, match="checkpoints.json is not what this suite has written"):
        read_course(tmp_path)


def test_curves_have_a_panel_for_each_figure(tmp_path, monkeypatch):
    """The values, both lines and the mark, as matplotlib is told; figures that there are not have no panel."""
    from matplotlib.figure import Figure

    drawn = []
    monkeypatch.setattr(Figure, "suptitle", lambda self, text, **_: drawn.append((self, text)))
    one = course((0.5, 0.32), (0.8, 0.4), (0.8, 0.5))
    write_course(tmp_path, one, {})
    figure, title = drawn[0]
    titles = ["score (higher is better)", "subject fidelity", "prompt fidelity", "PRES (lower is better)", "DIV"]
    assert [axes.get_title() for axes in figure.axes] == titles and title.endswith(one.choice.reason)
    subject = figure.axes[1].get_lines()
    assert list(subject[0].get_xdata()) == [0, 100, 200, 300] and list(subject[0].get_ydata()) == [0.28, 0.5, 0.8, 0.8]
    assert list(subject[-1].get_xdata()) == [200] and list(subject[-1].get_ydata()) == [0.8]
    assert [text.get_text() for text in figure.axes[1].get_legend().get_texts()] == [
        "base model 0.280",
        "real pictures 0.980",
        "step 200: 0.800",
    ]
    assert figure.axes[0].get_lines()[0].get_ydata()[0] == 0  # the base model's score
    assert Image.open(tmp_path / "checkpoints.png").width > 1000
    without = Course(REAL, Figures(0.3, 0.5, None, 0.3, None, None), [Evaluated(5, Figures(0.4, 0.5, None, 0.3, None, None))])
    write_course(tmp_path, without, {})
    assert [axes.get_title() for axes in drawn[1][0].axes] == titles[:4]


def test_sheet_has_a_row_for_each_step(tmp_path):
    """In the order of the steps, whenever they come; the same columns; the chosen one is marked."""
    sheet, prompts = (
        Sheet(("a sks dog in the snow", "a sks dog at night"), "a dog"),
        ("a sks dog in the snow", "a sks dog at night"),
    )

    def pictures(grey: int) -> Pictures:
        return Pictures(
            {p: [np.full((64, 64, 3), grey + i, np.uint8)] * 3 for i, p in enumerate(prompts)},
            [np.zeros((64, 64, 3), np.uint8)] * 3,
        )

    for step, grey in ((200, 200), (0, 100), (100, 50), (100, 150)):  # the second of a step counts
        sheet.add(step, pictures(grey))
    sheet.save(tmp_path / "sheet.png", Choice(100, 0.5, "because"))
    image = Image.open(tmp_path / "sheet.png")
    assert image.text["rows"] == "base model\nstep 100, chosen: because\nstep 200"
    pixels, cell = np.asarray(image), 128
    assert pixels.shape[1] == 6 * (cell + 4) + 4  # two seeds of three prompts
    top = pixels.shape[0] - 3 * (cell + 24) - 4
    seen = [[int(pixels[top + y * (cell + 24) + 90, x * (cell + 4) + 60, 0]) for x in range(6)] for y in range(3)]
    assert seen == [[grey, grey, grey + 1, grey + 1, 0, 0] for grey in (100, 150, 200)]
    assert (pixels[:top] < 128).any()  # the prompts stand above


# -- the command ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(small, tmp_path_factory):
    """A run of the small model: its YAML, three LoRA, one of them as .safetensors as well; photos and features."""
    folder = tmp_path_factory.mktemp("saved")
    (folder / "run").mkdir()
    config = load_config(str(tiny.TRAINING), [*SMALL[1::2], "data.dataset_config.params.target_size=64"])
    (folder / "run" / "config.yaml").write_text(config.raw)
    base, rng = open_base(small.weights), np.random.default_rng(0)
    for step in (2, 4, 10):
        matrices = {}
        for module in (name.removesuffix(".weight") for name in base.shapes if name.endswith("to_q.weight")):
            rows, columns = base.shapes[f"{module}.weight"]
            matrices[f"{module}.lora_A.weight"] = rng.standard_normal((2, columns), np.float32)
            matrices[f"{module}.lora_B.weight"] = 0.1 * step * rng.standard_normal((rows, 2)).astype(np.float32)
        about = {"lora_alpha": "1.0", "step": str(step), "instance_prompt": "A photo of a sks cat"}
        save_lora(folder / "run" / f"SDXL_base_1.0_{step}_lora.ckpt", matrices, about)
    save_file(matrices, folder / "run" / "SDXL_base_1.0_10_lora.safetensors", {"lora_alpha": "1.0"})
    for name, held_out in (("photos", False), ("others", True)):
        (folder / name).mkdir()
        for i, image in enumerate(subject_pictures(3, 64, 0, held_out)):
            image.save(folder / name / f"{i}.png")
    (folder / "toy.py").write_text(TOY)
    return folder


def arguments(saved, small, *more) -> list[str]:
    words = ("--checkpoints", saved / "run", "--weight", small.weights, "--device_target", "CPU", "--sample_step", 2)
    words += ("--subject_photos", saved / "photos", "--held_out", saved / "others", "--features", saved / "toy.py")
    return [str(word) for word in (*words, "--num_class_pictures", 2, "--num_seeds", 2, "--sample_batch_size", 4, *more)]


@pytest.mark.slow
@pytest.mark.xdist_group("small")
def test_checkpoints_of_a_run(saved, small, capsys, monkeypatch, kept_networks):
    """In one process that compiles nothing for a second LoRA; model, size, subject and class are the run's. Then once more:
    nothing is sampled, and without one picture that one alone."""
    from gm.sampling.pipeline import Pipeline

    loaded, sampled = [], []
    load = Pipeline.load

    def kept(self, *given, **more):
        load(self, *given, **more)
        call = self.pictures.sampler.denoiser
        sample = self.pictures
        loaded.append((call, self.embedder.call, sample.decode))

        def pictures(texts, *rest):
            made = sample(texts, *rest)
            sampled.append((len(texts), [len(one.cell.compile_cache) for one in loaded[-1]]))
            return made

        self.pictures = pictures
        self.pictures.sampler = sample.sampler

    monkeypatch.setattr(Pipeline, "load", kept)
    assert console.run_command(evaluate.main, arguments(saved, small)) == 0
    said = capsys.readouterr()
    out = saved / "run" / "evaluation"
    assert len(loaded) == 1 and sampled == [(4, sampled[0][1])] * 12  # 12 pictures of 4 models, in batches across prompts
    assert max(said.err.count(f"compiling the {graph}: ") for graph in ("sampling graph", "text encoders", "decoder")) <= 1
    assert "subject 'sks cat', class prompt 'A photo of a cat', 64 x 64 pixels" in said.err

    content = json.loads((out / "checkpoints.json").read_text())
    assert [one["step"] for one in content["steps"]] == [2, 4, 10] and content["settings"]["size"] == 64
    made = [
        np.asarray(Image.open(sorted((out / name).iterdir())[0])) for name in ("base model", "step 2", "step 4", "step 10")
    ]
    assert len({picture.tobytes() for picture in made}) == 4
    rows = [line.split(" | ")[0].strip("| ") for line in said.out.splitlines() if line.startswith("|")]
    assert rows[2:] == ["real pictures", "base model", "step 2", "step 4", "step 10"] and "score" in said.out.splitlines()[0]
    choice = content["choice"]
    chosen = saved / "run" / f"SDXL_base_1.0_{choice['step']}_lora.ckpt"
    assert f"the best is {chosen}: score {choice['score']:.3f}; {choice['reason']}" in said.out
    assert (out / "checkpoints.md").read_text() in said.out
    assert Image.open(out / "checkpoints_sheet.png").text["rows"].count("\n") == 3
    assert Image.open(out / "checkpoints.png").width > 1000
    assert len(list((out / "step 4").iterdir())) == 12
    command = next(line for line in said.out.splitlines() if line.startswith("python demo/"))
    options = parse_sample(shlex.split(command)[2:])
    assert options.weight == f"{small.weights},{chosen}" and options.config == str(saved / "run" / "config.yaml")
    assert (options.height, options.prompt) == (64, "a sks cat swimming in a pool")

    before = {path: path.stat().st_mtime_ns for path in out.glob("*/*.png")}
    assert console.run_command(evaluate.main, arguments(saved, small)) == 0
    assert len(loaded) == 1 and json.loads((out / "checkpoints.json").read_text())["choice"] == choice
    gone = sorted((out / "step 4").iterdir())[3]
    gone.unlink()
    assert console.run_command(evaluate.main, arguments(saved, small)) == 0
    changed = {path for path in out.glob("*/*.png") if path.stat().st_mtime_ns != before[path]}
    assert changed == {gone} and [count for count, _ in sampled[12:]] == [4]


@pytest.mark.parametrize(
    "change, words",
    [
        (("--checkpoints", "photos"), "holds no LoRA such as SDXL_base_1.0_400_lora.ckpt"),
        (("--checkpoints", "nowhere"), "is not a folder: give the --save_path of a run"),
        (("--lora", "a=b.ckpt"), "--lora a and --checkpoints"),
        (("--size", "100"), "--size 100 is not a multiple of"),
        (("--subject", "sks"), "is not told by its name: give --class_prompt"),
        (("--config", "nowhere.yaml"), "nowhere.yaml"),
    ],
)
def test_bad_input(saved, small, capsys, change, words):
    change = [str(saved / word) if word in ("photos", "nowhere") else word for word in change]
    out = saved / "never"
    assert console.run_command(evaluate.main, arguments(saved, small, *change, "--output", str(out))) == 2
    errors = capsys.readouterr().err
    assert words in errors and "Traceback" not in errors and errors.count("error: ") == 1 and not out.exists()


def test_what_a_run_decides(tmp_path):
    usual = ["--checkpoints", str(tmp_path), "--subject_photos", "p"]
    options = parse_evaluate(usual)
    assert (options.output, options.num_seeds, options.subject, options.size) == (tmp_path / "evaluation", 4, None, None)
    assert options.config == "configs/inference/sd_xl_base.yaml"  # there is none in the folder
    (tmp_path / "config.yaml").write_text("")
    assert parse_evaluate(usual).config == str(tmp_path / "config.yaml")
    given = parse_evaluate([*usual, "--config=a.yaml", "--output", "o", "--num_seeds", "5"])
    assert (given.config, str(given.output), given.num_seeds) == ("a.yaml", "o", 5)
    with pytest.raises(UserError, match="nothing is to be evaluated: give --lora NAME=FILE, or --checkpoints"):
        parse_evaluate(["--subject_photos", "p", "--output", "o"])
    with pytest.raises(UserError, match="--output is missing"):
        parse_evaluate(["--subject_photos", "p", "--lora", "a=b"])


def test_names_of_rows():
    assert (row_name(0), row_name(400)) == ("base model", "step 400")


def test_a_lora_of_another_model_is_refused(saved, small, tmp_path, capsys):
    """Before anything is sampled, by its name."""
    for name in ("config.yaml", "SDXL_base_1.0_2_lora.ckpt"):
        (tmp_path / name).write_bytes((saved / "run" / name).read_bytes())
    with open_tensors(tmp_path / "SDXL_base_1.0_2_lora.ckpt") as file:
        wide = {name: np.zeros([n + 1 for n in file.shape(name)], np.float32) for name in file.names}
    save_lora(tmp_path / "SDXL_base_1.0_4_lora.ckpt", wide, {"instance_prompt": "a sks cat", "lora_alpha": "1.0"})
    words = arguments(saved, small)
    words[1] = str(tmp_path)
    assert console.run_command(evaluate.main, words) == 2
    assert "SDXL_base_1.0_4_lora.ckpt was made for another model" in capsys.readouterr().err
    assert not (tmp_path / "evaluation").exists()


def test_the_benchs_page(tmp_path, monkeypatch):
    """A pick that is near enough to the best of the full evaluation, and one that is not; both are said."""
    monkeypatch.syspath_prepend(str(tiny.ROOT / "bench"))
    import chooser as bench

    few = course((0.5, 0.32), (0.8, 0.4), (0.79, 0.4), (0.78, 0.4), (0.78, 0.4), (0.78, 0.4))
    full = course((0.5, 0.32), (0.79, 0.4), (0.79, 0.41), (0.7, 0.5), (0.7, 0.5), (0.7, 0.5))
    near = bench.outcome(few, full, 12.0)
    assert (near.pick.step, near.best.step, near.stopped[0], near.seconds) == (200, 200, 500, 12.0)
    assert near.picked == near.best.score > near.last
    far = bench.outcome(few, course((0.5, 0.32), (0.6, 0.4), (0.8, 0.41)), 12.0)
    assert far.best.step == 300 and far.best.score - far.picked > 0.02
    options = bench.options_of(["--folder", str(tmp_path)], "about", "chooser")
    lines = bench.page({1: near, 2: far}, options).splitlines()
    assert [" yes " in line for line in lines if line.startswith(("| 1", "| 2"))] == [True, False]
    assert sum("**no**" in line for line in lines) == 1 and f"* seed 1: 200, {few.choice.reason}" in lines
    bench.draw(tmp_path / "a.png", {1: (few, full)}, {1: near})
    assert Image.open(tmp_path / "a.png").width > 300
