"""The part Results of the page for its tests: runs with LoRA of the small model, a queue of jobs that runs none, and a workshop that
draws nothing by itself."""

import json
import os
import shutil
import sys
import types
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import recorded_runs
import tiny
from gm.checkpoint.lora_files import save_lora
from gm.checkpoint.weights import open_base
from gm.errors import UserError
from gm.jobs.state import OVER
from gm.pictures import numbered, save_new_png

SMALL = "configs/inference/small_sdxl.yaml"
WEIGHT = "checkpoints/small_sdxl.safetensors"
PROMPT = "A photo of a sks dog"
VISIT = "0123456789ab"
FIXTURES = ("made", "runs", "jobs", "workshop", "page")  # which the tests take by name
sys.path.append(str(tiny.ROOT / "demo"))


def make_lora(path: Path, step: int, prompt: str = PROMPT, size: float = 1e-3) -> Path:
    """A LoRA of the small model, of a few layers."""
    base, rng, matrices = open_base(tiny.ROOT / WEIGHT), np.random.default_rng(step), {}
    modules = [name.removesuffix(".weight") for name in base.shapes if name.endswith("attn1.to_q.weight")]
    for module in modules:
        rows, columns = base.shapes[f"{module}.weight"]
        matrices[f"{module}.lora_A.weight"] = rng.standard_normal((4, columns), np.float32)
        matrices[f"{module}.lora_B.weight"] = rng.standard_normal((rows, 4), np.float32) * np.float32(size)
    about = {"lora_rank": "4", "lora_alpha": "2.0", "step": str(step), "instance_prompt": prompt, "ss_max_token_length": "75"}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_lora(path, matrices, about)
    return path


def named(step: int) -> str:
    return f"SDXL_base_1.0_{step}_lora.ckpt"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A run with all that there can be, with LoRA of the small model, and a plain one in a folder of a folder."""
    runs = tmp_path_factory.mktemp("studio") / "runs"
    dog = recorded_runs.unpack("good", runs / "dog")
    for step in (100, 200, 300, 400, 500):
        make_lora(dog / named(step), step)
    (dog / "progress").mkdir()
    for step in (100, 200):
        for number, shade in ((0, step % 256), (1, 7)):
            picture = np.full((8, 8, 3), shade, np.uint8)
            picture[0] = 255
            Image.fromarray(picture).save(dog / "progress" / f"step_{step:06d}_{number:02d}.png")
    (dog / "diagnosis.txt").write_text("All went *well*.", encoding="utf-8")
    make_lora(runs / "cat" / "of_today" / named(20), 20, "A photo of a sks cat")
    os.utime(runs / "cat" / "of_today" / named(20), (1, 1))
    return runs


@pytest.fixture
def runs(made, tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tiny.ROOT)
    return Path(shutil.copytree(made, tmp_path / "runs"))


# -- what the page is given ------------------------------------------------------------------------------------------------


@dataclass
class Task:
    """Of a workshop that draws nothing by itself."""

    wanted: list
    folder: Path
    paths: list = field(default_factory=list)
    words: str = "picture 1 of 3"
    share: float = 0.25
    seconds_left: float = 130.0
    sentence: str = ""
    over: bool = False
    stopped: bool = False

    def stop(self) -> None:
        self.stopped = self.over = True

    def draw(self, count: int) -> None:
        """So many more pictures."""
        for number, one in enumerate(self.wanted):
            if self.paths[number] is None and count:
                count -= 1
                picture = np.full((64, 64, 3), one.seed % 256, np.uint8)
                self.paths[number] = save_new_png(numbered(self.folder), picture, {"weight": one.weight, "seed": one.seed})
        self.over = None not in self.paths


class Workshop:
    def __init__(self):
        self.made = {}

    def make(self, visit, key, model_config, wanted, folder):
        before = self.made.get((visit, key))
        if before and not before.over:
            raise UserError("one is at work")
        self.made[visit, key] = Task(list(wanted), folder, [None] * len(wanted))
        return self.made[visit, key]

    def task(self, visit, key):
        return self.made.get((visit, key))


@dataclass
class Job:
    folder: Path
    words: tuple
    device: str
    phase: str = "waiting"
    sentence: str = ""

    @property
    def is_over(self) -> bool:
        return self.phase in OVER


@pytest.fixture
def jobs(monkeypatch) -> list[Job]:
    """The queue: gm.jobs as the page calls it."""
    queue: list[Job] = []

    def add(runs, name, prepare, device, at_once=1):
        job = Job(runs / name, tuple(prepare(runs / name)), device)
        queue.insert(0, job)
        return job

    from studio.results import scoring

    monkeypatch.setattr(scoring.control, "add", add)
    monkeypatch.setattr(scoring.control, "jobs", lambda runs: list(queue))
    monkeypatch.setattr(scoring, "state", lambda job: job)
    return queue


@pytest.fixture
def workshop(monkeypatch) -> Workshop:
    shop, module = Workshop(), types.ModuleType("studio.sampling.workshop")
    module.workshop = lambda: shop
    monkeypatch.setitem(sys.modules, "studio.sampling.workshop", module)
    return shop


def script(runs: str, visit: str, argv: list) -> None:
    """The part alone; what AppTest runs."""
    from pathlib import Path

    import streamlit as st

    from sampling import MODELS
    from studio import results
    from studio.access import PageOptions
    from studio.visit import Studio

    if st.session_state.get("part", "results") == "results":
        results.render(Studio(PageOptions(runs=Path(runs)), {model.name: model for model in MODELS}, argv, visit))


@pytest.fixture
def page(runs, jobs, workshop):
    """Opens the part; `state`: of the session before."""
    from streamlit.testing.v1 import AppTest  # after MindSpore, as in test_page.py

    def run(visit=VISIT, argv=("--device_target", "CPU"), **state):
        page = AppTest.from_function(script, default_timeout=60, args=(str(runs), visit, list(argv)))
        for key, value in state.items():
            page.session_state[key] = value
        return checked(page.run())

    return run


def checked(page):
    assert not page.exception, page.exception
    return page


def errors(page) -> list[str]:
    return [one.value.replace("\\", "") for one in page.error]


def texts(page) -> str:
    kinds = (page.caption, page.markdown, page.success, page.info, page.warning, page.text, page.subheader)
    return "\n".join(one.value for kind in kinds for one in kind).replace("\\", "")


def best_of(runs: Path) -> int:
    """The step that the chooser took."""
    return json.loads((runs / "dog" / "evaluation" / "checkpoints.json").read_text())["choice"]["step"]


def labelled(widgets, label):
    (found,) = [one for one in widgets if one.label == label]
    return found


def pictures(page) -> int:
    return sum(
        len(one.proto.imgs) for kind in ("image", "imgs") for one in page.get(kind)
    )  # which name, is Streamlit's version


def refused(page, label: str, value, button: str, words: str) -> None:
    """The value in the field with this label is one sentence, at once or when the button is pressed; then it is as before."""
    fields = [*page.text_input, *page.text_area, *page.multiselect, *page.number_input]
    before = labelled(fields, label).value
    checked(labelled(fields, label).set_value(value).run())
    if not page.error:
        checked(page.button(key=button).click().run())
    assert len(errors(page)) == 1 and words in errors(page)[0], errors(page)
    fields = [*page.text_input, *page.text_area, *page.multiselect, *page.number_input]
    labelled(fields, label).set_value(before).run()
    assert not page.error


def photos_of(runs: Path) -> Path:
    for number in range(2):
        (runs / "dog" / "photos").mkdir(exist_ok=True)
        Image.new("RGB", (64, 64), (number, 9, 9)).save(runs / "dog" / "photos" / f"{number}.png")
    return runs / "dog" / "photos"
