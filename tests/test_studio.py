"""The studio as a whole: who may open it, what it may touch, words in two languages, and what a reload keeps."""

import ast
import subprocess
import sys
from pathlib import Path
from string import Formatter

import pytest

import tiny
from gm.errors import UserError

DEMO = tiny.ROOT / "demo"
SAID = ("say", "later")  # what marks a text of the page
SHOWN = {  # Streamlit's calls whose first argument a person reads
    *(
        "button",
        "toggle",
        "checkbox",
        "selectbox",
        "slider",
        "text_input",
        "text_area",
        "number_input",
        "radio",
        "multiselect",
    ),
    *("markdown", "caption", "write", "error", "warning", "info", "success", "header", "subheader", "title", "expander"),
    *("download_button", "form_submit_button", "file_uploader", "segmented_control", "pills", "metric", "popover", "toast"),
}


@pytest.fixture(scope="module", autouse=True)
def studio_path():
    sys.path.insert(0, str(DEMO))
    yield
    sys.path.remove(str(DEMO))


# -- words --------------------------------------------------------------------------------------------------


def sources() -> list[Path]:
    return [path for path in sorted((DEMO / "studio").rglob("*.py")) if path.parent.name != "words"]


def calls(names) -> list[tuple[Path, ast.Call]]:
    found = []
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "id", None) or getattr(node.func, "attr", None)
                if name in names:
                    found.append((path, node))
    return found


def texts() -> dict[str, str]:
    """Every text that is marked -> where."""
    return {
        call.args[0].value: f"{path.name}:{call.lineno}"
        for path, call in calls(SAID)
        if call.args and isinstance(call.args[0], ast.Constant)
    }


def places(text: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(text) if name is not None}


def test_every_text_is_there_in_both_languages():
    from studio import words

    chinese, said = words._chinese(), texts()
    assert not (missing := {text: where for text, where in said.items() if text not in chinese}), missing
    assert not (unused := sorted(chinese.keys() - said.keys())), unused
    for text, other in chinese.items():
        assert places(text) == places(other), text
        assert any("\u4e00" <= letter <= "\u9fff" for letter in other) or set(other.split()) <= set(text.split()), (
            f"{text}: {other}"
        )


def test_no_text_is_in_two_files_with_two_meanings():
    from importlib import import_module

    from studio import words

    seen: dict[str, str] = {}
    for part in words.PARTS:
        for text, other in import_module(f"studio.words.{part}").CHINESE.items():
            assert seen.setdefault(text, other) == other, text


def test_what_a_person_reads_is_said():
    for path, call in calls(SHOWN):
        first = call.args[0] if call.args else None
        literal = isinstance(first, ast.Constant) and isinstance(first.value, str)
        assert not literal or not any(letter.isalpha() for letter in first.value), f"{path}:{call.lineno}: {first.value!r}"


def test_the_language_is_the_browsers(monkeypatch):
    import streamlit as st

    from studio.words import say

    class Context:
        locale = "zh-CN"

    monkeypatch.setattr(st, "context", Context())
    assert say("Photos") == "照片"
    Context.locale = "de-DE"
    assert say("Photos") == "Photos"
    Context.locale = None
    assert say("Photos") == "Photos"


# -- access -------------------------------------------------------------------------------------------------


def test_flags_of_the_page_are_apart_from_those_of_pictures():
    from studio.access import page_options

    options, rest = page_options(["--weight", "a.ckpt", "--runs", "r", "--folders=p", "--seed", "3", "--folders", "q"])
    assert options.runs == Path("r") and options.folders == (Path("p"), Path("q")) and options.jobs_at_once == 1
    assert rest == ["--weight", "a.ckpt", "--seed", "3"]
    with pytest.raises(UserError, match="jobs_at_once"):
        page_options(["--jobs_at_once", "0"])


def test_no_path_outside_the_folders(tmp_path):
    from studio.access import inside

    roots = [tmp_path / "runs", tmp_path / "photos"]
    for root in roots:
        root.mkdir()
    (tmp_path / "secret").write_text("")
    (roots[0] / "link").symlink_to(tmp_path / "secret")
    (roots[0] / "good").write_text("")
    (roots[0] / "near").symlink_to(roots[0] / "good")
    assert inside(roots[0] / "good", roots) == roots[0] / "good" == inside(roots[0] / "near", roots)
    assert inside(roots[1] / "not" / "yet", roots) == roots[1] / "not" / "yet"
    for path in (
        tmp_path / "secret",
        roots[0] / ".." / "secret",
        roots[0] / "link",
        "/etc/passwd",
        "~/x",
        tmp_path / "runs2",
        tmp_path,
        "a\0b",
        "\udc80",
        "x" * 100_000,
    ):
        with pytest.raises(UserError):
            inside(path, roots)


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """Opens the page as a visitor, of a server at this address with this token: what it shows."""
    from streamlit import config
    from streamlit.testing.v1 import AppTest

    def run(address, secret=None, **query):
        for name in ("configs", "checkpoints"):
            (tmp_path / name).exists() or (tmp_path / name).symlink_to(tiny.ROOT / name)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["sampling.py"])
        monkeypatch.setattr("studio.access.time.sleep", lambda seconds: None)
        before = config.get_option("server.address")
        config.set_option("server.address", address)
        (monkeypatch.delenv("STUDIO_TOKEN", False) if secret is None else monkeypatch.setenv("STUDIO_TOKEN", secret))
        try:
            page = AppTest.from_file(str(DEMO / "sampling.py"), default_timeout=60)
            for name, value in query.items():
                page.query_params[name] = value
            page.run()
            if page.text_input and "words" in query:
                page.text_input[0].set_value(query["words"])
                page.button[0].click().run()
            return page
        finally:
            config.set_option("server.address", before)

    return run


def is_open(page) -> bool:
    return bool(page.get("button_group"))  # the parts to choose from


def test_others_need_the_token(opened):
    for address in ("0.0.0.0", None, "192.168.0.7"):
        page = opened(address)
        assert not is_open(page) and "start it with STUDIO_TOKEN=WORDS" in page.error[0].value
    assert not is_open(opened(None, "sesame"))
    for query in ({"token": "wrong"}, {"words": "wrong"}, {"token": "sésame"}):
        page = opened("0.0.0.0", "sesame", **query)
        assert not is_open(page) and "not the token" in page.error[0].value, query
    page = opened("0.0.0.0", "sesame", token="sesame")
    assert is_open(page) and not page.error
    assert is_open(opened("0.0.0.0", "sesame", words="sesame"))


def test_this_machine_needs_none(opened):
    page = opened("127.0.0.1")
    assert is_open(page)
    visit = page.query_params["visit"]
    again = opened("127.0.0.1", visit=visit)
    assert again.query_params["visit"] == visit
    for bad in ("../../etc", "x", "0" * 13):
        assert opened("127.0.0.1", visit=bad).query_params["visit"] != bad


def test_a_part_that_is_none_is_the_first(opened):
    page = opened("127.0.0.1", part="nowhere")
    assert is_open(page) and page.query_params["part"] == "sampling"


def test_the_page_does_without_mindspore():
    """While MindSpore compiles, no other thread of its process runs: a page would stand still."""
    names = [".".join(path.relative_to(DEMO).with_suffix("").parts).removesuffix(".__init__") for path in sources()]
    code = f"import sys; sys.path[:0] = {[str(tiny.ROOT), str(DEMO)]!r}\n"
    code += "\n".join(f"import {name}" for name in names) + "\nprint('mindspore' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


# -- what a reload keeps --------------------------------------------------------------------------------------


def test_a_draft_is_kept(tmp_path):
    from studio.draft import Draft, Settings

    draft = Draft(tmp_path / "visits" / "a" / "draft")
    assert draft.settings() == Settings()
    draft.change(instance_prompt="a photo of a sks dog", excluded=("b.png",))
    draft.change(flags={"seed": "3"})
    assert draft.settings() == Settings(instance_prompt="a photo of a sks dog", excluded=("b.png",), flags={"seed": "3"})
    for damage in ("", "[]", '{"instance_prompt": ', '{"unknown": 1}', '{"excluded": 3}'):
        (draft.folder / "settings.json").write_text(damage)
        assert draft.settings() == Settings()


def test_the_weights_that_are_there_count(tmp_path):
    from studio.models import Model

    places = [str(tmp_path / name) for name in ("a.ckpt", "b.safetensors")]
    model = Model("one", {}, places)
    assert model.weight == places[0] and not model.is_there
    Path(places[1]).write_text("")
    assert model.weight == places[1] and model.is_there
